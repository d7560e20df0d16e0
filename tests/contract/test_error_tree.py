"""One tree of errors for all distributions."""

import ast
import copy
import importlib
import inspect
import pickle
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from contract import house
from vitriton import InputProblem, InvalidImage, InvalidInput, InvalidText, VitritonError
from vitriton.testing import CallError, Code

ROOT = Path(__file__).parents[2]
# What runs inside Triton, and imports nothing of the project.
STANDS_ALONE = ("vitriton.preprocessing", "vitriton_server.backends", "vitriton_export.triton")
# Here a failure becomes an exit code or a text about the usage: typer's exceptions belong nowhere else.
COMMANDS = ("_console/failure.py", "cli.py", "commands/")
# Where strings do not do as arguments.
EXAMPLES = {
    "InvalidImage": lambda: InvalidImage([InputProblem(1, "a", "b")], 3),
    "InvalidInput": lambda: InvalidInput([InputProblem(1, "a", "b")], 3),
    "InvalidText": lambda: InvalidText([InputProblem(1, "", "b")], 3),
    "CallError": lambda: CallError(Code.INTERNAL, "broken"),
}


def _sources() -> Iterator[tuple[str, Path, ast.Module]]:
    """Module, path within the package and syntax tree of all that the distributions are."""
    for distribution in house.PACKAGES:
        package = house.package_folder(ROOT, distribution)
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, path.relative_to(package), ast.parse(path.read_text())


@cache
def errors() -> tuple[tuple[str, ast.ClassDef], ...]:
    """Every exception class: its module and its definition. Warnings are none, nor is what a signal raises."""
    classes = [
        (name, node) for name, _, tree in _sources() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    found: dict[str, tuple[str, ast.ClassDef]] = {}
    before = -1
    while len(found) > before:
        before = len(found)
        for name, node in classes:
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if any(base in found or base.endswith(("Error", "Exception")) for base in bases):
                found[f"{name}.{node.name}"] = found[node.name] = (name, node)
    return tuple(value for key, value in found.items() if "." in key)


def _imported() -> list[type[Exception]]:
    return [
        getattr(importlib.import_module(module), node.name)
        for module, node in errors()
        if not module.startswith(STANDS_ALONE)
    ]


def _example(kind: type[Exception]) -> Exception:
    if kind.__name__ in EXAMPLES:
        return EXAMPLES[kind.__name__]()
    needed = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return kind(*(needed or ["text"]))


def test_they_are_found():
    """The walk sees the errors of each distribution, and those below the surface."""
    names = {node.name for _, node in errors()}
    assert names >= {
        "VitritonError",
        "Unavailable",
        "ExportError",
        "LauncherError",
        "BenchError",
        "CommandFailed",
        "RequestRefused",
    }
    assert names >= {"CallError", "SourceError", "NetworkFailure", "RepositoryBusy", "StartCrashed", "ImageError"}


@pytest.mark.parametrize("kind", _imported(), ids=lambda kind: kind.__name__)
def test_each_descends_from_the_root_and_can_be_copied(kind):
    """`except VitritonError` catches it, and it comes through pickling with its text and its attributes."""
    assert issubclass(kind, VitritonError)
    error = _example(kind)
    error.later = "set after it was made"
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), str(twin), twin.args, vars(twin)) == (kind, str(error), error.args, vars(error))


def test_names_are_unique():
    """Nobody has to ask whose `ServerError` it is."""
    assert [name for name, times in Counter(node.name for _, node in errors()).items() if times > 1] == []


def test_each_says_when_it_happens():
    """In a sentence of its own."""
    for module, node in errors():
        text = ast.get_docstring(node) or ""
        assert text.splitlines()[0:1], (module, node.name)
        assert text.splitlines()[0].endswith("."), (module, node.name)
        assert not text.startswith("See "), (module, node.name)


def test_only_commands_raise_what_ends_a_command():
    """A library call never raises typer's exceptions."""
    for module, path, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None and "typer." in ast.unparse(node.exc):
                assert path.as_posix().startswith(COMMANDS), (module, node.lineno)
