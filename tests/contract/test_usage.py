"""A wrong option, value or path is a usage error in every command: exit code 2, at once, in the words that were typed.

None of these tests starts a process or imports torch, which the fast layer forbids: so nothing slow comes before the
error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import reference
from typer.testing import CliRunner
from vitriton.cli import app

NOWHERE = "/nonexistent/folder/file"
# What makes each command complete, so that one wrong option is all that is wrong.
COMPLETE = {
    "embed": ["{photos}", "--output", "{tmp}/out.npy"],
    "embed --engine ray": ["{photos}", "--output", "{tmp}/out"],
    "bench --bulk": [],
    "search index": ["{photos}", "--store", "{tmp}/photos.lance", "--url", "localhost:1"],
    "search query": ["id:a", "--store", "{tmp}/photos.lance", "--url", "localhost:1"],
    "search duplicates": ["--store", "{tmp}/photos.lance"],
    "search neighbors": ["--labels-from-folders", "--store", "{tmp}/photos.lance"],
    "search export": ["--output", "{tmp}/out.npy", "--store", "{tmp}/photos.lance"],
    "search serve": ["--store", "{tmp}/photos.lance", "--url", "localhost:1"],
    "models": [],
    "doctor": [],
    "export": ["{checkpoint}", "--repository", "{tmp}/models"],
    "verify": ["--url", "localhost:1"],
    "remove": ["name"],
    "serve": ["--repository", "{tmp}"],
    "bench": ["name", "--url", "localhost:1"],
    "api": ["--url", "localhost:1"],
}
# A path that need not be there: made, or seen by the server alone.
MADE = {"--tensorrt-cache", "--repository", "--reference", "--thumbnails"}


COMMANDS = {name: command for name, command, _ in reference.all_commands()}


def _options(kind: str) -> list[tuple[str, str]]:
    """All options of all commands that take a value of a kind, by their types and metavars."""
    return sorted(
        (name, max(param.opts, key=len))
        for name, command in COMMANDS.items()
        for param in command.params
        if param.param_type_name == "option" and not param.is_flag
        if re.search(kind, f"{param.type_descriptor.annotation} {param.metavar}")
    )


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """A folder with an image, a folder that could be a checkpoint, and near names."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"an image, to its name")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    return {name: str(tmp_path / name) for name in ("photos", "checkpoint")} | {"tmp": str(tmp_path)}


def _said(command: str, arguments: list[str], places: dict[str, str]) -> str:
    """The error of a command that is called wrongly, on one line."""
    before = sorted(Path(places["tmp"]).rglob("*"))
    given = [text.format(**places) for text in (*command.split(), *COMPLETE[command], *arguments)]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "1000", "NO_COLOR": "1"})
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("Usage: "), done.stderr
    assert sorted(Path(places["tmp"]).rglob("*")) == before
    return " ".join(done.stderr.partition("for help.")[2].split())


def test_every_command_is_there() -> None:
    """Also those of distributions that are plugged in later."""
    assert set(COMMANDS) == set(COMPLETE)


@pytest.mark.parametrize(("command", "option"), _options(""))
def test_no_value_may_be_empty(command: str, option: str, places: dict[str, str]) -> None:
    """As that of a variable which is not set."""
    for given in ([option, ""], [option, "  "], [f"{option}="]):
        assert _said(command, given, places).startswith(f"error: {option} is empty"), given


@pytest.mark.parametrize(("command", "option"), _options("float"))
@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_every_number_is_finite(command: str, option: str, value: str, places: dict[str, str]) -> None:
    """No measurement, no timeout and no gate has another."""
    said = _said(command, [option, value], places)
    assert option in said
    assert value in said


PATHS = [each for each in _options("Path|PATH|FILE|DIR") if each[1] not in MADE]


