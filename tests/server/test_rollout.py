"""What a watching server shows Triton next: tables, without a Triton."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from server.processes import wait_until
from server.test_cores import write
from server.test_memory import V2
from support import marked
from vitriton_server._process.memory import MemoryWatch
from vitriton_server._rollout.plan import at_rest, next_view, scan, without
from vitriton_server._rollout.rollout import INTERVAL_S, Rollout
from vitriton_server._rollout.view import Model, View, ViewFolder


def export(name: str, *versions: int, ensemble: int | None = None) -> dict[str, Model]:
    """A pooled ensemble of the newest version, or of `ensemble`, and the versions of its steps."""
    own = max(versions) if ensemble is None else ensemble
    steps = frozenset({(f"{name}_preprocess", own), (f"{name}_encoder", own)})
    step = Model(config=f"steps of {max(versions)}", versions=frozenset(versions))
    return {
        f"{name}_pooled": Model(config=f"{own}", versions=frozenset({own}), steps=steps),
        f"{name}_preprocess": step,
        f"{name}_encoder": step,
    }


def steps(view: View, name: str) -> set[tuple[int, ...]]:
    return {
        tuple(sorted(view[f"{name}{part}"].versions)) for part in ("_preprocess", "_encoder") if f"{name}{part}" in view
    }


def loaded(view: View) -> set[tuple[str, int]]:
    return {(name, version) for name, model in view.items() for version in model.versions}


def test_a_new_export_comes_steps_first() -> None:
    """Its ensemble waits until Triton has loaded both steps."""
    wanted = export("m", 1)
    view = next_view({}, wanted, {}, set())
    assert set(view) == {"m_preprocess", "m_encoder"}
    assert set(next_view(view, wanted, {}, {("m_encoder", 1)})) == {"m_preprocess", "m_encoder"}
    assert next_view(view, wanted, {}, loaded(view)) == wanted


def test_an_export_without_weights_is_reported_once() -> None:
    """With both of its outputs in one line, as each start of a checkout's repository shows it."""
    models, problems = scan(Path(__file__).parents[2] / "model_repository")
    assert models == {}
    assert problems == {
        "vit-base-patch16-224": "it has no weights yet, or its export did not finish; export it, or remove it"
    }


def test_a_replacement_goes_through_states_that_are_whole() -> None:
    """New steps beside the old, then the ensemble, then, when the old one has no requests, the old steps go."""
    old, wanted = export("m", 1), export("m", 2)
    both = next_view(old, wanted, {}, loaded(old))
    assert both["m_pooled"] == old["m_pooled"]
    assert steps(both, "m") == {(1, 2)}
    switched = next_view(both, wanted, {}, loaded(both))
    assert switched["m_pooled"] == replace(wanted["m_pooled"], leaving=frozenset({1}))
    assert steps(switched, "m") == {(1, 2)}
    draining = next_view(switched, wanted, {("m_pooled", 1): old["m_pooled"].steps}, loaded(switched))
    assert draining == switched
    assert next_view(draining, wanted, {}, loaded(draining)) == wanted


def test_a_removed_export_goes_ensemble_first() -> None:
    """Its steps stay while Triton still has it."""
    old = export("m", 1)
    view = next_view(old, {}, {}, loaded(old))
    assert set(view) == {"m_preprocess", "m_encoder"}
    assert set(next_view(view, {}, {("m_pooled", 1): old["m_pooled"].steps}, loaded(view))) == {
        "m_preprocess",
        "m_encoder",
    }
    assert next_view(view, {}, {}, loaded(view)) == {}


def test_others_are_not_touched() -> None:
    """Whatever happens to one export, another stays as it is; models of others are shown at once."""
    constant, foreign = export("c", 1), {"foreign": Model()}
    view = next_view({**export("m", 1), **constant}, {**export("m", 2), **constant, **foreign}, {}, set())
    assert {name: view[name] for name in (*constant, *foreign)} == {**constant, **foreign}


def test_what_has_failed_is_left_out() -> None:
    """The ensemble that is shown stays, and so do the configurations of its steps; a new one is not shown at all."""
    old, wanted = export("m", 1), export("m", 2)
    assert without(wanted, old, {"m_pooled"}) == old
    assert without({**wanted, **export("n", 1)}, {}, {"m_pooled"}) == export("n", 1)
    assert without(wanted, old, set()) == wanted


