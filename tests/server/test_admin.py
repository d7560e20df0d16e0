"""The admin key: what it may be, and what is closed without it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from server.launcher import READY, Launcher
from tritonclient.utils import InferenceServerException
from vitriton_server import InvalidConfiguration, TritonServer
from vitriton_server._admin import HEADER, read_key

GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
KEY = "0123456789abcdef+/=="


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    """White space around it does not count."""
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert read_key(path) == KEY


def test_an_empty_file_is_a_key_that_nobody_has(tmp_path: Path) -> None:
    """Another one each time."""
    path = tmp_path / "key"
    path.write_text("\n")
    first, second = read_key(path), read_key(path)
    assert len(first) >= 32
    assert first != second


@pytest.mark.parametrize("key", ["short", "0123456789 abcdef", "0123456789:abcdef", "ü" * 20, b"\xff" * 20])
def test_what_can_be_no_key(tmp_path: Path, key: str | bytes) -> None:
    """It is refused when the server is made, and is not in the message."""
    path = tmp_path.parent / "key"
    path.write_bytes(key if isinstance(key, bytes) else key.encode())
    with pytest.raises(InvalidConfiguration) as caught:
        read_key(path)
    assert "key" in str(caught.value)
    assert str(key) not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is started without it."""
    with pytest.raises(InvalidConfiguration, match="key does not exist"):
        read_key(tmp_path / "key")


@pytest.mark.usefixtures("subprocesses")
def test_administration_needs_the_key(python_repository: Path) -> None:
    """Inference, the index and configuration go on without it; so do canary and readiness."""
    with (
        TritonServer(python_repository, admin_key=KEY) as server,
        triton.InferenceServerClient(server.grpc_address) as client,
    ):
        for call in (client.get_log_settings, client.get_trace_settings, client.get_system_shared_memory_status):
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
            with pytest.raises(InferenceServerException, match="restricted"):
                call(headers={GRPC_HEADER: KEY[:-1]})
            call(headers={GRPC_HEADER: KEY})
        assert client.get_model_repository_index().models
        assert server.is_alive()


@pytest.mark.usefixtures("subprocesses")
def test_the_command(tmp_path: Path, python_repository: Path, own_environment: dict[str, str]) -> None:
    """`--admin-key-file` closes them, and a file that cannot be is wrong usage."""
    path = tmp_path / "key"
    path.write_text(KEY)
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    arguments = ["--repository", str(python_repository), *ports, "--admin-key-file", str(path)]
    own_environment["COLUMNS"] = "300"  # the path of a long folder is not broken into lines
    with Launcher(arguments, own_environment) as launcher:
        launcher.wait_for(READY)
        url = f"http://{launcher.address('HTTP')}/v2/logging"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url)
        with urllib.request.urlopen(urllib.request.Request(url, headers={HEADER: KEY})) as answer:
            assert answer.status == 200
        assert KEY not in launcher.output
    path.unlink()
    with Launcher(arguments, own_environment) as launcher:
        assert launcher.wait() == 2
        assert "--admin-key-file" in launcher.output
