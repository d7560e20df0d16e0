"""One export from beginning to end: load → reference → graph → stage → verify → install."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from vitriton._keywords import suggests_keywords
from vitriton._repository.names import OUTPUT, Kind

from vitriton_export._checkpoint import checkpoint as _checkpoint
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.checkpoint import Checkpoint
from vitriton_export._checkpoint.families import Family
from vitriton_export._checkpoint.loading import quiet
from vitriton_export._errors import ExportError, explained, printable
from vitriton_export._graph import onnx_export, precision
from vitriton_export._graph.attention import attention
from vitriton_export._graph.encoder import Encoder, pool
from vitriton_export._options import ExportOptions, Pooling
from vitriton_export._parity import compare, corpus, gates
from vitriton_export._parity.runner import RepositoryRunner
from vitriton_export._parity.tally import Stage
from vitriton_export._processors.reference_pixels import tolerance
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import fingerprint as _fingerprint
from vitriton_export._repository import install
from vitriton_export._repository import manifest as _manifest
from vitriton_export._repository.deployment import VERSION, Deployment

Step = Callable[[str], contextlib.AbstractContextManager[Any]]

# Room for text files, and for what the file system rounds up
_SLACK_BYTES = 16_000_000
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        deployment: the deployment: names, shapes, pooling, fingerprint.
        repository: the folder of the model repository.
        sizes: the size of each model in bytes, in the order of installation.
        parity: the parity report, by stage.
        manifest: the content of manifest.json.
        warnings: the warnings about the choices made.
        notes: the facts about the export that may surprise a user but are not faults.
    """

    deployment: Deployment
    repository: Path
    sizes: dict[str, int]
    parity: list[Stage]
    manifest: dict[str, Any]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """The decisions that follow from options and checkpoint, before any work is done.

    Attributes:
        checkpoint: the loaded checkpoint.
        weights: the hash of the weights that the outputs depend on.
        deployment: the deployment: names, shapes, pooling, fingerprint.
    """

    checkpoint: Checkpoint
    weights: str
    deployment: Deployment

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the checkpoint."""
        return tuple(printable(each) for each in self.checkpoint.warnings)


@dataclass(frozen=True)
class _Staged:
    """The staged export, written and verified; the fields are those of `ExportResult`."""

    parity: list[Stage]
    manifest: dict[str, Any]
    warnings: list[str]


@quiet()
@suggests_keywords
def export_model(options: ExportOptions, step: Step = contextlib.nullcontext) -> ExportResult:
    """Exports a model to a Triton model repository, if it computes what transformers computes.

    Args:
        options: the options of the export.
        step: the function that is called with the name of each step; the context that it returns spans the step.

    Returns:
        The result, after installation.

    Raises:
        ExportError: the export failed, and the repository is unchanged.
        ParityError: the same, because the export's values differ from the reference's.
    """
    return carry_out(options, prepare(options, step), step)


@quiet()
def prepare(options: ExportOptions, step: Step) -> ExportPlan:
    """Loads the checkpoint, and decides whether and how it is exported: the quick half of `export_model`."""
    with step("Find the checkpoint"):
        source = sources.find(options.model, options.revision)
        _checkpoint.outline(source, options)  # refuses unsuitable checkpoints before their weights are downloaded
    with step("Check the weights" if source.revision is None else f"Download the weights of {source.model_id}"):
        source = sources.fetch_weights(source)
    with step("Load weights and image processor"):
        plan = plan_export(options, _checkpoint.load(source, options))
        install.tidy(options.folder)
        install.check_target(options.folder, plan.deployment, plan.weights)
    return plan


@quiet()
def carry_out(options: ExportOptions, plan: ExportPlan, step: Step) -> ExportResult:
    """Makes, verifies and installs what was planned: the other half of `export_model`."""
    weights_bytes = sum(tensor.nbytes for tensor in plan.checkpoint.model.state_dict().values())
    factor = len(options.kinds) * (0.5 if options.precision == "fp16" else 1)
    needed_bytes = int(weights_bytes * factor) + _SLACK_BYTES
    with install.staging_folder(options.folder, needed_bytes, options.deployed_name) as staging:
        try:
            staged = _stage(options, plan, staging, step)
            with step("Install"):
                sizes = {name: _size(staging / name) for name in plan.deployment.model_names}
                install.install(staging, options.folder, plan.deployment)
        except OSError as exc:
            raise install.not_writable(options.folder, exc) from exc
    return ExportResult(
        plan.deployment, options.folder, sizes, staged.parity, staged.manifest, tuple(staged.warnings), _notes(plan)
    )


def plan_export(options: ExportOptions, checkpoint: Checkpoint) -> ExportPlan:
    """Plans an export with these options.

    Raises:
        ExportError: the checkpoint cannot be exported, or the pooling makes no sense for the model.
    """
    with explained(f"{checkpoint.source.model_id} cannot be exported as its config.json describes it"):
        return _plan(options, checkpoint)


def _plan(options: ExportOptions, checkpoint: Checkpoint) -> ExportPlan:
    spec, normalization = checkpoint.spec, checkpoint.normalization
    blank = [Image.new("RGB", (spec.width, spec.height))]
    outputs = compare.forward(checkpoint, checkpoint.image_processor(blank, return_tensors="pt"))
    pooling = _checkpoint.resolve_pooling(
        options.pooling,
        checkpoint,
        has_pooler=outputs.get("pooler_output") is not None,
        allow_untrained=options.allow_untrained_pooler,
    )
    embedding = pool(outputs, pooling, **checkpoint.tokens, l2_normalize=options.l2_normalize)
    if not (torch.isfinite(embedding).all() and torch.isfinite(outputs.last_hidden_state).all()):
        raise ExportError(
            f"{checkpoint.source.model_id} gives NaN or infinity for a black image; {_not_finite(checkpoint)}"
        )
    shapes: dict[Kind, tuple[int, ...]] = {
        "pooled": tuple(embedding.shape[1:]),
        "unpooled": tuple(outputs.last_hidden_state.shape[1:]),
    }
    _check_tokens(checkpoint, outputs, spec.height, spec.width)
    space: Pooling | None = _space(pooling, checkpoint.family)
    if "pooled" not in options.kinds:  # tokens alone: the graph makes no embedding
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
        spec=replace(spec, limits=options.limits),
        normalization=normalization,
        shapes={kind: shapes[kind] for kind in options.kinds},
        max_batch_size=options.max_batch_size,
        model_id=checkpoint.source.model_id,
        revision=checkpoint.source.revision,
        pillow_version=PIL.__version__,
        pooling=pooling,
        l2_normalize=options.l2_normalize,
        precision=options.precision,
        output_dtype=options.output_dtype,
        fingerprint=fingerprint,
        serving=options.serving,
        verification=options.verification,
    )
    return ExportPlan(checkpoint, weights, deployment)


def _not_finite(checkpoint: Checkpoint) -> str:
    """Says why a model's outputs are not finite."""
    tensors = checkpoint.model.state_dict().items()
    first = next((name for name, tensor in tensors if not torch.isfinite(tensor).all()), None)
    if first is None:
        return "its weights or its config.json are damaged"
    return f"its weights are damaged: the first tensor with such a value is {first}"


