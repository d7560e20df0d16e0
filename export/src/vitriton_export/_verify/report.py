"""The parity report of a deployed model: the gate of its export, run at any time and on any inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
from vitriton._keywords import suggests_keywords

from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.loading import quiet
from vitriton_export._errors import ExportError, OptionError
from vitriton_export._export import Step
from vitriton_export._options import ExportOptions
from vitriton_export._parity import compare, gates
from vitriton_export._parity.compare import Batch, BatchResult, Runner, Unusable
from vitriton_export._parity.runner import RepositoryRunner
from vitriton_export._parity.tally import Stage
from vitriton_export._parity.texts import TextRunner
from vitriton_export._repository.existing import changes
from vitriton_export._towers.plan import ExportPlan
from vitriton_export._verify.check import check_files, read, reference_model
from vitriton_export._verify.exported import Exported
from vitriton_export._verify.images import Corpus, Folder, NamedInputs
from vitriton_export._verify.options import VerifyOptions

if TYPE_CHECKING:
    from vitriton._console.progress import Advance

Progress = Callable[[int], AbstractContextManager["Advance"]]
_LIBRARIES = ("transformers", "torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        exported: the model's description of itself.
        subject: the verified model, in words.
        reference: the hub id or the folder of the reference.
        images: the number of images given.
        stages: the stages that were compared.
        skipped: the reasons why stages were skipped, by stage.
        unusable: the images that were not compared.
        notes: the remarks beside the figures.
        versions: the versions of the libraries on this machine, by name.
    """

    exported: Exported
    subject: str
    reference: str
    images: int
    stages: Sequence[Stage]
    skipped: dict[str, str]
    unusable: Sequence[Unusable]
    notes: Sequence[str]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every stage that was compared meets its gate."""
        return all(stage.passed for stage in self.stages)

    @property
    def compared(self) -> int:
        """The number of images that were compared."""
        return max(stage.images for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report for JSON; the keys are stable."""
        return {
            "name": self.exported.name,
            "subject": self.subject,
            "passed": self.passed,
            "fingerprint": self.exported.fingerprint,
            "precision": self.exported.precision,
            "pooling": self.exported.pooling,
            "l2_normalize": self.exported.l2_normalize,
            "reference": {"model": self.reference, "versions": self.versions},
            "images": {"given": self.images, "compared": self.compared, "unusable": len(self.unusable)},
            "stages": [stage.to_dict() for stage in self.stages],
            "skipped": [{"stage": stage, "reason": reason} for stage, reason in self.skipped.items()],
            "unusable": [asdict(entry) for entry in self.unusable],
            "notes": list(self.notes),
        }


