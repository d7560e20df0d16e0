"""Commands that say nothing of their progress, however long a slow machine takes for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

QUIET = "from vitriton._console import progress; progress._SILENT_S = progress._LINE_EVERY_S = 3600.0"
MAIN = f"{QUIET}; from vitriton.cli import main; main()"  # of a process of its own


@contextmanager
def without_progress() -> Iterator[None]:
    """Commands in this process say nothing of it inside a `with` block."""
    try:
        from vitriton._console import progress
    except ImportError:  # an environment without commands
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_SILENT_S", "_LINE_EVERY_S"):
            patch.setattr(progress, name, 3600.0)
        yield
