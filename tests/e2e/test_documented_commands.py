"""Every command line of the documentation runs as written.

A document's blocks of shell commands run one after another, in a folder that has what they speak of. A Hugging Face
hub on this machine has small models under the real names. A command that serves runs until the document's end, on free
ports, which stand in for the default ones. A comment before a block, invisible to readers, says why it is not run here:
`<!-- not run: it needs a GPU -->`.

The commands of README.md run with the other tests, and those of all other documents with the long ones. The options in
them are always looked at.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from support import architectures, checkpoints, hub
from typer.core import TyperGroup
from vitriton.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md")))
    if "```sh" in path.read_text()
]
SHORT = {Path("README.md")}
TIMEOUT_S = 600

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?^(?P<indent> *)```sh\n(?P<code>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)
_CALL = re.compile(r"(?:^|[;&|]\s*)(?:\.venv/bin/)?vitriton ((?:[^;&|'\"]|'[^']*'|\"[^\"]*\")+)")


@dataclass(frozen=True)
class Command:
    """A command line of a document.

    Attributes:
        text: the command, without the comment beside it.
        where: the document and the line of the block.
        reason: why the command is not run; empty if it is.
    """

    text: str
    where: str
    reason: str


def commands(document: Path) -> Iterator[Command]:
    """The command lines of a document, in order."""
    text = (ROOT / document).read_text()
    for match in _BLOCK.finditer(text):
        where = f"{document}, line {text.count(chr(10), 0, match.start('code')) + 1}"
        code = _COMMENT.sub("", match["code"]).replace("\\\n", " ")
        for line in filter(None, map(str.strip, code.splitlines())):
            yield Command(line, where, (match["reason"] or "").strip())


def run_commands(found: list[Command], folder: Path, environment: dict[str, str]) -> None:
    """Runs them in order; what serves is ended at the end."""
    ports = {option: free_port() for option in ("--http-port", "--grpc-port", "--metrics-port")}
    serving: list[subprocess.Popen[str]] = []
    try:
        for command in found:
            line = command.text.replace("localhost:8001", f"localhost:{ports['--grpc-port']}")
            if re.match(r"vitriton serve\b", line):
                end(serving)
                options = " ".join(f"{option} {port}" for option, port in ports.items())
                serving.append(serve(f"{line} {options}", folder, environment))
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert done.returncode == 0, f"{command.where}: {command.text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    finally:
        end(serving)


def serve(line: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a command that serves, and waits until it says where."""
    process = subprocess.Popen(
        shlex.split(line), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if not process.stdout.readline():
        pytest.fail(f"{line}: {process.stderr.read()}")
    return process


def end(serving: list[subprocess.Popen[str]]) -> None:
    """Ends what serves, as Ctrl-C does."""
    while serving:
        process = serving.pop()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def models(torch, tmp_path_factory):
    """Small models by the ids that the documents name."""
    folder = tmp_path_factory.mktemp("hub")
    return {
        "google/vit-base-patch16-224": checkpoints.tiny_vit_without_pooler(folder / "vit"),
        "facebook/dinov2-small": checkpoints.tiny_dinov2(folder / "dinov2"),
        "facebook/deit-base-patch16-224": checkpoints.tiny_deit(folder / "deit"),
        "openai/clip-vit-base-patch32": architectures.write("clip", folder / "clip"),
    }


@pytest.fixture
def folder(tmp_path, models):
    """A folder of photos, a checkpoint of one's own, and the checkout's folders that a command may read."""
    for name in ("examples", "bench", "docker"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    shutil.copytree(models["google/vit-base-patch16-224"], tmp_path / "my-checkpoint")
    return tmp_path


@pytest.fixture
def environment(subprocesses, models, tmp_path_factory):
    """The commands of this environment first on the path, and the hub on this machine."""
    with hub.serve(hub.Hub(models)) as server:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path_factory.mktemp("hf-home")),
            "XDG_CACHE_HOME": str(checkpoints.CACHE),
        }


@pytest.mark.parametrize(
    "document",
    [pytest.param(one, marks=[] if one in SHORT else [pytest.mark.long], id=str(one)) for one in DOCUMENTS],
)
def test_the_commands_of(document, folder, environment):
    """They run as written, one after another."""
    run_commands([command for command in commands(document) if not command.reason], folder, environment)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_options_in(document):
    """Each command of Vitriton that a document names exists, with the options named, in all blocks."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for command in commands(document):
        for called in _CALL.findall(command.text):
            name, *words = shlex.split(called)
            with typer.Context(group) as context:
                found = group.resolve_command(context, [name, *words])[1]
            assert found is not None
            known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.partition("=")[0] for word in words if word.startswith("-") and word != "--"}
            assert used <= known | {"--help"}, f"{command.where}: {called}"
