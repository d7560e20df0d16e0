"""What goes over the wire, and how it gets there."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from client.tls import Authority
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from vitriton import TLS, Client, Unavailable
from vitriton._wire.address import Address, parse_address
from vitriton._wire.channel import CHANNEL_OPTIONS, channel_options
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.grpc import GrpcTransport, read_config, read_response, to_error, write_request
from vitriton._wire.transport import TensorSpec
from vitriton.testing import CallError, Code, InferRequest

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def authority(subprocesses, tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


class Server:
    """A gRPC server that answers each call with an empty message, which is one of all types, or with its name."""

    def __init__(self, credentials=None, *, name="", port=0):
        self.calls = []  # (method, metadata)
        self._name = name
        self._grpc = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._grpc.add_generic_rpc_handlers((self,))
        if credentials is None:
            self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = self._grpc.add_secure_port(f"127.0.0.1:{port}", credentials)

    def __enter__(self):
        self._grpc.start()
        return self

    def __exit__(self, *exc_info):
        self._grpc.stop(0).wait(PATIENCE_S)

    def service(self, details):
        self.calls.append((details.method.rpartition("/")[2], dict(details.invocation_metadata)))
        message = service_pb2.ServerMetadataResponse(name=self._name)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: message.SerializeToString())


def infer_request(**changes):
    fields = {"model": "m", "input_name": "image", "images": [b"a", b"b"], "output_name": "embedding", "timeout_s": 5.0}
    return InferRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ("ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused", "Connection refused"),
        ("ipv6:%5B::1%5D:1: Failed to connect to remote host: Connection refused", "Connection refused"),
        ("ipv4:1.2.3.4:1: Ssl handshake failed: WRONG_VERSION", "Ssl handshake failed: WRONG_VERSION"),
        ("", ""),
    ],
)
def test_the_reason_is_the_same_for_each_address_of_a_host(details, message):
    """The library tries them in another order each time, and names the last."""

    class Failed(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

        def details(self):
            return f"failed to connect to all addresses; last error: UNKNOWN: {details}"

    error = to_error(Failed())
    assert (error.code, error.message) == (Code.UNAVAILABLE, message)


# Messages


def written(request: InferRequest) -> service_pb2.ModelInferRequest:
    """The request as the server reads it."""
    return service_pb2.ModelInferRequest.FromString(write_request(request))


@pytest.mark.parametrize(
    ("images", "content"),
    [
        ([b""], b"\0\0\0\0"),
        ([b"a", b"bcd"], b"\x01\0\0\0a\x03\0\0\0bcd"),
        ([bytes(123)], b"\x7b\0\0\0" + bytes(123)),  # 127 bytes, the longest whose length takes one
        ([bytes(124)], b"\x7c\0\0\0" + bytes(124)),
        ([bytes(300_000)], b"\xe0\x93\x04\0" + bytes(300_000)),
    ],
)
def test_bytes_tensor(images, content):
    """Each element stands after its length, little-endian."""
    message = written(infer_request(images=images))
    assert list(message.raw_input_contents) == [content]


@pytest.mark.parametrize(("timeout_s", "timeout_us"), [(5.0, 5_000_000), (1.5e-6, 2), (0.0, 1)])
def test_request(timeout_s, timeout_us):
    """A request has one input of shape (B, 1), one output, and its time in whole microseconds, never 0 (no limit)."""
    message = written(infer_request(timeout_s=timeout_s))
    assert (message.inputs[0].datatype, list(message.inputs[0].shape)) == ("BYTES", [2, 1])
    assert [output.name for output in message.outputs] == ["embedding"]
    assert not message.outputs[0].parameters
    assert message.parameters["timeout"].int64_param == timeout_us


def test_request_without_deadline():
    """Without a deadline the server's own default stands."""
    assert "timeout" not in written(infer_request(timeout_s=None)).parameters


def test_request_with_pixels():
    """Pixels go over as they are, with their own shape."""
    message = written(infer_request(images=[b"abcdef", b"ghijkl"], datatype="UINT8", item_shape=(1, 2, 3)))
    assert (message.inputs[0].datatype, list(message.inputs[0].shape)) == ("UINT8", [2, 1, 2, 3])
    assert list(message.raw_input_contents) == [b"abcdefghijkl"]


