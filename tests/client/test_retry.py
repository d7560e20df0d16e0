import logging

import pytest
from vitriton import Unavailable
from vitriton._call.balance import Balancer
from vitriton._call.retry import Backoff
from vitriton._deadline import Deadline
from vitriton._wire.status import Failure
from vitriton.testing import FakeTransport

BACKOFF = Backoff(initial_s=0.1, max_s=1.0, max_attempts=6)


@pytest.mark.parametrize(
    ("attempts", "longest_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (100, 1.0), (10**6, 1.0)]
)
def test_the_wait_doubles_up_to_its_bound(attempts, longest_s):
    """Each wait may be twice as long as the one before, up to a bound."""
    assert BACKOFF.longest_s(attempts) == pytest.approx(longest_s)


@pytest.mark.parametrize(("random", "wait_s"), [(0.0, 0.0), (0.5, 0.1), (1.0, 0.2)])
def test_full_jitter(random, wait_s):
    """A wait lies anywhere between nothing and its longest."""
    assert BACKOFF.wait_s(Failure.QUEUE_FULL, 2, random) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("failure", "retried"),
    [
        (Failure.UNREACHABLE, True),
        (Failure.NOT_SERVING, True),
        (Failure.MODEL_DIED, True),
        (Failure.QUEUE_FULL, True),
        (Failure.QUEUE_TIMEOUT, True),
        (Failure.RATE_LIMITED, True),
        (Failure.NOT_READY, True),
        (Failure.DEADLINE, False),
        (Failure.UNKNOWN_MODEL, False),
        (Failure.BAD_REQUEST, False),
        (Failure.TOO_LARGE, False),
        (Failure.RESTRICTED, False),
        (Failure.CANCELLED, False),
        (Failure.OTHER, False),
    ],
)
def test_what_is_retried(failure, retried):
    """What may pass is tried again, the caller's mistakes are not."""
    assert (BACKOFF.wait_s(failure, 1, 1.0) is not None) is retried


def test_every_failure_is_decided():
    """The table above has every kind of failure."""
    table = {mark.args[1][row][0] for mark in test_what_is_retried.pytestmark for row in range(len(mark.args[1]))}
    assert table == set(Failure)


def test_attempts_are_bounded():
    """After the last attempt there is no other."""
    assert BACKOFF.wait_s(Failure.UNREACHABLE, 5, 1.0) is not None
    assert BACKOFF.wait_s(Failure.UNREACHABLE, 6, 1.0) is None
    assert Backoff(initial_s=1, max_s=1).wait_s(Failure.UNREACHABLE, 10**9, 1.0) == 1


@pytest.fixture
def balancer():
    return Balancer([FakeTransport() for _ in range(3)], BACKOFF)


def picks(balancer, count, now_s=0.0, avoid=()):
    return [balancer.servers.index(balancer.pick(now_s, avoid)) for _ in range(count)]


def test_round_robin(balancer):
    """Servers that are up take turns."""
    assert picks(balancer, 6) == [0, 1, 2, 0, 1, 2]


def test_a_failed_server_rests(balancer):
    """A server that is down is left alone, for longer each time, and then asked again."""
    down = balancer.servers[1]
    balancer.failed(down, 0.0, "refused", None)
    assert 1 not in picks(balancer, 6, 0.05)
    assert 1 in picks(balancer, 3, 0.15)
    balancer.failed(down, 0.15, "refused", None)
    assert 1 not in picks(balancer, 6, 0.3)
    balancer.succeeded(down)
    assert 1 in picks(balancer, 3, 0.3)


def test_the_log_tells_what_changes(balancer, caplog):
    """A server that goes, and one that comes back: each once, however many requests notice."""
    caplog.set_level(logging.WARNING)
    down = balancer.servers[1]
    for now_s in (0.0, 0.01, 5.0):
        balancer.failed(down, now_s, Unavailable("refused"), Deadline.starting(0.0, 60.0))
    for _ in range(3):
        balancer.succeeded(down)
    where = down.transport.address
    told = f"the server at {where} is down: refused; retrying for up to 60 s"
    assert caplog.messages == [told, f"the server at {where} answers again"]
    # a handler that keeps records keeps their arguments, and an error's frames hold the images of a call
    assert not any(isinstance(argument, BaseException) for record in caplog.records for argument in record.args)


def test_the_log_tells_how_long_is_tried_again(balancer, caplog):
    """Nothing is said of less than a second."""
    for timeout_s in (None, 60.0, 0.4):
        balancer.succeeded(balancer.servers[0])
        balancer.failed(balancer.servers[0], 0.0, "refused", Deadline.starting(0.0, timeout_s))
    ends = [message.partition(" is down: refused")[2] for message in caplog.messages if " is down: " in message]
    assert ends == ["; retrying without a time limit", "; retrying for up to 60 s", ""]


def test_a_failure_that_is_raised_is_no_warning(balancer, caplog):
    """The error says it."""
    caplog.set_level(logging.INFO)
    balancer.failed(balancer.servers[0], 0.0, "refused", None)
    assert [(record.levelname, record.message.endswith("is down: refused")) for record in caplog.records] == [
        ("INFO", True)
    ]


def test_failures_at_one_time_count_once(balancer):
    """Ten requests that fail together say no more than one of them."""
    for _ in range(10):
        balancer.failed(balancer.servers[0], 0.0, "refused", None)
    assert balancer.servers[0].failures == 1


def test_somebody_is_always_asked(balancer):
    """When all are down, the one whose rest ends first is asked."""
    for now_s, server in zip((0.0, 0.01, 0.02), balancer.servers, strict=True):
        balancer.failed(server, now_s, "refused", None)
    assert picks(balancer, 3, 0.05) == [0, 0, 0]


def test_where_a_request_failed_comes_last(balancer):
    """A request goes to a server where it has not failed, as long as there is one."""
    first, second, _ = balancer.servers
    assert set(picks(balancer, 6, avoid={first, second})) == {2}
    assert set(picks(balancer, 3, avoid=set(balancer.servers))) == {0, 1, 2}


def test_a_server_that_fails_has_to_prove_itself(balancer):
    """What it promised is forgotten: it may come back with another export."""
    balancer.servers[0].contracts["m_pooled"] = object()
    balancer.failed(balancer.servers[0], 0.0, "refused", None)
    assert not balancer.servers[0].contracts
