"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support import checkpoints, commands

pytest_plugins = ["support.layers"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # workers share the cores; threads of torch that wait for one another waste them
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def without_progress() -> Iterator[None]:
    """Commands in this process say nothing of their progress, however long a slow machine takes for them."""
    with commands.without_progress():
        yield


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes."""


@pytest.fixture(scope="session", name="torch")
def _torch() -> ModuleType:
    """Is asked for by what works with torch's models."""
    import torch

    return torch


@pytest.fixture(scope="session")
def trained_checkpoint(torch, subprocesses) -> Path:
    """Trained DINOv2-small weights."""
    return checkpoints.trained_dinov2_small()


@pytest.fixture(scope="session")
def tiny_vit_checkpoint(torch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of a few thousand random weights."""
    return checkpoints.tiny_vit(tmp_path_factory.mktemp("checkpoints") / "tiny-vit")


@pytest.fixture(scope="session")
def classifier_checkpoint(torch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT whose file holds no pooler."""
    return checkpoints.tiny_vit_without_pooler(tmp_path_factory.mktemp("checkpoints") / "tiny-classifier")
