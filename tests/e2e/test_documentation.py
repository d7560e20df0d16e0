"""Every Python block of the client's documentation runs as written, against a real Triton.

A document's blocks run one after another in one namespace, in a folder that has what they speak of. Replaced are the
addresses (a server on localhost:8001 and 8000, one behind TLS at triton.example.com, a web server at example.com) and
the name of the model; a `FakeTransport` stands in for the servers of texts. What the blocks claim is checked where it
can be: the text after `print(...)  # `, and shapes and types like `# (2, 768) float32`.

A comment before a block, invisible to readers, says when it runs as a program of its own: `<!-- test: script -->`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, fields
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import vitriton.testing
from client.tls import Authority
from vitriton import Options

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "client/README.md",
    "docs/guides/client.md",
    "docs/guides/pipeline.md",
    "docs/guides/service.md",
    "docs/guides/text.md",
    "docs/guides/video.md",
    vitriton.testing.__file__,
)
# A page is skipped where its package is not installed.
NEEDS = {"docs/guides/service.md": "fastapi", "docs/guides/video.md": "av"}
# Their blocks need what this test does not have.
NOT_RUN = {
    "docs/concepts/verify.md": "an export in out/models, and its checkpoint",
    "docs/guides/bulk.md": "a Spark, and an output; test_bulk_guide.py has one",
    "docs/guides/endpoint.md": "an endpoint; tests/api/test_guide.py has one",
    "docs/guides/export.md": "peft, and a checkpoint of the hub",
    "docs/reference/files.md": "duckdb and pandas; tests/client/test_embed_outputs.py runs it where they are installed",
    "docs/operations/kubernetes.md": "a cluster; tests/e2e/test_names.py has such a client",
    "docs/operations/gateway.md": "the gateway's container; tests/compose/test_gateway.py has such calls",
    **{
        f"docs/integrations/{page.name}": "its library; tests/integrations runs it"
        for page in (ROOT / "docs/integrations").glob("[!i]*.md")
    },
    "export/README.md": "a checkpoint of the hub",
    "server/README.md": "a server that runs until it is stopped",
}

_BLOCK = re.compile(r"(?:<!-- test: (?P<how>[^>]*) -->\n)?```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
_SHAPED = re.compile(r"^ *(\w+) = .*  # \(([^)]*)\) (float\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        code: as it is in the document.
        line: of its first line in the document.
        how: what the comment before it says.
    """

    code: str
    line: int
    how: str


def blocks(document: Path) -> list[Block]:
    """The Python blocks of a document, in order."""
    text = document.read_text()
    return [
        Block(match["code"], text.count("\n", 0, match.start("code")) + 1, match["how"] or "")
        for match in _BLOCK.finditer(text)
    ]


@pytest.fixture(scope="module")
def folder(subprocesses, tmp_path_factory):
    """Has the files that the documents speak of, and is served as example.com."""
    folder = tmp_path_factory.mktemp("work")
    photos = ROOT / "examples" / "photos"
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "photos").symlink_to(photos)
    shutil.copy(ROOT / "README.md", folder)
    for name, photo in {"cat.jpg": "cat", "dog.jpg": "astronaut", "bird.png": "rocket"}.items():
        shutil.copy(photos / f"{photo}.jpg", folder / name)
    (folder / "token.txt").write_text("secret\n")
    if importlib.util.find_spec("av") is not None:
        film = [sys.executable, ROOT / "examples" / "film.py", folder / "film.mp4"]
        subprocess.run(film, check=True, stdout=subprocess.DEVNULL)
    authority = Authority(folder)
    authority.issue("server", "DNS:triton.example.com", "IP:127.0.0.1")
    authority.issue("client")
    return folder


@pytest.fixture(scope="module")
def website(folder):
    """The address of a web server that has the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class TlsFront:
    """Takes TLS off connections, as a gateway before a Triton does, and asks for a client's certificate."""

    def __init__(self, folder: Path, target: str, protocol: str) -> None:
        self._target = target.rsplit(":", 1)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._context.load_verify_locations(folder / "ca.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.set_alpn_protocols([protocol])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> TlsFront:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=[sock]))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            sock,
            self._context.wrap_socket(sock, server_side=True) as outside,
            socket.create_connection((self._target[0], int(self._target[1]))) as inside,
        ):
            self._sockets += [outside, inside]
            relay(outside, inside)


