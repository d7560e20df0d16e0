"""What a newcomer runs: the demo and the quickstart. test_documentation.py runs the code in the documentation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_quickstart_runs_as_written(server):
    """examples/quickstart.py finds neighbors among the sample photos."""
    script = ROOT / "examples" / "quickstart.py"
    command = [sys.executable, script, server.grpc_address, "dinov2-small-trained"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8 photos, 384 numbers each" in done.stdout
    assert done.stdout.count("is most like") == 8


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("program", ["demo.py", "quickstart.py"])
def test_help_does_nothing_else(program):
    """--help says what the example does, and does not do it; an option that there is not is an error."""
    script = ROOT / "examples" / program
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {program} ")
    assert "sample photos" in done.stdout
    assert subprocess.run([sys.executable, script, "--model"], capture_output=True).returncode == 2


@pytest.mark.usefixtures("subprocesses")
def test_the_demo_ends_well_without_the_hub():
    """It says that the hub does not answer, finds every mirrored photo, and leaves a picture."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    picture = ROOT / "out" / "demo.png"
    picture.unlink(missing_ok=True)
    command = [sys.executable, ROOT / "examples" / "demo.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Continuing without the hub" in done.stdout
    assert "8 of 8 mirrored photos have their original as nearest neighbor" in done.stdout
    with Image.open(picture) as opened:
        assert opened.size == (864, 864)
