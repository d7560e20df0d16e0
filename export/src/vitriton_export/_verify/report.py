"""The parity report of a deployed model: the gate of its export, run at any time and on any inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL
from vitriton._keywords import suggests_keywords
from vitriton._repository.names import Tower

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

Progress = Callable[[int, str], AbstractContextManager["Advance"]]
_LIBRARIES = ("transformers", "torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class TowerReport:
    """The verification of one tower of a model.

    Attributes:
        exported: the tower's description of itself.
        images: the number of images or texts given.
        stages: the stages that were compared.
        skipped: the reasons why stages were skipped, by stage.
        unusable: the images or texts that were not compared.
    """

    exported: Exported
    images: int
    stages: Sequence[Stage]
    skipped: Mapping[str, str]
    unusable: Sequence[Unusable]

    @property
    def compared(self) -> int:
        """The number of images or texts that were compared."""
        return max(stage.images for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        towers: the verified towers of the model, images first.
        subject: the verified model, in words.
        reference: the hub id or the folder of the reference.
        notes: the remarks beside the figures.
        versions: the versions of the libraries on this machine, by name.
    """

    towers: tuple[TowerReport, ...]
    subject: str
    reference: str
    notes: Sequence[str]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def exported(self) -> Exported:
        """The first tower's description of itself."""
        return self.towers[0].exported

    @property
    def stages(self) -> list[Stage]:
        """The stages that were compared, of all towers."""
        return [stage for tower in self.towers for stage in tower.stages]

    @property
    def unusable(self) -> list[Unusable]:
        """The images and texts that were not compared."""
        return [entry for tower in self.towers for entry in tower.unusable]

    @property
    def passed(self) -> bool:
        """Whether every stage that was compared meets its gate."""
        return all(stage.passed for stage in self.stages)

    @property
    def images(self) -> int:
        """The number of images and texts given."""
        return sum(tower.images for tower in self.towers)

    @property
    def compared(self) -> int:
        """The number of images and texts that were compared."""
        return sum(tower.compared for tower in self.towers)

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
            "stages": [
                {"tower": tower.exported.tower, **stage.to_dict()} for tower in self.towers for stage in tower.stages
            ],
            "skipped": [
                {"tower": tower.exported.tower, "stage": stage, "reason": reason}
                for tower in self.towers
                for stage, reason in tower.skipped.items()
            ],
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
        progress: the function that is called with the number of inputs and the noun for one of them ("image", "text",
            or "input" for both); its context gives a callback for each input.

    Returns:
        The report, whether or not the model meets its gates.

    Raises:
        ExportError: the model cannot be verified, for instance because the reference is not what was exported.
        VitritonError: the server does not answer.
    """
    given = options.inputs()
    with contextlib.ExitStack() as resources:
        with step("Find the model"):
            opened = _open(options, resources)
            subjects = _chosen(given, opened.towers)
        with step("Load the reference"):
            first = opened.towers[0].exported
            model = reference_model(options, first.name, first.model_id, first.revision, first.options)
            plans = _plans(model, options, opened.towers)
            planned = [plans[subject.exported.tower] for subject in subjects]
            for subject, plan in zip(subjects, planned, strict=True):
                _check_reference(subject.exported, plan, model)
        inputs = [given.get(plan.deployment.step.tower) or Corpus(plan.corpus()) for plan in planned]
        noun = "input" if len(subjects) > 1 else subjects[0].exported.tower
        advance = resources.enter_context(progress(sum(map(len, inputs)), noun) if progress else _silent())
        reports = [
            _compared(options, subject, plan, images, advance)
            for subject, plan, images in zip(subjects, planned, inputs, strict=True)
        ]
    versions = {"pillow": PIL.__version__, **{name: metadata.version(name) for name in _LIBRARIES}}
    return VerifyReport(
        towers=tuple(reports),
        subject=opened.name,
        reference=_named(planned[0]),
        notes=[*opened.notes, *_passed_over(given), *_notes(subjects[0].exported, versions)],
        versions=versions,
    )


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A tower of the deployed model: its description, its runner, and the reasons for stages it cannot show."""

    exported: Exported
    runner: Runner
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The deployed model: its towers, its name in words, and remarks."""

    towers: Sequence[_Subject]
    name: str
    notes: Sequence[str] = ()


def _compared(
    options: VerifyOptions, subject: _Subject, plan: ExportPlan, images: NamedInputs, advance: Advance
) -> TowerReport:
    run = _Run(images, subject.exported, plan.reference(), advance)
    demanded = gates.with_min_cosine(subject.exported.gates, options.min_cosine)
    comparison = compare.compare(run.pairs(), subject.runner, demanded, plan.is_apart)
    unusable = [*run.unusable, *comparison.unusable]
    if not comparison.stages:
        reasons = "; ".join(f"{entry.image}: {entry.reason}" for entry in unusable[:3])
        raise ExportError(f"none of the {len(images)} {subject.exported.tower}s can be used: {reasons}")
    return TowerReport(
        exported=subject.exported,
        images=len(images),
        stages=comparison.stages,
        skipped=subject.skipped,
        unusable=unusable,
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


def _open(options: VerifyOptions, resources: contextlib.ExitStack) -> _Opened:
    if options.server is not None:
        from vitriton._console.server import ServerOptions

        from vitriton_export._verify.served import open_towers

        server = ServerOptions(address=options.server) if isinstance(options.server, str) else options.server
        runners, model = open_towers(server, options.name, options.timeout_s, resources)
        answering = {runner.exported.tower for runner in runners}
        return _Opened(
            towers=[_Subject(exported=each.exported, runner=each, skipped=each.skipped) for each in runners],
            name=f"{model.name} on the server at {model.addresses[0]}",
            notes=[
                f"{output.model} is not ready: {output.reason or output.state}"
                for output in model.outputs
                if output.tower not in answering
            ],
        )
    with read(options.folder, options.name) as towers:
        check_files(options.folder, towers)
        subjects = [_Subject(exported=each, runner=_runner(options.folder, each)) for each in towers]
    return _Opened(towers=subjects, name=f"{towers[0].name} in {options.folder}, run by ONNX Runtime")


def _runner(repository: Path, exported: Exported) -> Runner:
    kind = TextRunner if exported.tower == "text" else RepositoryRunner
    return kind(repository, exported.name, exported.kinds)


def _plans(model: str, options: VerifyOptions, subjects: Sequence[_Subject]) -> dict[Tower, ExportPlan]:
    """Plans an export of the reference with the settings of the deployed one; returns the plan of each tower."""
    exported, revision = subjects[0].exported, options.revision
    if revision is None and model == exported.model_id and not Path(model).is_dir():
        revision = exported.revision
    known = {field.name for field in fields(ExportOptions)}
    settings = {name: value for name, value in exported.options.items() if name in known} | {
        "model": model,
        "revision": revision,
        "name": exported.name,
        "repository": options.folder,
        "towers": "both" if len(subjects) > 1 else exported.tower,
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
    try:
        towers.outline(source, planned)
        plans = towers.plans(sources.fetch_weights(source), planned)
    except OptionError as exc:  # the export had these options, so another checkpoint does not take them
        fault, _, _ = str(exc).partition("; ")  # what follows is advice for an export
        raise _other_reference(exported, model, fault) from exc
    return {plan.deployment.step.tower: plan for plan in plans}


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
    raise _other_reference(
        exported,
        model,
        f"{changes(known, deployment, plan.weights)}; its fingerprint is {deployment.fingerprint}, and the export has "
        f"{exported.fingerprint}",
    )


def _other_reference(exported: Exported, model: str, why: str) -> ExportError:
    """Returns the error for a reference that is not the model that was exported."""
    revision = "" if exported.revision is None else f" at {exported.revision}"
    return ExportError(
        f"{model} is not the checkpoint of {exported.name}, which was exported from {exported.model_id}{revision}: "
        f"{why}; name the right one with --reference and --revision"
    )


def _chosen(given: Mapping[Tower, NamedInputs], subjects: Sequence[_Subject]) -> Sequence[_Subject]:
    """Returns the towers that take the given inputs; all of them for the built-in ones."""
    there = {subject.exported.tower: subject for subject in subjects}
    for tower in given.keys() - there.keys():
        exported = subjects[0].exported
        raise OptionError(f"{tower}s", f"are given, and {exported.name} takes {exported.tower}s; leave them out")
    return [subject for tower, subject in there.items() if tower in given] or subjects


def _passed_over(given: Mapping[Tower, NamedInputs]) -> list[str]:
    return [each.passed_over for each in given.values() if isinstance(each, Folder) and each.passed_over]


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
