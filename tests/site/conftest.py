"""A browser that has no network, and the pages of the built site."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "out" / "site"


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read (`make test-docs`)."""


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the site, which `make test-docs` has just built; another run may find an old one."""
    pytest.importorskip("zensical", reason="the site is built and looked at by `make test-docs`")
    if not (FOLDER / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    return FOLDER


@pytest.fixture(scope="session")
def browser(subprocesses, site):
    """A Chromium; the machine's own."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
