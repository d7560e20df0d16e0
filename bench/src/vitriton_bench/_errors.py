"""What a measurement can fail of.

BenchError           a measurement cannot be made (a `vitriton.VitritonError`: `vitriton._errors` draws the whole tree)
└─ UnusablePath      the caller's: what an option names cannot be written (an InvalidOption too)
"""

from __future__ import annotations

from vitriton._errors import InvalidOption, VitritonError


class BenchError(VitritonError):
    """A measurement cannot be made; the text says what is missing and what to do. The caller's or the machine's."""


class UnusablePath(BenchError, InvalidOption):  # noqa: N818 - its bases say that it is an error
    """The file or folder that an option names cannot be written.

    Attributes:
        option: the option of the command.
        wrong: what is wrong with the path, and what to do.
    """

    def __init__(self, option: str, wrong: str) -> None:
        super().__init__(f"{option}: {wrong}")
        self.option = option
        self.wrong = wrong

    @property
    def flag(self) -> str:
        """The option of the command."""
        return self.option

    @property
    def problem(self) -> str:
        """What is wrong, for the usage text of the command."""
        return self.wrong
