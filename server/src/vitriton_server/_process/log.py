"""Triton's log: a bounded tail, and the meaning of its lines."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

MAX_LINES = 1000
MAX_LINE_LENGTH = 8192

_SEVERITY = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d")
_LOADED = re.compile(r"successfully loaded '(?P<name>[^']+)'")
_FAILED = re.compile(
    r"(?:failed to load '(?P<name>[^']+)' version \d+|Poll failed for model directory '(?P<folder>[^']+)')"
    r": (?P<reason>.*)"
)
_USAGE = "Usage: tritonserver"
_TABLE = ("+--", "| ")
_UNKNOWN_OPTION = re.compile(r"unrecognized option '(?P<option>[^']+)'")
_STOPPED = "All models are stopped, unloading models"
_IN_USE = re.compile(r"failed to start \w+ service: .*already in use")

# Lines that 2.51.0 logs on a machine without a GPU, where they mean nothing.
_GPU_NOISE = (
    "CUDA driver version is insufficient",
    "CudaDriverHelper has not been initialized",
    "Failed to initialize NVML",
    "DCGM unable to start",
    "no CUDA-capable device is detected",
    "no pinned memory pool",
)

# Lines that it logs when a model is removed during its poll, as `vitriton serve --watch` does.
_POLL_NOISE = ("Failed to determine modification time for",)


class LogTail:
    """The last lines of a log, written by one thread and read by any."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Appends a line, without its line break."""
        with self._lock:
            self._lines.append(line)

    def last(self, count: int) -> list[str]:
        """Returns the last `count` lines, the oldest first."""
        with self._lock:
            return list(self._lines)[-count:] if count > 0 else []


def is_problem(line: str, *, has_gpu: bool) -> bool:
    """Whether a line is a warning or an error that matters on this machine."""
    match = _SEVERITY.match(line)
    if match is None or match[1] == "I" or any(noise in line for noise in _POLL_NOISE):
        return False
    return has_gpu or not any(noise in line for noise in _GPU_NOISE)


def is_error(line: str) -> bool:
    """Whether Triton logged a line as an error."""
    match = _SEVERITY.match(line)
    return match is not None and match[1] in "EF"


def relevant(lines: Iterable[str], *, has_gpu: bool) -> list[str]:
    """Returns the lines that may explain a server's end: problems and the output of models, not its start-up."""
    own = [line for line in lines if line.strip() and not line.startswith(_TABLE)]
    noise = () if has_gpu else _GPU_NOISE
    return [
        line
        for line in own
        if is_problem(line, has_gpu=has_gpu) or not (_SEVERITY.match(line) or any(each in line for each in noise))
    ]


def machine_has_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU on this machine."""
    return Path("/dev/nvidiactl").exists()


def loaded_model(line: str) -> str | None:
    """Returns the model that this line reports as loaded."""
    match = _LOADED.search(line)
    return match["name"] if match else None


def has_stopped(line: str) -> bool:
    """Whether this line reports that every inference is answered, during a shutdown."""
    return _STOPPED in line


def port_was_taken(lines: Iterable[str]) -> bool:
    """Whether Triton ended because one of its ports was in use."""
    return any(_IN_USE.search(line) for line in lines)


def refused_options(lines: Iterable[str]) -> str | None:
    """Says why Triton refused its options, after which it prints its usage, hundreds of lines; None if it did not."""
    given = [line for line in lines if line.strip()]
    if not any(line.startswith(_USAGE) for line in given):
        return None
    unknown = next((match for line in given if (match := _UNKNOWN_OPTION.search(line))), None)
    return f"it has no {unknown['option']}" if unknown is not None else given[-1].strip()


def failed_models(lines: Iterable[str]) -> dict[str, str]:
    """Returns model → the reason why Triton could not load it, in one line."""
    reasons: dict[str, str] = {}
    for line in lines:
        match = _FAILED.search(line)
        if match is not None:
            name = match["name"] or Path(match["folder"]).name
            reasons.setdefault(name, readable(match["reason"]))
    return reasons


def readable(reason: str) -> str:
    """Returns Triton's reason for not loading a model in one line, without the traceback of a python model."""
    text = reason.rstrip().removesuffix('"').replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'")
    text = text.partition("\n\nAt:\n")[0]  # the traceback of a python model
    text = re.sub(r"^(Internal|Invalid argument|Unavailable): ", "", text.strip())
    return " ".join(re.sub(r"^(LoadError|TritonModelException): ", "", text).split()).rstrip(".")
