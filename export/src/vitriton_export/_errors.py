"""What can go wrong in an export, from a person's point of view.

ExportError             the export or the verification did not happen, and the repository is as it was
├─ OptionError          the caller's: an option has a value that it cannot have (an InvalidOption too)
├─ HubError             the hub cannot be reached, and the cache does not have the model
└─ ParityError          what was exported does not compute what the reference computes

Its base is `vitriton.VitritonError`, where the whole tree is drawn (`vitriton._errors`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vitriton._errors import InvalidOption, VitritonError


class ExportError(VitritonError):
    """The export did not happen, and the repository is as it was. The text says what is wrong and what to do.

    It is one line that moves no terminal's cursor, whatever names of a checkpoint are in it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class OptionError(ExportError, InvalidOption):
    """A value that an option cannot have.

    Attributes:
        option: its name in Python; the command's is `flag`.
        wrong: what is wrong with the value, and what it may be; the sentence begins with the option.
    """

    def __init__(self, option: str, wrong: str) -> None:
        super().__init__(f"{option} {wrong}")
        self.option = option
        self.wrong = printable(wrong)

    @property
    def flag(self) -> str:
        """The option of the command, whose times are all in seconds."""
        return "--" + self.option.removesuffix("_s").replace("_", "-")

    @property
    def problem(self) -> str:
        """What is wrong, after the option's name."""
        return f"it {self.wrong}"


class HubError(ExportError):
    """The hub cannot be reached, and the cache does not have the model."""


class ParityError(ExportError):
    """What was exported does not compute what the reference computes."""


def printable(text: str) -> str:
    """The text, with an escape as Python writes it for each character that a terminal would not show."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def one_line(exc: BaseException) -> str:
    """The text of a foreign error, short enough for the line that a person reads, and without control characters."""
    said = f"it knows no {exc}" if isinstance(exc, KeyError) else str(exc)  # whose text is the key alone
    text = "".join(letter if letter.isprintable() else " " for letter in said)
    return " ".join(text.split())[:300].rstrip(".") or type(exc).__name__


@contextlib.contextmanager
def explained(what: str, advice: str = "") -> Iterator[None]:
    """Makes one line of whatever a library raises for a checkpoint that it can do nothing with.

    Args:
        what: what could not be done; the error's own text follows after a colon.
        advice: what to do, after that.

    Raises:
        ExportError: as it came, or with that text.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as exc:
        if _interrupted(exc):
            raise
        raise ExportError(f"{what}: {one_line(exc)}{advice}") from exc


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Makes one line of what the import of a library raises that is installed, and does not start.

    Raises:
        ExportError: it does not; the text names the settings of the environment that it may have read.
    """
    try:
        yield
    except (ValueError, RuntimeError, ImportError) as exc:
        if _interrupted(exc):
            raise
        cause: BaseException = exc
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(exc, ImportError) and not isinstance(cause, (ValueError, RuntimeError)):
            raise
        raise ExportError(f"the libraries do not start: {one_line(cause)}{_suspects(cause)}") from exc


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or a signal is behind an error: an extension module that is being imported makes another of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _suspects(cause: BaseException) -> str:
    if "torchvision" in str(cause):
        return "; install the torchvision that was built for this torch, or `pip uninstall torchvision`"
    given = sorted(name for name in os.environ if name.startswith(("HF_", "TRANSFORMERS_", "TORCH_")))
    return f"; check {', '.join(given)}" if given else ""