def relay(outside: ssl.SSLSocket, inside: socket.socket) -> None:
    """Passes on what comes from either side, until one ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(outside, selectors.EVENT_READ, (outside, inside))
        selector.register(inside, selectors.EVENT_READ, (inside, outside))
        while True:
            for key, _ in selector.select():
                source, target = key.data
                data = source.recv(2**16)
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    data += source.recv(source.pending())
                if not data:
                    return
                target.sendall(data)


@pytest.fixture(scope="module")
def replaced(server, folder, website):
    """What stands in a document → what the test has in its place."""
    with (
        TlsFront(folder, server.grpc_address, "h2") as grpcs,
        TlsFront(folder, server.http_address, "http/1.1") as https,
    ):
        yield {
            "grpcs://triton.example.com:8001": f"grpcs://{grpcs.address}",
            "https://triton.example.com": f"https://{https.address}",
            "https://example.com": website,
            "localhost:8001": server.grpc_address,
            "localhost:8000": server.http_address,
            "vit-base-patch16-224": "shallow-vit-base",
            'model="photos"': 'model="dinov2-small-trained"',
            # the server has no models for texts
            'model="texts")': 'model="texts", transport=FakeTransport(dim=384))',
            'model="clip")': 'model="clip", transport=FakeTransport(dim=512, parameters={"logit_scale": "100.0"}))',
            "# cls 768": "# pooler 768",  # the test's checkpoint holds a pooler, and the default model's does not
        }


@pytest.mark.parametrize("name", DOCUMENTS, ids=lambda name: str(Path(name).name if name[0] == "/" else name))
def test_the_examples_of(name, replaced, folder, monkeypatch, capsys):
    """They run as written, and what they say of results is so."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    document = ROOT / name
    found = blocks(document)
    assert found, f"{name} has no Python block; is it written in another way now?"
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "documentation", "FakeTransport": vitriton.testing.FakeTransport}
    for block in found:
        code = block.code
        for given, real in replaced.items():
            code = code.replace(given, real)
        where = f"{document.name}, line {block.line}"
        compiled = compile(code, where, "exec")
        assert block.how in ("", "script"), f"{where}: {block.how!r} is not understood"
        if block.how:
            output = run_script(code, folder)
        else:
            exec(compiled, names)
            output = capsys.readouterr().out
        check_output(code, output, where)
        check_shapes(code, names, where)


def test_every_page_with_code_is_known():
    """A page that gains Python blocks is run, or has a reason."""
    found = [path for pattern in ("README.md", "*/README.md", "docs/**/*.md") for path in ROOT.glob(pattern)]
    named = {path.relative_to(ROOT).as_posix() for path in found if blocks(path)}
    assert named == {name for name in DOCUMENTS if not name.startswith("/")} | NOT_RUN.keys()


def run_script(code: str, folder: Path) -> str:
    """What it prints."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_output(code: str, output: str, where: str) -> None:
    """Each `print(...)  # text` has printed such a line; … stands for anything."""
    lines = output.splitlines()
    for expected in _PRINTED.findall(code):
        pattern = ".*".join(re.escape(part) for part in re.split("…|\\.\\.\\.", expected))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{where}: {expected!r} is not in {lines}"


def check_shapes(code: str, names: dict[str, object], where: str) -> None:
    """Each `name = ...  # (2, 768) float32` has that shape (letters stand for any size) and type."""
    for name, dimensions, dtype in _SHAPED.findall(code):
        if name not in names:  # of a function's own
            continue
        value = names[name]
        wanted = [size.strip() for size in dimensions.split(",") if size.strip()]
        shape = [str(size) if asked.isdecimal() else asked for size, asked in zip(value.shape, wanted, strict=True)]
        assert (shape, str(value.dtype)) == (wanted, dtype), f"{where}: {name} is {value.shape} {value.dtype}"


def test_wrong_claims_are_found():
    """What a block says and does not do fails the test."""
    with pytest.raises(AssertionError):
        check_output("print(1)  # 1 …", "1\n", "here")
    for claim in ("x = f()  # (3, N) float32", "x = f()  # (2, N) float16", "x = f()  # (2,) float32"):
        with pytest.raises((AssertionError, ValueError)):
            check_shapes(claim, {"x": np.zeros((2, 4), np.float32)}, "here")


def test_the_table_of_options():
    """It has every option, with its default."""
    text = (ROOT / "docs" / "guides" / "client.md").read_text().partition("## Options\n")[2]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert told == {field.name: shown(getattr(Options(), field.name)) for field in fields(Options)}


def shown(default: object) -> str:
    """As the table writes it."""
    mib = 2**20
    return f"{default // mib} MiB" if isinstance(default, int) and default >= mib else str(default)
