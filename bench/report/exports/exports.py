"""The exports that a report compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitriton_bench._errors import BenchError
from vitriton_export import ExportError, ExportOptions, export_model

from report.exports.checkpoint import random_vit
from report.plan import Plan, TextPlan

PEER_BATCH = 16  # the most images in a LitServe batch: bench/litserve_batches.py
_LABELS = {"base": "ViT-B/16, random weights", "tiny": "ViT-Ti/16, random weights"}

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The exports of one model.

    Attributes:
        model: the folder or hub id of the checkpoint.
        label: the name of the model in the report.
        repository: the model repository with the exports.
        names: the names of the exports, by precision.
        pooling: the pooling of the embeddings.
    """

    model: str
    label: str
    repository: Path
    names: dict[str, str]
    pooling: str

    def describe(self) -> dict[str, Any]:
        """The model, for the report's file."""
        return {"label": self.label, "pooling": self.pooling}


def export(plan: Plan, fast: str, say: Say, *, gpu: bool) -> Exports:
    """Exports the plan's model in float32, pooled and unpooled, and pooled in a faster precision.

    Raises:
        BenchError: the export fails, or the peers do not support its pooling.
    """
    model = plan.model or str(random_vit(plan.size, plan.work / f"vit-{plan.size}-random"))
    stem = Path(model.rstrip("/")).name
    names = {precision: f"{stem}-{precision}" for precision in ("fp32", fast)}
    outputs = {"fp32": "both", fast: "pooled"}
    poolings = {
        export_one(plan, model, name, say, precision=precision, outputs=outputs[precision], gpu=gpu)
        for precision, name in names.items()
    }
    pooling = poolings.pop()
    if poolings or pooling not in ("pooler", "cls"):
        raise BenchError(f"{model} is pooled by {pooling}; the comparison knows models with a pooler or a CLS token")
    label = model if plan.model else _LABELS[plan.size]
    return Exports(model=model, label=label, repository=plan.repository, names=names, pooling=pooling)


def export_one(
    plan: Plan | TextPlan, model: str, name: str, say: Say, *, precision: str, outputs: str, gpu: bool, **more: Any
) -> str:
    """Exports one precision, unless an equal export may be reused; returns its pooling.

    Args:
        plan: the settings of the report.
        model: the folder or hub id of the checkpoint.
        name: the name of the export.
        say: the function that shows a line of progress.
        precision: the precision.
        outputs: the outputs.
        gpu: whether it is for a GPU.
        **more: other options of the export.

    Raises:
        BenchError: the export fails.
    """
    repository = plan.repository
    device = "gpu" if gpu else "cpu"
    options: dict[str, Any] = {"precision": precision, "outputs": outputs, "device": device, **more}
    if not (plan.reuse and made_with(_manifest(repository, name), options)):
        say(f"exporting {name}")
        for old in repository.glob(f"{name}_*"):
            shutil.rmtree(old)
        try:
            export_model(ExportOptions(model=model, repository=repository, name=name, **options))
        except ExportError as exc:
            raise BenchError(f"{model} cannot be exported: {exc}") from exc
    pooling = json.loads(_manifest(repository, name).read_text())["pooling"]
    return str(pooling)


def _manifest(repository: Path, name: str) -> Path:
    """The manifest of an export, of a model for images or for texts."""
    return next(repository.glob(f"{name}_*pooled/1/manifest.json"), repository / name)


def made_with(manifest: Path, options: Mapping[str, Any]) -> bool:
    """Whether there is an export with these options."""
    try:
        known = json.loads(manifest.read_text())["options"]
    except (OSError, ValueError, KeyError):
        return False
    return all(known.get(name) == value for name, value in options.items())
