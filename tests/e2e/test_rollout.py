"""`vitriton serve --watch` under traffic: exports come, are replaced and go beside it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server.processes import wait_until
from support import exports, graphs, marked, older
from vitriton import Client, Options
from vitriton._repository import disk
from vitriton_export import ExportOptions, export_model
from vitriton_export._parity.corpus import corpus
from vitriton_export._repository.remove import remove
from vitriton_server import TritonServer, WatchPolicy

PATIENCE_S = 120.0
PARTS = ("_preprocess", "_pooled_encoder", "_unpooled_encoder", "_pooled", "_unpooled")
OUTPUTS = {"pooled": "embedding", "unpooled": "last_hidden_state"}


class Traffic:
    """Requests one after the other, to the ensembles of an export, on a connection and a thread of its own each.

    Attributes:
        marks: of the exports that answered, in the order of their first answers, by ensemble.
        answers: how many there were.
    """

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._name = name
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(3)
        self.marks: dict[str, list[int]] = {}
        self.answers = 0
        self._running = [self._threads.submit(self._ask, kind) for kind in OUTPUTS]
        self._running.append(self._threads.submit(self._stream))

    def has_seen(self, mark: int) -> bool:
        """Whether all of its requests are answered by that export now; raises what any has raised."""
        for running in self._running:
            if running.done():
                running.result()
        return [marks[-1] for marks in self.marks.values()] == [mark] * len(self._running)

    def end(self) -> None:
        """Ends it; raises what any of the requests has raised."""
        self._stop.set()
        for running in self._running:
            running.result(PATIENCE_S)
        self._threads.shutdown()

    def _ask(self, kind: str) -> None:
        """As any client of Triton, which repeats nothing."""
        image = triton.InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[marked.IMAGE]], dtype=np.object_))
        with triton.InferenceServerClient(self._address) as client:
            while not self._stop.is_set():
                answer = client.infer(f"{self._name}_{kind}", [image], client_timeout=PATIENCE_S)
                self._count(kind, marked.mark_of(answer.as_numpy(OUTPUTS[kind])))

    def _stream(self) -> None:
        """As an application: one stream for all the time, which would retry, and does not have to."""

        def images() -> Iterator[bytes]:
            while not self._stop.is_set():
                yield marked.IMAGE

        with Client(self._address, model=self._name, options=Options(max_attempts=1)) as client:
            for result in client.stream(images()):
                assert result.error is None
                self._count("stream", marked.mark_of(result.embedding))
            assert client.stats().retries == 0

    def _count(self, kind: str, mark: int) -> None:
        marks = self.marks.setdefault(kind, [])
        if mark not in marks:
            marks.append(mark)
        self.answers += 1


@contextmanager
def traffic(server: TritonServer, *names: str) -> Iterator[dict[str, Traffic]]:
    running = {name: Traffic(server.grpc_address, name) for name in names}
    try:
        yield running
    finally:
        for each in running.values():
            each.end()


def served_mark(server: TritonServer, name: str) -> int | None:
    """The mark of the export that answers under a name now; None where there is none."""
    if f"{name}_pooled" not in server.models or f"{name}_unpooled" not in server.models:
        return None
    with Client(server.grpc_address, model=name) as client:
        return marked.mark_of(client.embed(marked.IMAGE))


def versions(repository: Path) -> dict[str, set[int]]:
    return {folder.name: disk.versions(folder) for folder in repository.iterdir() if folder.is_dir()}


def one_round(server: TritonServer, repository: Path, traffic: Traffic, number: int) -> None:
    """Replaces an export; adds another and removes it."""
    added = f"added-{number}"
    marked.export(repository, "replaced", number)
    marked.export(repository, added, number)
    wait_until(lambda: traffic.has_seen(number), PATIENCE_S, f"the replacement with mark {number}")
    wait_until(lambda: served_mark(server, added) == number, PATIENCE_S, added)
    remove(repository, added)
    wait_until(lambda: f"{added}_pooled" not in server.models, PATIENCE_S, f"the end of {added}")


@pytest.mark.parametrize("seconds", [0.0, pytest.param(300.0, marks=pytest.mark.long)], ids=["once", "for-minutes"])
def test_changes_under_traffic(tmp_path: Path, seconds: float) -> None:
    """No request fails, no answer is made of two exports, and the old versions go from the disk."""
    repository = tmp_path / "repository"
    marked.export(repository, "constant", 100)
    marked.export(repository, "replaced", 1)
    log: list[str] = []
    with TritonServer(repository, watch_repository=True, on_log_line=log.append) as server:
        with traffic(server, "constant", "replaced") as running:
            started, number = time.monotonic(), 2
            one_round(server, repository, running["replaced"], number)
            while time.monotonic() - started < seconds:
                number += 1
                one_round(server, repository, running["replaced"], number)
        assert not [line for line in log if "failed to load" in line or "not present" in line]
        assert all(marks == [100] for marks in running["constant"].marks.values())
        assert all(marks == list(range(1, number + 1)) for marks in running["replaced"].marks.values())
        assert {len(each.marks) for each in running.values()} == {3}
        expected = {
            f"{name}{part}": {version} for name, version in (("constant", 1), ("replaced", number)) for part in PARTS
        }
        wait_until(lambda: versions(repository) == expected, PATIENCE_S, "the old versions to go")
        assert not (repository / disk.JOURNAL).exists()
        print(f"{sum(each.answers for each in running.values())} answers during {number - 1} rounds")


def test_a_server_waits_for_its_first_export(tmp_path: Path) -> None:
    """It is ready with an empty repository, and stays ready while it loads what comes."""
    with TritonServer(tmp_path, watch_repository=True) as server:
        assert server.models == ()
        with triton.InferenceServerClient(server.grpc_address) as client:
            marked.export(tmp_path, "first", 1)
            wait_until(lambda: client.is_server_ready() and served_mark(server, "first") == 1, PATIENCE_S, "first")


def test_an_export_that_triton_cannot_load_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one before goes on answering, the log says why, and the next export is taken."""
    marked.export(tmp_path, "model", 1)
    with TritonServer(tmp_path, watch_repository=True) as server:
        with traffic(server, "model") as running:
            marked.export(tmp_path, "model", 2)
            (tmp_path / "model_pooled_encoder" / "2" / "model.onnx").write_text("no graph")
            wait_until(lambda: "model_pooled cannot be loaded" in caplog.text, PATIENCE_S, "the refusal")
            assert served_mark(server, "model") == 1
            marked.export(tmp_path, "model", 3)
            wait_until(lambda: running["model"].has_seen(3), PATIENCE_S, "the next export")
        assert running["model"].marks["pooled"] == [1, 3]
        assert "the loaded version stays" in caplog.text


