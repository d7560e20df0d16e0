"""The command `vitriton`, in processes of its own."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import vitriton
from vitriton._console.completion import exported_names
from vitriton._console.server import Access, ServerOptions
from vitriton._errors import InvalidOption

pytestmark = pytest.mark.usefixtures("subprocesses")

RUN = "from vitriton.cli import main; main()"


@pytest.fixture
def bare(tmp_path):
    """An environment with everything but the project's other distributions; plug-ins are added to it as files."""
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.startswith(("vitriton_", "_vitriton_", "__editable__")) and item.suffix != ".pth":
            (tmp_path / item.name).symlink_to(item)
    return tmp_path


def command(folder):
    return [sys.executable, "-S", "-c", RUN], {
        "env": {**os.environ, "PYTHONPATH": f"{folder}:{Path(vitriton.__file__).parents[1]}", "COLUMNS": "200"},
        "text": True,
    }


def run(folder, *arguments):
    line, settings = command(folder)
    return subprocess.run([*line, *arguments], capture_output=True, timeout=60, **settings)


def plug_in(folder, name, code):
    (folder / f"plug_{name}.py").write_text(code)
    info = folder / f"plug_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plug-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vitriton.commands]\n{name} = plug_{name}:register\n")


COMMAND = """
import sys
print("loaded", __name__, file=sys.stderr)
def register(app):
    @app.command("{name}")
    def command(count: int = 1):
        "Does something."
        {body}
"""


def test_version(bare):
    """--version prints the version."""
    assert run(bare, "--version").stdout == f"vitriton {vitriton.__version__}\n"


def test_help_lists_what_is_missing(bare):
    """A command whose distribution is missing stands in the help, with the way to get it."""
    result = run(bare, "--help")
    assert result.returncode == 0
    lines = iter(line.strip() for line in result.stdout.splitlines())
    for name, distribution in (
        ("api", "api"),
        ("bench", "bench"),
        ("export", "export"),
        ("search", "search"),
        ("serve", "server"),
        ("verify", "export"),
    ):
        assert any(line.startswith(f"{name}  ") for line in lines)
        assert next(lines).startswith(f"Not installed: `pip install ./{distribution}` (from")


def test_the_first_steps(bare):
    """Without arguments it says what to do first; the step whose distribution is missing gives the way to get it."""
    plug_in(bare, "serve", COMMAND.format(name="serve", body="pass"))
    result = run(bare)
    assert (result.returncode, result.stderr) == (0, "")
    assert [" ".join(line.split()) for line in result.stdout.splitlines() if line.startswith("  ")] == [
        "vitriton export not installed",
        "vitriton serve serve it on localhost:8001",
        "vitriton embed DIR -o vectors.npy embed the images in DIR",
        "`pip install ./export` (from the root of the repository)",
    ]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_own_commands(bare):
    """The client's own commands are there without any other distribution, and explain themselves."""
    listed = run(bare, "--help").stdout
    own = {
        "embed": "Embed images, frames of videos, or texts into a file.",
        "models": "List the models that a server serves",
    }
    for name, says in own.items():
        assert any(name in line and says in line for line in listed.splitlines())
        helped = run(bare, name, "--help")
        assert helped.returncode == 0
        assert says in helped.stdout


def test_help_is_quick(bare):
    """The help of a command imports nothing that only running it needs."""
    heavy = ("numpy", "grpc", "tritonclient", "httpx", "PIL", "pyarrow")
    code = (
        f"import atexit, sys; atexit.register(lambda: print(*(name for name in {heavy} if name in sys.modules))); {RUN}"
    )
    line, settings = command(bare)
    for arguments in (["--help"], ["embed", "--help"], ["models", "--help"]):
        result = subprocess.run([*line[:-1], code, *arguments], capture_output=True, timeout=60, **settings)
        assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "")


