"""One call as a machine, played without a thread, a socket or a clock: the time is a number, and so are the servers."""

import ast
import heapq
import itertools
import random
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from vitriton import DeadlineExceeded, InvalidImage, Options, ServerBusy, Unavailable, VitritonError
from vitriton._call import flow as flow_module
from vitriton._call.actions import Cancel, Read, Send, Verify
from vitriton._call.balance import Balancer
from vitriton._call.flow import Flow
from vitriton._call.modality import IMAGES, Service
from vitriton._call.plan import plan_embed, plan_stream, take_inputs
from vitriton._call.retry import Backoff
from vitriton._call.settings import Settings
from vitriton._call.stats import Counters
from vitriton._deadline import Deadline
from vitriton._errors import Unreadable
from vitriton._options import UNSET
from vitriton._served.contract import Contract
from vitriton.testing import CallError, Code, InferReply, busy, invalid_images, model_died, unavailable

CONTRACT = Contract(
    model="m_pooled",
    kind="pooled",
    shape=(2,),
    max_batch_size=4,
    dtype=np.dtype("<f4"),
    parameters={"fingerprint": "f"},
)
MODEL = CONTRACT.model
LATE = CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
BAD = b"bad" * 9


class Address:
    """What a flow knows of a transport: an address, and nothing that it could call."""

    def __init__(self, number):
        self.address = f"grpc://server-{number}:8001"


def no_clock():
    raise AssertionError("a flow looks at no clock")


class Play:
    """A flow, the time, and the results so far."""

    def __init__(
        self, images=None, *, servers=1, timeout_s=UNSET, default_s=60.0, on_error="raise", jitter=lambda: 1.0,
        stream=False, ordered=True, **options
    ):  # fmt: skip
        given = take_inputs(images, IMAGES)
        if stream:
            plan = plan_stream(given, True, timeout_s, on_error, "float32", default_s, ordered=ordered, threaded=False)
        else:
            plan = plan_embed(given, True, timeout_s, on_error, "float32", default_s)
        self.options = Options(**options)
        backoff = Backoff(initial_s=self.options.initial_backoff_s, max_s=self.options.max_backoff_s)
        self.balancer = Balancer([Address(number) for number in range(servers)], backoff)
        self.servers = self.balancer.servers
        self.counters = Counters()
        self.now_s = 0.0
        self.source = iter(given.items)
        deadline = Deadline.starting(0.0, plan.timeout_s, no_clock) if plan.ends else None
        settings = Settings(
            model="m", timeout_s=None, options=self.options, tls=None, headers={}, preprocess="server",
            token=None, expect_fingerprint=None, tracing=False,
        )  # fmt: skip
        prepare = IMAGES.preparing(Service(CONTRACT), settings, None)
        self.flow = Flow(
            plan, given.total, CONTRACT, prepare, deadline, self.options, self.balancer, self.counters, jitter
        )

    def note_all_contracts(self):
        """Every server has just shown its contract."""
        for server in self.servers:
            self.note_contract(server)

    def note_contract(self, server):
        """As `Services.verify` does."""
        server.contracts[MODEL], server.last_seen_s = CONTRACT, self.now_s

    def fill(self):
        """Gives images as long as they are wanted."""
        while self.flow.wants_input:
            try:
                image = next(self.source)
            except StopIteration:
                self.flow.end()
            else:
                self.flow.give(image, self.now_s)

    def turn(self, now_s=None):
        """What a client does: images, then what is due; returns the actions, which are done."""
        self.now_s = self.now_s if now_s is None else now_s
        self.fill()
        self.flow.step(self.now_s)
        actions = list(self.flow.actions)
        self.flow.actions.clear()
        return actions

    def answer(self, send):
        self.flow.answered(send, reply(send), self.now_s)

    def fail(self, attempt, error):
        self.flow.failed(attempt, error, self.now_s)


def row(image):
    """What the model makes of an image, (2,)."""
    return [len(image), sum(image)]


def reply(send):
    rows = np.array([row(item.data) for item in send.batch.items], "<f4")
    return InferReply(name="embedding", datatype="FP32", shape=rows.shape, data=rows.tobytes())


def images(count):
    return [b"%d" % number for number in range(count)]


def test_the_machine_can_neither_wait_nor_draw_random_numbers():
    """Its modules import nothing that they could do it with."""
    folder = Path(flow_module.__file__).parent
    for name in ("flow", "line", "actions", "plan", "retry"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"time", "random", "threading", "queue", "socket", "asyncio", "concurrent", "selectors"}


