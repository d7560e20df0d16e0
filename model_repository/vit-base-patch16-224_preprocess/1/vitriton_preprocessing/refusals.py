"""An image that is refused, and how the server tells the client of it."""

from __future__ import annotations

import json
import re
from typing import Any


class ImageError(ValueError):
    """An image that cannot be used; the text says why, in one line, without naming the image."""


def format_image_errors(errors: dict[int, str], batch_size: int) -> str:
    """The text of the INVALID_ARGUMENT error that names every bad image of a request by its index, and why."""
    start = f"cannot use {len(errors)} of {batch_size} images: "
    for longest in (400, 200, 100, 50, 20):
        text = start + json.dumps([[index, reason[:longest]] for index, reason in sorted(errors.items())])
        if len(text) <= _MESSAGE_BYTES:
            return text
    return start + json.dumps(sorted(errors), separators=(",", ":"))


def parse_image_errors(message: str) -> dict[int, str] | None:
    """What `format_image_errors` wrote, out of whatever Triton has put around it; None if it is not in there."""
    match = _MESSAGE.search(message)
    if match is None:
        return None
    try:
        entries: list[Any] = json.loads(match.group(1))
        pairs = [(entry, "") if isinstance(entry, int) else entry for entry in entries]
        return {int(index): str(reason) for index, reason in pairs}
    except (ValueError, TypeError):
        return None


# How the server names the bad images of a request: one line that a person can read and a program can parse.
# gRPC carries an error's text in a header, of 8 KiB unless the client asks for more; above that it is lost. So the
# reasons give way when there are many, and in the end only the indices are left (5 kB for 1024 images).
_MESSAGE_BYTES = 4096
_MESSAGE = re.compile(r"cannot use \d+ of \d+ images: (\[.*\])", re.DOTALL)


def one_line(exc: BaseException) -> str:
    """What an error of Pillow says, without what changes from run to run."""
    text = " ".join(str(exc).split())
    return re.sub(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>", "", text) or type(exc).__name__
