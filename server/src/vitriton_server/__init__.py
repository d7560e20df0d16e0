"""Runs NVIDIA Triton Inference Server on a model repository without Docker.

Example:
    >>> with TritonServer("model_repository") as server:
    ...     print(server.grpc_address)
"""

from typing import TYPE_CHECKING, Any

from vitriton._version import __version__

from vitriton_server._errors import (
    AddressError,
    InstallationError,
    InvalidConfiguration,
    LauncherError,
    ModelLoadError,
    NotReadyInTime,
    RepositoryError,
    ServerDied,
    ServerStopped,
    WrongOutputs,
)
from vitriton_server._process.cores import usable_cores

if TYPE_CHECKING:
    from vitriton_server._config import WatchPolicy
    from vitriton_server._server import TritonServer

__all__ = [
    "AddressError",
    "InstallationError",
    "InvalidConfiguration",
    "LauncherError",
    "ModelLoadError",
    "NotReadyInTime",
    "RepositoryError",
    "ServerDied",
    "ServerStopped",
    "TritonServer",
    "WatchPolicy",
    "WrongOutputs",
    "__version__",
    "usable_cores",
]


def __getattr__(name: str) -> Any:
    """Imports the server on first use, so that `vitriton-health` stays quick."""
    if name in ("TritonServer", "WatchPolicy"):
        from vitriton_server import _server

        return getattr(_server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
