"""`vitriton embed` is interrupted, at any moment and in any way: nothing is lost, nothing is doubled."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from client.conftest import write_model
from support.commands import MAIN
from support.steps import EMBED, go_on, start
from typer.testing import CliRunner
from vitriton import Client, ContractMismatch, TransportError
from vitriton._console.inputs import Inputs
from vitriton._console.signals import Signals, Stopped
from vitriton.cli import app
from vitriton.commands.embed.embedding import Embedding
from vitriton.commands.embed.inputs import BulkImages
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import Outcome, WorkFolder
from vitriton.testing import CallError, Code, FakeTransport

# A commit after each result, so that there are many moments to interrupt.
RUN_IN_SMALL_COMMITS = f"import vitriton.commands.embed.embedding as e; e._COMMIT_EVERY_S = 0; {MAIN}"


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton of this module's own, with the model `tiny`."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=4)
    write_model(repository, "tiny_unpooled", fingerprint="space-1", max_batch_size=4)
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def folder(tmp_path, files, monkeypatch):
    """Twenty pictures, of which one is bad, and the last four take their time; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, data in enumerate(files):
        slow = index >= 16
        (photos / f"{index:02}.png").write_bytes(b"sleep:0.5" if slow else b"nonsense" if index == 5 else data)
    return tmp_path


def command(address, output, *options):
    return ["embed", "--url", address, "--model", "tiny", "photos", "-o", str(output), *options]


def run(address, output, *options):
    return CliRunner().invoke(app, command(address, output, *options))


