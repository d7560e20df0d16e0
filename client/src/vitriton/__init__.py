"""Client for image-embedding models on NVIDIA Triton Inference Server.

Importing this opens nothing, reads nothing, and brings in neither gRPC nor numpy: they come with `Client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitriton._errors import (
    ContractMismatch,
    DeadlineExceeded,
    ImageProblem,
    InferenceFailed,
    InvalidImage,
    ModelNotReady,
    ServerBusy,
    ServerError,
    TransportError,
    Unavailable,
    VitritonError,
)
from vitriton._options import Options

if TYPE_CHECKING:
    from vitriton._client import Client

    __version__: str

__all__ = [
    "Client",
    "ContractMismatch",
    "DeadlineExceeded",
    "ImageProblem",
    "InferenceFailed",
    "InvalidImage",
    "ModelNotReady",
    "Options",
    "ServerBusy",
    "ServerError",
    "TransportError",
    "Unavailable",
    "VitritonError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from vitriton._client import Client

        return Client
    if name == "__version__":
        from importlib.metadata import version

        return version("vitriton")
    raise AttributeError(f"module 'vitriton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