@quiet()
@suggests_keywords
def verify_model(
    options: VerifyOptions,
    step: Step = contextlib.nullcontext,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compares a deployed model with transformers.

    Args:
        options: the options of the verification.
        step: the function that is called with the name of each step; the context that it returns spans the step.
        progress: the function that is called with the number of images; its context gives a callback for each image.

    Returns:
        The report, whether or not the model meets its gates.

    Raises:
        ExportError: the model cannot be verified, for instance because the reference is not what was exported.
        VitritonError: the server does not answer.
    """
    given = options.inputs()
    with contextlib.ExitStack() as resources:
        with step("Find the model"):
            exported, runner, subject, skipped = _open(options, resources)
            _check_inputs(options, exported)
        with step("Load the reference"):
            model = reference_model(options, exported.name, exported.model_id, exported.revision, exported.options)
            plan = _plan(model, options, exported)
            _check_reference(exported, plan, model)
        images: NamedInputs = Corpus(plan.corpus()) if given is None else given
        reference = plan.reference()
        advance = resources.enter_context(progress(len(images)) if progress else _silent())
        run = _Run(images, exported, reference, advance)
        demanded = gates.with_min_cosine(exported.gates, options.min_cosine)
        comparison = compare.compare(run.pairs(), runner, demanded, plan.is_apart)
    unusable = [*run.unusable, *comparison.unusable]
    if not comparison.stages:
        reasons = "; ".join(f"{entry.image}: {entry.reason}" for entry in unusable[:3])
        raise ExportError(f"none of the {len(images)} images can be used: {reasons}")
    versions = {"pillow": PIL.__version__, **{name: metadata.version(name) for name in _LIBRARIES}}
    return VerifyReport(
        exported=exported,
        subject=subject,
        reference=_named(plan),
        images=len(images),
        stages=comparison.stages,
        skipped=skipped,
        unusable=unusable,
        notes=[*_passed_over(given), *_notes(exported, versions)],
        versions=versions,
    )


class _Run:
    """Runs the images through the reference.

    Args:
        images: the images of the verification.
        exported: the export, with its limits on images and on the size of a request.
        reference: the runner of the reference, which runs first.
        advance: the callback for each image that is done.

    Attributes:
        unusable: the images that did not reach the reference.
    """

    def __init__(self, images: NamedInputs, exported: Exported, reference: Runner, advance: Advance) -> None:
        self._images = images
        self._exported = exported
        self._reference = reference
        self._advance = advance
        self.unusable: list[Unusable] = []

    def pairs(self) -> Iterator[tuple[Batch, BatchResult]]:
        """Yields the batches with the reference's results, one at a time."""
        for batch in compare.batches(self._usable(), min(compare.BATCH_SIZE, self._exported.max_batch_size)):
            answers = self._reference.run([data for _, data in batch])
            yield batch, answers
            for position in range(len(batch)):
                self._advance(failed=position in answers.refused)

    def _usable(self) -> Iterator[tuple[str, bytes]]:
        """Yields the images within the model's limits: the reference has none, and a bomb would exhaust its memory."""
        for name, data in self._images.read(self._refuse):
            reason = self._exported.refusal(data)
            if reason is None:
                yield name, data
            else:
                self._refuse(name, reason)

    def _refuse(self, name: str, reason: str) -> None:
        self.unusable.append(Unusable(name, reason))
        self._advance(failed=True)


@contextlib.contextmanager
def _silent() -> Iterator[Advance]:
    yield lambda *, failed: None


def _open(options: VerifyOptions, resources: contextlib.ExitStack) -> tuple[Exported, Runner, str, dict[str, str]]:
    """Returns the description, the runner and the name of the model, and the reasons for stages it cannot show."""
    if options.server is not None:
        from vitriton._console.server import ServerOptions

        from vitriton_export._verify.served import ServerRunner

        server = ServerOptions(address=options.server) if isinstance(options.server, str) else options.server
        served = resources.enter_context(ServerRunner(server, options.name, options.timeout_s))
        subject = f"{served.exported.name} on the server at {served.address}"
        return served.exported, served, subject, served.skipped
    with read(options.folder, options.name) as exported:
        check_files(options.folder, exported)
        kind = TextRunner if exported.tower == "text" else RepositoryRunner
        runner: Runner = kind(options.folder, exported.name, exported.kinds)
    return exported, runner, f"{exported.name} in {options.folder}, run by ONNX Runtime", {}


def _plan(model: str, options: VerifyOptions, exported: Exported) -> ExportPlan:
    """Plans an export of the reference with the settings of the deployed one."""
    revision = options.revision
    if revision is None and model == exported.model_id and not Path(model).is_dir():
        revision = exported.revision
    known = {field.name for field in fields(ExportOptions)}
    settings = {name: value for name, value in exported.options.items() if name in known} | {
        "model": model,
        "revision": revision,
        "name": exported.name,
        "repository": options.folder,
        "pooling": "auto"
        if "+" in exported.pooling
        else exported.pooling,  # joined poolings are of the checkpoint's files
        "l2_normalize": exported.l2_normalize,
        "outputs": exported.outputs,
        "max_batch_size": exported.max_batch_size,
        "precision": exported.precision,
        "allow_untrained_pooler": True,  # the export has allowed it
    }
    source = sources.find(model, revision, "reference")
    planned = ExportOptions(**settings)
    towers.outline(source, planned)
    return towers.plan(sources.fetch_weights(source), planned)


def _check_reference(exported: Exported, plan: ExportPlan, model: str) -> None:
    """Refuses a reference that is not the model that was exported.

    Raises:
        ExportError: the reference is another model; the text says what differs.
    """
    deployment = plan.deployment
    if deployment.fingerprint == exported.fingerprint:
        return
    known = {
        "source": {"weights_sha256": exported.weights},
        "pooling": exported.pooling,
        **exported.prepared,
    }
    raise ExportError(
        f"{model} is not the checkpoint of {exported.name}, which was exported from {exported.model_id}"
        f"{f' at {exported.revision}' if exported.revision else ''}: {changes(known, deployment, plan.weights)}; its "
        f"fingerprint is {deployment.fingerprint}, and the export has {exported.fingerprint}; name the right one with "
        "--reference and --revision"
    )


def _check_inputs(options: VerifyOptions, exported: Exported) -> None:
    for option, tower in (("images", "image"), ("texts", "text")):
        if getattr(options, option) is not None and exported.tower != tower:
            raise OptionError(option, f"are given, and {exported.name} takes {exported.tower}s; leave them out")


def _passed_over(given: NamedInputs | None) -> list[str]:
    return [given.passed_over] if isinstance(given, Folder) and given.passed_over else []


def _named(plan: ExportPlan) -> str:
    source = plan.source
    return str(source.folder) if source.revision is None else f"{source.model_id} at {source.revision}"


def _notes(exported: Exported, versions: dict[str, str]) -> list[str]:
    changed = [
        f"{name} {exported.versions[name]} at export, {version} now"
        for name, version in versions.items()
        if exported.versions.get(name, version) != version
    ]
    return [f"exported with other library versions than the reference uses: {'; '.join(changed)}"] if changed else []
