"""The fast layer holds its tests to what they say: pytest on a few tests of a folder of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NEEDY = "import torch\ndef test_never_collected(): pass\n"
TESTS = """
import subprocess, sys, threading
import pytest

def start():
    subprocess.run([sys.executable, "-c", ""])

@pytest.fixture
def subprocesses():
    pass

@pytest.fixture
def server(subprocesses):
    start()

def test_alone():
    pass

def test_starts():
    start()

def test_starts_and_hides_it():
    try:
        start()
    except AssertionError:
        pass

@pytest.mark.filterwarnings("ignore")
def test_starts_in_a_thread():
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

def test_imports():
    import torch

def test_says_so(subprocesses):
    start()

def test_says_so_by_way_of_another(server):
    pass
"""


def outcomes(folder: Path, *options: str) -> dict[str, str]:
    """What became of each test: `PASSED`, `FAILED`; those that were left out are missing."""
    (folder / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "support.layers", "-rA", "-c", "/dev/null", f"--rootdir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, *options, folder], env=environment, capture_output=True, text=True)
    return {name: outcome for outcome, name in re.findall(r"^([A-Z]+) \S+::test_(\w+)", done.stdout, re.MULTILINE)}


@pytest.mark.usefixtures("subprocesses")
def test_the_fast_layer_is_held_to_what_it_is(tmp_path):
    """What starts a process or imports torch fails; what asks for that, or cannot be imported without, is left out."""
    (tmp_path / "test_needy.py").write_text(NEEDY)
    assert outcomes(tmp_path, "--unit") == {
        "alone": "PASSED",
        "starts": "FAILED",
        "starts_and_hides_it": "FAILED",
        "starts_in_a_thread": "FAILED",
        "imports": "FAILED",
    }


@pytest.mark.usefixtures("subprocesses")
def test_elsewhere_nothing_is_held(tmp_path):
    """In a run of all tests, each does what it does."""
    assert set(outcomes(tmp_path, "--deselect=test_some.py::test_imports").values()) == {"PASSED"}