def contents(folder):
    """All that a run has left, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def undisturbed(server, folder):
    """What a run leaves that nothing interrupts."""
    (folder / "whole").mkdir()
    assert run(server.grpc_address, "whole/out.npy").exit_code == 3
    return contents(folder / "whole")


@pytest.mark.parametrize("images", [6, *(pytest.param(each, marks=pytest.mark.long) for each in (1, 12))])
def test_killed(server, folder, undisturbed, images):
    """After kill -9 the same command goes on, and its files are those of a run that nothing interrupted."""
    (folder / "cut").mkdir()
    output = folder / "cut" / "out.npy"
    with start(EMBED, command(server.grpc_address, output)) as process:
        go_on(process, images)
        process.kill()
    assert not output.exists()
    result = run(server.grpc_address, output, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["done_before"] >= images
    assert contents(folder / "cut") == undisturbed
    assert {path.name for path in (folder / "cut").iterdir()} == set(undisturbed)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(server, folder, undisturbed, number, exit_code):
    """Ctrl-C ends it quietly; it says what is safe and how to go on, and so it does."""
    (folder / "cut").mkdir()
    output = folder / "cut" / "out.npy"
    with start(EMBED, command(server.grpc_address, output)) as process:
        go_on(process, 8)
        process.send_signal(number)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert shown in ("", "9\n")  # of the next commit: the command itself prints nothing
    assert errors.startswith("interrupted; ")
    assert errors.endswith(f"of 20 images are done and saved in {output}.partial; repeat the command to continue\n")
    assert errors.count("\n") == 1
    assert run(server.grpc_address, output).exit_code == 3
    assert contents(folder / "cut") == undisturbed


def test_server_ends_in_the_middle(server, folder, undisturbed, tmp_path_factory):
    """When the server is gone for longer than a request may take, the run ends, and another server goes on with it."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("other")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=4)
    (folder / "cut").mkdir()
    output = folder / "cut" / "out.npy"
    with (
        TritonServer(repository, exit_timeout_s=0) as other,
        start(EMBED, command(other.grpc_address, output, "--timeout", "10")) as process,
    ):
        go_on(process, 8)
        os.kill(other.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    # A slow machine shows its progress beside.
    *_, warning, error = [line for line in errors.splitlines() if line.startswith(("warning: ", "error: "))]
    assert warning.startswith(f"warning: the server at grpc://{other.grpc_address} is down: ")
    since = rf"error: the server at grpc://{other.grpc_address} stopped answering at [\d:]{{8}}, [\d.]+ s ago; "
    assert re.match(since, error), error
    assert error.endswith(f"of 20 images are done and saved in {output}.partial; repeat the command to continue")
    assert run(server.grpc_address, output).exit_code == 3
    assert contents(folder / "cut") == undisturbed


@pytest.mark.parametrize("limit", [700, *(pytest.param(each, marks=pytest.mark.long) for each in (200, 1200))])
def test_full_disk(server, folder, undisturbed, limit):
    """A disk that takes no more ends the run with one clear line; with more room it goes on."""
    (folder / "cut").mkdir()
    output = folder / "cut" / "out.npy"
    # Stands in for a full disk: writing past it fails in the same place.
    small_files = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    run_on_it = [sys.executable, "-c", f"{small_files}; {RUN_IN_SMALL_COMMITS}", *command(server.grpc_address, output)]
    result = subprocess.run(run_on_it, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "File too large" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not output.exists()
    assert run(server.grpc_address, output).exit_code == 3
    assert contents(folder / "cut") == undisturbed


# In each of many children, in a copy of a folder, it kills itself at another step of the work that must survive.
CRASHES = """
import os, shutil, signal, sys, threading
import numpy, httpx, rich.progress, typer
import vitriton._client, vitriton._wire.http, vitriton.commands.embed.run, vitriton.cli

STEPS = {"write", "truncate", "fsync", "mkdir", "replace", "unlink", "rmdir", "flock"}
FILES = ("/journal.py", "/outputs.py", "/pathlib.py", "/shutil.py")

def child(arguments, kill_at):
    seen = 0
    def count(frame, event, function):
        nonlocal seen
        if event == "c_call" and function.__name__ in STEPS and frame.f_code.co_filename.endswith(FILES):
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    sys.argv = ["vitriton", *arguments]
    import vitriton.commands.embed.embedding as embedding
    embedding._COMMIT_EVERY_S = 0
    sys.setprofile(count if kill_at is not None else None)
    code = 99
    try:
        vitriton.cli.main()
    except SystemExit as exc:
        code = exc.code
    finally:
        sys.setprofile(None)
        os._exit(code)

assert threading.active_count() == 1
folder, template, every, *arguments = sys.argv[1:]
for kill_at in range(0, 10000, int(every)):
    shutil.copytree(template, f"{folder}/{kill_at}")
    options = [*arguments, "-o", f"{folder}/{kill_at}/out.npy", "-q"]
    status = child(options, kill_at)
    if not os.WIFSIGNALED(status):
        print("steps", kill_at, "exit", os.waitstatus_to_exitcode(status))
        break
    print(kill_at, "exit", os.waitstatus_to_exitcode(child(options, None)))
"""


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_step(server, folder, every):
    """Killed before each single write, sync, rename and removal in turn, the same command finishes the same files.

    Only where the last of them was already in its place does it say so instead, as of any finished output.
    """
    for index in (*range(3), *range(6, 20)):  # three are left, one of them bad
        (folder / "photos" / f"{index:02}.png").unlink()
    for name in ("runs", "empty"):
        (folder / name).mkdir()
    address = f"http://{server.http_address}"  # a process with gRPC in it cannot be forked
    arguments = ["embed", "--url", address, "--model", "tiny", "photos"]
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(folder / "runs"), "empty", str(every), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    *crashed, last = done.stdout.splitlines()
    assert last.endswith("exit 3"), (done.stdout, done.stderr)
    assert len(crashed) > 30 / every
    whole = contents(folder / "runs" / last.split()[1])
    assert set(whole) == {"out.npy", "out.sources.jsonl", "out.npy.errors.jsonl"}
    for line in crashed:
        assert contents(folder / "runs" / line.split()[0]) == whole, (line, done.stderr)
    exit_codes = [line.split()[-1] for line in crashed]
    assert set(exit_codes) <= {"2", "3"}
    assert exit_codes == sorted(exit_codes, reverse=True)
    assert exit_codes.count("2") < 12


JOB = Job(model="m", fingerprint="f", pool=True, shape=(2,), inputs=9, inputs_sha256="0")
IMAGES = BulkImages(Inputs(["data:,x"] * 9))


def test_two_at_a_time(server, folder):
    """A second run of the same output is refused while the first is running."""
    with WorkFolder(folder / "out.npy.partial") as work:
        work.begin(JOB)
        result = run(server.grpc_address, "out.npy")
    assert result.exit_code == 1
    assert "another run is writing to out.npy.partial" in result.stderr
    assert "begun with --model m, and this command has --model tiny" in run(server.grpc_address, "out.npy").stderr
    assert run(server.grpc_address, "out.npy", "--no-resume").exit_code == 3


def test_a_folder_of_somebody_else(server, folder):
    """A folder that only has the name of a work folder is left alone."""
    (folder / "out.npy.partial").mkdir()
    (folder / "out.npy.partial" / "diary.txt").touch()
    result = run(server.grpc_address, "out.npy")
    assert result.exit_code == 1
    assert "out.npy.partial is in the way" in result.stderr
    assert (folder / "out.npy.partial" / "diary.txt").exists()


def test_the_only_model_need_not_be_named(server, folder):
    """Where a server has one model, that is the one."""
    result = CliRunner().invoke(
        app, ["embed", "--url", server.grpc_address, "photos/00.png", "-o", "out.npy", "--json"]
    )
    assert (result.exit_code, json.loads(result.stdout)["model"]) == (0, "tiny")


def test_what_waits_for_a_commit_is_saved(tmp_path):
    """A run that is interrupted between two commits commits what it has."""
    transport = FakeTransport(parameters={"fingerprint": "f"}, dim=2, max_batch_size=1)

    def advance(*, failed):
        if len(advanced) == 4:
            raise Stopped(signal.SIGINT)
        advanced.append(failed)

    advanced = []
    make_client = partial(Client, "fake", model="m", transport=transport)
    with WorkFolder(tmp_path / "work") as work, Signals() as signals, make_client() as client:
        work.begin(JOB)
        with pytest.raises(Stopped):
            Embedding(work, JOB, IMAGES, make_client, signals, advance).run(client)
        assert work.done == 5


@pytest.mark.parametrize(
    ("answers", "says"), [(3, "grpc://fake:8001 stopped answering at "), (0, "is over; raise timeout_s")]
)
def test_a_server_that_falls_silent(tmp_path, answers, says):
    """More time is advice only for a server that never answered; of another, it is said when it stopped."""

    class InMemory(BulkImages):
        """Images that need no reading: their requests are sent in their order."""

        def stream(self, client, first, *, pool):
            return client.stream([b"x"] * (self.total - first), pool=pool, on_error="return")

    images = InMemory(Inputs(["data:,x"] * 9))
    silent = [CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")] * 9
    transport = FakeTransport(
        parameters={"fingerprint": "f"}, dim=2, max_batch_size=1, faults=[*[None] * answers, *silent]
    )
    make_client = partial(Client, "fake", model="m", transport=transport)
    with WorkFolder(tmp_path / "work") as work, Signals() as signals, make_client() as client:
        work.begin(JOB)
        with pytest.raises(TransportError, match=says):
            Embedding(work, JOB, images, make_client, signals, lambda *, failed: None).run(client)
        assert work.done == answers


def test_another_export_in_the_middle(tmp_path, monkeypatch):
    """A model that is replaced while a run is on ends it before anything of the new one is kept."""
    monkeypatch.setattr("vitriton.commands.embed.embedding._COMMIT_EVERY_S", math.inf)
    transport = FakeTransport(parameters={"fingerprint": "f"}, dim=2, max_batch_size=1)
    seen = 0

    def advance(*, failed):
        nonlocal seen
        seen += 1
        if seen == 5:
            transport.parameters["fingerprint"] = "g"

    job = Job(**{**JOB.__dict__, "inputs": 9})
    with (
        WorkFolder(tmp_path / "work") as work,
        Signals() as signals,
        Client("fake", model="m", transport=transport) as client,
    ):
        work.begin(job)
        work.commit([Outcome(0, np.zeros(2, np.float32), None)])
        embedding = Embedding(work, job, IMAGES, lambda: client, signals, advance)
        with pytest.raises(ContractMismatch):
            embedding.run(client)
        assert work.done == 1
