"""`vitriton search serve`: what it is asked for, and how it ends."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from search.page_server import PHOTOS, fill
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_search.commands.serve import _shown

TOKEN = "a-token-of-more-than-24-characters"


@pytest.fixture
def store(tmp_path):
    with fill(tmp_path, [PHOTOS / "cat.jpg"]):
        return tmp_path / "photos.lance"


def refused(*arguments):
    done = CliRunner().invoke(app, ["search", "serve", *map(str, arguments)], env={"COLUMNS": "1000", "NO_COLOR": "1"})
    return done.exit_code, done.stderr.partition("error: ")[2].strip()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_are_let_in_by_a_token_alone(store, host):
    code, said = refused("--store", store, "--host", host, "--port", 0)
    assert code == 2
    assert said == f"--host is {host}, which others can reach; give --token-file as well, or leave it out"


@pytest.mark.parametrize("text", ["", "short", "a token of more than 24 characters", "ä" * 30, f"{TOKEN}\n{TOKEN}"])
def test_a_token_file_holds_a_token(store, tmp_path, text):
    (tmp_path / "token").write_text(text)
    code, said = refused("--store", store, "--token-file", tmp_path / "token")
    assert code == 2
    assert said.startswith(f"--token-file {tmp_path / 'token'} holds no token: 24 to 4000 characters")
    assert text.strip() == "" or text not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--token-file", "/nowhere"], "--token-file /nowhere does not exist"),
        (["--timeout", "0"], "--timeout is 0; it must be a number of seconds above 0"),
        (["--port", "70000"], "--port is 70000; it must be at most 65535"),
        (["--address", "nope://x"], "--address 'nope://x' has the unknown scheme nope://"),
    ],
)
def test_wrong_options(arguments, message):
    code, said = refused(*arguments)
    assert code == 2
    assert said.startswith(message)


def test_a_store_that_is_not_there(tmp_path):
    code, said = refused("--store", tmp_path / "nothing.lance", "--port", 0)
    assert code == 1
    assert "nothing.lance" in said
    assert not (tmp_path / "nothing.lance").exists()


def test_an_address_that_is_taken(store, tmp_path):
    code, said = refused("--store", store, "--host", "192.0.2.1")
    assert code == 1
    assert said.startswith("192.0.2.1 port 8090 cannot be listened on: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("photos.lance", "photos.lance"),
        ("./data/photos.lance/", "photos.lance"),
        ("/data/photos.lance", "photos.lance"),
        ("postgresql://user:secret@db.example:5432/images?table=photos", "db.example/images (table=photos)"),
        ("postgresql://user@db/images?password=secret", "db/images"),
        ("https://key@qdrant.example:6333/photos", "qdrant.example/photos"),
        ("qdrant-edge:./data/photos", "photos"),
    ],
)
def test_the_name_of_a_store_has_no_secret(url, shown):
    assert _shown(url) == shown


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_it(subprocesses, store, tmp_path, number):
    """At once, with exit code 0, and without a server of the model the page was there."""
    program = [Path(sys.executable).with_name("vitriton"), "search", "serve", "--store", store, "--port", "0"]
    program += ["--url", "localhost:1", "--thumbnails", tmp_path / "thumbnails"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = re.fullmatch(r"page  (http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())[1]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"vitriton search" in answer.read()
            assert "server" not in answer.headers
        with urllib.request.urlopen(f"{address}api/info", timeout=60) as answer:
            assert b'"rows":1' in answer.read()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in errors
