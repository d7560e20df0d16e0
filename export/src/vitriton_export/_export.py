"""One export from beginning to end: load → reference → graph → stage → verify → install."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitriton._keywords import suggests_keywords
from vitriton._repository.names import OUTPUT, kind_of

from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.loading import quiet
from vitriton_export._errors import printable
from vitriton_export._graph import onnx_export, precision
from vitriton_export._graph.attention import attention
from vitriton_export._options import ExportOptions
from vitriton_export._parity import compare
from vitriton_export._parity.tally import Stage
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import install
from vitriton_export._repository import manifest as _manifest
from vitriton_export._repository.deployment import VERSION, Deployment
from vitriton_export._towers.plan import ExportPlan

Step = Callable[[str], contextlib.AbstractContextManager[Any]]

# Room for text files, and for what the file system rounds up
_SLACK_BYTES = 16_000_000


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
        towers.outline(source, options)  # refuses unsuitable checkpoints before their weights are downloaded
    with step("Check the weights" if source.revision is None else f"Download the weights of {source.model_id}"):
        source = sources.fetch_weights(source)
    with step("Load the weights"):
        plan = towers.plan(source, options)
        install.tidy(options.folder)
        install.check_target(options.folder, plan.deployment, plan.weights)
    return plan


@quiet()
def carry_out(options: ExportOptions, plan: ExportPlan, step: Step) -> ExportResult:
    """Makes, verifies and installs what was planned: the other half of `export_model`."""
    weights_bytes = sum(tensor.nbytes for tensor in plan.model.state_dict().values())
    factor = len(plan.deployment.shapes) * (0.5 if options.precision == "fp16" else 1)
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


def _stage(options: ExportOptions, plan: ExportPlan, staging: Path, step: Step) -> _Staged:
    """Writes and verifies everything in the staging folder."""
    corpus = plan.corpus()
    with step(f"Run the reference on {len(corpus)} {plan.deployment.step.tower}s"):
        # before the export changes the model
        reference = plan.reference()
        expected = [(batch, reference.run([data for _, data in batch])) for batch in compare.batches(corpus.items())]
    with step("Export to ONNX"):
        _deployment.write(plan.deployment, staging)
        warnings = [*plan.warnings, *map(printable, _write_graphs(options, plan, staging))]
    with step("Verify against the reference"):
        demanded = plan.gates(options.min_cosine)
        # Limits change no vector, and formats that are not allowed must not shrink the gate.
        runner = plan.runner(staging, within_limits=False)
        stages = compare.check(compare.compare(expected, runner, demanded, plan.is_apart))
        manifest = _manifest.build(
            plan.deployment, plan.source, plan.weights, stages, demanded, staging, options, warnings, plan.head
        )
        _manifest.write(manifest, plan.deployment, staging)
    return _Staged(stages, manifest, warnings)


def _write_graphs(options: ExportOptions, plan: ExportPlan, staging: Path) -> list[str]:
    """Writes a graph for each output; returns the warnings about them."""
    deployment = plan.deployment
    module, inputs = plan.encoder()
    with quiet(), attention(plan.model, fused=options.optimize == "default"):
        exported = onnx_export.to_onnx(module, inputs)
    warnings = [precision.device_warning(options.precision, options.device, has_gpu=precision.has_gpu())]
    for kind in deployment.shapes:
        graph = onnx_export.with_output(exported, OUTPUT[kind])
        warnings.append(precision.finish(graph, options.precision, options.optimize))
        folder = staging / deployment.encoder_name(kind) / VERSION
        onnx_export.save(graph, folder, max_single_file_bytes=options.max_single_file_bytes)
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def _notes(plan: ExportPlan) -> tuple[str, ...]:
    notes, pooled = list(plan.notes), kind_of(True, plan.deployment.step.tower)
    (dimensions, *_) = plan.deployment.shapes.get(pooled, (None,))
    if plan.head is not None:
        pooling = None if dimensions is None else plan.deployment.pooling
        notes.append(plan.head.note(plan.source.model_id, pooling, dimensions))
    return tuple(printable(note) for note in notes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
