"""The page of `vitriton search serve` over real sockets: its answers, and what it refuses."""

import io
import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from search.page_server import PHOTOS, SPACE, fill, jpeg, photos_and_twins, running_page, vector_of
from search.store_contract import rows, vectors
from support import attacks
from support.films import number_in
from support.films import write as write_film
from vitriton.testing import unavailable
from vitriton_search.page import film_worker
from vitriton_search.page.films import FilmFrames
from vitriton_search.page.groups import group_rows, groupings
from vitriton_search.page.map import make_map
from vitriton_search.page.photos import THUMBNAIL_PIXELS
from vitriton_search.page.refusals import PageRefused
from vitriton_search.page.thumbnails import Thumbnails
from vitriton_search.stores import open_store
from vitriton_search.stores.store import Space

TOKEN = "a-token-of-more-than-24-characters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def files(folder):
    return {path.name: path for path in photos_and_twins(folder / "photos")}


@pytest.fixture(scope="module")
def page(folder, files):
    """The page of a store with the sample photos and their mirrored twins."""
    with fill(folder, list(files.values())) as store, running_page(store, folder) as running:
        yield running


def name_of(hit):
    return hit["source"].rpartition("/")[2]


def query_of(**values):
    return "?" + "&".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value):
    return "".join(f"%{byte:02x}" for byte in str(value).encode())


# What is found


def test_a_photo_finds_itself_and_its_twin(page, files):
    hits = page.find(files["coffee.jpg"].read_bytes())
    assert {name_of(hit) for hit in hits[:2]} == {"coffee.jpg", "coffee-mirrored.jpg"}
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits[0]["width"] == 640


def test_a_query_says_how_long_its_parts_took(page, files):
    answer = page.call("/api/query?k=3", files["cat.jpg"].read_bytes(), content_type="image/jpeg")
    assert set(answer.document["timing"]) == {"embed_ms", "search_ms"}
    assert len(answer.document["hits"]) == 3


def test_a_text_and_a_row_are_queries_too(page, files):
    assert name_of(page.find({"text": "a cat"})[0]).startswith("cat")
    like = page.find({"id": str(files["cat.jpg"])})
    assert name_of(like[0]) == "cat-mirrored.jpg"  # and not itself
    assert len(like) == len(files) - 1


def test_a_condition_leaves_rows_out(page, files):
    found = page.find({"text": "a cat"}, query_of(where="source like '%mirrored%'"))
    assert len(found) == len(files) / 2
    assert all("mirrored" in hit["source"] for hit in found)


@pytest.mark.parametrize(
    ("where", "message"), [("nope = 1", "nope is no column"), ("width >", "is no condition"), ("1; drop table", "")]
)
def test_a_wrong_condition_is_told_at_its_field(page, where, message):
    answer = page.call("/api/query" + query_of(where=where), {"text": "a cat"})
    assert answer.status == 400
    assert message in answer.error
    assert answer.document["field"] == "where"


@pytest.mark.parametrize("k", ["0", "501", "-1", "x", "", "1e3", "٣"])
def test_the_number_of_results_has_bounds(page, k):
    answer = page.call("/api/query" + query_of(k=k), {"text": "a cat"})
    assert (answer.status, answer.document["field"]) == (400, "k")


def test_what_the_page_shows_of_the_store(page, files):
    info = page.call("/api/info").document
    assert info["store"] == "photos.lance"
    assert (info["model"], info["fingerprint"], info["rows"]) == ("photos", "fake", len(files))
    assert info["towers"] == ["image", "text"]
    assert info["problem"] is None
    assert info["columns"]["width"] == "int32"


def test_a_model_without_texts_says_so(page, folder):
    with running_page(page.store, folder, towers=("image",)) as running:
        assert running.call("/api/info").document["towers"] == ["image"]
        answer = running.call("/api/query", {"text": "a cat"})
        assert answer.status == 422
        assert "embeds no texts" in answer.error
        assert "CLIP" in answer.error


def test_rows_are_found_without_a_server_of_the_model(page, folder, files):
    """Only pictures and texts need it, and the answer for these says so, without its address."""
    with running_page(page.store, folder, faults=[unavailable()] * 9) as running:
        answer = running.call("/api/query", files["cat.jpg"].read_bytes(), content_type="image/jpeg")
        assert answer.status == 503
        assert "does not answer" in answer.error
        assert "fake" not in answer.error
        assert name_of(running.find({"id": str(files["cat.jpg"])})[0]) == "cat-mirrored.jpg"


