"""The exports that a report compares, and what is said of model and images."""

from __future__ import annotations

import io
import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from vitriton._names import ensemble_name

from vitriton_bench._errors import BenchError
from vitriton_bench.report.exports.checkpoint import random_vit
from vitriton_bench.report.plan import Plan

PEER_BATCH = 16  # most images in a batch of LitServe's: bench/litserve_batches.py
_LABELS = {"base": "ViT-B/16, random weights", "tiny": "ViT-Ti/16, random weights"}


@dataclass(frozen=True, kw_only=True)
class Exports:
    """What was exported.

    Attributes:
        model: the checkpoint.
        label: what it is called in the report.
        repository: of the exports.
        names: precision → export.
        pooling: how their embeddings are made.
    """

    model: str
    label: str
    repository: Path
    names: dict[str, str]
    pooling: str

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {"label": self.label, "pooling": self.pooling}


def export(plan: Plan, fast: str, say: Callable[[str], None], *, gpu: bool) -> Exports:
    """Exports the plan's model in float32, pooled and unpooled, and pooled in a faster precision.

    Raises:
        BenchError: the export fails, or its pooling is none that the peers can be asked for.
    """
    model = plan.model or str(random_vit(plan.size, plan.work / f"vit-{plan.size}-random"))
    repository = plan.work / "models"
    stem = Path(model.rstrip("/")).name
    exported = {precision: f"{stem}-{precision}" for precision in ("fp32", fast)}
    poolings = {
        export_one(plan, model, repository, name, precision, "both" if precision == "fp32" else "pooled", say, gpu=gpu)
        for precision, name in exported.items()
    }
    pooling = poolings.pop()
    if poolings or pooling not in ("pooler", "cls"):
        raise BenchError(f"{model} is pooled by {pooling}; the comparison knows models with a pooler or a CLS token")
    return Exports(
        model=model,
        label=model if plan.model else _LABELS[plan.size],
        repository=repository,
        names=exported,
        pooling=pooling,
    )


def export_one(
    plan: Plan,
    model: str,
    repository: Path,
    name: str,
    precision: str,
    outputs: str,
    say: Callable[[str], None],
    *,
    gpu: bool,
) -> str:
    """Exports one precision unless it is there, made in the same way, and may be reused; returns its pooling.

    Raises:
        BenchError: the export fails.
    """
    try:
        from vitriton_export import ExportError, ExportOptions, export_model
    except ImportError as exc:
        raise BenchError("the comparison needs vitriton-export; `pip install 'vitriton-bench[report]'`") from exc

    manifest = repository / ensemble_name(name, "pooled") / "1" / "manifest.json"
    options: dict[str, Any] = {
        "precision": precision,
        "outputs": outputs,
        "accelerator": plan.accelerator,
        "device": "auto" if plan.accelerator else "gpu" if gpu else "cpu",
    }
    if not (plan.reuse and made_with(manifest, options)):
        say(f"exporting {name}")
        for old in repository.glob(f"{name}_*"):
            shutil.rmtree(old)
        try:
            export_model(ExportOptions(model=model, repository=repository, name=name, **options))
        except ExportError as exc:
            raise BenchError(f"{model} cannot be exported: {exc}") from exc
    pooling = json.loads(manifest.read_text())["pooling"]
    return str(pooling)


def made_with(manifest: Path, options: Mapping[str, Any]) -> bool:
    """Whether there is an export that was made with these options."""
    try:
        known = json.loads(manifest.read_text())["options"]
    except (OSError, ValueError, KeyError):
        return False
    return all(known.get(name) == value for name, value in options.items())


def describe_images(images: Sequence[bytes]) -> dict[str, Any]:
    """How many, and how large."""
    sizes = [Image.open(io.BytesIO(image)).size for image in images]
    return {
        "count": len(images),
        "mean_bytes": round(statistics.mean(map(len, images))),
        "least_bytes": min(map(len, images)),
        "most_bytes": max(map(len, images)),
        "sizes": sorted({f"{width} × {height}" for width, height in sizes}),
    }
