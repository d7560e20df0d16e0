"""A browser, and the pages of `vitriton search serve`. The browser is in the environment of `make test-docs`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from support.product import served

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # `make test-page` runs them


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read."""


@pytest.fixture(scope="session")
def pages(subprocesses) -> dict[str, str]:
    """The addresses that serve.py prints."""
    with served(Path(__file__).with_name("serve.py")) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def browser(subprocesses):
    """A Chromium; the machine's own."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
