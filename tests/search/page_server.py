"""A page for tests, in this process: its server on a real socket, a LanceDB store, and a client on a fake transport."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image, ImageOps
from search.store_contract import rows
from support.http_call import HttpAnswer, send
from vitriton import Client, Options
from vitriton.preprocessing import ImageError, Limits, decode
from vitriton.testing import FakeTransport, invalid_images
from vitriton_search.page.app import Page
from vitriton_search.page.bodies import MAX_UPLOAD_BYTES
from vitriton_search.page.films import FilmFrames
from vitriton_search.page.gate import PageToken, host_names
from vitriton_search.page.thumbnails import Thumbnails
from vitriton_search.stores import open_store
from vitriton_search.stores.store import Space, Store

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
LINES = 12  # of a picture, whose mean colors are its vector: a mirrored one has the same
SPACE = Space(model="photos", fingerprint="fake", dimensions=3 * LINES)
_TEXTS = {b"a cat": "cat.jpg", b"coffee on a table": "coffee.jpg"}


class PageAnswer(HttpAnswer):
    """What a page answered."""

    @property
    def error(self) -> str:
        assert self.headers["content-type"] == "application/json"
        return self.document["error"]


class LineColors(FakeTransport):
    """A model that decodes within the limits, as a server does. It knows two texts."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(embed=vector_of, dim=SPACE.dimensions, **settings)

    def respond(self, request: Any) -> Any:
        refused = {}
        for index, image in enumerate(request.images):
            try:
                vector_of(bytes(image))
            except ImageError as exc:
                refused[index] = exc.refusal
        if refused:
            raise invalid_images(refused, len(request.images))
        return super().respond(request)


def vector_of(data: bytes) -> Any:
    """The vector of a picture or a text, (D,)."""
    data = (PHOTOS / _TEXTS[data]).read_bytes() if data in _TEXTS else data
    image = decode(data, Limits(max_pixels=10_000_000))
    lines = np.asarray(image.resize((1, LINES), Image.Resampling.BOX), np.float32).reshape(-1)
    return lines - lines.mean() + 1


class RunningPage:
    """A page that answers.

    Attributes:
        port: the port.
        store: the store behind it.
    """

    def __init__(self, port: int, store: Store) -> None:
        self.port = port
        self.store = store

    def call(
        self, path: str, body: bytes | Mapping[str, Any] | None = None, *, method: str | None = None, **headers: str
    ) -> PageAnswer:
        """GET without a body, else POST; a mapping is sent as JSON. `_` in the name of a header is `-`."""
        return PageAnswer(*send(f"127.0.0.1:{self.port}", path, body, headers, method))

    def find(self, body: bytes | Mapping[str, Any], query: str = "") -> list[dict[str, Any]]:
        """The hits of a query that is answered."""
        headers = {} if isinstance(body, Mapping) else {"content_type": "image/jpeg"}
        answer = self.call(f"/api/query{query}", body, **headers)
        assert answer.status == 200, answer.body
        hits: list[dict[str, Any]] = answer.document["hits"]
        return hits


@contextmanager
def running_page(store: Store, folder: Path, *, token: str | None = None, **settings: Any) -> Iterator[RunningPage]:
    """Serves a store until the end of the block; `settings` are those of the fake transport."""
    options = Options(refuse_paths=True, max_image_bytes=MAX_UPLOAD_BYTES, max_attempts=1)
    transport = LineColors(**settings)
    with Client("fake", model=SPACE.model, transport=transport, options=options) as client, FilmFrames() as frames:
        page = Page(
            store,
            client,
            Thumbnails(folder / "thumbnails"),
            frames,
            name="photos.lance",
            hosts=host_names("127.0.0.1", ["proxy.example"]),
            token=None if token is None else PageToken(token),
        )
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            server = uvicorn.Server(uvicorn.Config(page.app, ws="none", lifespan="off", log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield RunningPage(listener.getsockname()[1], store)
            finally:
                server.should_exit = True
                thread.join(30)


def fill(folder: Path, files: Sequence[Path]) -> Store:
    """Makes a store of files, with the columns that an index has; what is no picture has the vector of one."""
    cat = vector_of((PHOTOS / "cat.jpg").read_bytes())

    def vector(path: Path) -> Any:
        try:
            return vector_of(path.read_bytes())
        except ImageError:
            return cat

    store = open_store(str(folder / "photos.lance"), SPACE)
    store.write(rows_of(files, [vector(path) for path in files]))
    return store


def rows_of(files: Sequence[Path], vectors: Any) -> Any:
    """Makes the rows of files."""
    data = [path.read_bytes() for path in files]
    hashes = [hashlib.sha256(each).hexdigest() for each in data]
    sizes = [len(each) for each in data]
    return rows(
        [str(path) for path in files], vectors, sha256=hashes, bytes=sizes, width=[640] * len(files), height=480
    )


def photos_and_twins(folder: Path) -> list[Path]:
    """Copies the sample photos to a folder, each with a mirrored twin."""
    folder.mkdir(exist_ok=True)
    for path in sorted(PHOTOS.glob("*.jpg")):
        (folder / path.name).write_bytes(path.read_bytes())
        with Image.open(path) as image:
            ImageOps.mirror(image).save(folder / f"{path.stem}-mirrored.jpg", quality=92)
    return sorted(folder.glob("*.jpg"))


def jpeg(path: Path, **changes: Any) -> bytes:
    """A photo, saved once more."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.save(buffer, "JPEG", **changes)
    return buffer.getvalue()
