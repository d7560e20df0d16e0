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


@pytest.fixture(scope="session")
def texts_repository(torch, subprocesses, tmp_path_factory) -> Path:
    """An export of a model for texts, both outputs."""
    from support import text_architectures

    checkpoint = text_architectures.write("bert", tmp_path_factory.mktemp("bert") / "bert")
    return exports.export(checkpoint, tmp_path_factory.mktemp("bench-texts") / "repository")


@pytest.fixture(scope="session")
def texts_server(subprocesses, texts_repository):
    """A real Triton with it, on free ports."""
    with TritonServer(texts_repository) as running:
        yield running


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """What is downloaded is kept in the checkout's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
