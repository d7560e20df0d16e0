"""The Python blocks of the guide run as written, against an endpoint."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
from e2e.test_documentation import _PRINTED, blocks

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "endpoint.md"


@pytest.mark.usefixtures("subprocesses")
def test_the_guide(endpoint, tmp_path, monkeypatch):
    """One after another, and what they print is what the comments say."""
    for name, photo in {"cat.jpg": "cat", "dog.jpg": "astronaut"}.items():
        shutil.copy(ROOT / "examples" / "photos" / f"{photo}.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    shown = io.StringIO()
    found = blocks(GUIDE)
    with contextlib.redirect_stdout(shown):
        for block in found:
            code = block.code.replace("http://localhost:8080", endpoint.url)
            exec(compile(code, f"{GUIDE}, line {block.line}", "exec"), namespace)
    namespace["client"].close()
    expected = [line for block in found for line in _PRINTED.findall(block.code)]
    assert len(expected) == 4
    assert shown.getvalue().splitlines() == expected
