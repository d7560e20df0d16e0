"""What somebody can do who is inside of the container, or reaches its ports."""

from __future__ import annotations

import contextlib
import http.client
import json

import pytest
import tritonclient.grpc as triton
from compose.conftest import MODEL
from tritonclient.utils import InferenceServerException

# Triton's paths, without /v2/
OPEN = ["", "health/ready", f"models/{MODEL}_pooled/config", f"models/{MODEL}_pooled/stats"]
RESTRICTED = ["trace/setting", "logging", "systemsharedmemory/status", "cudasharedmemory/status"]
CHANGES = {
    "trace/setting": {"trace_level": ["TIMESTAMPS"]},
    f"models/{MODEL}_pooled/trace/setting": {"trace_level": ["TIMESTAMPS"]},
    "logging": {"log_verbose_level": 1},
    "systemsharedmemory/region/mine/register": {"key": "/mine", "offset": 0, "byte_size": 64},
    "systemsharedmemory/unregister": {},
    "cudasharedmemory/region/mine/register": {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 64},
}


def ask(stack, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    """A request to Triton's HTTP: status and body."""
    with contextlib.closing(http.client.HTTPConnection(stack.address("http"), timeout=30)) as connection:
        text = None if body is None else json.dumps(body)
        connection.request(method, f"/v2/{path}".rstrip("/"), body=text, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def grpc(stack):
    """A client of Triton's gRPC."""
    with triton.InferenceServerClient(stack.address("grpc")) as client:
        yield client


@pytest.mark.parametrize("service", ["triton"])
def test_inside(stack, service):
    """Not root, no capabilities, no way to get any, and nothing to write to but temporary folders and shared memory."""
    status = stack.execute(service, "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"1000"}
    assert set(fields["Gid"].split()) == {"1000"}
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    for folder in ("/", "/data", "/data/models", "/opt/vitriton", "/var/cache/vitriton", "/run/secrets"):
        refused = stack.execute(service, "touch", f"{folder}/mine", check=False)
        assert refused.returncode, folder
        assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr
    stack.execute(service, "touch", "/tmp/mine")
    stack.execute(service, "touch", "/var/tmp/mine")
    stack.execute(service, "rm", "/var/tmp/mine")


def test_the_environment_has_no_secret(stack):
    """Neither of the engine's list of variables nor of the processes'."""
    for service in ("export", "triton"):
        for entry in stack.inspect(service)["Config"]["Env"]:
            name = entry.partition("=")[0]
            assert name == "HF_TOKEN_PATH" or not any(word in name for word in ("TOKEN", "KEY", "SECRET", "PASSWORD"))


@pytest.mark.parametrize("path", OPEN)
def test_what_clients_read_is_open(stack, path):
    """Metadata, readiness, configuration and statistics."""
    assert ask(stack, "GET", path)[0] == 200


def test_the_index_is_open(stack, grpc):
    """`vitriton models` and the client's errors are made of it."""
    assert ask(stack, "POST", "repository/index", {})[0] == 200
    assert f"{MODEL}_pooled" in {entry.name for entry in grpc.get_model_repository_index().models}


@pytest.mark.parametrize("path", RESTRICTED)
def test_administration_cannot_be_read(stack, path):
    """Trace settings, log settings and shared-memory regions are not told to whoever has no key."""
    status, text = ask(stack, "GET", path)
    assert (status, "restricted" in text) == (403, True)
    assert ask(stack, "GET", path, **{"admin-key": "guessed-guessed-guessed"})[0] == 403


@pytest.mark.parametrize("path", CHANGES)
def test_administration_cannot_be_changed(stack, path):
    """Nor changed."""
    status, text = ask(stack, "POST", path, CHANGES[path])
    assert (status, "restricted" in text) == (403, True)


@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_are_not_changed_from_outside(stack, grpc, action):
    """Loading, with files of one's own too, and unloading are refused over HTTP; the models are as before."""
    config = {"parameters": {"config": "{}", "file:1/model.py": "aW1wb3J0IG9z"}}
    for name in (f"{MODEL}_pooled", "mine"):
        status, text = ask(stack, "POST", f"repository/models/{name}/{action}", config)
        assert (status, "not allowed" in text) == (503, True)
    with pytest.raises(InferenceServerException, match="not allowed"):
        getattr(grpc, f"{action}_model")(f"{MODEL}_pooled")
    assert ask(stack, "GET", f"models/{MODEL}_pooled/ready")[0] == 200
    assert ask(stack, "GET", "models/mine/ready")[0] == 400


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_trace_settings(),
        lambda client: client.update_trace_settings(settings={"trace_level": "TIMESTAMPS"}),
        lambda client: client.get_log_settings(),
        lambda client: client.update_log_settings({"log_verbose_level": 1}),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("mine", "/mine", 64),
        lambda client: client.unregister_system_shared_memory(),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("mine", b"", 0, 64),
    ],
    ids=range(9),
)
def test_administration_over_grpc(grpc, call):
    """The same over gRPC."""
    with pytest.raises(InferenceServerException, match="restricted"):
        call(grpc)


@pytest.mark.long
def test_the_hub_s_token(small, tmp_path):
    """The hub's library finds what is in HF_TOKEN_FILE, and nothing where there is no file of one's own."""
    ask_library = ("python3", "-c", "import huggingface_hub; print(huggingface_hub.get_token())")
    command = ("run", "--rm", "--no-deps", "--no-TTY", "export", *ask_library)
    assert small.compose(*command).stdout.strip() == "None"
    token = tmp_path / "token"
    token.write_text("hf_0123456789\n")
    token.chmod(0o644)
    small.env["HF_TOKEN_FILE"] = str(token)
    assert small.compose(*command).stdout.strip() == "hf_0123456789"
    assert "hf_0123456789" not in small.compose("config").stdout
    del small.env["HF_TOKEN_FILE"]


@pytest.mark.long
def test_the_operator_s_key(small, tmp_path):
    """Whoever has the key of ADMIN_KEY_FILE may change log settings, over both protocols; it is no variable."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef+/=\n")
    key.chmod(0o644)
    small.env["ADMIN_KEY_FILE"] = str(key)
    small.up()
    assert ask(small, "GET", "logging")[0] == 403
    assert ask(small, "GET", "logging", **{"admin-key": key.read_text().strip()})[0] == 200
    with triton.InferenceServerClient(small.address("grpc")) as client:
        headers = {"triton-grpc-protocol-admin-key": key.read_text().strip()}
        assert client.update_log_settings({"log_verbose_level": 1}, headers=headers) is not None
    assert key.read_text().strip() not in str(small.inspect("triton")["Config"])
    del small.env["ADMIN_KEY_FILE"]
    small.up()