def test_response_without_contents():
    """A response without a tensor is a failure and no crash."""
    with pytest.raises(CallError, match="one was asked for"):
        read_response(service_pb2.ModelInferResponse())


def response(*names):
    """A response with tensors of one byte, which is their place."""
    message = service_pb2.ModelInferResponse()
    for place, name in enumerate(names):
        message.outputs.add(name=name, datatype="UINT8", shape=[1, place + 1])
        message.raw_output_contents.append(bytes([place]) * (place + 1))
    return message


def test_a_request_for_several_outputs():
    """It names them all; what was written before for one is not taken for several."""
    assert [output.name for output in written(infer_request()).outputs] == ["embedding"]
    message = written(infer_request(beside=("counts", "more")))
    assert [output.name for output in message.outputs] == ["embedding", "counts", "more"]


def test_a_response_with_several_tensors():
    """Each comes with its own content, in the order of the request."""
    reply = read_response(response("more", "embedding", "counts"), ("counts", "more"))
    assert (reply.name, reply.shape, reply.data) == ("embedding", (1, 2), b"\1\1")
    assert [(other.name, other.shape, other.data) for other in reply.beside] == [
        ("counts", (1, 3), b"\2\2\2"),
        ("more", (1, 1), b"\0"),
    ]


@pytest.mark.parametrize(
    ("names", "beside", "says"),
    [
        (["embedding", "counts"], (), "holds embedding, counts; one was asked for"),
        (["embedding"], ("counts",), "holds embedding; counts and one more were asked for"),
        (["embedding", "other"], ("counts",), "holds embedding, other; counts and one more were asked for"),
        (["counts", "counts"], ("counts",), "holds counts, counts; counts and one more were asked for"),
        (["counts", "counts", "embedding"], ("counts",), "holds counts, counts, embedding"),
        ([], ("counts",), "holds no tensor; counts and one more were asked for"),
    ],
)
def test_responses_with_other_tensors(names, beside, says):
    """Other tensors than were requested are a failure, and none of them is taken for another."""
    with pytest.raises(CallError) as caught:
        read_response(response(*names), beside)
    assert (caught.value.code, says in caught.value.message) == (Code.DATA_LOSS, True)


def test_a_response_with_too_few_contents():
    """A tensor without its content is a failure."""
    message = response("embedding", "counts")
    del message.raw_output_contents[1]
    with pytest.raises(CallError, match="holds 2 tensors and 1 contents"):
        read_response(message, ("counts",))


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


def test_server_metadata(address):
    """A real Triton tells its name, its version and what it can do."""
    transport = GrpcTransport(parse_address(address), ConnectionSettings())
    metadata = transport.server_metadata(PATIENCE_S)
    assert metadata.name == "triton"
    assert metadata.version.count(".") == 2
    assert "system_shared_memory" in metadata.extensions
    transport.close()


# Headers

CALLS = {
    "ServerMetadata": lambda transport: transport.server_metadata(PATIENCE_S),
    "ModelReady": lambda transport: transport.is_model_ready("m", PATIENCE_S),
    "ModelConfig": lambda transport: transport.model_config("m", PATIENCE_S),
    "RepositoryIndex": lambda transport: transport.repository_index(PATIENCE_S),
    "ModelInfer": lambda transport: transport.send(infer_request(), PATIENCE_S).result(),
}


@pytest.mark.parametrize("call", CALLS)
def test_headers_go_with_every_call(call):
    """So do the token, which is asked for each time, and a request's own headers."""
    tokens = iter(["first", "second"])
    connection = ConnectionSettings(token=lambda: next(tokens), headers={"x-tenant": "a"})
    with Server() as server:
        transport = GrpcTransport(Address("grpc", "127.0.0.1", server.port), connection)
        for token in ("first", "second"):
            with contextlib.suppress(CallError):  # an empty answer is not one to ModelInfer
                CALLS[call](transport)
            method, metadata = server.calls[-1]
            assert method == call
            assert (metadata["authorization"], metadata["x-tenant"]) == (f"Bearer {token}", "a")
        transport.close()


def test_a_requests_own_headers():
    """They go with that request alone."""
    with Server() as server:
        transport = GrpcTransport(Address("grpc", "127.0.0.1", server.port), ConnectionSettings())
        for headers in ({"traceparent": "00-1"}, {}):
            with pytest.raises(CallError):
                transport.send(infer_request(headers=headers), PATIENCE_S).result()
        transport.close()
    assert [metadata.get("traceparent") for _, metadata in server.calls] == ["00-1", None]


