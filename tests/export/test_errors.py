"""Errors of the libraries as one line: what is kept of them, and what passes through."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportError, HubError, ParityError
from vitriton_export._errors import OptionError, explained, importing, one_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("first\n\tsecond.\x1b[31m"), "first second. [31m"),
        (ValueError("Stopped."), "Stopped"),
        (KeyError("gelu2"), "unknown key 'gelu2'"),
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


NOISY = [
    ("preprocessor_config.json", {"backend": "x"}, "transformers cannot load the image processor of m0: "),
    ("config.json", {"sub_configs": 3}, "transformers cannot read config.json of m1: "),
    ("config.json", {"hidden_size": 0}, "transformers cannot build a model by config.json of m2: "),
    ("preprocessor_config.json", {"image_std": [1e-40] * 3}, "m3 gives NaN or infinity for a black image; "),
    ("preprocessor_config.json", {"rescale_factor": 1e300}, "the export differs from transformers "),
]
EXPORTS = """
import sys
from vitriton_export import ExportError, ExportOptions, export_model
for folder in sys.argv[1:]:
    try:
        export_model(ExportOptions(model=folder, repository=folder + "-r", outputs="pooled"))
    except ExportError as exc:
        print(exc, file=sys.stderr)
"""


def test_an_error_is_one_line_whatever_the_libraries_say(tiny_vit_checkpoint, tmp_path):
    """Neither the log of transformers nor Python's warnings come before it."""
    folders = []
    for number, (file, entries, _) in enumerate(NOISY):
        folder = shutil.copytree(tiny_vit_checkpoint, tmp_path / f"m{number}")
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | entries))
        folders.append(folder)
    command = [sys.executable, "-c", EXPORTS, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(NOISY), done.stderr
    assert [line for line, (*_, start) in zip(said, NOISY, strict=True) if not line.startswith(start)] == []


def test_names_in_a_warning_move_no_cursor(tiny_vit_checkpoint, tmp_path):
    """They are shown with escapes, as in errors."""
    folder = shutil.copytree(tiny_vit_checkpoint, tmp_path / "tiny")
    (folder / "model.\x1b[31mred.safetensors").write_bytes(b"")
    done = CliRunner().invoke(app, ["export", str(folder), "--repository", str(tmp_path / "r"), "--outputs", "pooled"])
    assert done.exit_code == 0, done.output
    assert "also holds model.\\x1b[31mred.safetensors, which is not read" in done.stderr
    assert "\x1b[31mred" not in done.stderr


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
    assert "vitriton-export[timm]" in done.stderr