def test_duplicates_are_the_twins(page, files):
    found = page.call("/api/duplicates?threshold=0.99").document
    groups = [sorted(name_of(hit) for hit in group["hits"]) for group in found["groups"]]
    assert ["cat-mirrored.jpg", "cat.jpg"] in groups
    assert found["total"] == len(groups)
    assert sum(bar["pairs"] for bar in found["curve"]) >= len(files) / 2
    assert page.call("/api/duplicates?threshold=2").status == 400
    assert page.call("/api/duplicates?threshold=nan").status == 400


def test_what_json_has_no_word_for_is_null(folder, files):
    own = {"quality": pa.float64()}
    vector = vector_of(files["cat.jpg"].read_bytes())
    with open_store(str(folder / "own.lance"), SPACE, own) as store:
        store.write(rows(["a", "b"], [vector, vector], own, quality=[float("nan"), 0.5]))
        with running_page(store, folder) as running:
            hits = {hit["id"]: hit for hit in running.find({"text": "a cat"})}
    assert hits["a"]["quality"] is None
    assert hits["b"]["quality"] == 0.5


# The map


def test_the_map_shows_what_is_near(page, files):
    found = page.call("/api/map").document
    assert sorted(found["ids"]) == sorted(map(str, files.values()))
    names = [id.rpartition("/")[2] for id in found["ids"]]
    places = dict(zip(names, np.reshape(found["points"], (-1, 2)), strict=True))
    assert np.linalg.norm(places["cat.jpg"] - places["cat-mirrored.jpg"]) < 2000  # of 65535
    assert 0 < sum(found["explained"]) <= 1


def test_the_map_is_that_of_numpy(tmp_path):
    matrix = vectors(300)
    with open_store(str(tmp_path / "x.lance"), Space(model="m", fingerprint="f", dimensions=8)) as store:
        names = [str(number) for number in range(301)]
        store.write(rows(names, [*matrix, None], error=[None] * 300 + ["bad"]))
        found = make_map(store)
        few = make_map(store, max_points=100)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    centered = (unit - unit.mean(axis=0)).astype(np.float64)
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ axes[:2].T
    order = np.argsort([int(id) for id in found.ids])
    points = found.points[order].astype(np.float64)
    for axis in (0, 1):
        assert abs(np.corrcoef(points[:, axis], expected[:, axis])[0, 1]) > 0.9999
    assert found.explained == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()), rel=1e-3)
    assert found.rows == 300
    assert 60 <= len(few.ids) <= 100
    assert few.rows == 300


def test_a_store_without_vectors_has_an_empty_map(tmp_path):
    with open_store(str(tmp_path / "x.lance"), Space(model="m", fingerprint="f", dimensions=1)) as store:
        assert make_map(store).ids == []
        store.write(rows(["a", "b"], np.float32([[1], [1]])))  # one dimension, and no variance
        assert make_map(store).points.shape == (2, 2)


def test_rows_are_in_groups(tmp_path):
    """By folder without what all folders share, or by a column; the largest first, and few of them."""
    own = {"label": pa.string(), "stars": pa.int64(), "quality": pa.float64()}
    folders = ["/data/photos/cats"] * 3 + ["/data/photos/dogs"] * 2 + ["/data/photos"]
    sources = [f"{folder}/{number}.jpg" for number, folder in enumerate(folders)]
    with open_store(str(tmp_path / "x.lance"), Space(model="m", fingerprint="f", dimensions=8), own) as store:
        assert groupings(store) == ["folder", "label", "stars"]
        labels = ["cat", "cat", None, "dog", "dog", "dog"]
        store.write(rows(sources, vectors(6), own, label=labels, stars=[5, 5, 5, 5, 4, 3]))
        found = group_rows(store, sources[::-1], "folder")
        assert (found.names, found.sizes) == (["photos/cats", "photos/dogs", "photos"], [3, 2, 1])
        assert found.of == [2, 1, 1, 0, 0, 0]
        assert group_rows(store, sources, "label").names == ["dog", "cat", "no value"]
        few = group_rows(store, sources, "stars", max_groups=1)
        assert (few.names, few.sizes, few.of, few.others) == (["5"], [4], [0, 0, 0, 0, 1, 1], 2)
        with running_page(store, tmp_path) as running:
            assert running.call("/api/info").document["groupings"] == ["folder", "label", "stars"]
            assert running.call("/api/map").document["groups"] is None
            groups = running.call("/api/map?by=label").document["groups"]
            assert sorted(zip(groups["names"], groups["sizes"], strict=True)) == [
                ("cat", 2),
                ("dog", 3),
                ("no value", 1),
            ]
            for by in ("quality", "width", ""):
                assert running.call(f"/api/map?by={by}").status == 400


