"""nginx before Triton: who gets in, what passes, how much of it, and that clients understand a refusal."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from itertools import chain, repeat
from types import SimpleNamespace

import grpc
import httpx
import numpy as np
import pytest
from compose.conftest import TINY, gateway_user
from compose.project import ROOT
from server.processes import wait_until
from tritonclient.grpc import service_pb2, service_pb2_grpc
from vitriton import TLS, AccessDenied, Client, InferenceFailed, InvalidImage, Options, ServerBusy, Unavailable
from vitriton._wire.grpc import write_request
from vitriton.testing import InferRequest

PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
PHOTO = PHOTOS[0].read_bytes()
MIB = 2**20
POOLED = f"{TINY}_pooled"
PROTOCOLS = ("grpcs", "https")
FOLLOWS_S = 120.0  # it looks every 2 s

# Triton's HTTP paths, and the methods of its gRPC service with their messages.
PASSES = [
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/stats"),
    ("GET", f"/v2/models/{POOLED}"),
    ("GET", f"/v2/models/{POOLED}/versions/1"),
    ("GET", f"/v2/models/{POOLED}/ready"),
    ("GET", f"/v2/models/{POOLED}/config"),
    ("GET", f"/v2/models/{POOLED}/stats"),
    ("POST", "/v2/repository/index"),
]
REFUSED = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("PUT", "/v2"),
    ("DELETE", f"/v2/models/{POOLED}"),
    ("POST", f"/v2/repository/models/{POOLED}/load"),
    ("POST", f"/v2/repository/models/{POOLED}/unload"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", f"/v2/models/{POOLED}/trace/setting"),
    ("POST", f"/v2/models/{POOLED}/generate"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/mine/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/mine/register"),
    # What nginx and Triton might read in two ways
    ("POST", f"/v2/models/x/../../repository/models/{POOLED}/unload"),
    ("GET", "/v2/%6cogging"),
    ("GET", "//v2/logging"),
    ("GET", "/v2/models/%2e%2e/logging"),
    ("GET", "/v2/models/stats?x=/v2/logging"),
    ("GET", "/v2/models/.."),
    ("GET", "/v2/models/."),
    ("GET", "/v2/models/../stats"),
    ("GET", "/v2/models/.hidden/config"),
    ("GET", "/v2/models/_x"),
    ("POST", "/v2/models/../infer"),
]
OWN = [("GET", "/json"), ("GET", "/error")]  # places of the gateway's configuration
GRPC_PASSES = {
    "ServerLive": service_pb2.ServerLiveRequest(),
    "ServerReady": service_pb2.ServerReadyRequest(),
    "ServerMetadata": service_pb2.ServerMetadataRequest(),
    "ModelReady": service_pb2.ModelReadyRequest(name=POOLED),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name=POOLED),
    "ModelConfig": service_pb2.ModelConfigRequest(name=POOLED),
    "ModelStatistics": service_pb2.ModelStatisticsRequest(name=POOLED),
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
}
GRPC_REFUSED = {
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name=POOLED),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name=POOLED),
    "LogSettings": service_pb2.LogSettingsRequest(),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="mine", key="/mine", byte_size=64),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="mine", byte_size=64),
}


@pytest.fixture(scope="module")
def gateway(front, gateway_files):
    """How to get to it: address, TLS, and the token of the list."""
    return SimpleNamespace(
        address=front.address("gateway"),
        tls=TLS(ca_file=gateway_files / "ca.pem"),
        token=(gateway_files / "token").read_text(),
        tokens=gateway_files / "tokens",
        ca=(gateway_files / "ca.pem").read_bytes(),
    )


@pytest.fixture
def connect(gateway):
    """Makes clients of the gateway, with its token unless told otherwise."""
    made = []

    def open_client(protocol, token=None, **options):
        address = f"{protocol}://{gateway.address}"
        settings = {"model": TINY, "tls": gateway.tls, "token": token or gateway.token, "timeout_s": 120.0}
        made.append(Client(address, options=Options(**options), **settings))
        return made[-1]

    yield open_client
    for client in made:
        client.close()


@pytest.fixture
def http(gateway):
    """A plain HTTP client with the token."""
    context = ssl.create_default_context(cadata=gateway.ca.decode())
    headers = {"authorization": f"Bearer {gateway.token}"}
    with httpx.Client(base_url=f"https://{gateway.address}", verify=context, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def channel(gateway):
    """A plain gRPC channel."""
    credentials = grpc.ssl_channel_credentials(gateway.ca)
    with grpc.secure_channel(gateway.address, credentials, [("grpc.max_send_message_length", -1)]) as opened:
        yield opened


@pytest.fixture
def stub(channel):
    """Triton's service."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def metadata(gateway):
    """The token, as gRPC sends it."""
    return [("authorization", f"Bearer {gateway.token}")]


