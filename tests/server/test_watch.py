"""When a model is asked, what an answer means, and when it is dead."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from PIL import Image
from vitriton.testing import InferRequest
from vitriton_server import InvalidConfiguration, WatchPolicy
from vitriton_server._watch.canary import IMAGE, CanaryResult, Health, death, read_result, with_result, with_successes
from vitriton_server._watch.watch import RestartBudget, Watch

CANARY = InferRequest(model="a", input_name="image", images=[IMAGE], output_name="embedding", timeout_s=None)
POLICY = WatchPolicy(canary_interval_s=8, stuck_after_s=60)


@pytest.mark.parametrize(
    ("status", "message", "answer"),
    [
        (None, "", CanaryResult.ALIVE),
        ("INVALID_ARGUMENT", "cannot use 1 of 1 images", CanaryResult.ALIVE),
        ("NOT_FOUND", "Request for unknown model", CanaryResult.ALIVE),
        ("INTERNAL", "Stub process 'x_0_0' is not healthy.", CanaryResult.NOT_HEALTHY),
        ("INTERNAL", "in ensemble 'x', Stub process 'x_0_0' is not healthy.", CanaryResult.NOT_HEALTHY),
        ("INTERNAL", "onnxruntime failed: CUDA error", CanaryResult.FAILED),
        ("UNKNOWN", "", CanaryResult.FAILED),
        ("UNAVAILABLE", "in ensemble 'x', Exceeds maximum queue size", CanaryResult.BUSY),
        ("UNAVAILABLE", "Request timeout expired", CanaryResult.BUSY),
        ("UNAVAILABLE", "failed to connect to all addresses", CanaryResult.SILENT),
        ("RESOURCE_EXHAUSTED", "", CanaryResult.BUSY),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", CanaryResult.SILENT),
    ],
)
def test_what_an_answer_means(status: str | None, message: str, answer: CanaryResult) -> None:
    """A refusal shows life, a full queue shows load, and only inner errors speak for death."""
    assert read_result(status, message) is answer


@pytest.mark.parametrize(
    ("answers", "seconds", "dead"),
    [
        ([CanaryResult.NOT_HEALTHY], 1, False),
        ([CanaryResult.NOT_HEALTHY, CanaryResult.NOT_HEALTHY], 2, True),
        ([CanaryResult.NOT_HEALTHY, CanaryResult.ALIVE, CanaryResult.NOT_HEALTHY], 3, False),
        ([CanaryResult.NOT_HEALTHY, CanaryResult.BUSY, CanaryResult.NOT_HEALTHY], 3, False),
        ([CanaryResult.NOT_HEALTHY, CanaryResult.SILENT, CanaryResult.NOT_HEALTHY], 3, True),
        ([CanaryResult.FAILED] * 9, 9, False),
        ([CanaryResult.ALIVE, CanaryResult.FAILED, CanaryResult.FAILED], 3, True),
        ([CanaryResult.ALIVE, CanaryResult.FAILED, CanaryResult.NOT_HEALTHY], 3, True),
        ([CanaryResult.BUSY] * 100, 1000, False),
        ([CanaryResult.SILENT] * 100, 59, False),
        ([CanaryResult.SILENT] * 2, 600, False),
        ([CanaryResult.SILENT] * 3, 60, True),
    ],
)
def test_when_a_model_is_dead(answers: Sequence[CanaryResult], seconds: float, dead: bool) -> None:
    """Two inner errors in a row, or no answer for long; a model that never could do the canary is left alone."""
    health = Health(last_alive_s=0)
    for answer in answers:
        health = with_result(health, answer, 0)
    assert (death(health, POLICY, seconds) is not None) is dead


def test_other_requests_show_life() -> None:
    """A success count that has grown wipes the suspicion; one that has not, or fell, does not."""
    suspect = Health(last_alive_s=0, successes=5, bad=1, missing=2)
    assert with_successes(suspect, 6, 9) == Health(last_alive_s=9, successes=6)
    assert with_successes(suspect, 5, 9) == suspect
    assert with_successes(suspect, 0, 9).bad == 1


def test_the_canary_is_a_picture() -> None:
    """Every decoder takes it."""
    with Image.open(io.BytesIO(IMAGE)) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (1, 1), "RGB")


class Script:
    """Answers that a test has written down, and a clock that it sets."""

    def __init__(self, answers: Sequence[CanaryResult]) -> None:
        self.now_s = 100.0
        self.counts: dict[str, int] = {"a": 0}
        self.asked: list[float] = []
        self._answers = list(answers)

    def successes(self) -> dict[str, int] | None:
        return self.counts

    def ask(self, canary: InferRequest, timeout_s: float) -> tuple[CanaryResult, str]:
        self.asked.append(self.now_s - 100)
        answer = self._answers.pop(0) if self._answers else CanaryResult.ALIVE
        self.counts[canary.model] += answer is CanaryResult.ALIVE
        return answer, "why"

    def run(self, watch: Watch, seconds: float, traffic: bool = False) -> str | None:
        end = self.now_s + seconds
        while (delay := watch.delay_s()) is not None and self.now_s + delay < end:
            self.now_s += max(delay, 0.001)
            self.counts["a"] += traffic
            if reason := watch.look():
                return reason
        return None

    def watch(self, policy: WatchPolicy = POLICY) -> Watch:
        return Watch(self, {"a": CANARY}, policy, clock=lambda: self.now_s)


def test_a_silent_model_is_asked_at_every_interval() -> None:
    """Once at the start and then at the interval: its own answers do not pass for somebody else's."""
    script = Script([])
    assert script.run(script.watch(), 33) is None
    assert [round(asked) for asked in script.asked] == [0, 8, 16, 24, 32]


def test_a_model_under_load_is_not_asked() -> None:
    """After the question at the start, answers to others are enough."""
    script = Script([])
    assert script.run(script.watch(), 100, traffic=True) is None
    assert len(script.asked) == 1


def test_a_dead_model_is_found_within_15_seconds() -> None:
    """The first bad answer is followed by a second question soon."""
    script = Script([CanaryResult.ALIVE, *[CanaryResult.NOT_HEALTHY] * 9])
    reason = script.run(script.watch(WatchPolicy()), 60)
    assert reason == "a answered 2 requests in a row with an internal error (why)"
    assert script.asked[-1] < 15


def test_an_interval_of_zero_asks_nothing() -> None:
    """Then only the end of the process itself is noticed."""
    assert Script([]).watch(WatchPolicy(canary_interval_s=0)).delay_s() is None


def test_restarts_are_bounded() -> None:
    """Five within ten minutes with growing waits, then none; later there are some again."""
    now = 0.0
    budget = RestartBudget(WatchPolicy(restart=True, backoff_s=1), clock=lambda: now)
    assert [budget.take() for _ in range(6)] == [1, 2, 4, 8, 16, None]
    now = 601.0
    assert budget.take() == 1
    assert RestartBudget(WatchPolicy()).take() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("canary_interval_s", -1), ("canary_timeout_s", 0), ("stuck_after_s", 0), ("max_restarts", 0), ("backoff_s", -1)],
)
def test_a_policy_has_bounds(name: str, value: float) -> None:
    """The text names the field, its value and the bound."""
    with pytest.raises(InvalidConfiguration, match=f"{name} is {value}; it must be"):
        WatchPolicy(**{name: value})  # type: ignore[arg-type]
