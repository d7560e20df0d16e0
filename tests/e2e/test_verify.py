"""`vitriton verify` on a running server."""

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import awkward, checkpoints
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportOptions, export_model
from vitriton_server import TritonServer

STAGES = ["pixels", "embedding", "last_hidden_state", "embedding alone", "last_hidden_state alone"]


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


@contextmanager
def gateway(target, closed):
    """A gateway before Triton's HTTP endpoint that lets nobody at paths which hold `closed`; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._pass_on(None)

        def do_POST(self):
            self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _pass_on(self, body):
            if closed in self.path:
                self._answer(403, b'{"error": "not for you"}', {})
                return
            connection = http.client.HTTPConnection(target, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            reply = connection.getresponse()
            content = reply.read()
            passed = {name: value for name, value in reply.getheaders() if name.lower() != "content-length"}
            connection.close()
            self._answer(reply.status, content, passed)

        def _answer(self, status, content, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_served_model_is_within_its_gates(small_server, small_models, scheme):
    """Every stage, the pixels from the preprocess step itself, on the built-in images."""
    address = small_server.grpc_address if scheme == "grpc" else small_server.http_address
    done = run("--url", f"{scheme}://{address}", "--model", "tiny-deit", "--reference", small_models["tiny-deit"])
    assert done.exit_code == 0, done.output
    for text in (*STAGES, "25 of 25 images compared", f"tiny-deit on the server at {scheme}://{address}"):
        assert text in done.stdout


def test_bad_images_are_listed(small_server, small_models, tmp_path):
    """What the server would refuse is named with its reason, and the rest is compared."""
    for name, data in list(awkward.taken().items())[:10]:
        (tmp_path / name).write_bytes(data)
    for name, file in list(awkward.refused().items())[:10]:
        (tmp_path / f"{name}.jpg").write_bytes(file.data)
    url = small_server.grpc_address
    done = run("--url", url, "tiny-dinov2", "--reference", small_models["tiny-dinov2"], "--images", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["images"] == {"given": 20, "compared": 10, "unusable": 10}
    assert {"image": "empty.jpg", "reason": "empty (0 bytes)"} in report["unusable"]
    assert [stage["stage"] for stage in report["stages"]] == STAGES


def test_a_preprocess_step_that_cannot_be_asked_is_skipped(small_server, small_models):
    """Where a gateway lets clients at the ensembles alone, the report says so and compares the rest."""
    with gateway(small_server.http_address, "tiny-deit_preprocess") as address:
        arguments = ("--url", f"http://{address}", "tiny-deit", "--reference", small_models["tiny-deit"])
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert [stage["stage"] for stage in report["stages"]] == STAGES[1:]
        assert [entry["stage"] for entry in report["skipped"]] == ["pixels"]
        reason = "the server does not serve tiny-deit_preprocess to this client"
        assert reason in report["skipped"][0]["reason"]
        assert f"pixels: skipped, {reason}" in run(*arguments).stdout


def test_another_checkpoint_is_no_reference(small_server, tmp_path):
    """A server tells no hash of the weights, but its fingerprint is another."""
    other = checkpoints.tiny_vit(tmp_path / "other")
    done = run("--url", small_server.grpc_address, "--model", "tiny-deit", "--reference", other)
    assert done.exit_code == 1
    assert (
        "is not the checkpoint of tiny-deit, which was exported from tiny-deit: the preprocessing is another"
        in done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "has several models; choose one with --model: tiny-deit, tiny-dinov2"),
        (["nix"], 1, "does not have model nix; it has: tiny-deit, tiny-dinov2"),
        (["tiny-deit"], 1, "was exported from a folder called tiny-deit"),
    ],
)
def test_what_is_missing_is_said(small_server, arguments, code, message):
    """One line, and exit code 1 for what only the server knows."""
    done = run("--url", small_server.grpc_address, *arguments)
    assert done.exit_code == code
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Import torch" not in done.stderr


@pytest.mark.long
def test_what_an_export_was_told_is_known_of_the_served_model(tiny_vit_checkpoint, tmp_path):
    """Another size of image and a moved gate come from the server: neither is a difference from the reference."""
    told = ExportOptions(
        model=str(tiny_vit_checkpoint),
        repository=tmp_path / "r",
        name="m",
        image_size=64,
        precision="int8",
        min_cosine=0.9,
    )
    export_model(told)
    with TritonServer(tmp_path / "r") as server:
        done = run("--url", server.grpc_address, "--reference", tiny_vit_checkpoint, "--json")
    assert done.exit_code == 0, done.output
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert "0.9" in stages["embedding"]["gate"]
    assert stages["pixels"]["max_abs_error"] == 0
