"""What can go wrong in an export, from a person's point of view."""


class ExportError(Exception):
    """The export did not happen, and the repository is as it was. The text says what is wrong and what to do."""


class OptionError(ExportError):
    """A value that an option cannot have.

    Attributes:
        option: its name in Python; the command's is `flag`.
        wrong: what is wrong with the value, and what it may be; the sentence begins with the option.
    """

    def __init__(self, option: str, wrong: str) -> None:
        super().__init__(f"{option} {wrong}")
        self.option = option
        self.wrong = wrong

    @property
    def flag(self) -> str:
        """The option of the command."""
        return "--" + self.option.replace("_", "-")


class HubError(ExportError):
    """The hub cannot be reached, and the cache does not have the model."""


class ParityError(ExportError):
    """What was exported does not compute what the reference computes."""


def one_line(exc: BaseException) -> str:
    """The text of a foreign error, short enough for the line that a person reads."""
    return " ".join(str(exc).split())[:300] or type(exc).__name__
