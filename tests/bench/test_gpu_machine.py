"""`bench/gpu_machine.sh`, as far as it can be tested without gigabytes of wheels."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu_machine.sh"


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("arguments", [[], ["pack"], ["unpack", "wheels"]])
def test_it_says_how_it_is_called(arguments):
    """A mistake on the command line is exit code 2 and changes nothing."""
    done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bench/gpu_machine.sh install WHEELS" in done.stderr


def test_it_downloads_the_wheels_that_perf_analyzer_is_in():
    """The versions in the script are those that are unpacked: which of them runs, the other machine decides."""
    from vitriton_bench._perf_analyzer.wheels import NEWER, OLDER

    for wheel in (NEWER, OLDER):
        assert f"{wheel.package}=={wheel.version}" in SCRIPT.read_text()
