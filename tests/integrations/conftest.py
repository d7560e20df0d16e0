"""Two Tritons from the product's environment, for adapters that run in the environment of `make test-integrations`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from support.product import ROOT, served

if importlib.util.find_spec("llama_index") is None:  # not in the environment of `make test-integrations`
    collect_ignore_glob = ["test_*.py"]

# These libraries report their use to their makers, unless they are told not to.
os.environ |= {"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "HAYSTACK_TELEMETRY_ENABLED": "False"}


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read."""


@pytest.fixture(scope="session")
def servers(subprocesses) -> dict[str, str]:
    """The addresses that serve.py prints."""
    with served(Path(__file__).with_name("serve.py")) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def url(servers) -> str:
    """The Triton with all models."""
    return servers["server"]


@pytest.fixture(scope="session")
def another(servers) -> str:
    """The Triton with another model named `photos`."""
    return servers["another"]


@pytest.fixture(scope="session")
def photos() -> list[str]:
    """The paths of the eight sample photos."""
    return [str(path) for path in sorted((ROOT / "examples/photos").glob("*.jpg"))]


@pytest.fixture(scope="session")
def mirrored(photos, tmp_path_factory) -> str:
    """The path of one of them, with left and right exchanged."""
    path = tmp_path_factory.mktemp("query") / "mirrored.jpg"
    ImageOps.mirror(Image.open(next(path for path in photos if path.endswith("cat.jpg")))).save(path)
    return str(path)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Three texts, of which the first is about an animal."""
    return ["A cat sleeps on the sofa.", "Stocks fell on Monday.", "The train to Berlin is late."]