# Files


def test_a_photo_is_the_file(page, files):
    answer = page.call("/api/photo" + query_of(id=files["cat.jpg"]))
    assert answer.body == files["cat.jpg"].read_bytes()
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_thumbnail_is_small_and_square_and_made_once(folder, tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(PHOTOS / "cat.jpg"))
    with fill(tmp_path, [path]) as store, running_page(store, tmp_path) as running:
        answer = running.call("/api/thumbnail" + query_of(id=path))
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.body)) as image:
            assert image.size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
        path.unlink()
        assert running.call("/api/thumbnail" + query_of(id=path)).body == answer.body
        gone = running.call("/api/photo" + query_of(id=path))
        assert (gone.status, gone.error) == (410, "the file is gone since it was indexed")


def test_formats_that_browsers_do_not_show_become_jpeg(tmp_path):
    path = tmp_path / "scan.tiff"
    with Image.open(PHOTOS / "cat.jpg") as image:
        image.save(path)
    with fill(tmp_path, [path]) as store, running_page(store, tmp_path) as running:
        answer = running.call("/api/photo" + query_of(id=path))
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.body.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/style.css/",
        "//etc/passwd",
        "/api/photo?id=/etc/passwd",
        "/api/photo?id=../../../etc/passwd",
        "/api/photo?id=file:///etc/passwd",
        "/api/thumbnail?id=/etc/passwd",
        "/api/thumbnail?id=%00",
        "/api/thumbnail?id=%ff%fe",
        "/api/thumbnail?id=x' OR 1=1 --".replace(" ", "%20"),
    ],
)
def test_no_path_leads_to_another_file(page, path):
    answer = page.call(path)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_rows_that_are_not_to_be_shown(tmp_path):
    """Links that lead out, files that have changed or are none, pages that call themselves pictures."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    cat, coffee = (PHOTOS / "cat.jpg").read_bytes(), (PHOTOS / "coffee.jpg").read_bytes()
    (outside / "secret.jpg").write_bytes(cat)
    (inside / "link-out.jpg").symlink_to(outside / "secret.jpg")
    for quality, name in enumerate(("changed", "swapped", "pipe", "target"), 80):  # copies would share a thumbnail
        (inside / f"{name}.jpg").write_bytes(jpeg(PHOTOS / "cat.jpg", quality=quality))
    (inside / "link-in.jpg").symlink_to(inside / "target.jpg")
    (inside / "page.jpg").write_bytes(b"<html><script>alert(1)</script></html>")
    names = ("link-out", "changed", "swapped", "pipe", "link-in", "page")
    with fill(tmp_path, [inside / f"{name}.jpg" for name in names]) as store, running_page(store, tmp_path) as running:
        (inside / "changed.jpg").write_bytes(coffee)
        (inside / "swapped.jpg").unlink()
        (inside / "swapped.jpg").symlink_to("/etc/passwd")
        (inside / "pipe.jpg").unlink()
        os.mkfifo(inside / "pipe.jpg")
        expected = {"link-out": 403, "changed": 409, "swapped": 403, "pipe": 410, "link-in": 200, "page": 415}
        for route in ("photo", "thumbnail"):
            found = {name: running.call(f"/api/{route}" + query_of(id=inside / f"{name}.jpg")) for name in names}
            assert {name: answer.status for name, answer in found.items()} == expected, route
            assert all(b"<html" not in answer.body and b"root:" not in answer.body for answer in found.values())


def test_a_folder_that_became_a_link_shows_nothing_else(tmp_path):
    """Its files have the same names, but are not those that were indexed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    (tmp_path / "b" / "x.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    with fill(tmp_path, [tmp_path / "a" / "x.jpg"]) as store, running_page(store, tmp_path) as running:
        (tmp_path / "a" / "x.jpg").unlink()
        (tmp_path / "a").rmdir()
        (tmp_path / "a").symlink_to(tmp_path / "b")
        assert running.call("/api/photo" + query_of(id=tmp_path / "a" / "x.jpg")).status == 409


def test_a_bomb_among_the_files_is_not_decoded(tmp_path):
    bombs = {f"{name}": data for name, data in attacks.bombs().items() if len(data) < 2_000_000}
    paths = []
    for number, (name, data) in enumerate(bombs.items()):
        paths.append(tmp_path / f"{number}-{re.sub(r'[^a-z0-9.]', '-', name)}")
        paths[-1].write_bytes(data)
    with fill(tmp_path, paths) as store, running_page(store, tmp_path) as running:
        for path in paths:
            answer = running.call("/api/thumbnail" + query_of(id=path))
            assert answer.status == 415, path
            assert "cannot be shown" in answer.error


# Films


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with films of 100 frames that show their numbers, of 25 frames a second; and other files."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("film.mp4", "moved.webm", "cut.mp4"):
        codec = "libvpx" if name.endswith("webm") else "libx264"
        write_film(folder / name, codec=codec, size=(64, 64), gop=20)
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:800])
    (folder / "text.mp4").write_text("no film")
    return folder


