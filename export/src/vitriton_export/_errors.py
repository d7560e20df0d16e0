"""What can go wrong in an export, from a person's point of view."""


class ExportError(Exception):
    """The export did not happen, and the repository is as it was. The text says what is wrong and what to do."""


class HubError(ExportError):
    """The hub cannot be reached, and the cache does not have the model."""


class ParityError(ExportError):
    """What was exported does not compute what the reference computes."""


def one_line(exc: BaseException) -> str:
    """The text of a foreign error, short enough for the line that a person reads."""
    return " ".join(str(exc).split())[:300] or type(exc).__name__