def test_a_stopped_server_uses_nothing(tmp_path: Path) -> None:
    """What it watched can be removed whole, although its process goes on."""
    marked.export(tmp_path, "model", 1)
    with TritonServer(tmp_path, watch_repository=True):
        pass
    remove(tmp_path, "model")
    assert versions(tmp_path) == {}


def test_an_export_takes_the_place_of_an_older_one(tmp_path: Path, tiny_vit_checkpoint: Path) -> None:
    """A file of preprocessing is served, then a folder; what Python compiles is no change of either."""
    options = ExportOptions(model=str(tiny_vit_checkpoint), repository=tmp_path, name="model")
    exports.export(tiny_vit_checkpoint, tmp_path, name="model")
    older.with_one_file(tmp_path / "model_preprocess" / "1")
    photo = corpus()["cat.jpg"]
    log: list[str] = []
    with TritonServer(tmp_path, watch_repository=True, on_log_line=log.append) as server:
        with Client(server.grpc_address, model="model") as client:
            before = client.embed(photo)
        with graphs.kept():
            export_model(options)
        wait_until(lambda: versions(tmp_path)["model_preprocess"] == {2}, PATIENCE_S, "the older export to go")
        with Client(server.grpc_address, model="model") as client:
            assert np.array_equal(client.embed(photo), before)
            assert [result.error.code for result in client.stream([b"", b"no image"]) if result.error] == [
                "empty",
                "format",
            ]
        assert (tmp_path / "model_preprocess" / "2" / disk.PREPROCESSING / "__init__.py").is_file()
        assert not list(tmp_path.rglob("__pycache__"))
        remove(tmp_path, "model")
        wait_until(lambda: not list(tmp_path.glob("model*")), PATIENCE_S, "the export to go")
    loads = [line for line in log if "successfully loaded 'model_preprocess'" in line]
    assert len(loads) <= 3  # for each of what it is shown: the old one, both, the new one


@pytest.mark.long
def test_a_restarted_triton_has_what_the_one_before_had(tmp_path: Path) -> None:
    """After its death it comes back with the same models, and goes on following the repository."""
    marked.export(tmp_path, "model", 1)
    policy = WatchPolicy(restart=True, backoff_s=0.1)
    with TritonServer(tmp_path, watch_repository=True, watch=policy) as server:
        marked.export(tmp_path, "model", 2)
        wait_until(lambda: served_mark(server, "model") == 2, PATIENCE_S, "the second export")
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.pid != pid and server.is_alive(), PATIENCE_S, "the restart")
        marked.export(tmp_path, "model", 3)
        wait_until(lambda: server.models and served_mark(server, "model") == 3, PATIENCE_S, "the third export")