@pytest.mark.parametrize(("command", "option"), PATHS)
def test_every_path_is_looked_for_first(command: str, option: str, places: dict[str, str]) -> None:
    """Before a server is asked, and nothing is made in its place."""
    said = _said(command, [option, f"{NOWHERE}.npy"], places)
    assert said.startswith(f"error: {option} {NOWHERE}.npy "), said
    assert not Path("/nonexistent").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("embed", ["{tmp}/photo"], "{tmp}/photo does not exist; did you mean {tmp}/photos?"),
        (
            "embed",
            ["--from", "{tmp}/phots/a.png"],
            "--from {tmp}/phots/a.png does not exist; did you mean {tmp}/photos/a.png?",
        ),
        ("embed", ["--address", "nope://"], "--address 'nope://' has the unknown scheme nope://"),
        ("embed", ["--timeout", "x"], "--timeout is x; it must be a valid number"),
        ("embed", ["--preprocess", "x"], "--preprocess is x; it must be one of 'server', 'client'"),
        ("embed", ["--timeout", "0"], "--timeout is 0; it must be a number of seconds above 0"),
        ("embed", ["--header", "x"], "--header 'x' has no colon"),
        ("embed", ["--header", "a b: c"], "--header 'a b' cannot be the name of a header"),
        (
            "embed",
            ["--token-env", "NO_SUCH_VARIABLE"],
            "--token-env NO_SUCH_VARIABLE is empty: set the environment variable",
        ),
        ("embed", ["--ca-file", "{photos}/a.png"], "--ca-file is given, and grpc://localhost:8001 is not encrypted"),
        ("embed", ["--cert-file", "{photos}/a.png"], "--cert-file needs --key-file as well"),
        (
            "embed",
            ["--url", "https://h", "--ca-file", "{photos}/a.png"],
            "--ca-file {photos}/a.png holds no certificates in PEM",
        ),
        (
            "embed",
            ["--url", "grpcs://h", "--ca-file", "{photos}/a.png"],
            "--ca-file {photos}/a.png holds no certificate in PEM",
        ),
        ("models", ["--url", "http://a/b"], "--url 'http://a/b' is followed by a path; leave that out"),
        ("models", ["--url", "a:1,b:1"], "--url a:1,b:1 names several servers"),
        ("models", ["--timeout", "-1"], "--timeout is -1; it must be"),
        ("export", ["--name", "a b"], "--name is 'a b', which Triton cannot take"),
        ("export", ["--repository", "{photos}/a.png"], "--repository {photos}/a.png is a file; name a folder"),
        ("export", ["--repository", "{photos}/a.png/r"], "--repository {photos}/a.png/r cannot be written to"),
        ("export", ["--revision", "main"], "--revision is main, and {checkpoint} is a folder"),
        ("export", ["--min-cosine", "1"], "--min-cosine is 1.0; it must be between 0 and 1, both excluded"),
        (
            "export",
            ["--accelerator", "tensorrt", "--device", "cpu"],
            "--accelerator is tensorrt, which runs on a GPU, and --device is cpu",
        ),
        (
            "export",
            ["--accelerator", "tensorrt", "--precision", "int8"],
            "--accelerator is tensorrt, which cannot run the graph of --precision int8",
        ),
        ("export", ["--gpus", "0,x"], "--gpus is '0,x', which is not a list of numbers"),
        ("export", ["--gpus", "0"], "--gpus is 0, and --device is auto; set it to gpu"),
        ("export", ["--max-gpu-bytes", "4000000000"], "--max-gpu-bytes is 4000000000, and --device is auto; set it"),
        ("export", ["--warmup", "1,x"], "--warmup is '1,x', which is not a list of batch sizes"),
        ("export", ["--image-processor-kwargs", "nope"], "--image-processor-kwargs is not JSON"),
        (
            "export",
            ["--image-size", "9", "--image-processor-kwargs", '{{"size": 9}}'],
            "--image-size is given, and --image-processor-kwargs has a size",
        ),
        ("verify", ["--url", "nope://"], "--url 'nope://' has the unknown scheme"),
        ("verify", ["--url", "a:1,b:1"], "--url a:1,b:1 names several servers; give one of them"),
        ("verify", ["--images", "{tmp}/photo"], "--images {tmp}/photo does not exist; did you mean {tmp}/photos?"),
        ("verify", ["--images", "{checkpoint}"], "--images {checkpoint} holds no image"),
        (
            "verify",
            ["--reference", "{tmp}/checkpint"],
            "--reference {tmp}/checkpint does not exist; did you mean {tmp}/checkpoint?",
        ),
        ("verify", ["--limit", "3"], "--limit applies only to --images and --texts, which are not given"),
        ("verify", ["--timeout", "0"], "--timeout is 0; it must be"),
        ("verify", ["--repository", "r"], "either --url or --repository, not both"),
        (
            "remove",
            ["--repository", "{tmp}/photo"],
            "--repository {tmp}/photo does not exist; did you mean {tmp}/photos?",
        ),
        (
            "remove",
            ["--repository", "{tmp}/xyz"],
            "--repository {tmp}/xyz does not exist; name the repository that holds the export",
        ),
        ("remove", ["--repository", "{tmp}"], "NAME name is not an export in {tmp}; it holds no exports"),
        (
            "serve",
            ["--repository", "{tmp}/photo"],
            "--repository {tmp}/photo does not exist; did you mean {tmp}/photos?",
        ),
        ("serve", ["--grpc-port", "70000"], "--grpc-port is 70000; it must be 0 (a free one) to 65535"),
        (
            "serve",
            ["--grpc-port", "9000", "--http-port", "9000"],
            "the ports must differ from each other; they are --http-port 9000, --grpc-port 9000",
        ),
        ("serve", ["--exit-timeout", "-1"], "--exit-timeout is -1.0; it must be 0 or more"),
        ("serve", ["--canary-interval", "-1"], "--canary-interval is -1.0; it must be 0 (off) or more"),
        ("serve", ["--", "stray"], "'stray' is not an option of tritonserver"),
        ("api", ["--url", "nope://"], "--url 'nope://' has the unknown scheme"),
        ("api", ["--port", "70000"], "--port is 70000; it must be"),
        ("api", ["--timeout", "0"], "--timeout is 0; it must be a number of seconds above 0"),
        ("api", ["--drain", "-1"], "--drain is -1; it must be a number of seconds, 0 or more"),
        ("api", ["--max-held-bytes", "9"], "--max-body-bytes is 67108864, above --max-held-bytes (9)"),
        ("api", ["--api-keys-file", "{photos}/a.png"], "--api-keys-file {photos}/a.png, line 1, is not `name key`"),
        ("bench", ["--seconds", "0"], "--seconds is 0; it must be at least 0.1"),
        (
            "bench",
            ["--json", "{tmp}/none/a.json"],
            "--json {tmp}/none/a.json cannot be written: {tmp}/none does not exist; make that folder first",
        ),
        ("bench", ["--json", "{photos}"], "--json {photos} is a folder; name a file"),
        ("bench", ["--images", "{checkpoint}"], "--images {checkpoint} has no .jpg, .jpeg, .png or .webp files"),
        ("bench", ["--texts", "{photos}"], "--texts {photos} is a folder; name a file"),
        ("bench", ["--tower", "sound"], "--tower is sound; it must be one of 'image', 'text'"),
        ("bench", ["--tower", "image", "--texts", "x"], "--tower is image, and the inputs that are given are texts"),
        ("bench", ["--images", "x", "--texts", "x"], "give either --images or --texts, not both"),
        ("bench", ["--perf-analyzer", "{photos}/a.png"], "--perf-analyzer {photos}/a.png is not executable"),
        ("bench", ["--concurrency", "1,x"], "--concurrency is '1,x', which is not a list of numbers"),
        ("bench", ["--output", "tokens"], "--output has 'tokens', which is not one of pooled, unpooled"),
        ("bench", ["--protocol", "http"], "--protocol has http, and no --url has the scheme http://"),
        ("bench", ["--url", "grpcs://h"], "--url grpcs://h uses TLS, which cannot be measured"),
    ],
)
def test_the_error_names_what_was_typed(
    command: str, arguments: list[str], message: str, places: dict[str, str]
) -> None:
    """The option as it was typed, its value, and what to do."""
    said = _said(command, arguments, places)
    assert message.format(**places) in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{tmp}/checkpint"], "MODEL {tmp}/checkpint does not exist; did you mean {tmp}/checkpoint?"),
        (["export", "{photos}"], "MODEL {photos} is not a checkpoint: it has no config.json"),
        (
            ["verify", "--repository", "{tmp}/photo"],
            "--repository {tmp}/photo does not exist; did you mean {tmp}/photos?",
        ),
        (["verify", "--repository", "{photos}"], "--repository {photos} has no model that `vitriton export` made"),
        (["verify", "nope", "--repository", "{photos}"], "{photos} has no model nope; it has: none"),
        (["serve", "--repository", "{checkpoint}"], "--repository {checkpoint} holds no models"),
        (["serve", "--repository", "{models}", "--host", "999.1.1.1"], "--host 999.1.1.1 is an unknown name"),
        (
            ["serve", "--repository", "{models}", "--host", "192.0.2.1"],
            "--host 192.0.2.1 (192.0.2.1) is not an address of this machine",
        ),
        (
            ["bench", "name", "--repository", "{tmp}/photo", "--images", "{photos}"],
            "--repository {tmp}/photo does not exist; did you mean {tmp}/photos?",
        ),
        (
            ["bench", "name", "--repository", "{photos}", "--images", "{photos}"],
            "--repository {photos} has no model name_preprocess",
        ),
        (["bench", "name", "--url", "localhost:1"], "--images examples/photos does not exist"),
        (["bench"], "name the export to measure"),
        (["embed", "photos", "-o", "x.csv"], "-o x.csv must end in one of .parquet, .npy, .jsonl"),
        (["embed", "-o", "x.npy"], "name images, folders or URLs, or give a list with --from"),
    ],
)
def test_what_is_not_there(arguments: list[str], message: str, places: dict[str, str], monkeypatch: Any) -> None:
    """A model, an export or a repository: the nearest name is shown, and nothing is loaded."""
    models = Path(places["tmp"], "models")
    (models / "model" / "1").mkdir(parents=True)
    monkeypatch.chdir(places["tmp"])
    places["models"] = str(models)
    monkeypatch.setitem(COMPLETE, arguments[0], [])
    said = _said(arguments[0], arguments[1:], places)
    assert message.format(**places) in said
