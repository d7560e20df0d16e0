"""Triton python model: encoded images → uint8 pixels.

`preprocess.json` beside it says how; the folder `vitriton_preprocessing` does it. It needs numpy and Pillow, no more.
"""

from __future__ import annotations  # nothing evaluates them: typings/ has names that Triton has not

import contextlib
import ctypes
import io
import json
import os
import resource
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import triton_python_backend_utils as pb_utils

# Triton appends this folder to the path; ahead of all it cannot be shadowed by an installed module.
sys.path.insert(0, str(Path(__file__).parent))

from vitriton_preprocessing import ImageError, Memory, Pixels, PreprocessSpec, Refusal, format_image_errors, preprocess

Decoded = Future[Refusal | None]  # whose row of the pixels is written, or why not


def _cores() -> int:
    """What `vitriton serve` found to be usable (it reads the cgroup's quota too), else what the scheduler allows."""
    return int(os.environ.get("VITRITON_CPU_CORES") or len(os.sched_getaffinity(0)))


def _warn_of_other_pillow(config: dict[str, Any]) -> None:
    exported = config.get("parameters", {}).get("pillow_version", {}).get("string_value")
    if exported and exported != PIL.__version__:
        pb_utils.Logger.log_warn(
            f"{config['name']}: exported and verified with Pillow {exported}, runs Pillow {PIL.__version__}: "
            "pixels may differ in the last grey level"
        )


def _warm_up(spec: PreprocessSpec) -> None:
    """Makes Pillow load its decoders before the model is ready; Triton's own warm-up knows only empty strings."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(file, "JPEG")
    with contextlib.suppress(ImageError):  # JPEG may not be among the formats that are allowed
        preprocess(file.getvalue(), spec)


_HELD_BYTES = 512 << 20  # of encoded images that are copied from Triton's shared memory at a time
# What a thread may take that no header tells: its stack, a PNG's texts (PngImagePlugin.MAX_TEXT_MEMORY), AV1's frames.
_THREAD_BYTES = 128 << 20
_OTHER_BYTES = 512 << 20  # pixels of a batch, and memory that is free but in pieces


def _limit_memory(spec: PreprocessSpec, threads: int) -> None:
    """Has the kernel refuse what is beyond all that images may need; then a file that lies fails, and not the step.

    RLIMIT_DATA counts what the process has for itself, not the shared memory in which Triton passes tensors.
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
    """Has malloc keep what an image gives back, in bounds: else the kernel is asked for its pages anew each time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's
        mallopt(_M_MMAP_THRESHOLD, 16 << 20)
        mallopt(_M_TRIM_THRESHOLD, 32 << 20)


class TritonPythonModel:
    """Decodes on threads: Pillow lets go of the interpreter lock while it decodes and resizes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the spec once, when the model is loaded."""
        config, threads = json.loads(args["model_config"]), _cores()
        _warn_of_other_pillow(config)
        self._spec = PreprocessSpec.from_json((Path(__file__).parent / "preprocess.json").read_text())
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._memory = Memory(self._spec.limits.max_decode_bytes)
        _keep_memory()
        _warm_up(self._spec)
        _limit_memory(self._spec, threads)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answers each request by itself: a bad image fails the request that it came with, and no other."""
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

    def _submit(self, request: pb_utils.InferenceRequest) -> tuple[Pixels, list[Decoded], int]:
        """Where the pixels of a request's images will be, each on its way there, and the bytes of the images."""
        try:
            images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
            pixels = np.empty((len(images), self._spec.height, self._spec.width, 3), self._spec.dtype)
        except MemoryError:
            failed: Decoded = Future()
            failed.set_exception(MemoryError("the images are more than can be held; send fewer in a request"))
            return np.empty(0), [failed], 0
        decoded = [self._threads.submit(self._decode, data, row) for data, row in zip(images, pixels, strict=True)]
        return pixels, decoded, sum(map(len, images))

    def finalize(self) -> None:
        """Ends the threads when the model is unloaded."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _decode(self, data: bytes, row: Pixels) -> Refusal | None:
        """Writes the pixels into their row; returns why there are none.

        An error goes back as a tuple: as an exception it would be tied to the frames that it passed, and the picture in
        them would stay in memory until the garbage collector comes by.
        """
        try:
            row[...] = preprocess(data, self._spec, self._memory)
        except ImageError as exc:
            return exc.refusal
        return None

    def _answer(self, pixels: Pixels, decoded: list[Decoded]) -> pb_utils.InferenceResponse:
        try:
            return self._respond(pixels, [future.result() for future in decoded])
        except Exception as exc:  # whatever it is (out of memory, say), the other requests of this batch go on
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"preprocessing failed: {exc!r}"))

    def _respond(self, pixels: Pixels, refusals: list[Refusal | None]) -> pb_utils.InferenceResponse:
        errors = {index: refusal for index, refusal in enumerate(refusals) if refusal is not None}
        if errors:
            text = format_image_errors(errors, len(refusals))
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", pixels)])