def film_rows(path, times, **columns):
    """Rows of a film's frames, as an index writes them."""
    status = path.stat()
    modified = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=status.st_mtime_ns // 1000)
    ids = [f"{path}#t={time_s:g}" for time_s in times]
    given = {"source": str(path), "time_s": list(times), "sha256": None, "bytes": status.st_size, "modified": modified}
    return rows(ids, [vector_of((PHOTOS / "cat.jpg").read_bytes())] * len(ids), **{**given, **columns})


@contextmanager
def films_page(tmp_path, *tables):
    """The page of a store with these rows."""
    with open_store(str(tmp_path / "films.lance"), SPACE) as store:
        for table in tables:
            store.write(table)
        with running_page(store, tmp_path) as running:
            yield running


def test_a_frame_has_a_thumbnail_of_its_own(films, tmp_path):
    """That of the frame which is shown at its time; made once."""
    path = films / "film.mp4"
    numbers = (0, 7, 60, 61, 99)
    with films_page(tmp_path, film_rows(path, [number / 25 for number in numbers])) as running:
        for number in numbers:
            answer = running.call("/api/thumbnail" + query_of(id=f"{path}#t={number / 25:g}"))
            assert answer.headers["content-type"] == "image/jpeg"
            with Image.open(io.BytesIO(answer.body)) as image:
                assert image.size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
                assert number_in(np.asarray(image)) == number
        assert len(list((tmp_path / "thumbnails").iterdir())) == len(numbers)
        assert running.call("/api/photo" + query_of(id=f"{path}#t=0")).status == 415


def test_a_film_is_sent_in_the_parts_that_are_asked_for(films, tmp_path):
    path = films / "film.mp4"
    data, route = path.read_bytes(), "/api/film" + query_of(id=f"{path}#t=1")
    with films_page(tmp_path, film_rows(path, [1.0])) as running:
        whole = running.call(route)
        assert (whole.status, whole.body, whole.headers["content-type"]) == (200, data, "video/mp4")
        assert whole.headers["accept-ranges"] == "bytes"
        for wanted, part in (("bytes=0-", data), ("bytes=10-19", data[10:20]), ("bytes=-5", data[-5:])):
            answer = running.call(route, range=wanted)
            assert (answer.status, answer.body) == (206, part), wanted
            assert answer.headers["content-range"].endswith(f"/{len(data)}")
        for wanted in ("bytes=5-2", f"bytes={len(data)}-", "bytes=-0"):
            assert running.call(route, range=wanted).status == 416, wanted
        for wanted in ("bytes=", "bytes=0-1,3-4", "lines=1-2", "bytes=x-"):
            assert running.call(route, range=wanted).body == data, wanted