def _stage(options: ExportOptions, plan: ExportPlan, staging: Path, step: Step) -> _Staged:
    """Writes and verifies everything in the staging folder."""
    deployment, checkpoint = plan.deployment, plan.checkpoint
    images = compare.usable(corpus.corpus(large=deployment.spec.scales_jpegs), checkpoint.spec)
    with step(f"Run the reference on {len(images)} images"):
        # before the export changes the model
        reference = compare.Reference(checkpoint, deployment.pooling, l2_normalize=deployment.l2_normalize)
        expected = [(batch, reference.run([data for _, data in batch])) for batch in compare.batches(images.items())]
    with step("Export to ONNX"):
        _deployment.write(deployment, staging)
        warnings = [*plan.warnings, *map(printable, _write_graphs(options, plan, staging))]
    with step("Verify against the reference"):
        demanded = gates.gates(
            deployment.precision,
            options.min_cosine,
            output_dtype=deployment.output_dtype,
            pixel_tolerance=tolerance(checkpoint.image_processor),
            scaled_decoding=deployment.spec.scales_jpegs,
        )
        # Limits change no pixel, and formats that are not allowed must not shrink the gate.
        runner = RepositoryRunner(staging, deployment.name, deployment.shapes, within_limits=False)
        stages = compare.check(compare.compare(expected, runner, demanded, checkpoint.spec))
        manifest = _manifest.build(
            deployment, checkpoint.source, plan.weights, stages, demanded, staging, options, warnings, checkpoint.head
        )
        _manifest.write(manifest, deployment, staging)
    return _Staged(stages, manifest, warnings)


def _write_graphs(options: ExportOptions, plan: ExportPlan, staging: Path) -> list[str]:
    """Writes a graph for each output; returns the warnings about them."""
    deployment = plan.deployment
    spec = deployment.spec
    dtype = torch.float32 if spec.dtype == np.float32 else torch.uint8
    with quiet(), attention(plan.checkpoint.model, fused=options.optimize == "default"):
        exported = onnx_export.to_onnx(_encoder(plan), spec.height, spec.width, dtype)
    warnings = [precision.device_warning(options.precision, options.device, has_gpu=precision.has_gpu())]
    for kind in deployment.shapes:
        graph = onnx_export.with_output(exported, OUTPUT[kind])
        warnings.append(precision.finish(graph, options.precision, options.optimize))
        folder = staging / deployment.encoder_name(kind) / VERSION
        onnx_export.save(graph, folder, max_single_file_bytes=options.max_single_file_bytes)
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def _encoder(plan: ExportPlan) -> Encoder:
    """Returns the module to export. It changes the model: the reference must have been run by now."""
    model = plan.checkpoint.model
    if plan.deployment.precision == "fp16":
        model.half()
    return Encoder(
        plan.checkpoint.network,
        plan.deployment.normalization,
        plan.deployment.pooling,
        **plan.checkpoint.tokens,
        packed=plan.checkpoint.family.inputs == "patches",
        l2_normalize=plan.deployment.l2_normalize,
        output_dtype=_DTYPES[plan.deployment.output_dtype],
    ).eval()


def _notes(plan: ExportPlan) -> tuple[str, ...]:
    head, (dimensions, *_) = plan.checkpoint.head, plan.deployment.shapes.get("pooled", (None,))
    if head is None:
        return ()
    pooling = None if dimensions is None else plan.deployment.pooling
    return (printable(head.note(plan.checkpoint.source.model_id, pooling, dimensions)),)


def _space(pooling: Pooling, known: Family) -> Pooling:
    """Returns one name for poolings that make the same vectors."""
    if pooling == "projection" and known.projection == "pooler":
        pooling = "pooler"
    return "cls" if pooling == "pooler" and known.pooler_is_cls else pooling


def _check_tokens(checkpoint: Checkpoint, outputs: Any, height: int, width: int) -> None:
    """Checks the number of tokens before and after the patches: reference and graph pool alike, so the gate cannot."""
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
    """Returns the weights that the outputs depend on: without an unused pooler, which may be random."""
    unused, pooler = checkpoint.family.unused, checkpoint.family.pooler
    return {
        name: tensor
        for name, tensor in checkpoint.model.state_dict().items()
        if name not in unused and (pooling in ("pooler", "projection") or not name.startswith(pooler))
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
