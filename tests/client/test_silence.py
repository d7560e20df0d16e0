"""What a person sees while nothing happens: a server that does not answer, and a step that takes its time."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton import Client, DeadlineExceeded, Unavailable
from vitriton._console import progress
from vitriton._console.failure import reason
from vitriton.cli import app
from vitriton.testing import CallError, Code, FakeTransport

NOBODY = "127.0.0.1:1"
RETRYING = r"(; retrying for up to \d+ s)?"  # where a second or more is left


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize("what", ["embed", "describe", "wait_ready"])
def test_a_server_that_is_down_is_told_once(scheme: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """With its address, the reason, and for how long it is tried again; not with each of many attempts."""
    with Client(f"{scheme}://{NOBODY}", model="m", timeout_s=2.0) as client:
        calls = {
            "embed": lambda: client.embed([b"an image"]),
            "describe": client.describe,
            "wait_ready": lambda: client.wait_ready(timeout_s=2.0),
        }
        with pytest.raises(Unavailable):
            calls[what]()
    (text,) = _warnings(caplog)
    refused = "Connection refused" if scheme == "grpc" else "failed to connect: 127.0.0.1 port 1: Connection refused"
    assert re.fullmatch(rf"the server at {scheme}://{NOBODY} is down: {refused}{RETRYING}", text)


def test_a_server_that_comes_back_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a failure is as visible as its beginning."""
    refused = [CallError(Code.UNAVAILABLE, "refused") for _ in range(3)]
    with Client("", model="any", transport=FakeTransport(faults=refused)) as client:
        for _ in range(3):
            client.embed([b"an image"])
    first, second = _warnings(caplog)
    assert re.search(r"is down: refused; retrying for up to (60|5\d) s$", first)
    assert second.endswith("answers again")


@pytest.mark.parametrize("model", [["--model", "m"], []])
def test_a_command_says_at_once_that_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: list[str]
) -> None:
    """One line after the first attempt, and the same reason with what to do after the last; with --quiet this alone.

    After three seconds without a sign there would be one more, but the warning is a sign.
    """
    monkeypatch.setattr(progress, "_SILENT_S", 3.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    command = ["embed", "--url", NOBODY, *model, "--timeout", "4", "a.png", "--output", "out.npy"]
    warning, error = CliRunner().invoke(app, command).stderr.splitlines()
    assert re.fullmatch(rf"warning: the server at grpc://{NOBODY} is down: Connection refused{RETRYING}", warning)
    assert error.startswith(
        f"error: no Triton answers at grpc://{NOBODY} (Connection refused); check that it runs (`vitriton "
    )
    assert re.search(r"; tried \d+ times in 4 s \(--timeout\)$", error)
    (alone,) = CliRunner().invoke(app, [*command, "--quiet"]).stderr.splitlines()
    assert alone.startswith("error: ")


def test_a_server_that_never_answered() -> None:
    """It may not run, or need more time: a command cannot tell, and says both in its own words."""
    error = DeadlineExceeded("the time is over; raise timeout_s", timeout_s=2.0, address="grpc://h:8001")
    assert reason(error) == (
        "the server at grpc://h:8001 did not answer a request within 2 s; see whether it runs, or raise --timeout"
    )


def test_a_step_that_takes_its_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a line in a pipe, on standard error; a short one is none, and neither is one that is to be quiet."""
    with progress.step("A short step"):
        pass
    monkeypatch.setattr(progress, "_SILENT_S", 0.05)
    with progress.step("A long step"):
        assert _shown(capsys) == ("", "A long step ...\n")
    with progress.step("A quiet one", quiet=True):
        time.sleep(0.5)
    assert capsys.readouterr() == ("", "")


def test_images_that_take_their_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line comes without a first image."""
    monkeypatch.setattr(progress, "_SILENT_S", 0.05)
    with progress.progress(10, 0, 0, quiet=False):
        assert _shown(capsys) == ("", "0 of 10 images (0%), 0 errors\n")


def _shown(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What is printed next, in whole lines."""
    out, err = capsys.readouterr()
    for _ in range(6000):  # 60 s
        if err.endswith("\n"):
            break
        time.sleep(0.01)
        more = capsys.readouterr()
        out, err = out + more.out, err + more.err
    return out, err
