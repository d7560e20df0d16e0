"""The client against a real Triton."""

import base64
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from client.both import KINDS, make_client
from client.conftest import held_model, write_model
from client.http_tools import serve
from client.scripted import ScriptedServer, http
from PIL import Image
from vitriton import (
    AccessDenied,
    Client,
    ContractMismatch,
    DeadlineExceeded,
    InvalidImage,
    ModelNotFound,
    Options,
    ServerBusy,
    Unavailable,
)

pytestmark = pytest.mark.usefixtures("subprocesses")


@pytest.fixture(params=[f"{kind} {scheme}" for kind in KINDS for scheme in ("grpc", "http")])
def connect(request):
    """Makes clients of one kind, which speak one protocol, to the server of the tests."""
    kind, scheme = request.param.split()
    address = request.getfixturevalue("address" if scheme == "grpc" else "http_address")

    def make(model, *, others=(), **arguments):
        addresses = [f"{scheme}://{each}" for each in (*others, address)]
        return make_client(kind)(addresses, model=model, **arguments)

    return make


@pytest.fixture
def client(connect):
    with connect("tiny") as client:
        client.wait_ready(timeout_s=60)
        yield client


def wait_for(condition):
    """Returns when it holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_embed_pooled(client, files, embeddings):
    """Twenty images go in three batches, and come back as (20, 4) float32 in their order."""
    result = client.embed(files)
    assert result.dtype == np.float32
    assert result.flags.writeable
    np.testing.assert_allclose(result, embeddings, rtol=1e-6)


def test_embed_unpooled(client, files, embeddings):
    """With pool=False every image has its tokens."""
    tokens = client.embed(files, pool=False)
    assert tokens.shape == (20, 3, 4)
    np.testing.assert_allclose(tokens[:, 1], embeddings, rtol=1e-6)


def test_every_kind_of_image_gives_the_same(client, tmp_path, files, pictures, embeddings):
    """Paths, bytes, files, PIL images, arrays and data URIs of one picture have one embedding, mixed in one call."""
    path = tmp_path / "picture.png"
    path.write_bytes(files[0])
    uri = "data:image/png;base64," + base64.b64encode(files[0]).decode()
    with path.open("rb") as file:
        kinds = [str(path), path, files[0], bytearray(files[0]), memoryview(files[0]), file, BytesIO(files[0]), uri]
        result = client.embed([*kinds, Image.open(path), pictures[0]])
    np.testing.assert_allclose(result, np.repeat(embeddings[:1], 10, axis=0), rtol=1e-6)


def test_no_images(client):
    """No images give no rows, of the right width."""
    assert client.embed([]).shape == (0, 4)
    assert client.embed(iter(()), pool=False).shape == (0, 3, 4)


def test_fp16_is_widened(connect, files, embeddings):
    """A model that answers in FP16 gives float32."""
    with connect("wide") as client:
        result = client.embed(files)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, embeddings, rtol=1e-3)


def test_bad_images_are_named_and_the_next_call_works(client, files, embeddings):
    """The error has the caller's own indices, also in the second batch, and the server goes on serving."""
    images = [*files[:9], b"not an image", files[10], b""]
    with pytest.raises(InvalidImage) as caught:
        client.embed(images)
    error = caught.value
    assert [(problem.index, problem.source) for problem in error.errors] == [(9, "bytes"), (11, "bytes")]
    assert "empty (0 bytes)" in error.errors[1].reason
    assert [problem.code for problem in error.errors] == ["format", "empty"]
    assert (error.index, error.total, error.model, error.status) == (9, 12, "tiny_pooled", "INVALID_ARGUMENT")
    assert str(error).startswith("2 of 12 images cannot be used: image 9 (bytes): ")
    np.testing.assert_allclose(client.embed(files[:1]), embeddings[:1], rtol=1e-6)


def test_one_bad_path_is_named(client, tmp_path, files):
    """A file that is no picture is named by its index and its path."""
    path = tmp_path / "cat.heic"
    path.write_text("a text")
    with pytest.raises(InvalidImage, match=r"image 1 of 2 \(.*cat\.heic\): .*known format"):
        client.embed([files[0], path])


