"""Runs an exported model in this process: its own copy of the preprocessing, and its graphs in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from vitriton._repository import disk
from vitriton._repository.names import OUTPUT, PIXELS, Kind, ensemble_name, step_names

from vitriton_export._errors import ExportError, ParityError, one_line
from vitriton_export._parity.compare import BatchResult


class RepositoryRunner:
    """Runs the models of a repository as Triton would, without Triton.

    Args:
        repository: the folder of the models.
        name: the name of the export in the repository.
        kinds: the kinds of the ensembles to run.
        within_limits: whether to apply the export's own limits on images, and not only those of every export.

    Raises:
        ExportError: a part of the export is missing or cannot be loaded.
    """

    def __init__(self, repository: Path, name: str, kinds: Iterable[Kind], *, within_limits: bool = True) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}
        for kind in kinds:
            ensemble = repository / ensemble_name(name, kind)
            preprocess, encoder = (step_folder(ensemble, step) for step in step_names(name, kind))
            self._sessions[OUTPUT[kind]] = session(encoder / "model.onnx")
        try:
            self._module: Any = _load(preprocess)
            self._spec = self._module.PreprocessSpec.from_json((preprocess / "preprocess.json").read_text())
        except Exception as exc:  # it is the export's own code, which may be damaged
            raise ExportError(f"the preprocessing in {preprocess} cannot be loaded: {one_line(exc)}") from exc
        if not within_limits:
            self._spec = replace(self._spec, limits=self._module.Limits())

    def run(self, images: Sequence[bytes]) -> BatchResult:
        """Computes pixels and outputs; images that the preprocessing refuses are refused."""
        refused: dict[int, str] = {}
        decoded = []
        for position, data in enumerate(images):
            try:
                decoded.append(self._module.preprocess(data, self._spec))
            except self._module.ImageError as exc:
                refused[position] = str(exc)
        if not decoded:
            return BatchResult(refused, {})
        pixels = np.stack(decoded)
        outputs = {tensor: graph.run([tensor], {PIXELS: pixels})[0] for tensor, graph in self._sessions.items()}
        return BatchResult(refused, {PIXELS: pixels, **outputs})


def step_folder(ensemble: Path, model: str) -> Path:
    """Returns the version folder of a step that an ensemble runs.

    Raises:
        ExportError: there is no such version, or the ensemble has no such step.
    """
    config, repository = disk.read_config(ensemble), ensemble.parent
    if config is None:
        raise ExportError(f"{ensemble / disk.CONFIG} is missing or cannot be read; export the model again")
    versions = dict(disk.steps(config, repository))
    if model not in versions:
        raise ExportError(f"{ensemble / disk.CONFIG} has no step {model}; was it written by vitriton export?")
    folder = repository / model / str(versions[model])
    if not folder.is_dir():
        raise ExportError(f"{repository / model} has no version that {ensemble.name} can run; export the model again")
    return folder


def session(path: Path) -> ort.InferenceSession:
    """Loads a graph.

    Raises:
        ExportError: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about graph optimization, not about results
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no base class of their own
        raise ExportError(f"ONNX Runtime cannot load {path}: {one_line(exc)}") from exc


def _load(step: Path) -> ModuleType:
    """Imports an export's own preprocessing, without leaving its folder on the path."""
    name, folder = "vitriton_exported_preprocessing", step / disk.PREPROCESSING
    if folder.is_dir():
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
    else:  # an older export
        spec = importlib.util.spec_from_file_location(name, step / f"{disk.PREPROCESSING}.py")
    if spec is None or spec.loader is None:
        raise ParityError(f"the preprocessing in {step} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # the folder holds the export and nothing else
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[name] = module  # dataclasses look up their module, and its submodules look up their package
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for loaded in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
            del sys.modules[loaded]
    return module
