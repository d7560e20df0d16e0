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
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from compose.project import free_ports
from support import checkpoints, exports, hub, trained_minilm, two_towers
from typer.core import TyperGroup
from vitriton.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md")))
    if "```sh" in path.read_text()
]
SHORT = {Path("README.md")}
TIMEOUT_S = 1200
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?^(?P<indent> *)```sh\n(?P<code>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)
_SERVE = re.compile(r"^vitriton serve\b.*$", re.MULTILINE)
_CALL = re.compile(r"(?:^|[;&|]\s*)(?:\.venv/bin/)?vitriton ((?:[^;&|'\"]|'[^']*'|\"[^\"]*\")+)")
_ASKS = re.compile(r"^(vitriton (?:embed|models|search (?:index|query))\b(?!.*--url)[^|\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of shell commands.

    Attributes:
        code: the commands, without the comments beside them.
        where: the document and the block's line in it.
        reason: why the block is not run; empty if it is.
    """

    code: str
    where: str
    reason: str


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of a document, in order."""
    text = (ROOT / document).read_text()
    for match in _BLOCK.finditer(text):
        where = f"{document}, line {text.count(chr(10), 0, match.start('code')) + 1}"
        code = _COMMENT.sub("", textwrap.dedent(match["code"]))
        yield Block(code, where, (match["reason"] or "").strip())


LONG = [one for one in DOCUMENTS if one not in SHORT and not all(block.reason for block in blocks(one))]


class Shell:
    """Runs blocks in one folder, and what serves beside them, on free ports in place of the default ones."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._serving: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._serving)

    def run(self, block: Block) -> None:
        """Runs the commands of a block."""
        start = 0
        for served in _SERVE.finditer(block.code):
            self._run(block.code[start : served.start()], block.where)
            self.serve(served[0])
            start = served.end()
        self._run(block.code[start:], block.where)

    def serve(self, line: str) -> None:
        """Runs a command that serves, in place of the one before."""
        end(self._serving)
        options = " ".join(f"--{service}-port {port}" for service, port in self._ports.items())
        self._serving.append(serve(f"{line} {options}", self._folder, self._environment))

    def _run(self, code: str, where: str) -> None:
        code = _ASKS.sub(r"\1 --url localhost:8001 ", code)
        for service, port in PORTS.items():
            code = code.replace(f"localhost:{port}", f"localhost:{self._ports[service]}")
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", code],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f"{where}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


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


@pytest.fixture(scope="module")
def hub_models(torch, tmp_path_factory):
    """Models by the ids that the documents name, small ones."""
    folder = tmp_path_factory.mktemp("hub")
    return {
        "google/vit-base-patch16-224": checkpoints.tiny_vit_without_pooler(folder / "vit"),
        "facebook/dinov2-small": checkpoints.tiny_dinov2(folder / "dinov2"),
        "facebook/deit-base-patch16-224": checkpoints.tiny_deit(folder / "deit"),
        "openai/clip-vit-base-patch32": two_towers.write("clip", folder / "clip"),
    }


@pytest.fixture
def folder(tmp_path, hub_models):
    """A folder of photos and a list of them, a checkpoint of one's own, and the checkout's folders that are read."""
    for name in ("examples", "bench", "docker", ".cache"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    (tmp_path / "list.txt").write_text("photos/cat.jpg\n")
    shutil.copytree(hub_models["google/vit-base-patch16-224"], tmp_path / "my-checkpoint")
    return tmp_path


@pytest.fixture(scope="module")
def trained_models(hub_models, trained_checkpoint):
    """The same models, one of them with trained weights, and one that takes texts."""
    return hub_models | {
        "facebook/dinov2-small": trained_checkpoint,
        "sentence-transformers/all-MiniLM-L6-v2": trained_minilm.checkpoint(),
    }


@pytest.fixture(scope="module")
def exported(trained_models, environment, tmp_path_factory):
    """A folder with exports from the hub: the default model, and facebook/dinov2-small in `models`."""
    folder = tmp_path_factory.mktemp("exported")
    code = "vitriton export\nvitriton export facebook/dinov2-small --repository models\n"
    with beside_a_hub(folder, environment, trained_models) as shell:
        shell.run(Block(code, "before the documents", ""))
    return folder


@pytest.fixture(scope="module")
def environment(subprocesses):
    """The commands of this environment first on the path, and no settings of a hub."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(checkpoints.CACHE),
    }


@contextmanager
def beside_a_hub(folder: Path, environment: dict[str, str], models: dict[str, Path]) -> Iterator[Shell]:
    """A shell whose Hugging Face hub has models; the hub's cache is empty at first."""
    with (
        tempfile.TemporaryDirectory() as cache,
        hub.serve(hub.Hub(models)) as server,
        Shell(folder, environment | {"HF_ENDPOINT": server.url, "HF_HOME": cache}) as shell,
    ):
        yield shell


def repository(found: list[Block]) -> str:
    """The repository with the model that the blocks ask a server for."""
    return "model_repository" if any("--model vit-base-patch16-224" in block.code for block in found) else "models"


def run_document(document: Path, folder: Path, environment: dict[str, str], models: dict[str, Path]) -> None:
    """Runs the blocks of a document, beside a hub that has models."""
    with beside_a_hub(folder, environment, models) as shell:
        found = [block for block in blocks(document) if not block.reason]
        if document not in SHORT and not any(_SERVE.search(block.code) for block in found):
            shell.serve(f"vitriton serve --repository {repository(found)}")
        for block in found:
            shell.run(block)


def test_the_commands_of_the_readme(folder, environment, hub_models):
    """From a checkout, whose model_repository/ has an export without weights, to a file of vectors."""
    shutil.copytree(ROOT / "model_repository", folder / "model_repository")
    run_document(Path("README.md"), folder, environment, hub_models)
    assert (folder / "vectors.parquet").is_file()


@pytest.mark.long
@pytest.mark.parametrize("document", LONG, ids=str)
def test_the_commands_of(document, folder, environment, trained_models, exported):
    """They run in a folder that has exports, beside a server of those that the document names."""
    exports.copy(exported, folder)
    run_document(document, folder, environment, trained_models)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_options_in(document):
    """Each command of Vitriton that a document names exists, with the options named, in all blocks."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for block in blocks(document):
        lines = block.code.replace("\\\n", " ").splitlines()
        for called in (called for line in lines for called in _CALL.findall(line.strip())):
            found: Any = group
            words = shlex.split(called)
            while isinstance(found, TyperGroup) and words and not words[0].startswith("-"):
                with typer.Context(found) as context:
                    _, found, words = found.resolve_command(context, words)
            assert found is not None
            with found.make_context(None, list(words), resilient_parsing=True) as context:
                commands = {found, context.command}  # another one with --engine and --bulk
            parameters = [parameter for command in commands for parameter in command.params]
            known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
            own = words[: words.index("--")] if "--" in words else words
            used = {word.partition("=")[0] for word in own if word.startswith("-") and word != "-"}
            assert used <= known | {"--help"}, f"{block.where}: {called}"