@pytest.mark.parametrize("arguments", [["export", "some/model", "--name", "x"], ["export", "--help"]])
def test_missing_distribution(bare, arguments):
    """Calling it gives the pip command on one line, and exit code 1."""
    result = run(bare, *arguments)
    assert result.returncode == 1
    advice = "install it with `pip install ./export` (from the root of the repository)"
    assert result.stderr == f"error: `vitriton export` is not installed; {advice}\n"


def test_unknown_command(bare):
    """A command that nobody knows is a usage error."""
    result = run(bare, "nonsense")
    assert result.returncode == 2
    assert "error: no such command 'nonsense'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exprt"], "no such command 'exprt'. Did you mean `vitriton export`?"),
        (["embedd"], "no such command 'embedd'. Did you mean `vitriton embed`?"),
        (["models", "--ur", "x"], "no such option: --ur (Possible options: --url)"),
    ],
)
def test_the_near_name_is_suggested(bare, arguments, says):
    """Of the commands that are not installed, too; plainly, on one line."""
    result = run(bare, *arguments)
    assert result.returncode == 2
    assert f"error: {says}" in result.stderr.splitlines()


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        ("exp", ["export"]),
        ("embed --expect", ["--expect-fingerprint"]),
        ("embed --preprocess s", ["server"]),
        ("serve --co", ["--count"]),
        ("export --pre", []),
        ("bench --pre", []),
    ],
)
def test_a_shell_completes(bare, words, candidates):
    """Commands, options and choices, those of plug-ins too; without a word where one is missing or broken."""
    plug_in(bare, "bench", "import no_such_module")
    plug_in(bare, "serve", COMMAND.format(name="serve", body="pass"))
    line, settings = command(bare)
    variables = {"_VITRITON_COMPLETE": "complete_bash", "COMP_WORDS": f"vitriton {words}"}
    settings["env"] |= {**variables, "COMP_CWORD": str(len(words.split()))}
    line[-1] = "import sys; sys.argv[0] = 'vitriton'; " + RUN
    result = subprocess.run(line, capture_output=True, timeout=60, **settings)
    assert (result.returncode, result.stdout.split()) == (0, candidates)
    assert result.stderr.strip() in ("", "loaded plug_serve")


def test_models_are_completed(bare, tmp_path):
    """By the names of a server, if it answers: a shell shows no error."""
    line, settings = command(bare)
    variables = {"_VITRITON_COMPLETE": "complete_bash", "COMP_WORDS": "vitriton embed --url 127.0.0.1:1 --model "}
    settings["env"] |= {**variables, "COMP_CWORD": "5"}
    line[-1] = "import sys; sys.argv[0] = 'vitriton'; " + RUN
    result = subprocess.run(line, capture_output=True, timeout=60, **settings)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_exports_are_completed(tmp_path, monkeypatch):
    """By the names in the repository; one that is not there has none."""
    for name in ("dino_pooled", "dino_unpooled", "dino_preprocess", "vit_unpooled", "resnet"):
        (tmp_path / "model_repository" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert exported_names(SimpleNamespace(params={}), "") == ["dino", "vit"]
    assert exported_names(SimpleNamespace(params={"repository": "model_repository"}), "d") == ["dino"]
    assert exported_names(SimpleNamespace(params={"repository": "none"}), "") == []


def test_completion_can_be_installed(bare):
    """The script for a shell calls the command with the variable that asks for candidates."""
    line, settings = command(bare)
    line[-1] = "import sys; sys.argv[0] = 'vitriton'; " + RUN
    settings["env"]["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    result = subprocess.run([*line, "--show-completion", "bash"], capture_output=True, timeout=60, **settings)
    assert result.returncode == 0
    assert "_VITRITON_COMPLETE=complete_bash" in result.stdout


def test_only_the_called_command_is_loaded(bare):
    """Another command's code is not imported, and for the help none is."""
    plug_in(bare, "serve", COMMAND.format(name="serve", body="print('served', count)"))
    plug_in(bare, "other", COMMAND.format(name="other", body="pass"))
    listed = run(bare, "--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "From plug-other." in listed.stdout
    called = run(bare, "serve", "--count", "3")
    assert (called.stdout, called.stderr) == ("served 3\n", "loaded plug_serve\n")
    helped = run(bare, "serve", "--help")
    assert "Does something." in helped.stdout
    assert "vitriton serve" in helped.stdout.replace("-c serve", "vitriton serve")


def test_a_group_as_plug_in(bare):
    """A plug-in may bring a group of commands."""
    plug_in(
        bare,
        "tools",
        "import typer\ndef register(app):\n    sub = typer.Typer()\n    sub.command('one')(lambda: print('one!'))\n"
        "    sub.command('two')(lambda: print('two!'))\n    app.add_typer(sub, name='tools')\n",
    )
    assert run(bare, "tools", "two").stdout == "two!\n"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "AttributeError"),
        ("def register(app): pass", "registers no command of that name"),
    ],
)
def test_a_broken_plug_in(bare, code, says):
    """A plug-in that cannot be loaded is one line, and the other commands go on working."""
    plug_in(bare, "bench", code)
    plug_in(bare, "serve", COMMAND.format(name="serve", body="print('served')"))
    broken = run(bare, "bench", "--anything")
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: `vitriton bench`")
    assert says in broken.stderr
    assert broken.stderr.count("\n") == 1
    assert run(bare, "serve").stdout == "served\n"
    assert run(bare, "--help").returncode == 0


