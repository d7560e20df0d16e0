"""The part of Triton's python backend that our models use.

Source: triton-inference-server/python_backend, src/pb_stub.cc (what C++ adds) and
src/resources/triton_python_backend_utils.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

class Tensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None: ...
    def name(self) -> str: ...
    def as_numpy(self) -> npt.NDArray[Any]: ...

class InferenceRequest:
    def inputs(self) -> list[Tensor]: ...
    def requested_output_names(self) -> list[str]: ...

# The type of TritonError's constants has no public name there: for annotations alone, which nothing evaluates.
class TritonErrorCode: ...

class TritonError:
    INTERNAL: TritonErrorCode
    INVALID_ARG: TritonErrorCode
    UNAVAILABLE: TritonErrorCode

    def __init__(self, message: str, code: TritonErrorCode = ...) -> None: ...

class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = ..., error: TritonError | None = None) -> None: ...

class Logger:
    @staticmethod
    def log_warn(message: str) -> None: ...

# It is None where the request has no such input; Triton has checked a request against the model's configuration.
def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor: ...
