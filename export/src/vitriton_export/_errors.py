"""The errors of an export, from a user's point of view.

ExportError             the export or the verification failed, and the repository is unchanged
├─ OptionError          the caller's fault: an option has an invalid value (an InvalidOption too)
├─ HubError             the hub cannot be reached, and the cache does not have the model
└─ ParityError          the export does not compute what the reference computes

Its base is `vitriton.VitritonError`, where the whole tree is drawn (`vitriton._errors`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vitriton._console.signals import interruption
from vitriton._errors import InvalidOption, VitritonError


class ExportError(VitritonError):
    """The export failed, and the repository is unchanged. The text says what is wrong and what to do.

    The text is one line of printable characters, whatever names of a checkpoint it quotes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class OptionError(ExportError, InvalidOption):
    """An option has an invalid value; the text names the option, the value and what to do."""

    def __init__(self, option: str, wrong: str) -> None:
        InvalidOption.__init__(self, option, printable(wrong))


class HubError(ExportError):
    """The hub cannot be reached, and the cache does not have the model."""


class ParityError(ExportError):
    """The export does not compute what the reference computes."""


def printable(text: str) -> str:
    """Returns the text with Python's escape for each character that a terminal would not show."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def one_line(exc: BaseException) -> str:
    """Returns the text of a foreign error as one short line without control characters."""
    said = f"unknown key {exc}" if isinstance(exc, KeyError) else str(exc)  # a KeyError's text is the key alone
    text = "".join(letter if letter.isprintable() else " " for letter in said)
    return " ".join(text.split())[:300].rstrip(".") or type(exc).__name__


@contextlib.contextmanager
def explained(what: str, advice: str = "") -> Iterator[None]:
    """Turns whatever a library raises for an unusable checkpoint into a one-line error.

    Args:
        what: the step that failed; the error's own text follows after a colon.
        advice: the advice at the end.

    Raises:
        ExportError: the block raised one, or raised another error, which gets that text.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as exc:
        if interruption(exc) is not None:
            raise
        raise ExportError(f"{what}: {one_line(exc)}{advice}") from exc


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Turns the errors of a library that is installed but fails on import into a one-line error.

    Raises:
        ExportError: the import failed; the text names environment variables that may be the cause.
    """
    try:
        yield
    except (ValueError, RuntimeError, ImportError) as exc:
        if interruption(exc) is not None:
            raise
        cause: BaseException = exc
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(exc, ImportError) and not isinstance(cause, (ValueError, RuntimeError)):
            raise
        raise ExportError(f"the libraries do not start: {one_line(cause)}{_suspects(cause)}") from exc


def _suspects(cause: BaseException) -> str:
    if "torchvision" in str(cause):
        return (
            "; install the torchvision that was built for this torch, as vitriton-export[timm] needs it "
            '("timm\'s models" in the documentation), or `pip uninstall torchvision`'
        )
    given = sorted(name for name in os.environ if name.startswith(("HF_", "TRANSFORMERS_", "TORCH_")))
    return f"; check {', '.join(given)}" if given else ""
