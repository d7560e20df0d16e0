"""One export from beginning to end: load → reference → graph → stage → verify → install."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from vitriton_export import (
    _checkpoint,
    _corpus,
    _deployment,
    _fingerprint,
    _graph,
    _manifest,
    _parity,
    _repository,
)
from vitriton_export import _source as sources
from vitriton_export._checkpoint import Checkpoint
from vitriton_export._deployment import TENSOR, VERSION, Deployment
from vitriton_export._encoder import Encoder, pool
from vitriton_export._errors import ExportError
from vitriton_export._families import Family
from vitriton_export._options import ExportOptions, Kind, Pooling
from vitriton_export._parity import Stage

Step = Callable[[str], contextlib.AbstractContextManager[Any]]

# Text files, and what the file system rounds up
_SLACK_BYTES = 16_000_000


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        deployment: names, shapes, pooling, fingerprint.
        repository: where.
        sizes: bytes by model, in the order of their installation.
        parity: the report of the gate.
        manifest: as in manifest.json.
    """

    deployment: Deployment
    repository: Path
    sizes: dict[str, int]
    parity: list[Stage]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What is decided once the checkpoint is loaded, and before any work is done."""

    checkpoint: Checkpoint
    weights: str
    deployment: Deployment


def export_model(options: ExportOptions, step: Step = contextlib.nullcontext) -> ExportResult:
    """Exports a model to a Triton model repository, once it is proven to compute what transformers computes.

    Args:
        options: what to export, and how.
        step: called with the name of each step; the context that it returns spans the step.

    Returns:
        What was written.

    Raises:
        ExportError: nothing was written, and the repository is as it was.
        ParityError: the same, because the export's numbers differ from the reference's.
    """
    with step("Find the checkpoint"):
        source = sources.find(options.model, options.revision)
        _checkpoint.outline(source, options)  # refuses what cannot be exported before its weights are downloaded
        source = sources.fetch_weights(source)
    with step("Load weights and image processor"):
        plan = _plan(options, _checkpoint.load(source, options))
    weights_bytes = sum(tensor.nbytes for tensor in plan.checkpoint.model.state_dict().values())
    factor = len(options.kinds) * (0.5 if options.precision == "fp16" else 1)
    with _repository.staging_folder(options.folder, int(weights_bytes * factor) + _SLACK_BYTES) as staging:
        try:
            parity, manifest = _stage(options, plan, staging, step)
            with step("Install"):
                sizes = {name: _size(staging / name) for name in plan.deployment.model_names}
                _repository.install(staging, options.folder, plan.deployment)
        except OSError as exc:
            raise _repository.not_writable(options.folder, exc) from exc
    return ExportResult(plan.deployment, options.folder, sizes, parity, manifest)


def _plan(options: ExportOptions, checkpoint: Checkpoint) -> _Plan:
    spec, normalization = checkpoint.spec, checkpoint.normalization
    blank = [Image.new("RGB", (spec.width, spec.height))]
    outputs = _parity.forward(checkpoint, checkpoint.image_processor(blank, return_tensors="pt"))
    pooling = _checkpoint.resolve_pooling(
        options.pooling,
        checkpoint,
        has_pooler=outputs.get("pooler_output") is not None,
        allow_untrained=options.allow_untrained_pooler,
    )
    embedding = pool(outputs, pooling, **checkpoint.tokens, l2_normalize=options.l2_normalize)
    shapes: dict[Kind, tuple[int, ...]] = {
        "pooled": tuple(embedding.shape[1:]),
        "unpooled": tuple(outputs.last_hidden_state.shape[1:]),
    }
    _check_tokens(checkpoint, outputs, spec.height, spec.width)
    space: Pooling | None = _space(pooling, checkpoint.family)
    if "pooled" not in options.kinds:  # tokens alone: what makes embeddings of them is not in the graph
        space = None
    weights = _fingerprint.weights_sha256(_used(checkpoint, space))
    fingerprint = _fingerprint.fingerprint(
        weights=weights,
        config=_fingerprint.architecture(
            checkpoint.model.config, checkpoint.family, pooler=space in ("pooler", "projection")
        ),
        spec=spec,
        normalization=normalization,
        pooling=space,
        l2_normalize=options.l2_normalize,
        precision=options.precision,
    )
    deployment = Deployment(
        name=options.deployed_name,
        spec=spec,
        normalization=normalization,
        shapes={kind: shapes[kind] for kind in options.kinds},
        max_batch_size=options.max_batch_size,
        model_id=checkpoint.source.model_id,
        revision=checkpoint.source.revision,
        pillow_version=PIL.__version__,
        pooling=pooling,
        l2_normalize=options.l2_normalize,
        precision=options.precision,
        fingerprint=fingerprint,
    )
    _repository.check_target(options.folder, deployment)
    return _Plan(checkpoint, weights, deployment)


def _stage(options: ExportOptions, plan: _Plan, staging: Path, step: Step) -> tuple[list[Stage], dict[str, Any]]:
    """Writes and verifies everything in the staging folder."""
    deployment, checkpoint = plan.deployment, plan.checkpoint
    images = _corpus.corpus()
    with step(f"Run the reference on {len(images)} images"):
        expected = _parity.reference(checkpoint, images, deployment.pooling, l2_normalize=deployment.l2_normalize)
    with step("Export to ONNX"):
        _deployment.write(deployment, staging)
        dtype = torch.float32 if deployment.spec.dtype == np.float32 else torch.uint8
        graph = _graph.to_onnx(_encoder(plan), deployment.spec.height, deployment.spec.width, dtype)
        for kind in deployment.shapes:
            folder = staging / deployment.encoder_name(kind) / VERSION
            _graph.save(
                _graph.with_output(graph, TENSOR[kind]),
                folder,
                max_single_file_bytes=options.max_single_file_bytes,
            )
    with step("Verify against the reference"):
        stages = [_parity.compare_pixels(expected, images, staging, deployment)]
        stages += [_parity.compare_outputs(expected, staging, deployment, kind) for kind in deployment.shapes]
        _parity.check(stages)
        manifest = _manifest.build(deployment, checkpoint.source, plan.weights, stages, staging)
        _manifest.write(manifest, deployment, staging)
    return stages, manifest


def _encoder(plan: _Plan) -> Encoder:
    """The module to export. It takes the model over: the reference must have been run by now."""
    model = plan.checkpoint.model
    # The default attention (sdpa) exports with checks for all-masked rows around each softmax, which cost time.
    with _checkpoint.quiet():
        model.set_attn_implementation("eager")
    if plan.deployment.precision == "fp16":
        model.half()
    return Encoder(
        plan.checkpoint.network,
        plan.deployment.normalization,
        plan.deployment.pooling,
        **plan.checkpoint.tokens,
        packed=plan.checkpoint.family.inputs == "patches",
        l2_normalize=plan.deployment.l2_normalize,
    ).eval()


def _space(pooling: Pooling, known: Family) -> Pooling:
    """One name for poolings that make the same vectors."""
    if pooling == "projection" and known.projection == "pooler":
        pooling = "pooler"
    return "cls" if pooling == "pooler" and known.pooler_is_cls else pooling


def _check_tokens(checkpoint: Checkpoint, outputs: Any, height: int, width: int) -> None:
    """The gate would not notice a wrong number of tokens that are no patches, since reference and graph pool alike."""
    if not checkpoint.family.grid:
        return
    patch: Any = checkpoint.model.config.patch_size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    tokens, patches = outputs.last_hidden_state.shape[1], (height // down) * (width // across)
    others = sum(checkpoint.tokens.values())
    if tokens - patches != others:
        raise ExportError(
            f"{checkpoint.source.model_id} gives {tokens} tokens for {patches} patches, and "
            f"{checkpoint.model.config.model_type} should have {others} more tokens than patches"
        )


def _used(checkpoint: Checkpoint, pooling: Pooling | None) -> dict[str, torch.Tensor]:
    """The weights that outputs depend on: not a pooler that nobody asked for, which may be random."""
    unused, pooler = checkpoint.family.unused, checkpoint.family.pooler
    return {
        name: tensor
        for name, tensor in checkpoint.model.state_dict().items()
        if name not in unused and (pooling in ("pooler", "projection") or not name.startswith(pooler))
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
