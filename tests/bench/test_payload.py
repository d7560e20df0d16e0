"""The payload of perf_analyzer: photos in the form that it sends as a BYTES tensor."""

import base64
import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_bench._payload import IMAGE, find_images, main, read_images, write_payload
from vitriton_bench._texts import LEAST, MOST, built_in

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


@pytest.mark.parametrize("own", [True, False], ids=["a file", "built-in"])
def test_texts_are_written_in_the_same_form(own, tmp_path):
    """Those of a file, in its order and without its empty lines; without a file, the built-in ones."""
    target, file = tmp_path / "payload.json", tmp_path / "texts.txt"
    file.write_text("a cat sleeps\n\n ünïcode\r\n", encoding="utf-8")
    given = ["--texts", str(file)] if own else ["--tower", "text"]
    done = run(app, ["bench", "--write-payload", str(target), *given])
    assert done.exit_code == 0, done.output
    expected = ["a cat sleeps", " ünïcode"] if own else built_in()
    assert f"{target}: {len(expected)} texts" in done.stdout.replace("\n", "")
    contents = [base64.b64decode(entry["text"]["b64"]) for entry in json.loads(target.read_text())["data"]]
    assert contents == [struct.pack("<I", len(text.encode())) + text.encode() for text in expected]


def test_the_program_takes_a_folder_or_a_file(tmp_path):
    """As the bench service of compose runs it: images of a folder, or texts of a file."""
    target, file = tmp_path / "payload.json", tmp_path / "texts.txt"
    file.write_text("one\ntwo")
    main(target, file)
    assert [list(entry) for entry in json.loads(target.read_text())["data"]] == [["text"]] * 2
    main(target, PHOTOS)
    assert {tuple(entry) for entry in json.loads(target.read_text())["data"]} == {("image",)}
    file.write_text("\n")
    with pytest.raises(SystemExit, match=r"texts.txt: a payload needs at least one text"):
        main(target, file)


def test_the_built_in_texts_have_a_long_tail():
    """From 3 to 512 tokens, half of them up to 24; they are the same in every process."""
    counts = sorted(len(text.replace(".", " .").split()) + 2 for text in built_in())
    assert (len(counts), counts[0], counts[-1], counts[len(counts) // 2]) == (256, LEAST, MOST, 24)
    assert hashlib.sha256("\n".join(built_in()).encode()).hexdigest()[:16] == "bcfb13e1b28800d6"


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    """A photo that vanishes midway costs the new file, not the old one, and nothing lies beside it."""
    target = tmp_path / "payload.json"
    target.write_text("before")
    with pytest.raises(FileNotFoundError):
        write_payload(read_images([*find_images(PHOTOS), tmp_path / "gone.jpg"]), IMAGE, target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "{tmp}", "--write-payload", "{tmp}/p.json"], 2, "has no .jpg, .jpeg, .png or .webp files"),
        (["--images", str(PHOTOS), "--write-payload", "{tmp}/texts/a.jpg/p.json"], 2, "cannot be written"),
        (["--images", "{tmp}/texts", "--write-payload", "{tmp}/p.json"], 2, "a.jpg is no image"),
        (["--images", "{tmp}/pipes", "--write-payload", "{tmp}/p.json"], 2, "has no .jpg, .jpeg, .png or .webp files"),
        (["--texts", "{tmp}/texts/none", "--write-payload", "{tmp}/p.json"], 2, "none does not exist"),
        (["--texts", "{tmp}/empty", "--write-payload", "{tmp}/p.json"], 2, "has no texts; give one on each line"),
        (["--texts", "{tmp}/latin", "--write-payload", "{tmp}/p.json"], 2, "latin is not UTF-8"),
        (["vit", "--images", str(PHOTOS), "--write-payload", "{tmp}/p.json"], 2, "leave out NAME"),
    ],
)
def test_what_it_cannot_write(arguments, code, message, tmp_path):
    """One line says what is missing; a mistake on the command line is exit code 2."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/a.jpg")
    done = run(app, ["bench", *(text.format(tmp=tmp_path) for text in arguments)], env={"COLUMNS": "1000"})
    assert done.exit_code == code
    assert not (tmp_path / "p.json").exists()
    assert message in " ".join(done.stderr.split())
