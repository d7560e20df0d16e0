"""What the distributions ask for, beside what was installed together."""

from itertools import chain
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


# Extras whose libraries need numpy 2, and so another environment than the server.
ADAPTERS = {"chroma", "daft", "haystack", "lancedb", "langchain", "llama-index"}

# Extras with the libraries of stores, which have an environment of their own with the servers.
STORES = {"postgres", "qdrant", "qdrant-edge"}


def pins(file: str = "constraints.txt") -> dict[str, str]:
    """The versions in a file of constraints for the Python that runs this."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    here = [one for one in found if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in here}


@pytest.mark.parametrize("distribution", ["client", "export", "server", "bench", "api", "search"])
def test_every_requirement_takes_the_pinned_version(distribution):
    """Those of the extras, too: no line of the README asks pip for two versions of one package."""
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    wanted = [
        *project["dependencies"],
        *chain.from_iterable(wanted for extra, wanted in extras.items() if extra not in ADAPTERS | STORES),
    ]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        if requirement.name.startswith("vitriton") or requirement.name == "onnxruntime-gpu":  # in place of onnxruntime
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_every_adapter_takes_the_version_that_it_is_run_with():
    """And no library brings torch, whose wheels from the package index are CUDA's."""
    project = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]
    pinned = pins("constraints-integrations.txt")
    modules = {path.stem.replace("_", "-") for path in (ROOT / "client/src/vitriton/integrations").glob("[a-z]*.py")}
    assert modules == ADAPTERS
    search = tomllib.loads((ROOT / "search/pyproject.toml").read_text())["project"]  # with a retriever of LangChain's
    for requirement in map(
        Requirement,
        chain(
            project["dependencies"],
            *(project["optional-dependencies"][extra] for extra in ADAPTERS),
            search["dependencies"],
            search["optional-dependencies"]["langchain"],
        ),
    ):
        if requirement.name.startswith("vitriton"):
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert not [name for name in pinned if name == "torch" or name.startswith(("nvidia-", "cuda-"))]


def test_every_store_takes_the_version_that_it_is_run_with():
    """And the rest of vitriton-search, which is there with it."""
    project = tomllib.loads((ROOT / "search/pyproject.toml").read_text())["project"]
    pinned = pins("constraints-stores.txt")
    extras = project["optional-dependencies"]
    assert set(extras) == STORES | {"langchain", "video"}
    for requirement in map(Requirement, chain(project["dependencies"], *(extras[extra] for extra in STORES))):
        if not requirement.name.startswith("vitriton"):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_ray_takes_the_version_that_it_is_run_with():
    """Beside the server, with which its workers can have a Triton of their own."""
    pinned = pins("constraints-ray.txt")
    for distribution in ("client", "server", "ray"):
        project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
        for requirement in map(Requirement, project["dependencies"]):
            if not requirement.name.startswith("vitriton"):
                assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_torchvision_goes_with_torch():
    """It is compiled for one torch: the number of its minor version is fifteen more."""
    torch, torchvision = ([int(part) for part in pins()[name].split(".")] for name in ("torch", "torchvision"))
    assert (torchvision[1], torchvision[2]) == (torch[1] + 15, torch[2])
