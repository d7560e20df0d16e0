"""The programs in docs/integrations run as they are written, and print what the pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.product import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
PAGES = sorted((ROOT / "docs/integrations").glob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "index.md"], ids=lambda page: page.stem)
def test_page(page, url, tmp_path):
    """All blocks of a page are one program, after its commands, in a folder that has the sample photos."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    text = page.read_text().replace("localhost:8001", url)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for commands in _COMMANDS.findall(text):
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True
        )
    program = "\n".join(_BLOCK.findall(text))
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == _PRINTED.findall(program) != []
