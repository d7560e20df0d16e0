"""The errors of this distribution.

LauncherError            Triton did not start, or did not keep running
├─ InvalidConfiguration  the caller's fault: an invalid option; nothing is started (an InvalidOption too)
│  └─ RepositoryError    the folder holds nothing that can be served, or something incomplete
├─ InstallationError     Triton, the wheel or the Python around it is missing or unsuitable
├─ AddressError          a port cannot be bound
├─ ModelLoadError        Triton refused models; the text says which and why
├─ WrongOutputs          a model computes something else here than its export did
├─ NotReadyInTime        the models took longer than the ready timeout
├─ ServerDied            Triton exited or stopped answering after it was ready
├─ ServerStopped         stop() was called while start() was still waiting
└─ StartCrashed          tritonserver crashed before the models were ready; it is retried (`_process.failure`)

Its base is `vitriton.VitritonError`, where the whole tree is drawn (`vitriton._errors`).
"""

from __future__ import annotations

from collections.abc import Sequence

from vitriton._errors import InvalidOption, VitritonError


class LauncherError(VitritonError):
    """Base of this distribution's errors.

    Attributes:
        message: the line for the user: what is wrong, where, and what to do next.
        log: the last lines of Triton's log where they help, else empty.
    """

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.log = tuple(log)

    def __str__(self) -> str:
        if not self.log:
            return self.message
        return "\n".join([self.message, "The last lines of Triton's log:", *(f"  {line}" for line in self.log)])


class InvalidConfiguration(LauncherError, InvalidOption):  # noqa: N818 - its base says that it is an error
    """An option has an invalid value; the text names the option, the value and what to do."""

    def __init__(self, option: str, wrong: str) -> None:
        InvalidOption.__init__(self, option, wrong)
        self.message = str(self.args[0])
        self.log = ()


class InstallationError(LauncherError):
    """Triton, the wheel that carries it, or the Python around it is missing or unsuitable."""


class RepositoryError(InvalidConfiguration):
    """The model repository is missing, empty or incomplete."""

    def __init__(self, wrong: str) -> None:
        super().__init__("repository", wrong)


class AddressError(LauncherError):
    """A port cannot be bound; the text names the service."""


class ModelLoadError(LauncherError):
    """Triton could not load every model; the text begins with the reason for each."""


class WrongOutputs(LauncherError):  # noqa: N818 - the name says what happened
    """Models compute something else on this machine than the reference; the text has the worst input of each."""


class NotReadyInTime(LauncherError):  # noqa: N818 - the name says what happened
    """The models were not ready within `ready_timeout_s`."""


class ServerDied(LauncherError):  # noqa: N818 - the name says what happened
    """Triton exited or stopped answering after it was ready."""


class ServerStopped(LauncherError):  # noqa: N818 - the name says what happened
    """`stop()` was called while `start()` was waiting for the models."""
