"""Triton python model: encoded images → uint8 pixels.

It follows `preprocess.json`, with the code in the folder `vitriton_preprocessing`. It needs only numpy and Pillow.
"""

from __future__ import annotations  # annotations are not evaluated: some names exist only in typings/

import contextlib
import ctypes
import io
import json
import math
import os
import resource
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import triton_python_backend_utils as pb_utils

# Triton appends this folder to the path; at the front, no installed module can shadow it.
sys.path.insert(0, str(Path(__file__).parent))

from vitriton_preprocessing import ImageError, Memory, Pixels, PreprocessSpec, Refusal, format_errors, preprocess

Decoded = Future[Refusal | None]  # None once the image's row of pixels is written


def _cores() -> int:
    """The usable cores by `vitriton serve`, which also reads the cgroup's quota; else by the scheduler."""
    return int(os.environ.get("VITRITON_CPU_CORES") or len(os.sched_getaffinity(0)))


def _instances(config: dict[str, Any]) -> int:
    """The number of processes like this one, which share the cores and the memory."""
    return max(1, sum(int(group.get("count", 1)) for group in config.get("instance_group", ())))


def _warn_of_other_pillow(config: dict[str, Any]) -> None:
    exported = config.get("parameters", {}).get("pillow_version", {}).get("string_value")
    if exported and exported != PIL.__version__:
        pb_utils.Logger.log_warn(
            f"{config['name']}: exported and verified with Pillow {exported}, runs Pillow {PIL.__version__}: "
            "pixels may differ in the last gray level"
        )


def _warm_up(spec: PreprocessSpec) -> None:
    """Makes Pillow load its decoders before the model is ready; Triton's own warm-up can send only empty strings."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(file, "JPEG")
    with contextlib.suppress(ImageError):  # JPEG may not be among the allowed formats
        preprocess(file.getvalue(), spec)


_HELD_BYTES = 512 << 20  # of encoded images, copied from Triton's shared memory at a time
# A thread's memory beyond the headers' estimate: its stack, PNG texts (PngImagePlugin.MAX_TEXT_MEMORY), AV1 frames.
_THREAD_BYTES = 128 << 20
_OTHER_BYTES = 512 << 20  # pixels of a batch, and fragmented memory


def _limit_memory(spec: PreprocessSpec, threads: int) -> None:
    """Limits memory to what images may need, so that a malformed file fails and not the step.

    RLIMIT_DATA counts the process's private memory, not the shared memory in which Triton passes tensors.
    """
    status = Path("/proc/self/status").read_text()
    now = 1024 * int(status.partition("VmData:")[2].split()[0])
    held = 2 * max(_HELD_BYTES, spec.limits.max_bytes)
    limit = now + spec.limits.max_decode_bytes + held + threads * _THREAD_BYTES + _OTHER_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # mallopt(3)


def _keep_memory() -> None:
    """Makes malloc keep some freed memory, so that not every image requests its pages from the kernel again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's
        mallopt(_M_MMAP_THRESHOLD, 16 << 20)
        mallopt(_M_TRIM_THRESHOLD, 32 << 20)


class TritonPythonModel:
    """Decodes on threads: Pillow releases the interpreter lock while it decodes and resizes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the specification once, when the model is loaded."""
        config = json.loads(args["model_config"])
        instances = _instances(config)
        threads = math.ceil(_cores() / instances)
        _warn_of_other_pillow(config)
        self._spec = PreprocessSpec.from_json((Path(__file__).parent / "preprocess.json").read_text())
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._memory = Memory(self._spec.limits.max_decode_bytes // instances)
        _keep_memory()
        _warm_up(self._spec)
        _limit_memory(self._spec, threads)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answers each request separately: a bad image fails only its own request."""
        pending: list[tuple[Pixels, list[Decoded]]] = []
        held = 0
        for request in requests:
            pixels, submitted, size = self._submit(request)
            pending.append((pixels, submitted))
            held += size
            if held > _HELD_BYTES:
                wait(future for _, futures in pending for future in futures)
                held = 0
        return [self._answer(pixels, decoded) for pixels, decoded in pending]

    def finalize(self) -> None:
        """Ends the threads when the model is unloaded."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, request: pb_utils.InferenceRequest) -> tuple[Pixels, list[Decoded], int]:
        """Starts to decode a request; returns the pixels to fill, a future for each image, and the images' bytes."""
        try:
            images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
            pixels = np.empty((len(images), self._spec.height, self._spec.width, 3), self._spec.dtype)
        except MemoryError:
            failed: Decoded = Future()
            failed.set_exception(MemoryError("there is not enough memory for the images; send fewer in a request"))
            return np.empty(0), [failed], 0
        decoded = [self._threads.submit(self._decode, data, row) for data, row in zip(images, pixels, strict=True)]
        return pixels, decoded, sum(map(len, images))

    def _decode(self, data: bytes, row: Pixels) -> Refusal | None:
        """Writes an image's pixels into their row, or returns why there are none.

        The reason is a tuple: the frames of an exception would keep the picture in memory until the garbage collector
        runs.
        """
        try:
            row[...] = preprocess(data, self._spec, self._memory)
        except ImageError as exc:
            return exc.refusal
        return None

    def _answer(self, pixels: Pixels, decoded: list[Decoded]) -> pb_utils.InferenceResponse:
        try:
            return self._respond(pixels, [future.result() for future in decoded])
        except Exception as exc:  # whatever it is (out of memory, say), the other requests of the batch continue
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"preprocessing failed: {exc!r}"))

    def _respond(self, pixels: Pixels, refusals: list[Refusal | None]) -> pb_utils.InferenceResponse:
        errors = {index: refusal for index, refusal in enumerate(refusals) if refusal is not None}
        if errors:
            text = format_errors(errors, len(refusals))
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", pixels)])
