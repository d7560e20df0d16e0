"""`vitriton embed --every`: rows for frames of videos, which continue in the middle of a film."""

import json
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow.parquet as pq
import pytest
from client.conftest import write_model
from support import films
from support.steps import EMBED, go_on, start
from typer.testing import CliRunner
from vitriton.cli import app


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton of this module's own, with the model `tiny`, which returns the mean color and the width of an image."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=4)
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def folder(tmp_path, files, monkeypatch):
    """Three photos, and a film of 200 frames: eight seconds. The current folder is above them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / "photos" / f"{index}.png").write_bytes(files[index])
    films.write(tmp_path / "film.mp4", 200)
    return tmp_path


def command(server, *arguments):
    return ["embed", "--url", server.grpc_address, "--model", "tiny", *map(str, arguments)]


def run(server, *arguments):
    return CliRunner().invoke(app, command(server, *arguments))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def origins(count=8, every=25):
    """What identifies the rows of the film and the photos."""
    frames = [("film.mp4", number * every / 25, number * every) for number in range(count)]
    return [*frames, *((f"photos/{index}.png", None, None) for index in range(3))]


def test_parquet(server, folder):
    """The columns have file, time and frame; an image has no time. The vectors are those of the frames."""
    result = run(server, "film.mp4", "photos", "--every", "1s", "-o", "out.parquet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("11 images embedded into out.parquet")
    table = pq.read_table("out.parquet")
    assert table.column_names == ["index", "source", "time_s", "frame", "embedding"]
    columns = (table.column(name).to_pylist() for name in ("source", "time_s", "frame"))
    assert list(zip(*columns, strict=True)) == origins()
    assert (table.schema.metadata[b"every_s"], table.schema.metadata[b"fingerprint"]) == (b"1.0", b"space-1")
    rows = np.array(table.column("embedding").to_pylist())
    expected = [[films.picture(number).mean()] * 3 for number in range(0, 200, 25)]
    np.testing.assert_allclose(rows[:8, :3], expected, atol=8)
    np.testing.assert_array_equal(rows[:8, 3], 128)


def test_json_lines_and_arrays(server, folder):
    """The lines, and the sources of an array, have the same."""
    assert run(server, "film.mp4", "photos", "--every", "2000ms", "-o", "out.jsonl").exit_code == 0
    assert run(server, "film.mp4", "photos", "--every", "2", "-o", "out.npy").exit_code == 0
    expected = [
        {"index": index, "source": source, "time_s": time_s, "frame": frame, "fingerprint": "space-1"}
        if frame is not None
        else {"index": index, "source": source, "fingerprint": "space-1"}
        for index, (source, time_s, frame) in enumerate(origins(4, 50))
    ]
    assert lines(folder / "out.sources.jsonl") == expected
    rows = lines(folder / "out.jsonl")
    np.testing.assert_array_equal(np.load("out.npy"), [row.pop("embedding") for row in rows])
    assert rows == expected


def test_without_every(server, folder):
    """A video is passed over, and a line says how it is not."""
    result = run(server, "film.mp4", "photos", "-o", "out.npy", "--json")
    assert (result.exit_code, json.loads(result.stdout)["images"]) == (0, 3)
    hint = (
        "skipped, because their names are not those of images: .mp4: 1; frames of videos are embedded with --every 1s"
    )
    assert result.stderr == f"note: {hint}\n"
    (folder / "photos" / "more.mkv").touch()
    (folder / "list.txt").write_text("photos/0.png\nfilm.mp4\n")
    assert ".mkv: 1; frames of videos" in run(server, "photos", "-o", "b.npy").stderr
    assert ".mp4: 1; frames of videos" in run(server, "--from", "list.txt", "-o", "c.npy").stderr
    result = run(server, "film.mp4", "-o", "d.npy")
    assert result.exit_code == 2
    assert " ".join(result.stderr.split()).endswith(f"film.mp4 holds no image; {hint}")


def test_videos_in_a_folder_and_a_list(server, folder):
    """They are found as images are."""
    (folder / "film.mp4").rename(folder / "photos" / "0.MP4")
    assert run(server, "photos", "--every", "4s", "-o", "out.npy").exit_code == 0
    names = [line["source"] for line in lines(folder / "out.sources.jsonl")]
    assert names == ["photos/0.MP4", "photos/0.MP4", "photos/0.png", "photos/1.png", "photos/2.png"]
    (folder / "list.txt").write_text("photos/1.png\nphotos/0.MP4\n")
    assert run(server, "--from", "list.txt", "--every", "4s", "-o", "b.npy").exit_code == 0
    assert [line.get("frame") for line in lines(folder / "b.sources.jsonl")] == [None, 0, 100]


def test_ids(server, folder):
    """Frames have the id of their video; the reason of an error has the path that it is about."""
    films.write(folder / "cut.mkv", 250)
    data = (folder / "cut.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    listed = [("a", "photos/1.png"), ("b", "cut.mkv"), ("c", "photos/no.png"), ("d", "film.mp4"), ("e", "none.mp4")]
    (folder / "list.csv").write_text("id,path\n" + "".join(f"{name},{path}\n" for name, path in listed))
    arguments = ("photos/0.png", "--from", "list.csv", "--id-column", "id")
    assert run(server, *arguments, "--every", "4s", "-o", "out.npy").exit_code == 3
    rows, errors = lines(folder / "out.sources.jsonl"), lines(folder / "out.npy.errors.jsonl")
    found = [(row["source"], row.get("frame")) for row in rows]
    assert found == [("photos/0.png", None), ("a", None), ("b", 0), ("b", 100), ("d", 0), ("d", 100)]
    assert [(error["index"], error["source"]) for error in errors] == [(4, "b"), (5, "c"), (8, "e")]
    assert [error["reason"].split(": ")[0] for error in errors] == ["cut.mkv", "photos/no.png", "none.mp4"]
    assert run(server, *arguments, "-o", "images.npy").exit_code == 3
    assert [row["source"] for row in lines(folder / "images.sources.jsonl")] == ["photos/0.png", "a"]
    (error,) = lines(folder / "images.npy.errors.jsonl")
    assert (error["source"], error["reason"]) == ("c", "photos/no.png: no such file")


@pytest.mark.parametrize("name", ["out.npy", "out.parquet"])
def test_images_are_not_added_to_frames(server, folder, name):
    """Their columns would be lost."""
    assert run(server, "film.mp4", "--every", "4s", "-o", name).exit_code == 0
    result = run(server, "photos", "-o", name, "--append")
    assert result.exit_code == 2
    assert "has the columns index, source, time_s, frame" in " ".join(result.stderr.split())


def test_a_url(server, folder):
    """A video is known by the name in a URL, too."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"http://127.0.0.1:{site.server_port}/film.mp4?size=large"
        result = run(server, url, url.replace("film", "none"), "--every", "4s", "-o", "out.npy")
        site.shutdown()
        thread.join()
    assert result.exit_code == 3
    rows = lines(folder / "out.sources.jsonl")
    assert [(row["source"], row["frame"]) for row in rows] == [(url, 0), (url, 100)]
    (error,) = lines(folder / "out.npy.errors.jsonl")
    assert (error["source"], error["code"]) == (url.replace("film", "none"), "not_fetched")