def test_a_token_that_cannot_be_had():
    """A token function that fails is a failed call, and a token that cannot be sent is not shown."""

    def fails():
        raise RuntimeError("vault is sealed")

    address = Address("grpc", "127.0.0.1", 1)
    with pytest.raises(CallError, match="vault is sealed") as caught:
        GrpcTransport(address, ConnectionSettings(token=fails)).send(infer_request(), PATIENCE_S)
    assert caught.value.code is Code.UNAUTHENTICATED
    with pytest.raises(CallError, match="check the token") as caught:
        GrpcTransport(address, ConnectionSettings(token="secret\n")).server_metadata(PATIENCE_S)
    assert "secret" not in str(caught.value)


# TLS


@pytest.fixture(scope="module")
def secure(authority):
    """A server with a certificate for 127.0.0.1 and triton.test, which wants none of the client."""
    certificate, key = authority.issue("server", "DNS:triton.test", "IP:127.0.0.1")
    pair = (key.read_bytes(), certificate.read_bytes())
    with Server(grpc.ssl_server_credentials([pair])) as server:
        yield server


def ask(host, port, tls, scheme="grpcs"):
    transport = GrpcTransport(Address(scheme, host, port), ConnectionSettings(tls=tls, token="t"))
    try:
        return transport.server_metadata(PATIENCE_S)
    finally:
        transport.close()


@pytest.mark.parametrize(("host", "server_name"), [("127.0.0.1", None), ("localhost", "triton.test")])
def test_a_private_authority(authority, secure, host, server_name):
    """A server's certificate is checked against the given authority, and for the given name."""
    ask(host, secure.port, TLS(ca_file=authority.ca_file, server_name=server_name))
    assert secure.calls[-1][1]["authorization"] == "Bearer t"


@pytest.mark.usefixtures("subprocesses")
def test_certificates_that_do_not_fit(authority, secure, tmp_path):
    """A certificate for another name or of another authority is refused, and so is a server without TLS."""
    calls = len(secure.calls)
    for host, tls in (
        ("localhost", TLS(ca_file=authority.ca_file)),
        ("127.0.0.1", TLS(ca_file=Authority(tmp_path).ca_file)),
        ("127.0.0.1", TLS()),
    ):
        with pytest.raises(CallError) as caught:
            ask(host, secure.port, tls)
        assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(CallError):
        ask("127.0.0.1", secure.port, TLS(), scheme="grpc")
    with Server() as plain, pytest.raises(CallError):
        ask("127.0.0.1", plain.port, TLS(ca_file=authority.ca_file))
    assert len(secure.calls) == calls


def test_client_certificates(authority):
    """A server that asks for the client's certificate gets it."""
    certificate, key = authority.issue("mutual", "IP:127.0.0.1")
    own, own_key = authority.issue("client")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.ca_file.read_bytes(), require_client_auth=True
    )
    with Server(credentials) as server:
        with pytest.raises(CallError) as caught:
            ask("127.0.0.1", server.port, TLS(ca_file=authority.ca_file))
        assert caught.value.code is Code.UNAVAILABLE
        ask("127.0.0.1", server.port, TLS(ca_file=authority.ca_file, cert_file=own, key_file=own_key))


def test_files_that_are_no_certificates(authority, tmp_path):
    """They are found when the client is made, and named."""
    certificate, key = authority.issue("own")
    _, other_key = authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.touch()
    address = Address("grpcs", "127.0.0.1", 1)
    with pytest.raises(ValueError, match=r"ca_file .*empty\.pem holds no certificate"):
        GrpcTransport(address, ConnectionSettings(tls=TLS(ca_file=empty)))
    for files in ((certificate, other_key), (empty, key), (certificate, empty)):
        with pytest.raises(ValueError, match="must be a certificate and its private key"):
            GrpcTransport(address, ConnectionSettings(tls=TLS(cert_file=files[0], key_file=files[1])))


# Channels


def test_message_lengths_are_not_grpcs_defaults():
    """Messages of up to 2 GiB pass; gRPC's own limit is 4 MB."""
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == 2**31 - 1


