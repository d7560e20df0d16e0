"""What `vitriton doctor` is told of this distribution."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from vitriton._console.diagnosis import Finding

from vitriton_bench._perf_analyzer.program import cached


def findings() -> Iterator[Finding]:
    """Finds perf_analyzer."""
    found = shutil.which("perf_analyzer") or cached()
    yield Finding("perf_analyzer", str(found or "not here yet: the first measurement downloads it"))
