"""Client for models of images and texts on NVIDIA Triton Inference Server.

Importing this package opens no connection, reads no file, and imports neither gRPC nor numpy; `Client` imports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitriton._errors import (
    AccessDenied,
    ClientClosed,
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    InferenceFailed,
    InputCode,
    InputProblem,
    InvalidImage,
    InvalidInput,
    InvalidText,
    InvalidVideo,
    ModelNotFound,
    ModelNotReady,
    PipelineMismatch,
    ServerBusy,
    ServerError,
    TransportError,
    Unavailable,
    VitritonError,
)
from vitriton._options import Options
from vitriton._wire.connection import TLS

if TYPE_CHECKING:
    from vitriton._async_client import AsyncClient
    from vitriton._call.plan import DType, OnError
    from vitriton._call.results import Result
    from vitriton._call.service import WaitFor
    from vitriton._call.settings import Preprocess
    from vitriton._call.stats import Stats
    from vitriton._client import Client
    from vitriton._embed import embed
    from vitriton._images.pixels import PillowVersionWarning
    from vitriton._images.sources import ImageLike
    from vitriton._pipeline.pipeline import pipeline
    from vitriton._served.catalog import list_models
    from vitriton._served.model import ModelInfo, ModelOutput
    from vitriton._served.texts import TextRules
    from vitriton._version import __version__
    from vitriton._wire.connection import Token
    from vitriton._wire.transport import Transport

__all__ = [
    "TLS",
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientClosed",
    "ClientError",
    "ContractMismatch",
    "DType",
    "DeadlineExceeded",
    "ImageLike",
    "InferenceFailed",
    "InputCode",
    "InputProblem",
    "InvalidImage",
    "InvalidInput",
    "InvalidText",
    "InvalidVideo",
    "ModelInfo",
    "ModelNotFound",
    "ModelNotReady",
    "ModelOutput",
    "OnError",
    "Options",
    "PillowVersionWarning",
    "PipelineMismatch",
    "Preprocess",
    "Result",
    "ServerBusy",
    "ServerError",
    "Stats",
    "TextRules",
    "Token",
    "Transport",
    "TransportError",
    "Unavailable",
    "VitritonError",
    "WaitFor",
    "__version__",
    "embed",
    "list_models",
    "pipeline",
]

_LAZY = {
    "AsyncClient": "vitriton._async_client",
    "Client": "vitriton._client",
    "DType": "vitriton._call.plan",
    "ImageLike": "vitriton._images.sources",
    "ModelInfo": "vitriton._served.model",
    "ModelOutput": "vitriton._served.model",
    "OnError": "vitriton._call.plan",
    "PillowVersionWarning": "vitriton._images.pixels",
    "Preprocess": "vitriton._call.settings",
    "Result": "vitriton._call.results",
    "Stats": "vitriton._call.stats",
    "TextRules": "vitriton._served.texts",
    "Token": "vitriton._wire.connection",
    "Transport": "vitriton._wire.transport",
    "WaitFor": "vitriton._call.service",
    "__version__": "vitriton._version",
    "embed": "vitriton._embed",
    "list_models": "vitriton._served.catalog",
    "pipeline": "vitriton._pipeline.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vitriton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
