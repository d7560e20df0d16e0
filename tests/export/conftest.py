"""Many tests export one small model: its graph is made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import graphs


@pytest.fixture(scope="session", autouse=True)
def _kept_graphs(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("unit"):
        yield
        return
    with graphs.kept():
        yield
