"""`vitriton doctor`: the facts that a bug report needs, and what cannot work."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import vitriton
from vitriton._console.diagnosis import without_secrets
from vitriton.commands.doctor.network import listener

RUN = """
import sys
from vitriton.cli import main
try:
    main()
finally:
    assert not {"torch", "transformers", "onnxruntime"} & sys.modules.keys()
"""


@pytest.fixture
def bare(subprocesses, tmp_path):
    """An environment with the client alone; other distributions are added to it as files."""
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.startswith(("vitriton_", "_vitriton_", "__editable__")) and item.suffix != ".pth":
            (tmp_path / item.name).symlink_to(item)
    return tmp_path


def run(folder, *arguments, **variables):
    paths = f"{folder}:{Path(vitriton.__file__).parents[1]}"
    line = [sys.executable, "-S", "-c", RUN, "doctor", *arguments]
    # xdist gives its workers a width
    environment = {**os.environ, "COLUMNS": "", "PYTHONPATH": paths, **variables}
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)


def add(folder, name, *, requires="", checks=""):
    """Adds a distribution to an environment."""
    module = f"checks_of_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(checks)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}")
    if checks:
        (info / "entry_points.txt").write_text(f"[vitriton.checks]\n{name} = {module}:findings\n")


def test_the_client_alone(bare):
    """What is not installed is no problem: the command is named with the line that installs it."""
    result = run(bare)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"vitriton {vitriton.__version__}" in lines
    assert "vitriton serve not installed: `pip install ./server` (from the root of the repository)" in lines
    assert any(line.startswith("numpy ") for line in lines)
    assert lines[-1] == "No problem was found."


def test_for_programs(bare):
    """--json has the same, by section."""
    document = json.loads(run(bare, "--json").stdout)
    assert document["Versions"]["vitriton"] == vitriton.__version__
    assert document["problems"] == []
    assert {"Commands", "Machine", "Network"} <= document.keys()


@pytest.mark.parametrize(
    ("requires", "problem"),
    [
        ("numpy<1", "vitriton-server needs numpy<1, and "),
        (
            "no-such-library>=2",
            "vitriton-server needs no-such-library>=2, which is not installed: ",
        ),
        ("no-such-library; extra == 'gpu'", None),
        ("nvidia-pytriton==0.0.0; sys_platform == 'nowhere'", None),
    ],
)
def test_what_is_required(bare, requires, problem):
    """What an installed distribution requires and is not there, or has another version, is a problem: exit code 1."""
    add(bare, "vitriton-server", requires=requires)
    result = run(bare)
    assert result.returncode == (0 if problem is None else 1)
    told = result.stdout.partition("\nProblems:\n")[2].splitlines()
    assert len(told) == (0 if problem is None else 1)
    assert all(problem in line and "pip install" in line for line in told)


def test_each_distribution_has_its_own_checks(bare):
    """Their findings are sections; one that fails is a problem, and takes nothing else with it."""
    add(bare, "plug-a", checks="def findings():\n    yield 'wheels', 'three', 'a wheel is missing; add one'\n")
    add(bare, "plug-b", checks="def findings():\n    raise ValueError('no idea')\n")
    result = run(bare)
    assert result.returncode == 1
    assert "plug-a:\n  wheels " in result.stdout
    first, second = result.stdout.partition("\nProblems:\n")[2].splitlines()
    assert first == "  -  a wheel is missing; add one"
    assert second.startswith("  -  the checks of plug-b failed: ValueError: no idea; install it again: ")


def test_it_fits_the_terminal(bare):
    """A value and a problem go on in the next line; in a pipe of no width they stay on theirs."""
    add(bare, "plug-a", checks="def findings():\n    yield 'wheels', 'three ' * 20, 'a wheel is missing ' * 10\n")
    narrow, wide = run(bare, COLUMNS="60").stdout, run(bare, COLUMNS="").stdout
    assert max(map(len, narrow.splitlines())) <= 60
    assert " ".join(narrow.split()) == " ".join(wide.split())
    assert f"  wheels  {'three ' * 20}".rstrip() in wide.splitlines()


def test_no_secret_is_shown(bare):
    """Proxies are shown without user and password."""
    result = run(bare, https_proxy="http://me:pass@word@proxy.example:3128/?key=token", no_proxy="localhost")
    assert "http://***@proxy.example:3128\n" in result.stdout
    assert not any(secret in result.stdout for secret in ("pass", "word@", "token"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("me:secret@proxy:3128", "***@proxy:3128"),
        ("https://me@[::1]:8080/path", "https://***@[::1]:8080"),
        ("", ""),
    ],
)
def test_urls_without_secrets(url, shown):
    """Scheme, host and port remain."""
    assert without_secrets(url) == shown


class Triton(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"name": "triton", "version": "2.51.0", "extensions": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_who_listens(monkeypatch):
    """A free port, a Triton with its version, and a program that is none."""
    monkeypatch.setattr("vitriton.commands.doctor.network._ANSWER_S", 60.0)
    with socket.socket() as bound:  # which does not listen, and keeps others from it
        bound.bind(("127.0.0.1", 0))
        assert listener("HTTP", bound.getsockname()[1]) == "free"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert listener("metrics", taken.getsockname()[1]) == "something listens"
    with HTTPServer(("127.0.0.1", 0), Triton) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        assert listener("HTTP", server.server_port) == "triton 2.51.0 answers"
        assert listener("gRPC", server.server_port) == "another program listens"
        server.shutdown()
        thread.join()
