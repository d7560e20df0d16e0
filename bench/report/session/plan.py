"""The settings of a session: what it measures, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from report.plan import Size

Device = Literal["cpu", "gpu"]

_GPU_BYTES = 4_000_000_000


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An export to measure.

    Attributes:
        name: the name in the tables.
        precision: the precision.
        options: further options of `vitriton export`.
        needs_native: whether it needs Triton's native onnxruntime backend.
    """

    name: str
    precision: str
    options: tuple[str, ...] = ()
    needs_native: bool = False

    @property
    def slug(self) -> str:
        """The name as a part of the name of a file or an export."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """The settings of a session.

    Attributes:
        device: the device of the encoders.
        model: the folder or hub id of a checkpoint; None: a ViT with random weights, small on a CPU.
        images: the folder of photos.
        work: the folder for checkpoints, exports and TensorRT's engines.
        budget_s: the time of the whole session, in seconds.
        seconds: the length of each load, longer until all callers have an answer.
        perf_analyzer: the perf_analyzer program; None: it is searched for.
    """

    device: Device
    model: str | None = None
    images: Path
    work: Path
    budget_s: float = 720.0
    seconds: float = 6.0
    perf_analyzer: Path | None = None

    @property
    def size(self) -> Size:
        """The size of the ViT with random weights."""
        return "base" if self.device == "gpu" else "tiny"

    @property
    def repository(self) -> Path:
        """The model repository with the exports."""
        return self.work / "models"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The exports, the most important first."""
        both = Variant(name="fp16", precision="fp16"), Variant(name="fp32", precision="fp32")
        if self.device == "cpu":
            return both
        tensorrt = ("--accelerator", "tensorrt", "--tensorrt-cache", str((self.work / "engines").resolve()))
        return (
            *both,
            Variant(name="fp16 TensorRT", precision="fp16", options=tensorrt, needs_native=True),
            Variant(name="fp16 in 4 GB", precision="fp16", options=("--max-gpu-bytes", str(_GPU_BYTES))),
        )

    @property
    def callers(self) -> tuple[int, ...]:
        """The numbers of callers that send one photo at a time."""
        return (32, 1, 128) if self.device == "gpu" else (8, 1)

    @property
    def batch(self) -> int:
        """The number of images in a batch of ready pixels."""
        return 32 if self.device == "gpu" else 8
