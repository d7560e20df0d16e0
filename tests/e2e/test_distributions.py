"""The wheels: they build, install into an empty environment, and work there."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("client", "export", "server", "bench", "api", "search", "ray")
NOT_IN_A_CLIENT = ("torch", "onnx", "onnxruntime", "transformers", "gevent", "cuda", "nvidia")
# The hook that pip calls, without a pip and two more processes for each
BUILD = """
import os, sys
from hatchling.build import build_wheel
for source in sys.argv[2:]:
    os.chdir(source)
    build_wheel(sys.argv[1])
"""
EMBED = """
import sys
from vitriton import Client
with Client(sys.argv[1], model=sys.argv[2]) as client:
    print(client.embed(sys.argv[3:]).shape)
"""


def _run(*command: object, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, **options).stdout


@pytest.fixture(scope="module")
def wheels(subprocesses, tmp_path_factory):
    """The wheel of each distribution, by its folder's name."""
    target = tmp_path_factory.mktemp("wheels")
    sources = [ROOT / name for name in DISTRIBUTIONS]
    _run(sys.executable, "-c", BUILD, target, *sources)
    found = {path.name.split("-")[0]: path for path in target.glob("*.whl")}
    names = {name: "vitriton" if name == "client" else f"vitriton_{name}" for name in DISTRIBUTIONS}
    return {folder: found[name] for folder, name in names.items()}


@pytest.fixture(scope="module")
def environment(subprocesses, tmp_path_factory):
    """An empty virtual environment's bin."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    return folder / "bin"


def _pip(environment: Path, *arguments: object) -> str:
    """Has pip work on an environment, which needs none of its own."""
    return _run(sys.executable, "-m", "pip", "--python", environment / "python", *arguments)


def _install(environment: Path, *wheels: Path) -> None:
    _pip(environment, "install", "--quiet", "-c", ROOT / "constraints.txt", *wheels)


def test_wheels_hold_what_they_need(wheels):
    """License, types and data files are inside; tests, generated files and the project's own comparison are not."""
    for wheel in wheels.values():
        names = zipfile.ZipFile(wheel).namelist()
        assert len({name.split("/")[0].split("-")[0] for name in names}) == 1
        assert any(name.endswith("/py.typed") for name in names)
        assert any(name.endswith("/licenses/LICENSE") for name in names)
        assert not any("__pycache__" in name or name.startswith("test") for name in names)
    exported = zipfile.ZipFile(wheels["export"]).namelist()
    assert "vitriton_export/triton/preprocess/model.py" in exported
    assert "vitriton_export/photos/cat.jpg" in exported
    assert "vitriton_server/backends/onnxruntime/model.py" in zipfile.ZipFile(wheels["server"]).namelist()


def test_the_client_alone(wheels, environment, small_server):
    """Without torch, onnx, transformers, gevent or CUDA it embeds, and its command tells what is not installed."""
    _install(environment, wheels["client"])
    listed = json.loads(_pip(environment, "list", "--format=json"))
    heavy = [entry["name"] for entry in listed if entry["name"].lower().startswith(NOT_IN_A_CLIENT)]
    assert heavy == []
    photo = ROOT / "examples" / "photos" / "cat.jpg"
    shape = _run(environment / "python", "-c", EMBED, small_server.grpc_address, "tiny-deit", photo)
    assert shape.strip() == "(1, 32)"
    assert _run(environment / "vitriton", "--version").startswith("vitriton ")
    asked = subprocess.run([environment / "vitriton", "serve"], capture_output=True, text=True)
    assert asked.returncode == 1
    assert "`pip install ./server` (from the root of the repository)" in asked.stderr


@pytest.mark.long
@pytest.mark.parametrize("numpy", ["numpy<2", "numpy>=2"])
def test_the_extra_parquet(numpy, wheels, tmp_path):
    """It brings a pyarrow that works with either numpy: below 2, as an embedded Triton wants it, and newer."""
    _run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", f"{wheels['client']}[parquet]", numpy)
    _run(python, "-c", "import pyarrow.parquet, numpy; pyarrow.array(numpy.zeros(3, numpy.float32))")


@pytest.mark.long
def test_the_server_serves_from_its_wheel(wheels, environment, repository):
    """In an environment without torch, the server's wheel serves an exported repository."""
    _install(environment, wheels["client"], wheels["server"])
    script = """
import sys
from vitriton import Client
from vitriton_server import TritonServer
with TritonServer(sys.argv[1]) as server, Client(server.grpc_address, model="tiny-deit") as client:
    print(client.embed(sys.argv[2]).shape)
"""
    photo = ROOT / "examples" / "photos" / "cat.jpg"
    assert _run(environment / "python", "-c", script, repository, photo).strip() == "(1, 32)"


@pytest.mark.long
def test_all_wheels_together(wheels, tmp_path, tiny_vit_checkpoint):
    """In an empty environment the wheels agree with one another and with their dependencies, and export."""
    _run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", "torch")
    _install(python.parent, *(wheel for name, wheel in wheels.items() if name != "ray"))  # make test-ray has Ray
    _run(python, "-m", "pip", "check")
    command = (python.with_name("vitriton"), "export", tiny_vit_checkpoint, "--repository", tmp_path / "repository")
    assert "fingerprint" in _run(*command)
