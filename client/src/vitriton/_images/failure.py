"""An image that cannot be used, on its way to the error that a caller sees."""


class SourceError(Exception):
    """An image that cannot be used; the text says why, in one line, without naming the image."""
