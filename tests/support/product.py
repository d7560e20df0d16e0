"""What the product's environment serves for tests that run in another one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = Path(os.environ.get("VITRITON_PRODUCT", ROOT / ".venv/bin/python"))


@contextmanager
def served(script: Path) -> Iterator[dict[str, str]]:
    """Runs a script that serves until its input ends; gives what it prints as JSON: the addresses."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([f"{ROOT}/tests", f"{ROOT}/examples"])}
    command = [PRODUCT, "-W", "ignore", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("{")), None)  # libraries print, too
        assert line is not None, f"{script} ended before it served; its error is above"
        yield json.loads(line)
        process.stdin.close()
