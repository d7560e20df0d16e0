"""Ctrl-C ends every command with one line and exit code 130, also while its modules are being imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("subprocesses")

PHOTOS = str(Path(__file__).parents[2] / "examples" / "photos")
# Ctrl-C when a module is looked for; an extension module makes an error of its own of it.
PROGRAM = """
import signal, sys

class CtrlC:
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as exc:
            if {converts}:
                raise ImportError("numpy's C-extensions failed") from exc
            raise

import vitriton
sys.meta_path.insert(0, CtrlC())
sys.argv[1:] = {arguments!r}
from vitriton.__main__ import main
main()
"""


# of these an interrupt is tried that is no other error's cause, too; of the others in a long test
PLAIN = {"typer", "torch", "vitriton._wire.connect"}
IMPORTED = [
    ("typer", []),
    ("vitriton.cli", ["--help"]),
    ("vitriton.commands.doctor.report", ["doctor"]),
    ("vitriton.commands.embed.run", ["embed", PHOTOS, "-o", "out.npy"]),
    ("vitriton._wire.connect", ["models"]),
    ("vitriton_export.commands.export", ["export"]),
    ("torch", ["export", "{checkpoint}"]),
    ("vitriton_export.commands.verify", ["verify"]),
    ("vitriton_export._repository.remove", ["remove", "photos"]),
    ("vitriton_server.cli", ["serve"]),
    ("vitriton_server._server", ["serve"]),
    ("vitriton_bench.cli", ["bench"]),
    ("vitriton_api._serve", ["api"]),
    ("vitriton_search.index.run", ["search", "index", PHOTOS]),
]


@pytest.mark.parametrize(
    ("module", "arguments", "converts"),
    [
        *((*case, True) for case in IMPORTED),
        *(pytest.param(*case, False, marks=() if case[0] in PLAIN else pytest.mark.long) for case in IMPORTED),
    ],
)
def test_ctrl_c_while_it_is_imported(module, arguments, converts, tmp_path, tiny_vit_checkpoint):
    """There is neither a traceback nor silence, and nothing is written."""
    given = [text.format(checkpoint=tiny_vit_checkpoint) for text in arguments]
    program = PROGRAM.format(module=module, arguments=given, converts=converts)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["embed", "remove"])
def test_an_error_that_is_its_own_cause(command):
    """A missing option is one; the search for Ctrl-C behind it ends."""
    arguments = [Path(sys.executable).with_name("vitriton"), command]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: missing" in done.stderr
