"""`vitriton models`: what a real server serves, for people and for programs."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from client.conftest import write_model
from rich.console import Console
from support.commands import MAIN
from typer.testing import CliRunner
from vitriton import AccessDenied, DeadlineExceeded, ModelNotFound, Unavailable, list_models
from vitriton._console.server import ServerOptions
from vitriton._deadline import Deadline
from vitriton._served.catalog import read_catalog, wait_for_catalog
from vitriton._wire.connect import connect
from vitriton.cli import app
from vitriton.commands.models import _show

PARAMETERS = {
    "model": "org/checkpoint",
    "revision": "abc123",
    "pooling": "cls",
    "l2_normalize": "true",
    "precision": "fp32",
    "fingerprint": "0123456789abcdef" * 4,
}

HALF = """
platform: "ensemble"
max_batch_size: 8
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling {
  step {
    model_name: "half_preprocess"
    model_version: -1
    input_map { key: "image" value: "image" }
    output_map { key: "embedding" value: "embedding" }
  }
}
"""


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton with a good model, some that are not, and one of another kind; over HTTP it keeps its index secret."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    for name in ("good_pooled", "good_unpooled", "broken_pooled", "half_preprocess", "resnet", "odd_pooled"):
        write_model(repository, name)
    for name in ("good_pooled", "good_unpooled"):
        with (repository / name / "config.pbtxt").open("a") as file:
            file.writelines(
                f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
                for key, value in PARAMETERS.items()
            )
    (repository / "half_pooled" / "1").mkdir(parents=True)
    (repository / "half_pooled" / "config.pbtxt").write_text(HALF)
    for name in ("broken_pooled", "half_preprocess"):
        (repository / name / "1" / "model.py").write_text("raise ValueError('the weights are gone')")
    odd = repository / "odd_pooled" / "config.pbtxt"
    odd.write_text(odd.read_text().replace('"image"', '"text"'))
    arguments = [
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--http-restricted-api=model-repository:admin-key=secret",
    ]
    with TritonServer(repository, triton_arguments=arguments) as running:
        yield running


def run(*arguments):
    return CliRunner().invoke(app, ["models", *arguments])


def document(*arguments):
    result = run("--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_for_programs(server):
    """--json has everything of a loaded model, under keys that stay."""
    found = document("--url", server.grpc_address)
    assert found["address"] == f"grpc://{server.grpc_address}"
    assert found["server"] == {"name": "triton", "version": server.version}
    assert found["listed"] is True
    assert [(model["name"], model["ready"]) for model in found["models"]] == [
        ("broken", False),
        ("good", True),
        ("half", False),
    ]
    common = {
        "ready": True,
        "state": "READY",
        "reason": "",
        "datatype": "FP32",
        "max_batch_size": 8,
        "source_model": "org/checkpoint",
        "revision": "abc123",
        "precision": "fp32",
        "fingerprint": PARAMETERS["fingerprint"],
    }
    pooled = {"kind": "pooled", "model": "good_pooled", "tensor": "embedding", "shape": [4]}
    unpooled = {"kind": "unpooled", "model": "good_unpooled", "tensor": "last_hidden_state", "shape": [3, 4]}
    assert found["models"][1]["outputs"] == [
        {**common, **pooled, "pooling": "cls", "l2_normalize": True},
        {**common, **unpooled, "pooling": None, "l2_normalize": None},
    ]
    assert [other["name"] for other in found["others"]] == ["odd_pooled", "resnet"]


def test_models_that_failed_to_load(server):
    """Why a model is not there is said: the ensemble's own reason, and its step's."""
    broken, _, half = document("--url", server.grpc_address)["models"]
    assert broken["outputs"][0]["ready"] is False
    assert broken["outputs"][0]["state"] == "UNAVAILABLE"
    assert "the weights are gone" in broken["outputs"][0]["reason"]
    assert broken["outputs"][0]["shape"] is None
    assert "half_preprocess" in half["outputs"][0]["reason"]
    assert "the weights are gone" in half["outputs"][0]["reason"]


def test_for_people(server):
    """Each output has a line, with the whole fingerprint in a pipe; all else is on standard error."""
    result = run("--url", server.grpc_address)
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.startswith("MODEL\tOUTPUT\tSTATE\t")
    assert {line.count("\t") for line in lines} == {head.count("\t")}
    whole = "0123456789abcdef" * 4
    pooled = f"good pooled READY 4 FP32 fp32 cls yes 8 {whole} org/checkpoint"
    unpooled = f"good unpooled READY 3x4 FP32 fp32 - - 8 {whole} org/checkpoint"
    assert {"\t".join(row.split()) for row in (pooled, unpooled)} <= set(lines)
    first, *told, last = result.stderr.splitlines()
    assert first == f"triton {server.version} at grpc://{server.grpc_address}"
    assert any(line.startswith("broken_pooled: ") and "the weights are gone" in line for line in told)
    assert last == "2 models of other kinds are not listed (--all lists them)."
    assert "other: resnet READY" in run("--url", server.grpc_address, "--all").stdout


def test_a_fingerprint_that_is_cut_shows_it(server, monkeypatch, capsys):
    """On a terminal, whose lines are short."""
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: True))
    monkeypatch.setenv("COLUMNS", "200")
    with closing(connect(server.grpc_address)[0]) as transport:
        _show(read_catalog(transport, 60.0), show_all=False)
    assert "  0123456789ab…  " in capsys.readouterr().out


def test_a_shell_completes_their_names(server):
    """Those that begin with what was typed."""
    variables = {"_VITRITON_COMPLETE": "complete_bash", "COMP_CWORD": "5"}
    patient = "import vitriton._console.completion as completion; completion._ANSWER_S = 60.0"
    line = [sys.executable, "-c", f"import sys; sys.argv[0] = 'vitriton'; {patient}; {MAIN}"]
    for typed, names in (("g", ["good"]), ("", ["broken", "good", "half"])):
        words = f"vitriton embed --url {server.grpc_address} --model {typed}"
        env = {**os.environ, **variables, "COMP_WORDS": words}
        result = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
        assert (result.returncode, result.stdout.split()) == (0, names)


def test_one_model(server):
    """--model shows that one alone; a name that the server does not have is an error that says what it has."""
    assert [model["name"] for model in document("--url", server.grpc_address, "--model", "good")["models"]] == ["good"]
    unknown = run("--url", server.grpc_address, "--model", "goood")
    assert unknown.exit_code == 1
    assert unknown.stderr.count("\n") == 1
    assert "does not have model goood; it has: broken, good, half, odd" in unknown.stderr


def test_a_server_that_keeps_its_index_secret(server):
    """It is said, and a model can be asked for by its name; the key in a header opens the index."""
    url = f"http://{server.http_address}"
    assert document("--url", url) == {
        "address": url,
        "server": {"name": "triton", "version": server.version},
        "listed": False,
        "models": [],
        "others": [],
    }
    assert "does not list its models; name one with --model" in run("--url", url).stderr
    found = document("--url", url, "--model", "good")
    assert [output["kind"] for output in found["models"][0]["outputs"]] == ["pooled", "unpooled"]
    unknown = run("--url", url, "--model", "goood")
    assert unknown.exit_code == 1
    assert "no model goood that is ready" in unknown.stderr
    opened = document("--url", url, "--header", "admin-key: secret")
    assert (opened["listed"], len(opened["models"])) == (True, 3)


@pytest.mark.usefixtures("subprocesses")
def test_nobody_there():
    """No server is one line on stderr."""
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "models", "--url", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no Triton answers at grpc://127.0.0.1:1")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("subprocesses")
def test_a_port_of_another_kind():
    """Where a TLS handshake fails, gRPC's own log lines are not mixed into the command's error."""

    def talk_nonsense():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=talk_nonsense, daemon=True).start()
        address = f"grpcs://127.0.0.1:{listening.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-c", MAIN, "models", "--url", address, "--timeout", "10"],
            capture_output=True,
            text=True,
            timeout=60,
            env={name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"},
        )
        listening.shutdown(socket.SHUT_RDWR)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: no Triton answers at {address}")
    assert result.stderr.count("\n") == 1, result.stderr


def test_usage():
    """Wrong options are usage errors."""
    for arguments in (["--timeout", "0"], ["--url", "ftp://x"], ["--url", "a:1,b:1"]):
        assert run(*arguments).exit_code == 2


def test_list_models(server):
    """A program gets what the command shows, as objects, from the first of the servers that answers."""
    broken, good, half = list_models([f"grpc://{server.grpc_address}"])
    assert (broken.name, broken.ready, broken.fingerprint, broken.limits) == ("broken", False, None, None)
    assert "the weights are gone" in broken.outputs[0].reason
    assert half.unpooled is None
    assert (good.name, good.ready, good.addresses) == ("good", True, (f"grpc://{server.grpc_address}",))
    assert (good.source, good.revision, good.precision) == ("org/checkpoint", "abc123", "fp32")
    assert (good.pooling, good.l2_normalize, good.max_batch_size) == ("cls", True, 8)
    assert good.fingerprint == good.parameters["fingerprint"] == PARAMETERS["fingerprint"]
    assert (good.pooled.shape, good.unpooled.shape, good.pooled.dtype) == ((4,), (3, 4), "float32")
    (same,) = list_models(f"127.0.0.1:1,{server.grpc_address}", models=["good"])
    assert same == good


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_silent_server_leaves_time_for_the_next(server, scheme, caplog):
    """One that takes the connection and says nothing has a part of the time; alone, it is named with what to check."""
    real = f"{scheme}://{server.grpc_address if scheme == 'grpc' else server.http_address}"
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        silent, other = (f"{scheme}://127.0.0.1:{each.getsockname()[1]}" for each in (first, second))
        assert [model.name for model in list_models([silent, real], models=["good"], timeout_s=20)] == ["good"]
        transports = ServerOptions(address=f"{silent},{real},{other}").transports()
        assert wait_for_catalog(transports, Deadline.after(24)).address == real
        assert caplog.messages == []
        with pytest.raises(
            (Unavailable, DeadlineExceeded), match=rf"{silent} .*check that it runs, (and )?that this is"
        ):
            list_models(silent, timeout_s=1)
        with pytest.raises((Unavailable, DeadlineExceeded)):
            wait_for_catalog(transports[::2], Deadline.after(6))
        assert f"{other} is down: " in caplog.messages[0]
    for transport in transports:
        transport.close()


def test_list_models_of_a_server_that_keeps_its_index_secret(server):
    """It is an error, and no empty list; a model can be had by its name, or the index with the key."""
    with pytest.raises(AccessDenied, match="does not list its models"):
        list_models(f"http://{server.http_address}")
    assert [model.name for model in list_models(f"http://{server.http_address}", models=["good"])] == ["good"]
    assert len(list_models(f"http://{server.http_address}", headers={"admin-key": "secret"})) == 3


def test_list_models_says_what_is_wrong(server):
    """A name that is not there, an argument that cannot be used, and nobody who answers."""
    with pytest.raises(ModelNotFound, match="does not have model goood; it has: broken, good"):
        list_models(server.grpc_address, models=["goood"])
    with pytest.raises(ValueError, match="timeout_s is 0"):
        list_models(server.grpc_address, timeout_s=0)
    with pytest.raises(Unavailable):
        list_models("127.0.0.1:1")


def test_from_a_transport(server):
    """The other distributions ask by way of a transport."""
    (transport,) = ServerOptions(address=server.grpc_address).transports()
    catalog = read_catalog(transport, 60)
    assert catalog.models[1].fingerprint == PARAMETERS["fingerprint"]
    transport.close()
    (nobody,) = ServerOptions(address="127.0.0.1:1").transports()
    with pytest.raises(Unavailable):
        read_catalog(nobody, 5)
    nobody.close()