def test_a_whole_batch_of_bad_images_is_named(connect):
    """An error that names 4096 images is longer than gRPC's default limit, and comes through all the same."""
    with connect("wide") as client, pytest.raises(InvalidImage) as caught:
        client.embed([b"no"] * 4096)
    assert len(caught.value.errors) == 4096


def test_deadline(client):
    """A call ends with DeadlineExceeded when its total time is over."""
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s .* model tiny ") as caught:
        client.embed([b"sleep:0.6"], timeout_s=0.2)
    assert caught.value.timeout_s == 0.2


def test_a_call_goes_on_as_long_as_answers_come(connect):
    """Without a total time of its own, a call has the client's time anew with each answer; a total time is the end."""
    images = [b"sleep:0.55"] * 6
    with connect("tiny", timeout_s=3.0, options=Options(max_request_bytes=1, max_in_flight=1)) as client:
        client.wait_ready(timeout_s=60)
        assert client.embed(images).shape == (6, 4)
        assert [result.error for result in client.stream(images)] == [None] * 6
        with pytest.raises(DeadlineExceeded, match=r"the time limit of 1 s for the call to model tiny .* is over;"):
            client.embed(images, timeout_s=1.0)


def test_abandoned_work_is_dropped_from_the_queue(connect, tmp_path, files):
    """What waited in an ensemble's queue beyond its deadline is never run.

    Only the deadline that is sent along does that: Triton does not hand a gRPC cancellation on to an ensemble's steps.
    """
    marker = tmp_path / "ran"
    with connect("staged") as client:
        with held_model(client, tmp_path), pytest.raises(DeadlineExceeded):
            client.embed([f"touch:{marker}".encode()], timeout_s=1.0)
        client.embed(files[:1])  # behind it in the queue
    assert not marker.exists()


def test_queue_full(connect, tmp_path):
    """A full queue is waited for, and is ServerBusy at the deadline."""
    options = Options(max_in_flight=8, max_request_bytes=1)
    with connect("narrow", options=options) as client:
        assert client.embed([b"sleep:0.05"] * 8).shape == (8, 4)
        is_busy = pytest.raises(ServerBusy, match=r"Exceeds maximum queue size.*tried \d+ times in 3 s")
        with held_model(client, tmp_path), is_busy as caught:
            client.embed([b"sleep:0"] * 8, timeout_s=3.0)
        assert caught.value.status == "UNAVAILABLE"


def test_a_variant_that_was_not_exported(connect, files):
    """Asking for tokens of a model that was exported without them says so."""
    with connect("narrow") as client:
        client.wait_ready(timeout_s=60)
        with pytest.raises(ModelNotFound, match=r"exported without its unpooled output.*--outputs both"):
            client.embed(files[:1], pool=False)


def test_unknown_model_lists_the_others(connect, files):
    """A wrong name is answered with the names that the server has, and wait_ready does not wait for it."""
    with connect("huge") as client:
        with pytest.raises(
            ModelNotFound, match="does not have model huge; it has: narrow, staged, tiny, wide"
        ) as caught:
            client.embed(files[:1])
        assert caught.value.available == ("narrow", "staged", "tiny", "wide")
        with pytest.raises(ModelNotFound, match="it has: narrow, staged, tiny, wide"):
            client.wait_ready(timeout_s=60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_without_the_model_does_not_stop_the_others(kind, http_address, files, embeddings):
    """It is passed over in every call; where it is alone, the call ends at once and names what it has."""

    def lacks(peer):
        while request := peer.request():
            if b"/v2/repository/index" in request:
                peer.send(http("200 OK", b'[{"name": "other_pooled", "version": "1", "state": "READY"}]'))
            else:
                peer.send(http("404 Not Found", b'{"error": "Request for unknown model: \'tiny\' is not found"}'))

    with ScriptedServer(lacks) as server:
        lacking = f"http://127.0.0.1:{server.port}"
        with make_client(kind)([lacking, f"http://{http_address}"], model="tiny") as client:
            for _ in range(3):
                np.testing.assert_allclose(client.embed(files), embeddings, rtol=1e-6)
        with make_client(kind)(lacking, model="tiny") as client, pytest.raises(ModelNotFound) as caught:
            client.embed(files)
    assert (caught.value.available, caught.value.attempts, caught.value.address) == (("other",), 1, lacking)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("line", "status"), [("401 Unauthorized", "UNAUTHENTICATED"), ("403 Forbidden", "PERMISSION_DENIED")]
)
def test_a_refused_token(kind, line, status, files):
    """A gateway's 401 and 403 end a call, and the wait for a model, at the first attempt."""
    with serve(http(line, b"no")) as server:
        address = f"http://127.0.0.1:{server.port}"
        with make_client(kind)(address, model="tiny", token="guessed") as client:
            for use in (lambda: client.embed(files), client.wait_ready):
                with pytest.raises(AccessDenied, match="does not let this client use model tiny") as caught:
                    use()
                assert (caught.value.status, caught.value.attempts, caught.value.address) == (status, 1, address)


