"""What the distributions ask for, beside what was installed together."""

from itertools import chain
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    """The versions in constraints.txt for the Python that runs this."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    here = [one for one in found if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in here}


@pytest.mark.parametrize("distribution", ["client", "export", "server", "bench"])
def test_every_requirement_takes_the_pinned_version(distribution):
    """Those of the extras, too: no line of the README asks pip for two versions of one package."""
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    wanted = [*project["dependencies"], *chain.from_iterable(extras)]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        if requirement.name.startswith("vitriton") or requirement.name == "onnxruntime-gpu":  # in place of onnxruntime
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_torchvision_goes_with_torch():
    """It is compiled for one torch: the number of its minor version is fifteen more."""
    torch, torchvision = ([int(part) for part in pins()[name].split(".")] for name in ("torch", "torchvision"))
    assert (torchvision[1], torchvision[2]) == (torch[1] + 15, torch[2])