@contextmanager
def settings(project, **env: str) -> Iterator[None]:
    """The gateway with other settings for a while."""
    before = dict(project.env)
    project.env.update(env)
    project.up("gateway")
    try:
        yield
    finally:
        project.env.clear()
        project.env.update(before)
        project.up("gateway")


def padded(size: int) -> bytes:
    """A photo of so many bytes: what follows a JPEG's end is not looked at."""
    return PHOTO + bytes(size - len(PHOTO))


def infer_message(image: bytes) -> service_pb2.ModelInferRequest:
    """A request for one image's embedding."""
    request = InferRequest(model=POOLED, input_name="image", images=[image], output_name="embedding", timeout_s=None)
    return service_pb2.ModelInferRequest.FromString(write_request(request))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_embeddings_come_through(front, connect, protocol):
    """Both outputs are to the last bit what Triton gives without the gateway, and streams come whole."""
    with Client(front.address("grpc"), model=TINY) as direct:
        expected = [direct.embed(PHOTOS, pool=pool) for pool in (True, False)]
    client = connect(protocol)
    client.wait_ready(timeout_s=60.0)
    for pool, numbers in zip((True, False), expected, strict=True):
        assert np.array_equal(client.embed(PHOTOS, pool=pool), numbers)
    results = list(client.stream(PHOTOS * 20))
    assert all(np.array_equal(one.embedding, expected[0][index % len(PHOTOS)]) for index, one in enumerate(results))
    assert len(results) == 20 * len(PHOTOS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_images_are_named(connect, protocol):
    """An error that is longer than a proxy's buffers comes whole: every bad image with its reason."""
    with pytest.raises(InvalidImage) as caught:
        connect(protocol).embed([b"\xff" * 24] * 32)
    assert [error.index for error in caught.value.errors] == list(range(32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "change", [lambda token: "guessed" * 5, lambda token: token[:-1], str.upper, lambda token: token + "0"]
)
def test_another_token_is_refused(gateway, connect, protocol, change):
    """A token that is not in the list, be it nearly so, ends a call at its first attempt."""
    with pytest.raises(AccessDenied, match="does not let this client") as caught:
        connect(protocol, token=change(gateway.token)).embed(PHOTOS)
    assert (caught.value.status, caught.value.attempts) == ("UNAUTHENTICATED", 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_token(gateway, protocol):
    """Nor does a call without one get in."""
    stranger = Client(f"{protocol}://{gateway.address}", model=TINY, tls=gateway.tls)
    with stranger as client, pytest.raises(AccessDenied) as caught:
        client.embed(PHOTOS)
    assert caught.value.status == "UNAUTHENTICATED"


def test_nothing_at_all_without_a_token(http, stub):
    """Health neither, whatever else there is or is not: HTTP says 401, gRPC UNAUTHENTICATED."""
    del http.headers["authorization"]
    for method, path in PASSES + REFUSED:
        answer = http.request(method, path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="vitriton"')
    for name, message in (GRPC_PASSES | GRPC_REFUSED).items():
        with pytest.raises(grpc.RpcError) as caught:
            getattr(stub, name)(message, timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_what_passes(http, stub, channel, metadata):
    """Metadata, configuration, statistics, the index and health: Triton's own answers, on both protocols."""
    for method, path in PASSES:
        assert http.request(method, path).status_code == 200, path
    assert POOLED in {entry["name"] for entry in http.post("/v2/repository/index").json()}
    for name, message in GRPC_PASSES.items():
        assert getattr(stub, name)(message, timeout=30, metadata=metadata) is not None
    index = stub.RepositoryIndex(GRPC_PASSES["RepositoryIndex"], timeout=30, metadata=metadata)
    assert POOLED in {entry.name for entry in index.models}
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"", timeout=30, metadata=metadata) == b"\x08\x01"  # SERVING


@pytest.mark.parametrize(("method", "path"), REFUSED + OWN)
def test_what_does_not_pass(gateway, http, method, path):
    """Administration, and a path that could be read in two ways, is refused by the gateway itself."""
    host, port = gateway.address.split(":")
    context = ssl.create_default_context(cadata=gateway.ca.decode())
    connection = HTTPSConnection(host, int(port), context=context, timeout=60)  # sends paths as they are
    connection.request(method, path, headers={"authorization": f"Bearer {gateway.token}"})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"].startswith("the gateway does not let")) == (403, True)
    connection.close()
    assert http.get(f"/v2/models/{POOLED}/ready").status_code == 200


@pytest.mark.parametrize("name", GRPC_REFUSED)
def test_what_does_not_pass_over_grpc(stub, metadata, name):
    """The same of gRPC's methods."""
    with pytest.raises(grpc.RpcError, match="the gateway does not let") as caught:
        getattr(stub, name)(GRPC_REFUSED[name], timeout=30, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bodies_of_64_mib(connect, protocol):
    """A request of 64 MiB is embedded; one of more than the limit is refused, and not tried again."""
    client = connect(protocol, max_request_bytes=128 * MIB)
    assert np.array_equal(client.embed([padded(64 * MIB)]), client.embed([PHOTO]))
    with pytest.raises(InferenceFailed, match="larger than the gateway allows") as caught:
        client.embed([padded(80 * MIB)])
    assert (caught.value.status, caught.value.attempts) == ("RESOURCE_EXHAUSTED", 1)


def test_a_grpc_stream(stub, metadata):
    """The messages of a stream are together larger than the limit of one request."""
    message = infer_message(padded(16 * MIB))
    replies = stub.ModelStreamInfer(iter([message] * 6), timeout=120, metadata=metadata)
    assert [reply.error_message for reply in replies] == [""] * 6


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_limits(front, connect, protocol):
    """Above a token's rate a client hears that the server is busy, waits, and gets all of its images all the same."""
    one_by_one = {"max_request_bytes": len(PHOTO) + 1}
    with settings(front, GATEWAY_RATE="20", GATEWAY_BURST="4", GATEWAY_CONCURRENT="2"):
        with pytest.raises(ServerBusy, match="Too many requests") as caught:
            connect(protocol, max_attempts=1, **one_by_one).embed([PHOTO] * 40)
        assert caught.value.status == "UNAVAILABLE"
        client = connect(protocol, **one_by_one)
        assert client.embed([PHOTO] * 40).shape[0] == 40
        assert client.stats().retries > 0


def test_tokens_are_followed(front, gateway, connect):
    """A token that is added gets in, one that is taken out does not; who is there meanwhile notices nothing."""
    lasting, added = connect("grpcs"), secrets.token_hex(24)
    before = gateway.tokens.read_text()
    stop = threading.Event()
    asked = chain.from_iterable(repeat(PHOTO, 4) for _ in iter(stop.is_set, True))
    results = []
    thread = threading.Thread(target=lambda: results.extend(lasting.stream(asked)))
    thread.start()

    def gets_in() -> bool:
        try:
            return bool(len(connect("https", token=added).embed([PHOTO])))
        except AccessDenied as error:
            if error.status != "UNAUTHENTICATED":
                raise
            return False

    try:
        assert not gets_in()
        gateway.tokens.write_text(f"{before}# a comment\nbatch-job {added}\n")
        wait_until(gets_in, FOLLOWS_S, "the new token gets in")
        gateway.tokens.write_text(f"{before}broken\n")
        wait_until(lambda: "is not `name token`" in front.logs("gateway"), FOLLOWS_S, "the mistake is named")
        assert gets_in(), "a list that cannot be read does not take the place of one that can"
        gateway.tokens.write_text(before)
        wait_until(lambda: not gets_in(), FOLLOWS_S, "the token is taken out")
    finally:
        gateway.tokens.write_text(before)
        stop.set()
        thread.join(120)
    assert results
    assert [one.error for one in results if one.error is not None] == []
    assert '"client":"batch-job"' in front.logs("gateway")


def test_no_token_is_written_down(front, gateway, http):
    """Tokens are neither in the log, not even of a request that cannot be read, nor in what the engine knows."""
    mangled = httpx.Client(
        base_url=http.base_url, verify=False, headers={"authorization": f"Bearer {gateway.token} {'x' * 70000}"}
    )
    assert mangled.get("/v2").status_code in (400, 401, 494)
    assert http.get(f"/v2?token={gateway.token}").status_code == 403
    logs = front.logs("gateway")
    assert '"path":"/v2","status":403' in logs
    assert gateway.token not in logs
    assert gateway.token not in json.dumps(front.inspect("gateway"))
    environment = front.execute("gateway", "cat", "/proc/1/environ").stdout
    assert gateway.token not in environment


def test_inside(front):
    """Not root, no capabilities, nothing that can be written to but /tmp; the files of the gateway are read-only."""
    status = front.execute("gateway", "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {gateway_user().split(":")[0]} != {"0"}
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    for folder in ("/", "/etc/nginx", "/run/gateway", "/var/log"):
        assert front.execute("gateway", "touch", f"{folder}/mine", check=False).returncode, folder


def test_old_tls_and_strangers(gateway, gateway_files):
    """TLS 1.1 is refused; a client that does not know the authority does not talk to the gateway."""
    context = ssl.create_default_context(cafile=str(gateway_files / "ca.pem"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with httpx.Client(verify=context) as old, pytest.raises(httpx.ConnectError):
        old.get(f"https://{gateway.address}/v2")
    twice = Options(max_attempts=2)
    for protocol in PROTOCOLS:
        trusting = Client(f"{protocol}://{gateway.address}", model=TINY, token=gateway.token, options=twice)
        with trusting as client, pytest.raises(Unavailable):
            client.embed([PHOTO])


@pytest.mark.long
def test_triton_is_replaced(front, connect, http, stub, metadata):
    """Without Triton clients hear UNAVAILABLE; another container in its place is found, without a new gateway.

    The new one keeps statistics for whoever has the operator's key, and that key does not pass the gateway.
    """
    key, path = "an-operators-own-key", f"/v2/models/{POOLED}/stats"
    options = ("http-restricted-api", "grpc-restricted-protocol")
    began = front.inspect("gateway")["State"]["StartedAt"]
    front.compose("stop", "triton")
    for protocol in PROTOCOLS:
        with pytest.raises(Unavailable, match="gateway") as caught:
            connect(protocol).embed([PHOTO], timeout_s=15.0)
        assert (caught.value.status, caught.value.attempts > 1) == ("UNAVAILABLE", True)
    front.env["TRITON_ARGS"] = " ".join(f"--{name}=statistics:admin-key={key}" for name in options)
    try:
        front.up("triton")
        for protocol in PROTOCOLS:
            assert len(connect(protocol).embed([PHOTO])) == 1
        assert front.inspect("gateway")["State"]["StartedAt"] == began
        assert httpx.get(f"http://{front.address('http')}{path}", headers={"admin-key": key}).status_code == 200
        answer = http.get(path, headers={"admin-key": key})
        assert (answer.status_code, "restricted" in answer.text) == (403, True)
        with_key = [("triton-grpc-protocol-admin-key", key)]
        with grpc.insecure_channel(front.address("grpc")) as channel:
            direct = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert direct.ModelStatistics(GRPC_PASSES["ModelStatistics"], metadata=with_key, timeout=30).model_stats
        with pytest.raises(grpc.RpcError, match="restricted"):
            stub.ModelStatistics(GRPC_PASSES["ModelStatistics"], metadata=[*metadata, *with_key], timeout=30)
    finally:
        front.env.pop("TRITON_ARGS")
        front.up("triton")
