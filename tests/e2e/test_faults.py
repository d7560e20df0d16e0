"""What a served model does with bad images, tight deadlines and a crowd."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server.processes import children
from tritonclient.utils import InferenceServerException
from vitriton import Client, DeadlineExceeded, InvalidImage
from vitriton.preprocessing import parse_errors
from vitriton_server import TritonServer

MODEL = "dinov2-small-trained"


def _resident_bytes(server: TritonServer, model: str) -> int:
    """Of tritonserver and the process that runs a python model."""
    pids = [server.pid, *(pid for pid, line in children(server.pid).items() if model in line)]
    assert len(pids) == 2
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)


def _request(images: list[bytes]) -> list[triton.InferInput]:
    tensor = triton.InferInput("image", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=np.object_).reshape(-1, 1))
    return [tensor]


def test_the_server_names_every_bad_image_of_a_request(server, bad):
    """INVALID_ARGUMENT with all indices and reasons, through the ensemble, to any client of Triton."""
    with triton.InferenceServerClient(server.grpc_address) as client:
        images = [bad.good, bad.truncated, bad.good, bad.empty, bad.text]
        with pytest.raises(InferenceServerException) as caught:
            client.infer(f"{MODEL}_pooled", _request(images))
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        errors = parse_errors(caught.value.message())
        assert sorted(errors) == [1, 3, 4]
        assert "truncated" in errors[1].reason
        assert errors[3].reason == "empty (0 bytes)"
        assert "no image of a known format" in errors[4].reason
        assert [errors[index].code for index in (1, 3, 4)] == ["truncated", "empty", "format"]


def test_a_request_full_of_bad_images_still_says_so(server, bad):
    """The error's text stays within what gRPC carries, whatever the batch."""
    with triton.InferenceServerClient(server.grpc_address) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(f"{MODEL}_pooled", _request([bad.text] * 32))
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        errors = parse_errors(caught.value.message())
        assert sorted(errors) == list(range(32))
        assert {refusal.code for refusal in errors.values()} == {"format"}


def test_the_client_names_the_image_and_goes_on(server, bad):
    """The caller's own index and source; the next call works."""
    with Client(server.grpc_address, model=MODEL) as client:
        with pytest.raises(InvalidImage) as caught:
            client.embed([bad.good] * 40 + [bad.text])
        assert caught.value.index == 40
        assert client.embed(bad.good).shape == (1, 384)


def test_bad_images_fail_alone_in_a_crowd(server, bad):
    """Requests that Triton batches together with a bad one are answered."""
    with Client(server.grpc_address, model="tiny-deit") as client, ThreadPoolExecutor(16) as threads:
        expected = client.embed(bad.good)
        futures = [threads.submit(client.embed, bad.text if index % 4 == 0 else bad.good) for index in range(64)]
        for index, future in enumerate(futures):
            if index % 4 == 0:
                assert isinstance(future.exception(), InvalidImage)
            else:
                assert np.abs(future.result() - expected).max() < 1e-5


def test_bad_images_cost_no_memory(server, bad):
    """A thousand refused requests leave the server as large as a hundred did."""
    with triton.InferenceServerClient(server.grpc_address) as client:

        def refuse(times: int) -> None:
            for _ in range(times):
                with pytest.raises(InferenceServerException):
                    client.infer("tiny-deit_pooled", _request([bad.good, bad.truncated, bad.empty, bad.text]))

        refuse(100)
        sizes = [_resident_bytes(server, "tiny-deit_preprocess")]
        for _ in range(2):
            refuse(500)
            sizes.append(_resident_bytes(server, "tiny-deit_preprocess"))
        # What each request leaves grows all the time; what a thread or an allocator keeps grows once.
        assert min(after - before for before, after in itertools.pairwise(sizes)) < 4e6, sizes


def test_a_request_s_own_timeout_ends_its_wait(server, bad):
    """With the queue taken, a request that may wait a millisecond is refused by Triton itself, and soon."""
    with triton.InferenceServerClient(server.grpc_address) as client, ThreadPoolExecutor(16) as threads:
        batch = _request([bad.good] * 8)
        busy = [threads.submit(client.infer, "dinov2-small-trained_pooled", batch) for _ in range(16)]

        def ask_until_refused() -> None:
            while not all(future.done() for future in busy):
                client.infer("dinov2-small-trained_pooled", _request([bad.good]), timeout=1000)

        with pytest.raises(InferenceServerException, match="timeout expired"):
            ask_until_refused()
        for future in busy:
            assert future.result().as_numpy("embedding").shape == (8, 384)


def test_a_call_s_deadline_is_kept(server, bad):
    """The client gives up when its time is over, and says so."""
    with Client(server.grpc_address, model="dinov2-small-trained") as client:
        with pytest.raises(DeadlineExceeded):
            client.embed([bad.good] * 64, timeout_s=0.1)
        assert client.embed(bad.good, timeout_s=120).shape == (1, 384)
