"""The attack corpus and the soak against the container, from outside: clean errors, no restart, nothing grows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.test_soak import soak
from compose.conftest import TINY, MakeProject
from compose.project import Project, pids
from e2e.test_attacks import SMALL, check
from support import siege
from support.siege import Plan


@pytest.fixture(scope="module")
def attacked(make_project: MakeProject) -> Project:
    """A small model with the default limits of memory, and one of bytes that the corpus goes beyond."""
    project = make_project("attacked", MODEL=f"/checkpoints/{TINY}", EXPORT_ARGS="--max-image-bytes 8000000")
    project.compose("build", "export", "triton")
    project.up()
    return project


def triton(project: Project) -> int:
    """Its process on this machine."""
    [pid] = [
        pid for pid, line in pids(project.container("triton")).items() if Path(line.split()[0]).name == "tritonserver"
    ]
    return pid


def besiege(project: Project, plan: Plan) -> None:
    pid, started = triton(project), project.inspect("triton")["State"]["StartedAt"]
    addresses = project.address("grpc"), project.address("http")
    check(siege.attack(*addresses, TINY, plan, lambda: siege.usage_of(pid)), plan)
    state = project.inspect("triton")
    assert (state["State"]["StartedAt"], state["RestartCount"]) == (started, 0)
    assert project.health("triton") == "healthy"


def test_an_attack_leaves_the_container_as_it_was(attacked):
    """Twice the corpus, over both protocols: typed errors, the same processes, no more memory the second time."""
    besiege(attacked, SMALL)


@pytest.mark.long
def test_the_whole_corpus(attacked):
    """A thousand fuzzed images, 100 000 frames, pictures as large as the limits allow."""
    besiege(attacked, replace(Plan(), oversized_bytes=9_000_000))


def test_a_short_soak_of_the_container(attacked, tmp_path):
    """32 callers with real photos: no error, and neither memory nor /dev/shm grows once it has settled."""
    target = tmp_path / "soak.json"
    where = ["--url", attacked.address("grpc"), "--pid", str(triton(attacked)), "--model", TINY]
    code = soak.main([*where, "--seconds", "20", "--window", "5", "--no-speed", "--json", str(target)])
    report = json.loads(target.read_text())
    assert (code, report["complaints"]) == (0, []), report
    assert all(window["errors"] == 0 and window["answers"] > 0 for window in report["windows"])
