"""A browser that has no network, and the pages of the built site."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "out" / "site"


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read (`make test-docs`)."""


@pytest.fixture(scope="session")
def browser(subprocesses):
    """A Chromium; the machine's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-docs")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here; on Debian: apt install chromium")
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
