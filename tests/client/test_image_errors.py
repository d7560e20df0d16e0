"""How the server names bad images and texts to the client."""

import json
import re

import pytest
from vitriton.preprocessing import ImageError, Refusal, format_errors, parse_errors

# as a client reads it that is older than the codes
OLDER_MESSAGE = re.compile(r"cannot use \d+ of \d+ images: (\[.*\])", re.DOTALL)


@pytest.mark.parametrize(
    "errors",
    [
        {0: Refusal("empty (0 bytes)", "empty")},
        {
            1: Refusal('quotes " and \\ and [[brackets]] and (corrupt)', "format"),
            7: Refusal("a line\nbreak", "truncated"),
            3: Refusal("Grüße, 画像"),
        },
        {index: Refusal(f"reason {index}", "too_large") for index in range(32)},
        {index: Refusal(f"reason {index}", "corrupt" if index % 2 else "shape") for index in range(32)},
    ],
)
def test_round_trip(errors):
    """What is written is read again."""
    assert parse_errors(format_errors(errors, 32)) == errors


def test_texts():
    """They are named in the same way, and have a code of their own."""
    errors = {1: Refusal("is not UTF-8 (byte 0xff at position 4)", "encoding")}
    text = format_errors(errors, 3, "texts")
    assert text == 'cannot use 1 of 3 texts: [[1, "is not UTF-8 (byte 0xff at position 4)"]] (encoding)'
    assert parse_errors(text) == errors
    assert parse_errors(text.replace("texts", "words")) is None


def test_text_around_it():
    """Triton may put text before and after."""
    text = format_errors({2: Refusal("empty", "empty")}, 8)
    around = f"in ensemble 'x_pooled', [request id: 1] {text}; at model.py:12 (main)"
    assert parse_errors(around) == {2: ("empty", "empty")}


def test_many_errors_keep_all_indices():
    """With many bad images the reasons are shortened, and every index stays, and codes that are alike."""
    for count, most in ((64, 4096), (1024, 6000)):  # 1024 is the largest batch that an export allows
        errors = dict.fromkeys(range(count), Refusal("a reason of some length, as decoders give them " * 10, "corrupt"))
        text = format_errors(errors, count)
        assert len(text) <= most
        parsed = parse_errors(text)
        assert set(parsed) == set(range(count))
        assert {refusal.code for refusal in parsed.values()} == {"corrupt"}


def test_many_codes_give_way_to_the_indices():
    """Where a thousand images are bad, each for another reason than the next, the text stays short all the same."""
    errors = {index: Refusal("bad" * 99, "corrupt" if index % 2 else "too_large") for index in range(1024)}
    text = format_errors(errors, 1024)
    assert len(text) <= 6000
    assert parse_errors(text) == dict.fromkeys(range(1024), ("", "other"))


def test_an_older_client_reads_a_newer_server():
    """The list of indices and reasons is what it was, and what follows has no bracket."""
    text = format_errors({2: Refusal("empty", "empty"), 5: Refusal("no [image]", "format")}, 8)
    match = OLDER_MESSAGE.search(f"in ensemble 'x_pooled', {text}")
    assert json.loads(match.group(1)) == [[2, "empty"], [5, "no [image]"]]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ('cannot use 2 of 8 images: [[2, "a"], [5, "b"]]', ["other", "other"]),  # of an older server
        ("cannot use 2 of 8 images: [2,5]", ["other", "other"]),
        ('cannot use 2 of 8 images: [[2, "a"], [5, "b"]] (animated, empty)', ["other", "empty"]),  # of a newer one
        ('cannot use 2 of 8 images: [[2, "a"], [5, "b"]] (empty)', ["empty", "other"]),
        ('cannot use 2 of 8 images: [[2, "a"], [5, "b"]] (empty*99999999)', ["empty", "empty"]),
        ('cannot use 2 of 8 images: [[2, "a"], [5, "b"]] (Empty)', ["other", "other"]),
    ],
)
def test_other_versions(text, codes):
    """What has no code, or one that is not known, is "other"; the images are read all the same."""
    assert [refusal.code for refusal in parse_errors(text).values()] == codes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "inference failed",
        "cannot use 1 of 2 images: [[",
        "cannot use 1 of 2 images: [[1]]",
        f'cannot use 1 of 2 images: [[1, "a"]] (empty*{"9" * 30})',
    ],
)
def test_other_texts(text):
    """A text of another kind is not taken for one."""
    assert parse_errors(text) is None


def test_an_error_without_a_code():
    """Its refusal is what goes on, without the frames that it passed."""
    assert ImageError("why").refusal == ("why", "other")
    assert ImageError("why", "shape").refusal == ("why", "shape")