def test_fingerprint(client, connect):
    """The fingerprint comes from the configuration; a model need not have one, unless one is expected."""
    assert client.describe().fingerprint == "space-1"
    with connect("wide") as other:
        assert other.describe().fingerprint is None
    with connect("wide", expect_fingerprint="space-1") as other, pytest.raises(ContractMismatch, match="None, and sp"):
        other.describe()


def test_wait_ready_for_any_server(connect):
    """One server that is ready is enough, whatever the others do; without one the wait ends as for all of them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        others = ["127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"]
        with connect("tiny", others=others) as client:
            client.wait_ready(servers="any", timeout_s=60)
            with pytest.raises(Unavailable):
                client.wait_ready(timeout_s=2)
            with pytest.raises(ValueError, match="servers is 'most'"):
                client.wait_ready(servers="most")
    with connect("missing") as client, pytest.raises(ModelNotFound, match="it has: narrow, staged, tiny, wide"):
        client.wait_ready(servers="any", timeout_s=60)
    with connect("missing", others=["127.0.0.1:1"]) as client, pytest.raises(ModelNotFound):
        client.wait_ready(servers="any", timeout_s=3)


def test_a_server_that_is_down_does_not_hide_a_wrong_name(connect):
    """Whichever address comes first, a server that lacks the model ends the wait for all of them at once."""
    with connect("missing", others=["127.0.0.1:1"]) as client, pytest.raises(ModelNotFound, match="it has: narrow"):
        client.wait_ready(timeout_s=60)
    with connect("tiny", others=["127.0.0.1:1"]) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.wait_ready(timeout_s=2)


def test_threads_share_a_client(client, files, embeddings):
    """Eight threads with one client each get their own answers."""

    def one(index):
        picked = [index, (index * 7) % 20, (index * 3) % 20]
        return picked, client.embed([files[i] for i in picked])

    with ThreadPoolExecutor(8) as pool:
        for picked, result in pool.map(one, range(20)):
            np.testing.assert_allclose(result, embeddings[picked], rtol=1e-6)


def test_close_ends_a_running_call(connect, tmp_path):
    """Closing a client from another thread ends its calls with an error that says so."""
    client = connect("tiny")
    with connect("tiny") as other, held_model(other, tmp_path), ThreadPoolExecutor(1) as pool:
        before = client.stats().requests
        call = pool.submit(client.embed, [b"sleep:0"])
        wait_for(lambda: client.stats().requests > before)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            call.result(timeout=60)


def test_nothing_is_left_open(connect, files):
    """Twenty clients leave no thread and no file descriptor behind."""

    def count():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def use():
        with connect("tiny") as client:
            client.embed(files[:1])
            with pytest.raises(InvalidImage):
                client.embed([b"x"])

    def as_before():
        threads, descriptors = count()
        return threads <= before[0] and descriptors <= before[1] + 4

    use()
    before = count()
    for _ in range(20):
        use()
    wait_for(as_before)  # gRPC closes sockets from a thread of its own, a moment later


def test_model_whose_process_died(tmp_path):
    """A model whose python process has died is Unavailable, although Triton calls it ready."""
    from vitriton_server import TritonServer, WatchPolicy

    write_model(tmp_path, "tiny_pooled")
    unwatched = WatchPolicy(canary_interval_s=0)  # whose watch would end the server before the call has ended
    twice = Options(max_attempts=2)
    with (
        TritonServer(tmp_path, watch=unwatched) as server,
        Client(server.grpc_address, model="tiny", options=twice) as client,
        pytest.raises(Unavailable, match=r"the process of model tiny .* has died") as caught,
    ):
        client.embed([b"die:"], timeout_s=60)
    assert caught.value.status == "INTERNAL"