def test_bad_videos(server, folder):
    """A video that cannot be read is one line in the file of errors; of one that is cut short, there are rows, too."""
    films.write(folder / "cut.mkv", 250)
    data = (folder / "cut.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    (folder / "diary.mp4").write_bytes(b"Dear diary,\n" * 100)
    result = run(server, "diary.mp4", "cut.mkv", "photos/0.png", "--every", "1s", "-o", "out.npy")
    assert result.exit_code == 3
    rows, errors = lines(folder / "out.sources.jsonl"), lines(folder / "out.npy.errors.jsonl")
    assert [error["source"] for error in errors] == ["diary.mp4", "cut.mkv"]
    assert [error["code"] for error in errors] == ["format", "truncated"]
    assert "the file ends too early" in errors[1]["reason"]
    found = [row["frame"] for row in rows[:-1]]
    assert found == list(range(0, 25 * len(found), 25))
    assert len(found) >= 3
    assert rows[-1]["source"] == "photos/0.png"


@pytest.mark.parametrize("frames", [3, 20, 40])
def test_killed_in_the_middle_of_a_film(server, folder, frames):
    """After kill -9 the same command goes on, and its files are those of a run that nothing interrupted."""
    arguments = ("photos/0.png", "film.mp4", "photos/1.png", "--every", "200ms", "-o")
    (folder / "whole").mkdir()
    (folder / "cut").mkdir()
    assert run(server, *arguments, "whole/out.parquet").exit_code == 0
    with start(EMBED, command(server, *arguments, "cut/out.parquet")) as process:
        go_on(process, frames)
        process.kill()
    result = run(server, *arguments, "cut/out.parquet", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert frames <= json.loads(result.stdout)["done_before"] < 42
    assert pq.read_table("cut/out.parquet").equals(pq.read_table("whole/out.parquet"))


def test_another_film(server, folder):
    """A run is not continued with other frames."""
    with start(EMBED, command(server, "film.mp4", "--every", "40ms", "-o", "out.npy")) as process:
        go_on(process, 1)
        process.kill()
    result = run(server, "film.mp4", "--every", "80ms", "-o", "out.npy")
    assert result.exit_code == 1
    assert "it was begun with --every 0.04s, and this command has --every 0.08s" in result.stderr
    films.write(folder / "film.mp4", 100)
    result = run(server, "film.mp4", "--every", "40ms", "-o", "out.npy")
    assert result.exit_code == 1
    assert "film.mp4 at 4.000 s, film.mp4 at 4.040 s, film.mp4 at 4.080 s and 97 more are missing" in result.stderr


@pytest.mark.parametrize("every", ["0", "-1s", "1x", "s", "1e3", "9" * 400, "0ms"])
def test_times_that_are_none(server, folder, every):
    """--every is a time above 0."""
    result = run(server, "film.mp4", f"--every={every}", "-o", "out.npy")
    assert result.exit_code == 2
    assert "give a time above 0, such as 1s, 500ms or 2m" in " ".join(result.stderr.split())


def test_texts_have_no_frames(server, folder):
    """--every does not go with --texts."""
    (folder / "in.txt").write_text("one\n")
    result = run(server, "--texts", "in.txt", "--every", "1s", "-o", "out.npy")
    assert result.exit_code == 2
    assert "--every is for videos, and texts have no frames" in " ".join(result.stderr.split())


def test_without_pyav(server, folder, monkeypatch):
    """The line that installs it is told, and nothing is written. Images alone do not need it."""
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(server, "film.mp4", "--every", "1s", "-o", "out.npy")
    assert result.exit_code == 1
    assert "install it with `pip install 'vitriton[video]'`" in result.stderr
    assert {path.name for path in folder.iterdir()} == {"photos", "film.mp4"}
    assert run(server, "photos", "--every", "1s", "-o", "out.npy").exit_code == 0