def test_the_users_options_come_last():
    """They stand over the client's own, which otherwise stay."""
    connection = ConnectionSettings(grpc_options={"grpc.max_send_message_length": 1, "grpc.keepalive_time_ms": 5000})
    options = channel_options(Address("grpc", "triton.test", 8001), connection)
    assert options["grpc.max_send_message_length"] == 1
    assert options["grpc.keepalive_time_ms"] == 5000
    assert options["grpc.max_receive_message_length"] == 2**31 - 1


@pytest.mark.parametrize(
    ("host", "balanced"), [("triton.test", True), ("localhost", False), ("10.0.0.1", False), ("::1", False)]
)
def test_names_are_balanced(host, balanced):
    """The servers behind a DNS name take turns; gRPC is not told to repeat anything."""
    config = json.loads(
        channel_options(Address("grpc", host, 8001), ConnectionSettings()).get("grpc.service_config", "{}")
    )
    assert config == ({"loadBalancingConfig": [{"round_robin": {}}]} if balanced else {})


def _connected_to(port):
    """This process' sockets with this port at their other end."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                with socket.socket(fileno=os.dup(int(entry.name))) as one:
                    if one.family != socket.AF_UNIX and one.getpeername()[1] == port:
                        yield one


def test_a_machine_that_is_gone_is_noticed():
    """The kernel ends a connection to the server when what was sent is not acknowledged for half a minute."""
    with Server() as server:
        transport = GrpcTransport(Address("grpc", "127.0.0.1", server.port), ConnectionSettings())
        transport.server_metadata(PATIENCE_S)
        found = _connected_to(server.port)
        limits = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in found]
        transport.close()
    assert limits == [30_000]


def test_turns_and_failover():
    """Servers of one name take turns; that all have gone is known at once, and so is one that comes back."""
    options = channel_options(Address("grpc", "triton.test", 8001), ConnectionSettings())

    def eventually_answer(*names):
        seen = set()
        ends = time.monotonic() + PATIENCE_S
        while seen != set(names):
            assert time.monotonic() < ends, seen
            with contextlib.suppress(grpc.RpcError):
                seen.add(metadata(service_pb2.ServerMetadataRequest(), timeout=PATIENCE_S).name)

    with Server(name="a") as first, Server(name="b") as second:
        ports = first.port, second.port
        # two addresses as a resolver would give them
        target = f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
        channel = grpc.insecure_channel(target, options=list(options.items()))
        metadata = service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerMetadata
        eventually_answer("a", "b")
    with pytest.raises(grpc.RpcError) as caught:
        metadata(service_pb2.ServerMetadataRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with Server(name="c", port=ports[1]):
        eventually_answer("c")
        assert {metadata(service_pb2.ServerMetadataRequest()).name for _ in range(20)} == {"c"}
    channel.close()


def test_nobody_listens():
    """A refused connection is Unavailable, with the address and what to check."""
    with Client("127.0.0.1:1", model="m") as client:
        with pytest.raises(
            Unavailable, match=r"grpc://127\.0\.0\.1:1 .*Connection refused.*check that it runs"
        ) as caught:
            client.embed([b"a"], timeout_s=2)
        assert caught.value.address == "grpc://127.0.0.1:1"
        with pytest.raises(Unavailable, match="Connection refused"):
            client.wait_ready(timeout_s=2)


def test_a_closed_transport():
    """Calls fail, and closing again does nothing."""
    transport = GrpcTransport(Address("grpc", "127.0.0.1", 1), ConnectionSettings())
    transport.close()
    transport.close()
    for call in (lambda: transport.server_metadata(PATIENCE_S), lambda: transport.send(infer_request(), PATIENCE_S)):
        with pytest.raises(CallError) as caught:
            call()
        assert caught.value.code is Code.CANCELLED


INTERRUPTED = """
import sys
import grpc._channel
from vitriton import Client

def interrupt(*_):
    grpc._channel._run_channel_spin_thread = start
    raise KeyboardInterrupt  # as a signal's handler does there

start, grpc._channel._run_channel_spin_thread = grpc._channel._run_channel_spin_thread, interrupt
try:
    with Client(sys.argv[1], model="tiny") as client:
        client.wait_ready()
        next(client.stream(iter([b"x"] * 3)))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_within_grpc(address):
    """Ctrl-C ends a program also where it has met gRPC after the beginning of a call that nothing then follows."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, address], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
