"""What goes over the wire."""

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2
from vitriton import Client, Unavailable
from vitriton._grpc import CHANNEL_OPTIONS, pack_bytes, read_config, read_response, write_request
from vitriton._transport import CallError, InferRequest, TensorSpec


@pytest.mark.parametrize(
    ("items", "packed"),
    [([b""], b"\0\0\0\0"), ([b"a", b"bcd"], b"\x01\0\0\0a\x03\0\0\0bcd")],
)
def test_bytes_tensor(items, packed):
    """Each element stands after its length, little-endian."""
    assert pack_bytes(items) == packed


@pytest.mark.parametrize(("timeout_s", "timeout_us"), [(5.0, 5_000_000), (1.5e-6, 2), (0.0, 1)])
def test_request(timeout_s, timeout_us):
    """A request has one input of shape (B, 1), one output, and its time in whole microseconds, never 0 (no limit)."""
    request = InferRequest(
        model="m", input_name="image", images=[b"a", b"b"], output_name="embedding", timeout_s=timeout_s
    )
    message = write_request(request)
    assert (message.inputs[0].datatype, list(message.inputs[0].shape)) == ("BYTES", [2, 1])
    assert [output.name for output in message.outputs] == ["embedding"]
    assert message.parameters["timeout"].int64_param == timeout_us


def test_request_without_deadline():
    """Without a deadline the server's own default stands."""
    request = InferRequest(model="m", input_name="image", images=[b"a"], output_name="o", timeout_s=None)
    assert "timeout" not in write_request(request).parameters


def test_response_without_contents():
    """A response without a tensor is a failure and no crash."""
    with pytest.raises(CallError, match="one was asked for"):
        read_response(service_pb2.ModelInferResponse())


def test_config():
    """Triton's types are read by the names that requests use."""
    message = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
    message.input.add(name="image", data_type="TYPE_STRING", dims=[1])
    message.output.add(name="embedding", data_type="TYPE_FP16", dims=[4])
    message.parameters["fingerprint"].string_value = "f"
    config = read_config(message)
    assert config.inputs == {"image": TensorSpec(datatype="BYTES", shape=(1,))}
    assert config.outputs == {"embedding": TensorSpec(datatype="FP16", shape=(4,))}
    assert config.parameters == {"fingerprint": "f"}


def test_message_lengths_are_not_grpcs_defaults():
    """Messages of up to 2 GiB pass; gRPC's own limit is 4 MB."""
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == 2**31 - 1


def test_nobody_listens():
    """A refused connection is Unavailable, with the address and what to check."""
    with Client("127.0.0.1:1", model="m") as client:
        with pytest.raises(
            Unavailable, match=r"grpc://127\.0\.0\.1:1 .*Connection refused.*check that it runs"
        ) as caught:
            client.embed([b"a"])
        assert caught.value.address == "grpc://127.0.0.1:1"
        with pytest.raises(Unavailable, match="Connection refused"):
            client.wait_ready(timeout_s=0.3)
