"""Servers for the whole folder, with real exports in them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support import checkpoints, exports
from vitriton_export._parity.corpus import corpus
from vitriton_server import TritonServer


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts test_parity.py first: one worker exports the trained weights before the others have to wait for them."""
    items.sort(key=lambda item: item.path.name != "test_parity.py")


@pytest.fixture(scope="session")
def models(torch, subprocesses, tmp_path_factory) -> dict[str, Path]:
    """Checkpoints by the name that they are served by."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "dinov2-small-trained": checkpoints.three_blocks_of_trained_dinov2_small(folder / "dinov2-small-blocks"),
        "shallow-vit-base": checkpoints.vit_base(folder / "shallow-vit-base", num_hidden_layers=1),
        "tiny-deit": checkpoints.tiny_deit(folder / "tiny-deit"),
        "tiny-classifier": checkpoints.tiny_vit_without_pooler(folder / "tiny-classifier"),
    }


@pytest.fixture(scope="session")
def repository(tmp_path_factory, models) -> Path:
    """All of them, exported with default options."""
    return exports.export_all(models, tmp_path_factory.mktemp("served") / "repository")


@pytest.fixture(scope="session")
def server(subprocesses, repository):
    """A real Triton on free ports."""
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(scope="session")
def large_models(torch, tmp_path_factory, trained_checkpoint) -> dict[str, Path]:
    """A whole ViT-B/16 and DINOv2-small: for the long tests, since exports and start take two cores minutes."""
    vit_base = checkpoints.vit_base(tmp_path_factory.mktemp("large") / "vit-base")
    return {"vit-base": vit_base, "dinov2-small-whole": trained_checkpoint}


@pytest.fixture(scope="session")
def large_repository(tmp_path_factory, large_models) -> Path:
    """Their exports, with default options."""
    return exports.export_all(large_models, tmp_path_factory.mktemp("large-served") / "repository")


@pytest.fixture(scope="session")
def large_server(subprocesses, large_repository):
    """A real Triton with them."""
    with TritonServer(large_repository) as running:
        yield running


@pytest.fixture(scope="session")
def small_models(torch, tmp_path_factory) -> dict[str, Path]:
    """One that resizes to an exact size, and one that resizes the shortest edge and lays color keys onto white."""
    folder = tmp_path_factory.mktemp("small")
    return {
        "tiny-deit": checkpoints.tiny_deit(folder / "tiny-deit"),
        "tiny-dinov2": checkpoints.tiny_dinov2(folder / "tiny-dinov2"),
    }


@pytest.fixture(scope="session")
def small_server(subprocesses, tmp_path_factory, small_models):
    """A real Triton with both, for tests that ask it for much."""
    repository = exports.export_all(small_models, tmp_path_factory.mktemp("small-served") / "repository")
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
