"""Triton python model: encoded images → uint8 pixels.

`preprocess.json` beside it says how; `vitriton_preprocessing.py` does it. It needs numpy and Pillow, nothing else.
"""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

# Triton appends this folder to the path; ahead of all it cannot be shadowed by an installed module.
sys.path.insert(0, str(Path(__file__).parent))

from vitriton_preprocessing import ImageError, PreprocessSpec, format_image_errors, preprocess


def _cores() -> int:
    """What `vitriton serve` found to be usable (it reads the cgroup's quota too), else what the scheduler allows."""
    return int(os.environ.get("VITRITON_CORES") or len(os.sched_getaffinity(0)))


class TritonPythonModel:
    """Decodes on threads: Pillow lets go of the interpreter lock while it decodes and resizes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the spec once, when the model is loaded."""
        self._spec = PreprocessSpec.from_json((Path(__file__).parent / "preprocess.json").read_text())
        self._threads = ThreadPoolExecutor(max_workers=_cores(), thread_name_prefix="decode")

    def execute(self, requests: list) -> list:
        """Answers each request by itself: a bad image fails the request that it came with, and no other."""
        batches = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        pending = [[self._threads.submit(self._decode, data) for data in batch.reshape(-1)] for batch in batches]
        return [self._answer(decoded) for decoded in pending]

    def finalize(self) -> None:
        """Ends the threads when the model is unloaded."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _decode(self, data: bytes) -> np.ndarray:
        return preprocess(data, self._spec)

    def _answer(self, decoded: list[Future]) -> pb_utils.InferenceResponse:
        try:
            return self._respond(decoded)
        except Exception as exc:  # whatever it is (out of memory, say), the other requests of this batch go on
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"preprocessing failed: {exc!r}"))

    def _respond(self, decoded: list[Future]) -> pb_utils.InferenceResponse:
        pixels = np.empty((len(decoded), self._spec.height, self._spec.width, 3), dtype=np.uint8)
        errors = {}
        for index, future in enumerate(decoded):
            try:
                pixels[index] = future.result()
            except ImageError as exc:
                errors[index] = str(exc)
        if errors:
            text = format_image_errors(errors, len(decoded))
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", pixels)])
