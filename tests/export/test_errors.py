"""Errors of the libraries as one line: what is kept of them, and what passes through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from vitriton_export._errors import ExportError, HubError, OptionError, ParityError, explained, importing, one_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("first\n\tsecond.\x1b[31m"), "first second. [31m"),
        (ValueError("Stopped."), "Stopped"),
        (KeyError("gelu2"), "it knows no 'gelu2'"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)
def test_the_text_of_a_foreign_error(error, text):
    """It is short, on one line, and moves no terminal's cursor."""
    assert one_line(error) == text


@pytest.mark.parametrize("error", [ExportError, HubError, ParityError, lambda text: OptionError("name", text)])
def test_every_error_of_an_export_is_one_printable_line(error):
    """Control characters, surrogates and separators are shown as Python writes them; all other letters stay."""
    said = str(error("é \x1b[31m\nx\u2028\udc80 \\ 図"))
    assert said.endswith("é \\x1b[31m\\nx\\u2028\\udc80 \\ 図")
    assert said.isprintable()


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), AttributeError("y")])
def test_any_error_is_explained(error):
    """Whatever a library raises for a checkpoint, and an ExportError as it is."""
    with (
        pytest.raises(ExportError, match=r"^it cannot be read: .*; mend it$"),
        explained("it cannot be read", "; mend it"),
    ):
        raise error
    with pytest.raises(ExportError, match=r"^as it was$"), explained("it cannot be read"):
        raise ExportError("as it was")


@pytest.mark.parametrize("shield", [importing, lambda: explained("it cannot be read")])
def test_an_interrupt_is_no_error_of_a_library(shield):
    """An extension module that is being imported makes an ImportError of Ctrl-C; the command ends by the interrupt."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    with pytest.raises(ImportError), shield():
        raise error


def test_a_torchvision_for_another_torch(tiny_vit_checkpoint, tmp_path):
    """It stops at its import, and so does all of transformers: the line says which package, and what to do."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    metadata = tmp_path / "torchvision-0.28.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    command = [
        Path(sys.executable).with_name("vitriton"),
        "export",
        tiny_vit_checkpoint,
        "--repository",
        tmp_path / "r",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "operator torchvision::nms does not exist; install the torchvision that was built for" in done.stderr
