"""An image that cannot be used, on its way to the error that a caller sees."""

from vitriton._errors import VitritonError


class SourceError(VitritonError):
    """An image that cannot be used; the text says why, in one line, without naming the image."""
