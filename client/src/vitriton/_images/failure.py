"""Images that cannot be used, before they become the error that a caller sees."""

from __future__ import annotations

from vitriton._errors import InputCode, VitritonError


class SourceError(VitritonError):
    """The reading of an image failed.

    Args:
        reason: the reason, as one line of text without the image's name.
        code: the kind of reason, for programs.
    """

    def __init__(self, reason: str, code: InputCode) -> None:
        super().__init__(reason)
        self.code: InputCode = code
