"""`vitriton serve` as a person and a service manager use it."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from server.launcher import READY, Launcher, command
from server.processes import children, is_running, shared_memory, wait_until
from server.tiny_models import add_encoder, add_ensemble, copy_repository, make_broken_repository

pytestmark = pytest.mark.usefixtures("subprocesses")

LOGGED = re.compile(r"^\s*([IWEF]\d{4} |[+|])", re.MULTILINE)  # a line of Triton's log
PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


def family(launcher: int) -> list[int]:
    """The guard, tritonserver and its stubs."""
    guard = next(iter(children(launcher)))
    server = next(iter(children(guard)))
    return [guard, server, *children(server)]


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGHUP], [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]])
def test_signals_end_it_cleanly(
    numbers: list[signal.Signals], python_repository: Path, work_folder: Path, own_environment: dict[str, str]
) -> None:
    """It prints progress, addresses and models when ready; Ctrl-C, SIGTERM and SIGHUP, also at once, end it with 0."""
    arguments = ["--repository", str(python_repository), *PORTS]
    with Launcher(arguments, {**own_environment, "TMPDIR": str(work_folder)}) as launcher:
        launcher.wait_for(READY)
        assert "loaded tiny_preprocess" in launcher.output
        assert "CudaDriverHelper" not in launcher.output
        with urllib.request.urlopen(f"http://{launcher.address('metrics')}/metrics") as answer:
            assert b"nv_inference_request_success" in answer.read()
        pids = family(launcher.process.pid)
        for number in numbers:
            launcher.process.send_signal(number)
        assert launcher.wait() == 0
        assert not any(is_running(pid) for pid in pids)
        assert not list(work_folder.iterdir())
        assert "Traceback" not in launcher.output


def test_a_signal_while_the_models_load(waiting_repository: Path, own_environment: dict[str, str]) -> None:
    """It ends as cleanly as one that is ready."""
    with Launcher(["--repository", str(waiting_repository), *PORTS, "--verbose"], own_environment) as launcher:
        launcher.wait_for("loading: tiny_preprocess")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 0
        assert READY not in launcher.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("channel", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
@pytest.mark.parametrize("until", ["Loading the models", READY])
def test_a_signal_when_nobody_reads_any_more(
    number: signal.Signals,
    channel: Callable[[], tuple[int, int]],
    until: str,
    python_repository: Path,
    work_folder: Path,
    own_environment: dict[str, str],
) -> None:
    """As `| head -1`, `| tee` that has ended, or a terminal that is closed: the first signal ends it, with 0."""
    read_fd, write_fd = channel()
    arguments = ["--repository", str(python_repository), *PORTS, "--verbose"]
    environment = {**own_environment, "TMPDIR": str(work_folder)}
    with subprocess.Popen(command(arguments), env=environment, stdout=write_fd, stderr=write_fd) as process:
        try:
            os.close(write_fd)
            output = ""
            while until not in output:
                output += os.read(read_fd, 4096).decode()
            os.close(read_fd)
            wait_until(lambda: any(map(children, children(process.pid))), 60, "a tritonserver")
            process.send_signal(number)
            assert process.wait(60) == 0
            assert not list(work_folder.iterdir())
        finally:
            process.kill()


def test_nohup_keeps_sighup_away(python_repository: Path, own_environment: dict[str, str]) -> None:
    """What is started with SIGHUP ignored goes on ignoring it."""
    arguments = ["--repository", str(python_repository), *PORTS]
    with Launcher(arguments, own_environment, ["nohup"]) as launcher:
        launcher.wait_for(READY)
        status = Path(f"/proc/{launcher.process.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored & 1 << (signal.SIGHUP - 1)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 0


def test_nothing_outlives_a_killed_launcher(
    python_repository: Path, work_folder: Path, own_environment: dict[str, str]
) -> None:
    """After kill -9 Triton, its stubs, the temporary folder and the shared memory are gone within seconds."""
    arguments = ["--repository", str(python_repository), *PORTS]
    with Launcher(arguments, {**own_environment, "TMPDIR": str(work_folder)}) as launcher:
        launcher.wait_for(READY)
        pids = family(launcher.process.pid)
        memory = shared_memory(pids[1])
        launcher.process.kill()
        wait_until(lambda: not any(map(is_running, pids)), 60, "the end of all processes")
        assert not list(work_folder.iterdir())
        assert memory
        assert not any(region.exists() for region in memory)


def test_a_dead_stub_makes_it_exit(python_repository: Path, own_environment: dict[str, str]) -> None:
    """When the python step is killed it exits with code 1 and says which model no longer answers."""
    arguments = ["--repository", str(python_repository), *PORTS, "--canary-interval", "0.5"]
    with Launcher(arguments, own_environment) as launcher:
        launcher.wait_for(READY)
        stub = family(launcher.process.pid)[2]
        os.kill(stub, signal.SIGKILL)
        assert launcher.wait() == 1
        found = (
            "tiny_pooled answered 2 requests in a row with an internal error",
            "Python step tiny_preprocess_0_0 has ended",
        )
        assert any(text in launcher.output for text in found)


def test_options_after_the_dashes_reach_triton(python_repository: Path, own_environment: dict[str, str]) -> None:
    """What follows `--` is passed on; --verbose shows the whole log."""
    arguments = ["--repository", str(python_repository), *PORTS, "--verbose", "--", "--id=by-hand"]
    with Launcher(arguments, own_environment) as launcher:
        launcher.wait_for(READY)
        assert "by-hand" in launcher.output
        assert "CudaDriverHelper" in launcher.output or Path("/dev/nvidiactl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--http-port", "70000"], 2, "--http-port is 70000"),
        (["--http-port", "9000", "--grpc-port", "9000"], 2, "must differ"),
        (["--canary-interval", "-1"], 2, "--canary-interval is -1"),
        (["--", "stray"], 2, "'stray' is not an option of tritonserver"),
        (["--", "--http-port=1"], 2, "--http-port cannot be passed on"),
        (["--no-such-option"], 2, "no such option"),
        (["--repository", "/no/such/folder"], 2, "does not exist; make a repository with `vitriton export MODEL"),
        (["--host", "no.such.host.invalid"], 2, "unknown name"),
    ],
)
def test_mistakes_are_told_apart(
    arguments: list[str], code: int, text: str, python_repository: Path, own_environment: dict[str, str]
) -> None:
    """Usage errors exit with 2 and others with 1, each with its text and without a traceback."""
    ports = [] if "--http-port" in arguments else PORTS
    repository = [] if "--repository" in arguments else ["--repository", str(python_repository)]
    with Launcher([*ports, *repository, *arguments], {**own_environment, "COLUMNS": "400"}) as launcher:
        assert launcher.wait() == code
        assert text in launcher.output
        assert "Traceback" not in launcher.output


def test_a_taken_port_is_named(python_repository: Path, own_environment: dict[str, str]) -> None:
    """It says which port of which service is taken before Triton is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--repository", str(python_repository), "--http-port", "0", "--metrics-port", "0"]
        with Launcher([*arguments, "--grpc-port", port], own_environment) as launcher:
            assert launcher.wait() == 1
            assert f"error: port {port} (gRPC) on 127.0.0.1 is taken" in launcher.output
            assert "Triton's log" not in launcher.output


