"""`vitriton-health`: whether all that a repository holds is served."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.tiny_models import make_python_repository
from vitriton_server import TritonServer, health


@pytest.fixture(scope="module")
def serving(subprocesses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    """A server and its repository."""
    repository = make_python_repository(tmp_path_factory.mktemp("health"))
    with TritonServer(repository) as server:
        yield server, repository


def ask(port: str, repository: Path) -> int:
    """The exit code."""
    return health.main(["--repository", str(repository), "--http-port", port.rpartition(":")[2], "--timeout", "60"])


def test_all_is_served(serving: tuple[TritonServer, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Ready, with the names of all models."""
    server, repository = serving
    assert ask(server.http_address, repository) == 0
    assert "tiny_preprocess" in capsys.readouterr().out


def test_a_model_is_missing(
    serving: tuple[TritonServer, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not ready, with the names of those that are not."""
    server, repository = serving
    for folder in repository.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.pbtxt").write_text('backend: "python"\n')
    assert ask(server.http_address, tmp_path) == 1
    assert capsys.readouterr().err == "not ready: another\n"


@pytest.mark.parametrize(
    ("folder", "text"),
    [("empty", "has no model"), ("missing", "cannot be read: No such file or directory")],
)
def test_nothing_to_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, text: str) -> None:
    """A repository without models, or none at all, is not ready."""
    (tmp_path / "empty").mkdir()
    assert ask("1", tmp_path / folder) == 1
    assert text in capsys.readouterr().err


def test_nobody_answers(serving: tuple[TritonServer, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Not ready, with the address."""
    assert ask("1", serving[1]) == 1
    assert "does not answer on 127.0.0.1:1" in capsys.readouterr().err


def test_what_is_expected(tmp_path: Path) -> None:
    """Ensembles of an export and models of others; no steps, no exports without weights, no other folders and files."""
    exported = 'parameters { key: "fingerprint" value { string_value: "v1-a" } }\n'
    texts = {
        "mine_pooled": "ensemble_scheduling { }\n" + exported,
        "mine_preprocess": 'backend: "python"\n' + exported,
        "placeholder_pooled": "ensemble_scheduling { }\n" + exported.replace("v1-a", "not-exported"),
        "other": 'backend: "python"\n',
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert health.expected(tmp_path) == ["mine_pooled", "other"]


@pytest.mark.usefixtures("subprocesses")
def test_it_imports_little() -> None:
    """It runs every few seconds beside a server: no numpy, no gRPC, no command line library."""
    code = "import sys, vitriton_server.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "grpc", "typer", "rich", "PIL"} & set(done.stdout.split())
