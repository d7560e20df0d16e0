"""Refused images and texts, and the error text by which the server reports them to the client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain, groupby, repeat
from typing import Any, Literal, NamedTuple, get_args

Code = Literal[
    "empty",  # no bytes, or no tokens
    "format",  # no image, or a format that the model does not accept
    "truncated",  # cut short
    "corrupt",  # the decoder fails on it
    "too_large",  # over a limit of bytes, pixels, frames or memory
    "shape",  # too thin: resizing leaves nothing
    "encoding",  # a text that is not UTF-8, or has half of a surrogate pair
    "other",  # anything else, and codes that an older program does not know
]
_CODES: frozenset[str] = frozenset(get_args(Code))


class Refusal(NamedTuple):
    """The reason why an image or a text cannot be used.

    Attributes:
        reason: the reason, as one line of text without the input's name.
        code: the kind of reason, for programs.
    """

    reason: str
    code: Code = "other"


class ImageError(ValueError):
    """An image that cannot be used.

    Args:
        reason: the reason, as one line of text without the image's name.
        code: the kind of reason, for programs.
    """

    def __init__(self, reason: str, code: Code = "other") -> None:
        super().__init__(reason)
        self.code: Code = code

    @property
    def refusal(self) -> Refusal:
        """The reason without a traceback, whose frames would keep the picture in memory."""
        return Refusal(str(self), self.code)


# The server names the bad inputs of a request in one line that people can read and programs can parse. gRPC carries an
# error's text in a header, of 8 KiB unless the client asks for more; a longer one is lost. So when there are many, the
# reasons are left out, and in the end only the indices remain (5 kB for 1024 images), with the codes where they are
# equal. Clients from before the codes read up to the last bracket, so the codes come after it.
_MESSAGE_BYTES = 4096
_CODES_BYTES = 1024
_MESSAGE = re.compile(
    r"cannot use \d+ of \d+ (?:images|texts): (\[.*\])(?: \(([a-z_]+(?:\*\d+)?(?:, [a-z_]+(?:\*\d+)?)*)\))?", re.DOTALL
)


def format_errors(errors: Mapping[int, Refusal], batch_size: int, noun: str = "images") -> str:
    """Writes the text of the INVALID_ARGUMENT error, with the index and reason of every bad input of a request.

    For example: cannot use 3 of 8 images: [[0, "empty (0 bytes)"], [2, "no …"], [3, "no …"]] (empty, format*2)

    Args:
        errors: the reasons by position in the request, from 0.
        batch_size: the number of inputs in the request.
        noun: the word for the inputs: images or texts.
    """
    refused = sorted(errors.items())
    start = f"cannot use {len(refused)} of {batch_size} {noun}: "
    codes = f" ({_written(refusal.code for _, refusal in refused)})"
    for longest in (400, 200, 100, 50, 20):
        text = start + json.dumps([[index, refusal.reason[:longest]] for index, refusal in refused]) + codes
        if len(text) <= _MESSAGE_BYTES:
            return text
    indices = json.dumps([index for index, _ in refused], separators=(",", ":"))
    return start + indices + (codes if len(codes) <= _CODES_BYTES else "")


def parse_errors(message: str) -> dict[int, Refusal] | None:
    """Reads the text of `format_errors`, inside any text that Triton adds; None if it is not there.

    A missing or unknown code becomes "other".
    """
    match = _MESSAGE.search(message)
    if match is None:
        return None
    try:
        entries: list[Any] = json.loads(match.group(1))
        pairs = [(entry, "") if isinstance(entry, int) else entry for entry in entries]
        codes = _read(match.group(2) or "")
        return {int(index): Refusal(str(reason), next(codes, "other")) for index, reason in pairs}
    except (ValueError, TypeError, OverflowError):
        return None


# Pillow has one error class for most faults of a file, and only its text tells them apart.
_TRUNCATED = re.compile(r"truncated|unexpected end|premature|not enough|too short|incomplete", re.IGNORECASE)
_TOO_LARGE = re.compile(r"too large|too many", re.IGNORECASE)


def undecodable(error: Exception) -> ImageError:
    """The error for an image that Pillow cannot decode."""
    text = one_line(error)
    truncated = isinstance(error, EOFError) or _TRUNCATED.search(text)
    return ImageError(
        f"cannot be decoded: {text}",
        "truncated" if truncated else "too_large" if _TOO_LARGE.search(text) else "corrupt",
    )


def one_line(error: BaseException) -> str:
    """The text of a Pillow error, without parts that change from run to run."""
    text = " ".join(str(error).split())
    return re.sub(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>", "", text) or type(error).__name__


def _written(codes: Iterator[Code]) -> str:
    runs = ((code, sum(1 for _ in run)) for code, run in groupby(codes))
    return ", ".join(code if count == 1 else f"{code}*{count}" for code, count in runs)


def _read(text: str) -> Iterator[Code]:
    runs = (run.partition("*") for run in text.split(", ") if run)
    return chain.from_iterable(repeat(_known(code), int(count or 1)) for code, _, count in runs)


def _known(code: str) -> Code:
    return code if code in _CODES else "other"  # type: ignore[return-value]  # mypy does not know the set's content