FINGERPRINT = 'parameters { key: "fingerprint" value { string_value: "abc" } }'


@pytest.fixture
def half_deleted(python_repository: Path, tmp_path: Path) -> Path:
    """A repository with one export that is whole and one without its graph."""
    repository = copy_repository(python_repository, tmp_path / "half")
    add_encoder(repository, "half_pooled_encoder", more=FINGERPRINT)
    add_ensemble(repository, "half_pooled", encoder="half_pooled_encoder")
    (repository / "half_pooled_encoder" / "1" / "model.onnx").unlink()
    return repository


def test_a_half_deleted_export_is_named(half_deleted: Path, own_environment: dict[str, str]) -> None:
    """In one line, with what is missing and what to do, before Triton is started."""
    with Launcher(["--repository", str(half_deleted), *PORTS], own_environment) as launcher:
        assert launcher.wait() == 2
        (line,) = (line for line in launcher.output.splitlines() if line.startswith("error: "))
        assert "changed: half_pooled: half_pooled_encoder/1/model.onnx is missing; if the repository was copied" in line
        assert line.endswith("or serve the other models with --skip-broken")


def test_the_others_are_served(half_deleted: Path, own_environment: dict[str, str]) -> None:
    """With --skip-broken; exports are listed with their fingerprints in place of their steps, and the next command."""
    environment = {**own_environment, "COLUMNS": "400"}
    with Launcher(["--repository", str(half_deleted), *PORTS, "--skip-broken"], environment) as launcher:
        launcher.wait_for("Next: ")
        assert "half_pooled in" in launcher.output
        assert "half_pooled_encoder/1/model.onnx is missing; if it was copied here, copy it again;" in launcher.output
        models = [line for line in launcher.output.splitlines() if line.startswith(READY)]
        assert models == ["model    tiny  pooled  abc"]
        assert f"Next: vitriton embed DIR -o vectors.npy --url {launcher.address('gRPC')}\n" in launcher.output
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 0


@pytest.mark.long
def test_broken_models_are_named(tmp_path: Path, own_environment: dict[str, str]) -> None:
    """The reason of each is in one line, and no line of Triton's log."""
    reasons = make_broken_repository(tmp_path)
    with Launcher(["--repository", str(tmp_path), *PORTS], own_environment) as launcher:
        assert launcher.wait() == 1
        (line,) = (line for line in launcher.output.splitlines() if line.startswith("error: "))
        assert all(reason in line for reason in reasons.values())
        assert LOGGED.search(launcher.output) is None


@pytest.mark.parametrize("more", [[], ["--verbose"]])
def test_a_failing_start_is_told_in_our_words(
    more: list[str], python_repository: Path, tmp_path: Path, own_environment: dict[str, str]
) -> None:
    """One line says which model cannot be loaded and why; Triton's own lines are for --verbose."""
    repository = copy_repository(python_repository, tmp_path / "broken")
    add_encoder(repository, "broken")
    (repository / "broken" / "1" / "model.onnx").write_text("this is no graph")
    with Launcher(["--repository", str(repository), *PORTS, *more], own_environment) as launcher:
        assert launcher.wait() == 1
        assert "\nerror: Triton cannot load `broken`: onnxruntime " in launcher.output
        assert (LOGGED.search(launcher.output) is not None) == bool(more)
        assert ("`vitriton serve --verbose` shows Triton's log" in launcher.output) == (not more)