def test_images_travel_in_batches():
    """Ten images are three requests, whose answers may come in any order."""
    play = Play(images(10))
    play.note_all_contracts()
    sends = play.turn()
    assert [len(send.batch.items) for send in sends] == [4, 4, 2]
    assert [send.timeout_s for send in sends] == [60.0, 120.0, 180.0]  # each that is before it may take all of its time
    assert play.flow.wait_s(1.5) == 58.5
    for send in reversed(sends):
        play.answer(send)
    assert play.flow.finished
    assert play.flow.sink.result(10).tolist() == [row(image) for image in images(10)]


def test_the_last_request_is_told():
    """Where its answer is all that is left to wait for, whoever runs the flow may wait for it alone."""
    play = Play(images(6), max_in_flight=1)
    play.note_all_contracts()
    play.fill()
    play.flow.step(0.0)
    assert play.flow.last_send is None  # two images are still here
    first = play.flow.actions.popleft()
    play.answer(first)
    play.flow.step(0.0)
    last = play.flow.last_send
    assert [last] == list(play.flow.actions)
    play.flow.actions.clear()
    play.answer(last)
    assert play.flow.finished


def test_a_server_is_asked_for_its_contract():
    """Before its first request, and again when it was silent for a second; another contract ends the call."""
    play = Play(images(1))
    (verify,) = play.turn()
    assert isinstance(verify, Verify)
    assert (verify.server, verify.timeout_s, verify.number) == (play.servers[0], 60.0, 1)
    play.flow.verified(verify, None, 0.0)
    (send,) = play.turn()
    assert isinstance(send, Send)
    other = Play(images(1))
    (verify,) = other.turn()
    mismatch = CONTRACT.mismatch("is another")
    with pytest.raises(type(mismatch)) as caught:
        other.flow.verified(verify, mismatch, 0.0)
    assert caught.value is mismatch


def test_a_busy_server():
    """Its request waits for the share of its backoff that the jitter says, and goes to the end of the line."""
    play = Play(images(8), jitter=lambda: 0.5, initial_backoff_s=2.0)
    play.note_all_contracts()
    first, second = play.turn()
    play.fail(first, busy())
    assert play.turn(0.9) == []
    assert play.flow.wait_s(0.9) == pytest.approx(0.1)
    play.answer(second)
    (again,) = play.turn(1.0)
    assert (again.batch, again.number) == (first.batch, 2)
    assert again.batch.turn > second.batch.turn
    play.answer(again)
    assert play.flow.finished
    assert play.counters.stats().retries == 1


def test_a_busy_server_among_others():
    """A request that failed goes to a server where it has not, although that one is not next."""
    play = Play(images(8), servers=2)
    play.note_all_contracts()
    first, _ = play.turn()
    play.fail(first, busy())
    (again,) = play.turn(0.1)
    assert (first.server, again.server) == play.servers


def test_an_earlier_request_is_no_sign_of_life(caplog):
    """A server that stops still answers what it has begun; it answers again when it answers a later request."""
    play = Play(images(12))
    play.note_all_contracts()
    first, second, third = play.turn()
    play.now_s = 0.1
    play.fail(first, unavailable())
    play.answer(second)
    play.answer(third)
    assert [message.split(":8001")[1][:8] for message in caplog.messages] == [" is down"]
    (verify,) = play.turn(9.0)
    play.note_all_contracts()
    play.flow.verified(verify, None, play.now_s)
    (again,) = play.turn()
    play.answer(again)
    assert [message.split(":8001")[1][:8] for message in caplog.messages] == [" is down", " answers"]


def test_retries_are_requests():
    """A configuration that cannot be read is an attempt without a request, and counts as none."""
    play = Play(images(4))
    for now_s in (0.0, 9.0):
        (verify,) = play.turn(now_s)
        assert isinstance(verify, Verify)
        play.fail(verify, unavailable())
    assert play.counters.stats().retries == 0


def test_a_server_that_dies():
    """Its requests go to the others at once, and it is left alone until it has proved itself."""
    play = Play(images(16), servers=3)
    play.note_all_contracts()
    sends = play.turn()
    assert [play.servers.index(send.server) for send in sends] == [0, 1, 2, 0]
    for send in (sends[0], sends[3]):
        play.fail(send, unavailable())
    again = play.turn(0.01)
    assert [type(action) for action in again] == [Send, Send]
    assert play.servers[0] not in {action.server for action in again}
    assert not play.servers[0].contracts