def test_films_that_are_not_to_be_shown(films, tmp_path):
    """Those that have changed, are gone, are links that lead out, or are none; and rows that are no frames."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("film.mp4", "cut.mp4", "text.mp4", "moved.webm"):
        shutil.copy2(films / name, inside / name)
    (inside / "link.mp4").symlink_to(films / "film.mp4")
    names = {"film.mp4": 409, "cut.mp4": 415, "text.mp4": 415, "moved.webm": 410, "link.mp4": 403}
    tables = [film_rows(inside / name, [1.0]) for name in names]
    at_url = film_rows(inside / "film.mp4", [2.0], source="https://example.com/film.mp4")
    with films_page(tmp_path, *tables, at_url) as running:
        os.utime(inside / "film.mp4", (1, 1))
        (inside / "moved.webm").unlink()
        for name, status in names.items():
            answer = running.call("/api/thumbnail" + query_of(id=f"{inside / name}#t=1"))
            assert (answer.status, name) == (status, name), answer.body
            if status != 415:  # what is no film is sent as what it is called, and played by nobody
                assert running.call("/api/film" + query_of(id=f"{inside / name}#t=1")).status == status
        assert "URL" in running.call("/api/thumbnail" + query_of(id=f"{inside / 'film.mp4'}#t=2")).error
        assert "not a video" in running.call("/api/thumbnail" + query_of(id=f"{inside / 'text.mp4'}#t=1")).error


def test_a_film_beyond_its_bounds_is_given_up(films, monkeypatch):
    """The page goes on, and does not try that film again; other films have another process."""
    row = film_rows(films / "film.mp4", [1.0]).to_pylist()[0]
    other = film_rows(films / "moved.webm", [1.0]).to_pylist()[0]
    with FilmFrames(timeout_s=0.001) as frames:
        with pytest.raises(PageRefused, match=r"cannot be decoded in 0\.001 s and 3 GiB"):
            frames.thumbnail(row)
        assert frames._process is None
    with FilmFrames() as frames:
        assert frames.thumbnail(other)
        process, send_fds = frames._process.pid, socket.send_fds
        os.kill(process, signal.SIGSTOP)

        def send_and_kill(*arguments):
            send_fds(*arguments)
            os.kill(process, signal.SIGKILL)  # as if it met its end in FFmpeg

        with monkeypatch.context() as patch:
            patch.setattr(socket, "send_fds", send_and_kill)
            for _ in range(2):
                with pytest.raises(PageRefused, match="cannot be decoded"):
                    frames.thumbnail(row)
        assert frames.thumbnail(other)  # of a new process


def test_frames_are_decoded_in_bounds(films):
    """The process has a bound of memory, leaves no dump, and ends with the page."""
    with FilmFrames() as frames:
        frames.thumbnail(film_rows(films / "film.mp4", [1.0]).to_pylist()[0])
        process = frames._process
        assert resource.prlimit(process.pid, resource.RLIMIT_AS)[1] == film_worker.MAX_BYTES
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        frames._channel.close()  # as when the page is killed
        assert process.wait(60) == 0


# What is sent


def test_a_bomb_is_refused_in_words(page):
    answer = page.call("/api/query", attacks.png_of_zeros(8000, 8000), content_type="image/png")
    assert answer.status == 413
    assert "pixels are over" in answer.error


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_huge_upload_is_cut_off(page, is_declared):
    """Whether its length is declared, or it comes in parts."""
    with socket.create_connection(("127.0.0.1", page.port), 60) as connection:
        length = "content-length: 40000000000" if is_declared else "transfer-encoding: chunked"
        head = f"POST /api/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        part = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        sent = 0
        try:
            while not is_declared and sent < 64:
                connection.sendall(part)
                sent += 1
        except OSError:
            pass
        answer = b""
        while b"larger than 32 MiB" not in answer:
            part = connection.recv(65536)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/jpeg", 400),
        (b"no picture", "image/jpeg", 415),
        (b"no picture", "text/plain", 415),
        (b"text=a+cat", "application/x-www-form-urlencoded", 415),
        (b"x", "multipart/form-data; boundary=x", 415),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"text": 1}', "application/json", 400),
        (b'{"text": ""}', "application/json", 400),
        (b'{"text": "a", "id": "b"}', "application/json", 400),
        (b'{"path": "/etc/passwd"}', "application/json", 400),
        (b'{"id": "/etc/passwd"}', "application/json", 422),
        (b'{"text": "\\ud800"}', "application/json", 400),
        (b'{"id": "\\ud800"}', "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b" " * 70_000, "application/json", 413),
    ],
)
def test_bad_bodies_are_refused(page, body, kind, status):
    answer = page.call("/api/query", body, content_type=kind)
    assert answer.status == status, answer.body
    assert answer.error


def test_a_path_is_no_picture(page):
    """A text that is sent as a picture opens no file of the server."""
    answer = page.call("/api/query", str(PHOTOS / "cat.jpg").encode(), content_type="application/octet-stream")
    assert answer.status == 415


def test_callers_that_leave_do_no_harm(page):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", page.port), 30) as connection:
            head = b"POST /api/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\n"
            connection.sendall(head + b"content-length: 1000\r\n\r\n" + b"x" * 500)
    assert page.find({"text": "a cat"})


# Who is let in


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9", "127.0.0.1:80", "[::1]:8090", "10.1.2.3", "proxy.example"]
)
def test_names_of_the_page(page, host):
    assert page.call("/", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "localhost.evil.example", "127.0.0.1.nip.io", "", "a b"]
)
def test_other_names_are_refused(page, host):
    """A site may let its own name lead here (DNS rebinding)."""
    for path in ("/", "/api/info", "/static/page.js"):
        assert page.call(path, host=host).status in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_may_not_ask(page, headers):
    for path in ("/api/info", "/api/map", "/api/photo?id=x"):
        assert page.call(path, **headers).status == 403
    assert page.call("/api/query", {"text": "a cat"}, **headers).status == 403


def test_no_other_site_is_allowed_anything(page):
    answer = page.call("/api/query", method="OPTIONS", origin=f"http://127.0.0.1:{page.port}")
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(page, files):
    paths = (
        "/",
        "/static/page.js",
        "/nothing",
        "/api/info",
        "/api/photo" + query_of(id=files["cat.jpg"]),
        "/api/photo",
    )
    for path in paths:
        headers = page.call(path).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["img-src"] == "'self' blob:"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers or headers["server"] == "uvicorn"  # the command sends none


def test_the_page_has_no_inline_code(page):
    """The policy would stop it, and the page would not work."""
    html = page.call("/").body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://|javascript:", html)
    for name in ("page.js", "map.js"):
        source = page.call(f"/static/{name}").body.decode()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://(?!www\.w3\.org)", source
        )


def test_a_token_is_needed_where_there_is_one(page, folder, files):
    with running_page(page.store, folder, token=TOKEN) as running:
        assert running.call("/").status == 200  # it asks for the token, and shows nothing of the store
        for path in ("/api/info", "/api/map", "/api/duplicates", "/api/photo" + query_of(id=files["cat.jpg"])):
            assert running.call(path).status == 401
            assert running.call(path, authorization="Bearer " + TOKEN[:-1]).status == 401
            assert running.call(path, cookie="vitriton_search=x").status == 401
        assert running.call("/api/query", {"text": "a cat"}).status == 401
        assert running.call("/api/info", authorization=f"Bearer {TOKEN}").status == 200

        start_s = time.monotonic()
        wrong = running.call("/api/login", {"token": "wrong"})
        assert (wrong.status, wrong.document["field"]) == (401, "token")
        assert time.monotonic() - start_s > 0.5  # guesses are slow

        right = running.call("/api/login", {"token": TOKEN})
        assert right.status == 204
        cookie = right.headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert running.call("/api/info", cookie=cookie.partition(";")[0]).status == 200
        assert running.call("/api/login", {"token": TOKEN}, origin="https://evil.example").status == 403


# Thumbnails


def test_thumbnails_are_bounded(tmp_path):
    kept = Thumbnails(tmp_path / "t", max_bytes=10_000, max_files=8)
    made = []
    for number in range(40):
        data = bytes([number]) * 1000
        assert kept.get(f"{number:064x}", lambda data=data: made.append(data) or data) == data
        os.utime(tmp_path / "t" / f"{number:064x}.jpg", (number, number))
        assert len(list((tmp_path / "t").iterdir())) <= 8
    assert len(made) == 40
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names[-1].startswith(f"{39:064x}")  # the newest stay
    kept.get("f" * 64, lambda: bytes(20_000))
    assert not (tmp_path / "t" / ("f" * 64 + ".jpg")).exists()  # larger than all may be together


def test_thumbnails_of_an_earlier_run_count(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    Thumbnails(tmp_path, max_files=10).get("new", lambda: b"y")
    assert len(list(tmp_path.iterdir())) <= 10


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    kept = Thumbnails(tmp_path / "file" / "t")
    assert [kept.get(str(number), lambda: b"x") for number in range(3)] == [b"x"] * 3
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_one_thumbnail_in_many_threads(tmp_path):
    kept = Thumbnails(tmp_path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(kept.get("a", lambda: b"x" * 100_000))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x" * 100_000] * 16
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


# Names


def test_names_are_data(tmp_path):
    """A file name that is HTML, has a quote, or is not Unicode, comes out as JSON text."""
    name = "<img src=x onerror=alert(1)>'\"&.jpg"
    path = tmp_path / name
    path.write_bytes(jpeg(PHOTOS / "cat.jpg"))
    with fill(tmp_path, [path]) as store, running_page(store, tmp_path) as running:
        hits = running.find({"text": "a cat"})
        assert hits[0]["source"] == str(path)
        assert running.call("/api/photo" + query_of(id=path)).status == 200
