"""Images that cannot be used, before they become the error that a caller sees."""

from __future__ import annotations

from dataclasses import dataclass

from vitriton._errors import ImageCode, VitritonError


class SourceError(VitritonError):
    """The reading of an image failed.

    Args:
        reason: the reason, as one line of text without the image's name.
        code: the kind of reason, for programs.
    """

    def __init__(self, reason: str, code: ImageCode) -> None:
        super().__init__(reason)
        self.code: ImageCode = code


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used, as a value.

    Attributes:
        reason: the reason, as one line of text without the image's name.
        code: the kind of reason, for programs.
        cause: the underlying error, without a traceback, which would keep the image in memory.
    """

    reason: str
    code: ImageCode
    cause: BaseException | None = None
