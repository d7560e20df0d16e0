"""The tests of the Helm chart, in the environment of `make test-chart`."""

from __future__ import annotations

import importlib.util

import pytest
from chart.objects import VALUES, Document, read, render

if importlib.util.find_spec("kubernetes_validate") is None:  # not in the environment of `make test-chart`
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module", params=VALUES)
def values(request) -> Document:
    """The values of each file."""
    return read(request.param)


@pytest.fixture(scope="module")
def objects(values) -> list[Document]:
    """What the chart makes of them."""
    return render(values)
