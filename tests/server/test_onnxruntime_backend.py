"""The Python-based onnxruntime backend in a real Triton."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server.processes import children, thread_count, wait_until
from server.tiny_models import TYPES, make_broken_repository
from vitriton_server import ModelLoadError, TritonServer

CORE_ROWS = 2  # as the backend has it


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    types = {"object": "BYTES"}
    kind = types.get(str(array.dtype)) or triton.np_to_triton_dtype(array.dtype)
    result = triton.InferInput(name, list(array.shape), kind)
    result.set_data_from_numpy(array)
    return result


def pixels(rows: int, gray: int) -> triton.InferInput:
    return tensor("pixels", np.full((rows, 4, 4, 3), gray, np.uint8))


def executions(client: triton.InferenceServerClient, model: str) -> int:
    return int(client.get_inference_statistics(model).model_stats[0].execution_count)


def test_requests_are_batched_and_split(client: triton.InferenceServerClient) -> None:
    """Requests that wait together are one batch, shared among the cores, and each gets its own rows back."""
    sizes = [1, 2, 1, 4]  # together as many as a batch takes, so that no one waits longer
    before = executions(client, "patient")
    with ThreadPoolExecutor(len(sizes)) as pool:
        calls = [pool.submit(client.infer, "patient", [pixels(n, 10 * k)]) for k, n in enumerate(sizes)]
        answers = [call.result() for call in calls]
    for k, (n, answer) in enumerate(zip(sizes, answers, strict=True)):
        np.testing.assert_array_equal(answer.as_numpy("embedding"), np.full((n, 3), 10 * k, np.float32))
    wait_until(lambda: executions(client, "patient") > before, 60, "its statistics")
    assert executions(client, "patient") == before + 1
    assert max(int(answer.as_numpy("batch")[0, 0]) for answer in answers) <= CORE_ROWS


def test_only_requested_outputs_come_back(client: triton.InferenceServerClient) -> None:
    """A request that names one output gets that one alone, also when it shares its batch with one that wants both."""
    one = [triton.InferRequestedOutput("embedding")]
    with ThreadPoolExecutor(2) as pool:
        some = pool.submit(client.infer, "tiny_pooled_encoder", [pixels(1, 1)], outputs=one)
        both = pool.submit(client.infer, "tiny_pooled_encoder", [pixels(1, 2)])
    assert [output.name for output in some.result().get_response().outputs] == ["embedding"]
    assert {output.name for output in both.result().get_response().outputs} == {"embedding", "batch"}


def test_a_bad_request_fails_alone(client: triton.InferenceServerClient) -> None:
    """An index outside of the table is INVALID_ARGUMENT for its sender; those in the same batch get their rows."""
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client.infer, "lookup", [tensor("index", np.array([[i]]))]) for i in (1, 9, 2, 3)]
    error = calls[1].exception()
    assert isinstance(error, triton.InferenceServerException)
    assert "INVALID_ARGUMENT" in str(error.status())
    assert "out of data bounds" in str(error.message())
    good = [float(call.result().as_numpy("row")[0, 0]) for call in (calls[0], calls[2], calls[3])]
    assert good == [10.0, 20.0, 30.0]


def test_every_data_type_passes(client: triton.InferenceServerClient) -> None:
    """What goes in as any type that Triton and ONNX share comes out as it was."""
    sent = {}
    for kind in TYPES:
        if kind == "TYPE_STRING":
            array = np.array([["é", "a\0b"], ["", "x" * 1000]], dtype=np.object_)
        else:
            numpy_type = triton.triton_to_np_dtype(kind.removeprefix("TYPE_"))
            array = np.array([[0, 1], [1, 0]]).astype(numpy_type)
        sent[kind] = array
    answer = client.infer("echo", [tensor(f"in_{kind}", array) for kind, array in sent.items()])
    for kind, array in sent.items():
        received = answer.as_numpy(f"out_{kind}")
        if kind == "TYPE_STRING":
            received = np.vectorize(bytes.decode, otypes=[object])(received)
        np.testing.assert_array_equal(received, array)


def test_a_string_that_is_no_text_is_the_callers_error(client: triton.InferenceServerClient) -> None:
    """Bytes that are not UTF-8 are INVALID_ARGUMENT, for ONNX has text only."""
    arrays = {
        kind: np.zeros((1, 2), triton.triton_to_np_dtype(kind.removeprefix("TYPE_")))
        for kind in TYPES
        if kind != "TYPE_STRING"
    }
    arrays["TYPE_STRING"] = np.array([[b"\xff\xfe", b""]], dtype=np.object_)
    with pytest.raises(triton.InferenceServerException, match="not UTF-8") as caught:
        client.infer("echo", [tensor(f"in_{kind}", array) for kind, array in arrays.items()])
    assert "INVALID_ARGUMENT" in str(caught.value.status())


def test_a_model_without_batch_axis(client: triton.InferenceServerClient) -> None:
    """max_batch_size 0, a file name of its own and external data beside the graph all work."""
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(client.infer("unbatched", [tensor("x", sent)]).as_numpy("y"), -sent)


def test_a_scalar(client: triton.InferenceServerClient) -> None:
    """What has no dimension in the graph travels as one element."""
    answer = client.infer("scalar", [tensor("x", np.array([2], np.float32))])
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([-2], np.float32))


def test_the_thread_count_of_the_config_is_used(server: TritonServer, client: triton.InferenceServerClient) -> None:
    """A stub whose model asks for four threads has three more than one whose model asks for one."""
    counts = {}
    for stub, line in children(server.pid).items():
        for name in ("threads_1", "threads_4"):
            if f"/{name}/" in line:
                client.infer(name, [pixels(1, 1)])
                counts[name] = thread_count(stub)
    assert counts["threads_4"] - counts["threads_1"] == 3


def test_an_ensemble_joins_both_backends(client: triton.InferenceServerClient) -> None:
    """Encoded bytes go through the python step and the encoder."""
    data = b"\x89PNG" + bytes(46)
    image = tensor("image", np.array([[data], [data]], dtype=np.object_))
    embedding = client.infer("tiny_pooled", [image]).as_numpy("embedding")
    np.testing.assert_array_equal(embedding, np.full((2, 3), len(data), np.float32))


@pytest.mark.usefixtures("subprocesses")
def test_models_that_cannot_be_loaded_are_named_with_their_reason(tmp_path: Path) -> None:
    """One start tells of every broken model which one it is and what is wrong, before any line of log."""
    reasons = make_broken_repository(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        TritonServer(tmp_path).start()
    for name, reason in reasons.items():
        assert f"`{name}`" in caught.value.message
        assert reason in caught.value.message
    assert "Traceback" not in caught.value.message
    assert caught.value.log
