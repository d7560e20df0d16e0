"""One export from beginning to end: load → reference → graph → stage → verify → install."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vitriton._keywords import suggests_keywords
from vitriton._repository import references
from vitriton._repository.names import ATTENTION_MASK, INPUT_IDS, OUTPUT, Tower, kind_of

from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.loading import quiet
from vitriton_export._errors import printable
from vitriton_export._graph import onnx_export, precision
from vitriton_export._graph.attention import attention
from vitriton_export._graph.smooth import Feed
from vitriton_export._options import ExportOptions
from vitriton_export._parity import compare
from vitriton_export._parity.compare import Batch, BatchResult
from vitriton_export._parity.gates import Gate
from vitriton_export._parity.references import choose
from vitriton_export._parity.tally import Stage
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import install
from vitriton_export._repository import manifest as _manifest
from vitriton_export._repository.deployment import VERSION, Deployment, model_names
from vitriton_export._towers.plan import ExportPlan

Step = Callable[[str], contextlib.AbstractContextManager[Any]]

# Room for text files, and for what the file system rounds up
_SLACK_BYTES = 16_000_000

# The longest text with which int8 is smoothed: longer ones show the same channels, and take longer
_EXAMPLE_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class TowerResult:
    """What was exported of one tower.

    Attributes:
        deployment: the deployment: names, shapes, pooling, fingerprint.
        parity: the parity report, by stage.
        manifest: the content of manifest.json.
    """

    deployment: Deployment
    parity: list[Stage]
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The result of an export.

    Attributes:
        towers: what was exported of each tower, images first.
        repository: the folder of the model repository.
        sizes: the size of each model in bytes, in the order of installation.
        warnings: the warnings about the choices made.
        notes: the facts about the export that may surprise a user but are not faults.
    """

    towers: tuple[TowerResult, ...]
    repository: Path
    sizes: dict[str, int]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def deployment(self) -> Deployment:
        """The deployment of the first tower."""
        return self.towers[0].deployment

    @property
    def parity(self) -> list[Stage]:
        """The parity report of the first tower."""
        return self.towers[0].parity

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json of the first tower."""
        return self.towers[0].manifest


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
def prepare(options: ExportOptions, step: Step) -> tuple[ExportPlan, ...]:
    """Loads the checkpoint, and decides whether and how it is exported: the quick half of `export_model`.

    Returns:
        The plan of each tower.
    """
    with step("Find the checkpoint"):
        source = sources.find(options.model, options.revision)
        towers.outline(source, options)  # refuses unsuitable checkpoints before their weights are downloaded
    with step("Check the weights" if source.revision is None else f"Download the weights of {source.model_id}"):
        source = sources.fetch_weights(source)
    with step("Load the weights"):
        plans = towers.plans(source, options)
        install.tidy(options.folder)
        for plan in plans:
            install.check_target(options.folder, plan.deployment, plan.weights)
    return plans


@quiet()
def carry_out(options: ExportOptions, plans: Sequence[ExportPlan], step: Step) -> ExportResult:
    """Makes, verifies and installs what was planned, all towers or none: the other half of `export_model`."""
    deployments = [plan.deployment for plan in plans]
    factor = 0.5 if options.precision == "fp16" else 1
    needed_bytes = int(sum(len(plan.deployment.shapes) * _weights_bytes(plan) * factor for plan in plans))
    with install.staging_folder(options.folder, needed_bytes + _SLACK_BYTES, options.deployed_name) as staging:
        try:
            results, warnings = _stage(options, plans, staging, step)
            with step("Install"):
                sizes = {name: _size(staging / name) for name in model_names(deployments)}
                install.install(staging, options.folder, *deployments)
        except OSError as exc:
            raise install.not_writable(options.folder, exc) from exc
    return ExportResult(
        towers=tuple(results),
        repository=options.folder,
        sizes=sizes,
        warnings=warnings,
        notes=tuple(note for plan in plans for note in _notes(plan)),
    )


def _stage(
    options: ExportOptions, plans: Sequence[ExportPlan], staging: Path, step: Step
) -> tuple[list[TowerResult], tuple[str, ...]]:
    """Writes and verifies everything in the staging folder; returns the results and the warnings."""
    corpora = [plan.corpus() for plan in plans]
    inputs = (f"{len(corpus)} {plan.deployment.step.tower}s" for plan, corpus in zip(plans, corpora, strict=True))
    with step(f"Run the reference on {' and '.join(inputs)}"):
        # before the export changes the model
        expected = [_expected(plan, corpus) for plan, corpus in zip(plans, corpora, strict=True)]
    warnings: dict[str, None] = {}  # each once, in their order
    with step("Export to ONNX"):
        for plan, each in zip(plans, expected, strict=True):
            _deployment.write(plan.deployment, staging)
            graph_warnings = _write_graphs(options, plan, staging, _examples(each))
            warnings |= dict.fromkeys((*plan.warnings, *map(printable, graph_warnings)))
    told, served = tuple(warnings), [plan.deployment.step.tower for plan in plans]
    with step("Verify against the reference"):
        results = [
            _verified(options, plan, each, staging, told, served) for plan, each in zip(plans, expected, strict=True)
        ]
        for result in results:
            _manifest.write(result.manifest, result.deployment, staging)
    return results, told


def _expected(plan: ExportPlan, corpus: Mapping[str, bytes]) -> list[tuple[Batch, BatchResult]]:
    reference = plan.reference()
    return [(batch, reference.run([data for _, data in batch])) for batch in compare.batches(corpus.items())]


def _verified(
    options: ExportOptions,
    plan: ExportPlan,
    expected: Sequence[tuple[Batch, BatchResult]],
    staging: Path,
    warnings: Sequence[str],
    served: Sequence[Tower],
) -> TowerResult:
    """Compares a staged tower with the reference, and describes it."""
    demanded = plan.gates(options.min_cosine)
    # Limits change no vector, and formats that are not allowed must not shrink the gate.
    runner = plan.runner(staging, within_limits=False)
    stages = compare.check(compare.compare(expected, runner, demanded, plan.is_apart))
    _write_references(plan, expected, demanded, staging)
    manifest = _manifest.build(
        plan.deployment,
        plan.source,
        plan.weights,
        stages,
        demanded,
        staging,
        options,
        served,
        warnings,
        plan.head,
    )
    return TowerResult(deployment=plan.deployment, parity=stages, manifest=manifest)


def _write_references(
    plan: ExportPlan, expected: Sequence[tuple[Batch, BatchResult]], demanded: Mapping[str, Gate], staging: Path
) -> None:
    """Writes what a server checks itself with, beside each ensemble."""
    for kind in plan.deployment.shapes:
        chosen = choose(kind, expected, demanded, plan.prepares)
        if chosen is not None:
            references.write(staging / plan.deployment.ensemble_name(kind) / VERSION, chosen)


def _examples(expected: Sequence[tuple[Batch, BatchResult]]) -> list[Feed]:
    """Returns inputs for the encoder: the shorter texts, each alone; none for images, which int8 does not need."""
    ids = [each[np.newaxis] for _, answers in expected for each in answers.values.get(INPUT_IDS, ())]
    return [{INPUT_IDS: each, ATTENTION_MASK: np.ones_like(each)} for each in ids if each.shape[1] <= _EXAMPLE_TOKENS]


def _write_graphs(options: ExportOptions, plan: ExportPlan, staging: Path, examples: Sequence[Feed]) -> list[str]:
    """Writes a graph for each output; returns the warnings about them."""
    deployment = plan.deployment
    module, inputs = plan.encoder()
    with quiet(), attention(plan.model, fused=options.optimize == "default"):
        exported = onnx_export.to_onnx(module, inputs)
    warnings = [precision.device_warning(options.precision, options.device, has_gpu=precision.has_gpu())]
    for kind in deployment.shapes:
        graph = onnx_export.with_output(exported, OUTPUT[kind])
        folder = staging / deployment.encoder_name(kind) / VERSION
        warnings.append(precision.finish(graph, options.precision, options.optimize, folder, examples))
        onnx_export.save(graph, folder, max_single_file_bytes=options.max_single_file_bytes)
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def _notes(plan: ExportPlan) -> tuple[str, ...]:
    notes, pooled = list(plan.notes), kind_of(True, plan.deployment.step.tower)
    (dimensions, *_) = plan.deployment.shapes.get(pooled, (None,))
    if plan.head is not None:
        pooling = None if dimensions is None else plan.deployment.pooling
        notes.append(plan.head.note(plan.source.model_id, pooling, dimensions))
    return tuple(printable(note) for note in notes)


def _weights_bytes(plan: ExportPlan) -> int:
    return sum(tensor.nbytes for tensor in plan.model.state_dict().values())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
