"""The compose project that most tests of this folder share: the CPU files with trained weights, up and healthy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compose.project import CPU, PORTS, ROOT, Project, free_ports, no_engine

MODEL = "dinov2-small-trained"
TINY = "tiny-vit"
TINY_TOO = "tiny-vit-too"
TEXTS = "tiny-bert"
UNREADABLE = "tiny-vit-of-somebody"  # for the container's user

MakeProject = Callable[..., Project]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are run by `make test-compose` alone."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("compose")


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine."""
    reason = no_engine()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, trained_checkpoint, tiny_vit_checkpoint) -> Path:
    """A folder of checkpoints that any user may read, as a container's must."""
    from support import text_architectures  # not above: it imports torch

    folder = tmp_path_factory.mktemp("checkpoints")
    text_architectures.write("bert", folder / TEXTS)
    shutil.copytree(trained_checkpoint, folder / MODEL)
    shutil.copytree(tiny_vit_checkpoint, folder / TINY)
    shutil.copytree(tiny_vit_checkpoint, folder / TINY_TOO)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.copytree(folder / TINY, folder / UNREADABLE)
    (folder / UNREADABLE / "model.safetensors").chmod(0o600)
    return folder


@pytest.fixture(scope="session")
def build_settings() -> dict[str, str]:
    """Settings for the images: a tag of this checkout's own, and torch without CUDA."""
    tag = f"test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
    index = os.environ.get("TORCH_INDEX")
    if index:
        return {"VITRITON_TAG": tag, "TORCH_INDEX": index}
    wheels = ROOT / ".cache" / "wheels"
    if not any(wheels.glob("torch-*.whl")):
        # by this machine's own settings of pip, which those of a container's build are not
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
        subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), "torch"], check=True, capture_output=True)
    return {"VITRITON_TAG": tag, "TORCH_WHEELS": str(wheels)}


@pytest.fixture(scope="session")
def make_project(engine, tmp_path_factory, build_settings, checkpoints) -> Iterator[MakeProject]:
    """Makes a project of its own for whoever asks; what they leave is removed at the end."""
    folder, made = tmp_path_factory.mktemp("projects"), []

    def make(purpose: str, files: tuple[str, ...] = CPU, profiles: tuple[str, ...] = (), **env: str) -> Project:
        ports = dict(zip(PORTS.values(), map(str, free_ports(len(PORTS))), strict=True))
        own = {"CHECKPOINTS": str(checkpoints), "MODEL": f"/checkpoints/{MODEL}"}
        name = f"vitriton-test-{build_settings['VITRITON_TAG']}-{os.getpid()}-{purpose}"
        made.append(Project(name, folder, {**build_settings, **own, **ports, **env}, files, profiles))
        return made[-1]

    yield make
    for project in made:
        project.down(volumes=True)


@pytest.fixture(scope="session")
def small(make_project) -> Project:
    """A model that answers in a moment, and little memory, which can be exhausted without harm to others."""
    project = make_project(
        "small", profiles=("search",), MODEL=f"/checkpoints/{TINY}", TRITON_MEMORY="1g", TRITON_SHM="128m"
    )
    project.compose("build", "export", "triton")
    project.up()
    return project


@pytest.fixture(scope="session")
def stack(make_project) -> Project:
    """Exported and served from nothing with the CPU files: trained weights, healthy."""
    project = make_project("stack")
    project.compose("build", "export", "triton")
    project.up()
    return project


def make_files(folder: Path) -> None:
    """What the gateway mounts, and its clients need, by the script for it."""
    script = ROOT / "docker" / "gateway" / "make-test-ca.sh"
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)


def gateway_user() -> str:
    """To whom that script gives the files: whoever runs it, and where that is root the containers' user."""
    return f"{os.getuid() or 1000}:{os.getgid() or 1000}"


@pytest.fixture(scope="session")
def gateway_files(engine, tmp_path_factory) -> Path:
    """Certificate, key and tokens of a gateway."""
    folder = tmp_path_factory.mktemp("gateway") / "files"
    make_files(folder)
    return folder


@pytest.fixture(scope="session")
def front(make_project, gateway_files) -> Project:
    """A small model behind the gateway, watched by Prometheus."""
    return _in_front(make_project, gateway_files, "front", TINY)


@pytest.fixture(scope="session")
def text_front(make_project, gateway_files) -> Project:
    """The same with a small model for texts."""
    return _in_front(make_project, gateway_files, "texts", TEXTS)


def _in_front(make_project: MakeProject, gateway_files: Path, purpose: str, model: str) -> Project:
    project = make_project(
        purpose,
        profiles=("gateway", "observability", "bench", "api"),
        MODEL=f"/checkpoints/{model}",
        GATEWAY_FILES=str(gateway_files),
        GATEWAY_USER=gateway_user(),
        GRAFANA_PASSWORD_FILE=str(gateway_files / "token"),
    )
    project.compose("build", "export", "triton")
    project.up("triton", "gateway")
    return project
