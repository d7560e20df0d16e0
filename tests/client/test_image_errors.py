"""How the server names bad images to the client."""

import pytest
from vitriton.preprocessing import format_image_errors, parse_image_errors


@pytest.mark.parametrize(
    "errors",
    [
        {0: "empty (0 bytes)"},
        {1: 'quotes " and \\ and [[brackets]]', 7: "a line\nbreak", 3: "Grüße, 画像"},
        {index: f"reason {index}" for index in range(32)},
    ],
)
def test_round_trip(errors):
    """What is written is read again."""
    assert parse_image_errors(format_image_errors(errors, 32)) == errors


def test_text_around_it():
    """Triton may put text before and after."""
    text = format_image_errors({2: "empty"}, 8)
    assert parse_image_errors(f"in ensemble 'x_pooled', [request id: 1] {text}; at model.py:12") == {2: "empty"}


def test_many_errors_keep_all_indices():
    """With many bad images the reasons are shortened, and every index stays."""
    for count, most in ((64, 4096), (1024, 6000)):  # 1024 is the largest batch that an export allows
        errors = dict.fromkeys(range(count), "a reason of some length, as decoders give them " * 10)
        text = format_image_errors(errors, count)
        assert len(text) <= most
        assert set(parse_image_errors(text)) == set(range(count))


@pytest.mark.parametrize(
    "text", ["", "inference failed", "cannot use 1 of 2 images: [[", "cannot use 1 of 2 images: [[1]]"]
)
def test_other_texts(text):
    """A text of another kind is not taken for one."""
    assert parse_image_errors(text) is None