def test_at_rest_nothing_is_left_of_old_versions() -> None:
    """A Triton that starts has no requests of the one before."""
    assert at_rest(export("m", 1, 2)) == {
        **export("m", 2),
        "m_preprocess": Model(config="steps of 2", versions=frozenset({2})),
        "m_encoder": Model(config="steps of 2", versions=frozenset({2})),
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("m_pooled", "m_preprocess", "m_encoder"):
        for version in ("1", "2"):
            (tmp_path / "repository" / name / version).mkdir(parents=True)
            (tmp_path / "repository" / name / version / "file").write_text(version)
    (tmp_path / "repository" / "m_preprocess" / "1" / "model.py").touch()
    return tmp_path / "repository"


def shown(folder: Path) -> dict[str, set[str]]:
    return {entry.name: {child.name for child in entry.iterdir()} for entry in folder.iterdir()}


def test_the_folder_shows_the_view(repository: Path, tmp_path: Path) -> None:
    """Each version folder leads to the repository's; a python model's cannot get a __pycache__."""
    (tmp_path / "run").mkdir()
    folder = ViewFolder(repository, tmp_path / "run" / "models")
    models = tmp_path / "run" / "models"
    folder.show({**export("m", 1), "foreign": Model()})
    assert (models / "m_encoder" / "1" / "file").read_text() == "1"
    assert (models / "foreign").is_symlink()
    assert not (models / "m_preprocess" / "1" / "__pycache__").is_dir()
    (models / "foreign").unlink()
    folder.show(export("m", 1, 2))
    assert shown(models)["m_encoder"] == {"1", "2", "config.pbtxt"}
    assert (models / "m_pooled" / "config.pbtxt").read_text() == "2"
    leaving = export("m", 1, 2)
    folder.show({**leaving, "m_pooled": replace(leaving["m_pooled"], leaving=frozenset({1}))})
    assert shown(models)["m_pooled"] == {"1", "2", "config.pbtxt"}
    folder.show(leaving)
    assert shown(models)["m_pooled"] == {"2", "config.pbtxt"}
    folder.show({})
    assert shown(models) == {}
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["models"]
    assert len(list(repository.rglob("file"))) == 6


def test_what_python_compiles_is_no_change(repository: Path, tmp_path: Path, subprocesses: None) -> None:
    """A step's package is imported from the view, by every file of it, and nothing is written anywhere."""
    package = repository / "m_preprocess" / "1" / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import NAME\n")
    (package / "inner.py").write_text("NAME = 'before'\n")
    (package / "__pycache__").mkdir()  # of a server that did not watch
    (repository / "m_preprocess" / "1" / "model.py").write_text("from package import NAME\n")
    (repository / "m_preprocess" / "1" / "loop").symlink_to(repository / "m_preprocess" / "1")
    (tmp_path / "run").mkdir()
    ViewFolder(repository, tmp_path / "run" / "models").show(export("m", 1))
    version = tmp_path / "run" / "models" / "m_preprocess" / "1"

    def imported() -> str:
        command = [sys.executable, "-c", "import model; print(model.NAME)"]
        return subprocess.run(command, cwd=version, check=True, capture_output=True, text=True).stdout.strip()

    def files() -> list[Path]:
        return sorted(path for folder in (repository, tmp_path / "run") for path in folder.rglob("*"))

    before = files()
    assert imported() == "before"
    assert files() == before
    (package / "inner.py").write_text("NAME = 'after, and longer'\n")
    assert imported() == "after, and longer"


def test_an_export_that_takes_too_long_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After its patience the server says so, once, and shows what it had."""
    now = [0.0]
    rollout = Rollout(tmp_path / "repository", 30.0, lambda: now[0])
    for name in ("run", "repository"):
        (tmp_path / name).mkdir()
    rollout.begin(tmp_path / "run" / "models")
    marked.export(tmp_path / "repository", "m", 1)

    class Silent:
        def versions(self) -> dict[tuple[str, int], tuple[str, str]]:
            return {}

    for _ in range(3):
        now[0] += 20.0
        assert not rollout.look(Silent())
    assert caplog.text.count("m_pooled cannot be loaded: it was not ready within 30 s") == 1
    assert shown(tmp_path / "run" / "models") == {}
    assert rollout.delay_s() == INTERVAL_S


def test_an_export_for_which_memory_does_not_suffice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the kernel has ended a step of it meanwhile, the refusal says so; the next one's reason is its own."""
    write(tmp_path / "kernel", V2)
    rollout = Rollout(tmp_path / "repository", 30.0, memory=MemoryWatch(tmp_path / "kernel"))
    for name in ("run", "repository"):
        (tmp_path / name).mkdir()
    rollout.begin(tmp_path / "run" / "models")

    class Refusing:
        def versions(self) -> dict[tuple[str, int], tuple[str, str]]:
            return {(f"{name}_preprocess", 1): ("UNAVAILABLE", "Stub process is not healthy") for name in ("m", "n")}

    for name in ("m", "n"):
        marked.export(tmp_path / "repository", name, 1)
        if name == "m":
            write(tmp_path / "kernel", {"sys/fs/cgroup/a/b/memory.events": "oom_kill 3\n"})
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: not rollout.delay_s(), 60, "the next look")
            rollout.look(Refusing())
    why = "Stub process is not healthy"
    for name in ("m_pooled", "m_unpooled"):
        assert f"{name} cannot be loaded: {why}: the kernel has killed a process of the server for lack" in caplog.text
    for name in ("n_pooled", "n_unpooled"):
        assert f"{name} cannot be loaded: {why}" in caplog.messages