@pytest.mark.parametrize(
    "body",
    ["import vitriton; raise vitriton.Unavailable('nobody there')", "import vitriton.cli as c; c.fail('nobody there')"],
)
def test_errors_are_one_line(bare, body):
    """Our own errors are one line on stderr and exit code 1, without a traceback."""
    plug_in(bare, "serve", COMMAND.format(name="serve", body=body))
    result = run(bare, "serve")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "loaded plug_serve\nerror: nobody there\n"


def test_an_option_that_cannot_be_used_shows_the_usage(bare):
    """The library behind a command raises our own error; the command makes the usage and exit code 2 of it."""
    with pytest.raises(InvalidOption, match="header 'x' has no colon") as caught:
        ServerOptions(address="localhost:8001", access=Access(header=["x"])).transports()
    assert isinstance(caught.value, vitriton.VitritonError)
    result = run(bare, "models", "--header", "x")
    assert (result.returncode, result.stdout) == (2, "")
    assert "models [OPTIONS]" in result.stderr
    assert "error: --header 'x' has no colon" in result.stderr


@pytest.mark.parametrize(
    "body",
    ["print('much ' * 9999)", "print('little')", "import typer; typer.echo('little')", "RICH.print('little')"],
)
def test_nobody_reads_the_output(bare, body):
    """As with `| head`: the command ends quietly, as by SIGPIPE, whatever it prints with and when."""
    body = body.replace("RICH", "__import__('rich.console').console.Console()")
    plug_in(bare, "serve", COMMAND.format(name="serve", body=body))
    line, settings = command(bare)
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*line, "serve"], stdout=writer, stderr=subprocess.PIPE, timeout=60, **settings)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "loaded plug_serve\n")


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["embed", "--help"], ["doctor"], ["models", "-h"]]
)
def test_nobody_reads_the_help(bare, arguments):
    """Nor any other output of the client's own commands."""
    line, settings = command(bare)
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*line, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, **settings)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_interrupt(bare):
    """Ctrl-C ends a command with one line and 130."""
    plug_in(
        bare,
        "serve",
        COMMAND.format(name="serve", body="import threading; print('up', flush=True); threading.Event().wait(60)"),
    )
    line, settings = command(bare)
    with subprocess.Popen([*line, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "loaded plug_serve\ninterrupted\n")
