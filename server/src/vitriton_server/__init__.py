"""Runs NVIDIA Triton Inference Server on a model repository without Docker.

Example:
    >>> with TritonServer("model_repository") as server:
    ...     print(server.grpc_address)
"""

from vitriton._version import __version__

from vitriton_server._config import WatchPolicy
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
)
from vitriton_server._process.cores import usable_cores
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
    "__version__",
    "usable_cores",
]
