import pytest
from vitriton import Client, Options
from vitriton._deadline import Deadline


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_in_flight", 0),
        ("max_in_flight", True),
        ("max_request_bytes", 2**31),
        ("max_image_bytes", 0),
        ("url_max_bytes", 2**30),
        ("url_max_redirects", -1),
        ("url_timeout_s", 0),
        ("url_timeout_s", float("inf")),
        ("url_timeout_s", "5"),
        ("refuse_private_addresses", "yes"),
        ("refuse_paths", 1),
        ("initial_backoff_s", 2.5),
    ],
)
def test_bounds(field, value):
    """An option out of its bounds is refused by its name and value."""
    with pytest.raises(ValueError) as caught:
        Options(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "1"])
def test_timeout_must_be_positive(timeout_s):
    """A time that is none is refused where the client is made."""
    with pytest.raises(
        ValueError, match=r"timeout_s is .*; it must be an int or a float, in seconds, above 0 and finite, or None"
    ):
        Client("localhost:8001", model="tiny", timeout_s=timeout_s)


def test_deadline_counts_down():
    """A deadline tells what is left, never less than nothing, and never more than asked for."""
    now = [100.0]
    deadline = Deadline.after(5.0, clock=lambda: now[0])
    assert deadline.remaining_s() == 5.0
    now[0] = 103.0
    assert deadline.remaining_s() == 2.0
    assert (deadline.bounded_s(1.0), deadline.bounded_s(9.0)) == (1.0, 2.0)
    assert not deadline.expired
    now[0] = 106.0
    assert deadline.remaining_s() == 0.0
    assert deadline.expired


def test_no_deadline():
    """None is no limit."""
    deadline = Deadline.after(None)
    assert deadline.remaining_s() is None
    assert deadline.bounded_s(9.0) == 9.0
    assert not deadline.expired
