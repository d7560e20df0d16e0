"""One server for the whole folder, with real exports in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support import checkpoints
from vitriton_export import ExportOptions, export_model
from vitriton_export._corpus import corpus
from vitriton_server import TritonServer


@pytest.fixture(scope="session")
def models(tmp_path_factory, trained_checkpoint) -> dict[str, Path]:
    """Checkpoints by the name that they are served by."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "dinov2-small-trained": trained_checkpoint,
        "vit-base": checkpoints.vit_base(folder / "vit-base"),
        "tiny-deit": checkpoints.tiny_deit(folder / "tiny-deit"),
        "tiny-classifier": checkpoints.tiny_vit_without_pooler(folder / "tiny-classifier"),
    }


@pytest.fixture(scope="session")
def repository(tmp_path_factory, models) -> Path:
    """All of them, exported with default options."""
    folder = tmp_path_factory.mktemp("served") / "repository"
    for name, checkpoint in models.items():
        export_model(ExportOptions(model=str(checkpoint), repository=folder, name=name))
    return folder


@pytest.fixture(scope="session")
def server(repository):
    """A real Triton on free ports."""
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> list[Path]:
    """The awkward images, as files."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for name, data in corpus().items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


@pytest.fixture(scope="session")
def bad() -> SimpleNamespace:
    """What is no image: cut off in the middle, nothing at all, text."""
    photo = corpus()["cat.jpg"]
    return SimpleNamespace(good=photo, truncated=photo[: len(photo) // 2], empty=b"", text=b"this is a text file\n")