@pytest.mark.parametrize("late", [LATE, unavailable()], ids=["a late reply", "a reply after all"])
def test_a_reply_after_a_retry(late):
    """An attempt that was cancelled counts for nothing: each image is answered once."""
    play = Play(images(4), servers=2, attempt_timeout_s=1.0)
    play.note_all_contracts()
    (first,) = play.turn()
    assert first.timeout_s == 1.0
    play.now_s = 1.0
    play.note_all_contracts()
    play.fail(first, late)
    (second,) = play.turn(1.0)
    assert (second.batch, second.server) == (first.batch, play.servers[1])
    play.answer(first)
    play.fail(first, busy())
    assert not play.flow.finished
    play.answer(second)
    assert play.flow.finished
    play.answer(second)
    assert play.counters.stats().images == 4


def test_a_bad_image_among_good_ones():
    """It costs only itself: the others go again; or with on_error="raise" it ends the call."""
    play = Play(images(4), on_error="return")
    play.note_all_contracts()
    (send,) = play.turn()
    play.fail(send, invalid_images({1: "no picture"}, 4))
    (again,) = play.turn()
    assert [item.index for item in again.batch.items] == [0, 2, 3]
    play.answer(again)
    results = play.flow.sink.take()
    assert [result.index for result in results if result.error] == [1]
    assert "no picture" in str(results[1].error)
    ended = Play(images(4))
    ended.note_all_contracts()
    (send,) = ended.turn()
    with pytest.raises(InvalidImage, match="image 1 of 4"):
        ended.fail(send, invalid_images({1: "no picture"}, 4))


def test_a_request_of_bad_images_only():
    """It has its end, and makes room for the next."""
    play = Play(images(5), on_error="return", max_in_flight=1)
    play.note_all_contracts()
    (send,) = play.turn()
    play.fail(send, invalid_images(dict.fromkeys(range(4), "no picture"), 4))
    (last,) = play.turn()
    assert [item.index for item in last.batch.items] == [4]
    play.answer(last)
    assert play.flow.finished
    assert play.flow.wait_s(0.0) == 60.0  # of the call; no request is left


def test_a_deadline():
    """A total time ends the call, and what failed before tells why."""
    play = Play(images(4), timeout_s=5.0)
    play.note_all_contracts()
    play.turn()
    assert play.flow.wait_s(3.0) == 2.0
    with pytest.raises(DeadlineExceeded) as caught:
        play.turn(5.0)
    assert caught.value.timeout_s == 5.0
    told = Play(images(4), timeout_s=5.0, initial_backoff_s=9.0, max_backoff_s=9.0)
    told.note_all_contracts()
    (send,) = told.turn()
    told.fail(send, busy())
    with pytest.raises(ServerBusy, match="tried 1 time in 5 s"):
        told.turn(5.0)


@pytest.mark.parametrize(("count", "end"), [(1, "(None means no limit)"), (4, ", or send fewer images")])
def test_a_deadline_says_what_to_change(count, end):
    """One image cannot be fewer."""
    play = Play(images(count), timeout_s=5.0)
    play.note_all_contracts()
    play.turn()
    with pytest.raises(DeadlineExceeded) as caught:
        play.turn(5.0)
    assert str(caught.value).endswith(end)


def test_renewals():
    """Without a total time, an answer gives what is behind it all its time anew, and nothing to what is before it."""
    play = Play(images(12), default_s=10.0)
    play.note_all_contracts()
    first, second, third = play.turn()
    play.now_s = 9.0
    play.answer(second)
    assert third.batch.deadline.ends_at == 19.0
    assert first.batch.deadline.ends_at == 10.0
    with pytest.raises(DeadlineExceeded):
        play.turn(10.0)
    overtaken = Play(images(12), default_s=10.0)
    overtaken.note_all_contracts()
    for number, send in enumerate(overtaken.turn(), 1):
        overtaken.now_s = 9.0 * number
        overtaken.answer(send)
    assert overtaken.flow.finished


def test_objects_of_the_caller_are_read_one_by_one():
    """No other image is asked for while one that may change is being read; paths are read beside each other."""
    play = Play([np.zeros((2, 2, 3), np.uint8), "a.jpg", "b.jpg"])
    play.note_all_contracts()
    (own,) = play.turn()
    assert isinstance(own, Read)
    assert not play.flow.wants_input
    play.flow.taken(own.index)
    reads = play.turn()
    assert [read.given for read in reads] == ["a.jpg", "b.jpg"]
    for read in (own, *reads):
        play.flow.input_read(read.index, b"%d" % read.index, 0.0)
    (send,) = play.turn()
    play.answer(send)
    assert play.flow.sink.result(3).tolist() == [row(b"0"), row(b"1"), row(b"2")]


