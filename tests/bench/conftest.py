"""A small export, and a server with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import exports
from support.checkpoints import CACHE
from vitriton_server import TritonServer

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="session")
def repository(tmp_path_factory, tiny_vit_checkpoint) -> Path:
    """An export of both outputs."""
    return exports.export(tiny_vit_checkpoint, tmp_path_factory.mktemp("bench") / "repository")


@pytest.fixture(scope="session")
def server(subprocesses, repository):
    """A real Triton on free ports."""
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """What is downloaded is kept in the checkout's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
