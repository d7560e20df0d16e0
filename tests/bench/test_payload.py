"""The payload of perf_analyzer: photos in the form that it sends as a BYTES tensor."""

import base64
import json
import os
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_bench._payload import find_images, write_payload

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
run = CliRunner().invoke


def test_every_photo_is_in_it_after_its_length(tmp_path):
    """An entry for each photo, in the order of the names: 4 bytes of length, little-endian, and the file as it is."""
    target = tmp_path / "payload.json"
    done = run(app, ["bench", "--write-payload", str(target), "--images", str(PHOTOS)])
    assert done.exit_code == 0, done.output
    assert f"{target}: 8 images" in done.stdout.replace("\n", "")
    data = json.loads(target.read_text())["data"]
    contents = [base64.b64decode(entry["image"]["b64"], validate=True) for entry in data]
    assert [list(entry) for entry in data] == [["image"]] * len(data)
    assert [content[4:] for content in contents] == [path.read_bytes() for path in find_images(PHOTOS)]
    assert all(struct.unpack("<I", content[:4]) == (len(content) - 4,) for content in contents)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    """A photo that vanishes midway costs the new file, not the old one, and nothing lies beside it."""
    target = tmp_path / "payload.json"
    target.write_text("before")
    with pytest.raises(FileNotFoundError):
        write_payload([*find_images(PHOTOS), tmp_path / "gone.jpg"], target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "{tmp}", "--write-payload", "{tmp}/p.json"], 2, "has no .jpg, .jpeg, .png or .webp files"),
        (["--images", str(PHOTOS), "--write-payload", "{tmp}/texts/a.jpg/p.json"], 2, "cannot be written"),
        (["--images", "{tmp}/texts", "--write-payload", "{tmp}/p.json"], 2, "a.jpg is no image"),
        (["--images", "{tmp}/pipes", "--write-payload", "{tmp}/p.json"], 2, "has no .jpg, .jpeg, .png or .webp files"),
        (["vit", "--images", str(PHOTOS), "--write-payload", "{tmp}/p.json"], 2, "leave out NAME"),
    ],
)
def test_what_it_cannot_write(arguments, code, message, tmp_path):
    """One line says what is missing; a mistake on the command line is exit code 2."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.jpg").write_text("<html>not found</html>")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/a.jpg")
    done = run(app, ["bench", *(text.format(tmp=tmp_path) for text in arguments)], env={"COLUMNS": "1000"})
    assert done.exit_code == code
    assert not (tmp_path / "p.json").exists()
    assert message in " ".join(done.stderr.split())
