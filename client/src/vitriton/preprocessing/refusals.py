"""An image that is refused, and how the server tells the client of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain, groupby, repeat
from typing import Any, Literal, NamedTuple, get_args

Code = Literal[
    "empty",  # no bytes
    "format",  # no image, or of a format that the model does not take
    "truncated",  # cut short
    "corrupt",  # the decoder fails on it
    "too_large",  # over a limit of bytes, pixels, frames or memory
    "shape",  # so thin that nothing is left of it
    "other",  # anything else, and what a program does not know that is older than the code
]
_CODES: frozenset[str] = frozenset(get_args(Code))


class Refusal(NamedTuple):
    """Why an image cannot be used.

    Attributes:
        reason: one line of text, without the image's name.
        code: the kind of the reason, for programs.
    """

    reason: str
    code: Code = "other"


class ImageError(ValueError):
    """An image that cannot be used.

    Args:
        reason: one line of text, without the image's name.
        code: the kind of the reason, for programs.
    """

    def __init__(self, reason: str, code: Code = "other") -> None:
        super().__init__(reason)
        self.code: Code = code

    @property
    def refusal(self) -> Refusal:
        """The same without a traceback, in whose frames the picture would stay in memory."""
        return Refusal(str(self), self.code)


# How the server names the bad images of a request: one line that a person can read and a program can parse.
# gRPC carries an error's text in a header, of 8 KiB unless the client asks for more; above that it is lost. So the
# reasons give way when there are many, and in the end only the indices are left (5 kB for 1024 images), with the codes
# where they are alike. A client of before the codes reads up to the last bracket, so they come after it.
_MESSAGE_BYTES = 4096
_CODES_BYTES = 1024
_MESSAGE = re.compile(
    r"cannot use \d+ of \d+ images: (\[.*\])(?: \(([a-z_]+(?:\*\d+)?(?:, [a-z_]+(?:\*\d+)?)*)\))?", re.DOTALL
)


def format_image_errors(errors: Mapping[int, Refusal], batch_size: int) -> str:
    """The text of the INVALID_ARGUMENT error that names every bad image of a request by its index, and why.

    For example: cannot use 3 of 8 images: [[0, "empty (0 bytes)"], [2, "no …"], [3, "no …"]] (empty, format*2)
    """
    refused = sorted(errors.items())
    start = f"cannot use {len(refused)} of {batch_size} images: "
    codes = f" ({_written(refusal.code for _, refusal in refused)})"
    for longest in (400, 200, 100, 50, 20):
        text = start + json.dumps([[index, refusal.reason[:longest]] for index, refusal in refused]) + codes
        if len(text) <= _MESSAGE_BYTES:
            return text
    indices = json.dumps([index for index, _ in refused], separators=(",", ":"))
    return start + indices + (codes if len(codes) <= _CODES_BYTES else "")


def parse_image_errors(message: str) -> dict[int, Refusal] | None:
    """What `format_image_errors` wrote, out of whatever Triton has put around it; None if it is not in there.

    Where there is no code, or one that is not known here, it is "other".
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


def _written(codes: Iterator[Code]) -> str:
    runs = ((code, sum(1 for _ in run)) for code, run in groupby(codes))
    return ", ".join(code if count == 1 else f"{code}*{count}" for code, count in runs)


def _read(text: str) -> Iterator[Code]:
    runs = (run.partition("*") for run in text.split(", ") if run)
    return chain.from_iterable(repeat(_known(code), int(count or 1)) for code, _, count in runs)


def _known(code: str) -> Code:
    return code if code in _CODES else "other"  # type: ignore[return-value]  # mypy does not know what is in the set


# Pillow has one class of error for most of what is wrong with a file, and tells more in words alone.
_TRUNCATED = re.compile(r"truncated|unexpected end|premature|not enough|too short|incomplete", re.IGNORECASE)
_TOO_LARGE = re.compile(r"too large|too many", re.IGNORECASE)


def undecodable(error: Exception) -> ImageError:
    """What is said of an image that Pillow fails on."""
    text = one_line(error)
    truncated = isinstance(error, EOFError) or _TRUNCATED.search(text)
    return ImageError(
        f"cannot be decoded: {text}",
        "truncated" if truncated else "too_large" if _TOO_LARGE.search(text) else "corrupt",
    )


def one_line(error: BaseException) -> str:
    """What an error of Pillow says, without what changes from run to run."""
    text = " ".join(str(error).split())
    return re.sub(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>", "", text) or type(error).__name__