def test_images_that_are_read_count_as_the_largest_so_far():
    """No more are read than there is memory for; before any size is known, as many as there are threads."""
    play = Play([f"{number}.jpg" for number in range(50)], max_held_bytes=1000, read_threads=4)
    play.note_all_contracts()
    first = play.turn()
    assert len(first) == 4
    play.flow.input_read(first[0].index, b"x" * 100, 0.0)
    more = play.turn()
    assert len(more) == 6  # 9 are read, and one is there
    for read in (*first[1:], *more):
        play.flow.input_read(read.index, b"x" * 100, 0.0)
    assert not [action for action in play.turn() if isinstance(action, Read)]


def test_closing():
    """What was sent is cancelled, what waits or is verified is not; nothing that comes afterwards counts."""
    play = Play(images(12), servers=2, initial_backoff_s=9.0, max_backoff_s=9.0)
    play.note_contract(play.servers[0])
    first, verify, third = play.turn()
    assert isinstance(verify, Verify)
    play.fail(third, busy())
    play.flow.close()
    assert [(type(action), action.send) for action in play.flow.actions] == [(Cancel, first)]
    play.answer(first)
    play.flow.verified(verify, None, 0.0)
    assert play.counters.stats().images == 0
    assert len(play.flow.actions) == 1


class World:
    """Servers that fail as a seed has it, around a call; what comes of actions comes at its time.

    It checks all the while that the flow keeps its bounds.
    """

    def __init__(self, seed):
        rng = self.rng = random.Random(seed)
        self.shown = [self.image(index) for index in range(rng.choice((0, 1, 3, 20, 90)))]
        self.ordered, self.stream = rng.random() < 0.5, rng.random() < 0.7
        self.play = Play(
            list(self.shown),
            servers=rng.randint(1, 4),
            default_s=rng.choice((3.0, 1000.0, None)),
            on_error="return",
            jitter=rng.random,
            stream=self.stream,
            ordered=self.ordered,
            max_in_flight=rng.randint(1, 5),
            read_ahead=rng.randint(1, 20),
            max_request_bytes=rng.choice((40, 1000)),
            max_held_bytes=rng.choice((60, 100_000)),
            max_image_bytes=40,
            attempt_timeout_s=rng.choice((None, 0.5)),
        )
        self.flow, self.options = self.play.flow, self.play.options
        self.events = []
        self.order = itertools.count()
        self.troubles = rng.random() * 0.8
        self.down_until_s = dict.fromkeys(self.play.servers, 0.0)
        self.proved = set()
        self.outstanding = set()
        self.given = 0
        self.own = None  # the index of the caller's object that is being read
        self.held = {}
        self.results = []

    def image(self, index):
        data = BAD if self.rng.random() < 0.1 else b"%d" % index + bytes(self.rng.randint(0, 30))
        return self.rng.choice((data, data, data, f"{index}.jpg", np.full((1, 1, 3), index % 256, np.uint8)))

    def data(self, index):
        """What is sent for an image; None where it cannot be read."""
        image = self.shown[index]
        if isinstance(image, bytes):
            return image
        return None if index % 5 == 0 else b"read %d" % index

    def at(self, delay_s, event, *arguments):
        heapq.heappush(self.events, (self.play.now_s + delay_s, next(self.order), event, arguments))

    def run(self):
        """Plays until the call has ended, and returns what it ended with."""
        images = deque(self.shown)
        try:
            for _ in range(20_000):
                while self.flow.wants_input:
                    if not images:
                        self.flow.end()
                        break
                    self.give(images.popleft())
                self.flow.step(self.play.now_s)
                self.do_actions()
                self.take_results()
                if self.flow.finished:
                    return None
                self.pass_time()
        except VitritonError as exc:
            return exc
        raise AssertionError("the call goes on for ever")

    def give(self, image):
        assert self.own is None, "an object of the caller is being read"
        window = self.options.max_in_flight * CONTRACT.max_batch_size + self.options.read_ahead
        assert self.given - len(self.results) < window
        assert self.ordered or not self.stream or sum(self.held.values()) < self.options.max_held_bytes
        if isinstance(image, np.ndarray):
            self.own = self.given
        elif isinstance(image, bytes):
            self.held[self.given] = len(image)
        self.flow.give(image, self.play.now_s)
        self.given += 1

    def do_actions(self):
        while self.flow.actions:
            action = self.flow.actions.popleft()
            if isinstance(action, Read):
                self.at(self.rng.random() * 0.1, self.was_read, action.index)
                continue
            assert action.number == action.batch.attempts
            self.outstanding.add(action)
            assert len(self.outstanding) <= self.options.max_in_flight
            if isinstance(action, Verify):
                self.verify(action)
            else:
                self.send(action)

    def pass_time(self):
        """Goes to the next event, or to when the flow wants to be asked."""
        wait_s = self.flow.wait_s(self.play.now_s)
        assert self.events or wait_s is not None, "nothing will ever happen"
        wanted_s = self.play.now_s + wait_s if wait_s is not None else float("inf")
        if not self.events or wanted_s < self.events[0][0]:
            self.play.now_s = wanted_s
            return
        self.play.now_s, _, event, arguments = heapq.heappop(self.events)
        event(*arguments)
        self.take_results()

    def take_results(self):
        results = self.flow.sink.take()
        self.results += results
        for result in results:
            self.held.pop(result.index, None)

    def was_read(self, index):
        if self.own == index:
            self.own = None
        data = self.data(index)
        if data is not None:
            self.held[index] = len(data)
        self.flow.input_read(index, Unreadable("no such file", "not_found") if data is None else data, self.play.now_s)

    # Servers

    def is_down(self, server):
        if self.rng.random() < 0.1 * self.troubles:
            self.down_until_s[server] = self.play.now_s + self.rng.random() * 2.0
        return self.down_until_s[server] > self.play.now_s

    def verify(self, verify):
        if self.is_down(verify.server):
            self.at(0.01, self.failed, verify, unavailable())
        else:
            self.at(0.01, self.verified, verify)

    def verified(self, verify):
        self.outstanding.discard(verify)
        self.proved.add(verify.server)
        self.play.note_contract(verify.server)
        self.flow.verified(verify, None, self.play.now_s)

    def send(self, send):
        items = send.batch.items
        assert send.server in self.proved, "nobody has asked it for its contract"
        assert 1 <= len(items) <= CONTRACT.max_batch_size
        assert len(items) == 1 or sum(len(item.data) for item in items) <= self.options.max_request_bytes
        bad = {place: "no picture" for place, item in enumerate(items) if item.data == BAD}
        took_s = self.rng.random() * 0.3
        if send.timeout_s is not None and took_s > send.timeout_s:
            self.at(send.timeout_s, self.failed, send, LATE)
        elif self.is_down(send.server):
            self.at(took_s, self.failed, send, unavailable())
        elif self.rng.random() < self.troubles:
            self.trouble(send, took_s)
        elif bad:
            self.at(took_s, self.failed, send, invalid_images(bad, len(items)))
        else:
            self.at(took_s, self.answered, send, reply(send))

    def trouble(self, send, took_s):
        kind = self.rng.choice(("busy", "died", "silent"))
        if kind == "silent" and send.timeout_s is not None:  # and answers when nobody waits any more
            self.at(send.timeout_s, self.failed, send, LATE)
            self.at(send.timeout_s + self.rng.random(), self.answered, send, reply(send))
        else:
            self.at(took_s, self.failed, send, model_died() if kind == "died" else busy())

    def failed(self, attempt, error):
        self.outstanding.discard(attempt)
        self.flow.failed(attempt, error, self.play.now_s)
        if not attempt.server.contracts:
            self.proved.discard(attempt.server)

    def answered(self, send, answer):
        self.outstanding.discard(send)
        self.flow.answered(send, answer, self.play.now_s)


@pytest.mark.parametrize("first_seed", range(0, 600, 50))
def test_chaos(first_seed):
    """Whatever servers do, each image is settled once, with its own values, or the call ends with a reason."""
    for seed in range(first_seed, first_seed + 50):
        world = World(seed)
        error = world.run()
        try:
            check(world, error)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise


def check(world, error):
    indices = [result.index for result in world.results]
    if world.ordered or not world.stream:
        assert indices == list(range(len(indices)))
    assert len(set(indices)) == len(indices)
    for result in world.results:
        data = world.data(result.index)
        assert (result.error is not None) == (data is None or data == BAD)
        if result.error is None:
            assert result.embedding.tolist() == row(data)
    running = {attempt for attempt in world.outstanding if isinstance(attempt, Send)}
    world.flow.close()
    assert {action.send for action in world.flow.actions} <= running
    if error is None:
        assert len(indices) == len(world.shown)
        assert not running
    else:
        assert isinstance(error, (DeadlineExceeded, ServerBusy, Unavailable)), repr(error)
        assert world.play.now_s >= 3.0  # nothing but the time ends a call
