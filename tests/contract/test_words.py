"""What is held of the words in the code: descriptions begin with a noun, and a class's name has one meaning."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from contract import house

ROOT = Path(__file__).parents[2]
# "size: of a side", "model: as it is", "item: that was read": what it is, the reader is to guess
_ENTRY = re.compile(r"^    +(?P<name>\*{0,2}[a-z_]\w*)(?: \([^)]*\))?: (?P<text>.+)$")
_SECTIONS = ("Args:", "Attributes:")
# American, as in Triton's, ONNX's and transformers' own words; "cancelled" is Python's own
_BRITISH = re.compile(
    r"(behaviou|colou|favou|honou|neighbou)r|catalogue|centre|\bgrey|greyscale|licence|artefact|defence|analyse|modelled|labelled"
    r"|(quanti|normali|optimi|initiali|recogni|seriali|organi|summari|synchroni)s(e|ed|es|er|ing|ation)\b",
    re.IGNORECASE,
)
_NO_NOUN = re.compile(r"(of|that|which|by|for|from|in|with|to|as)\b", re.IGNORECASE)


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for distribution in house.PACKAGES:
        for path in sorted((ROOT / distribution / "src").rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def _documented(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """The names and descriptions in its sections of arguments and attributes."""
    inside = False
    for line in docstring.splitlines():
        if line.strip() in _SECTIONS:
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := _ENTRY.match(line)) and len(line) - len(line.lstrip()) == 4:
            yield match["name"], match["text"]


def _texts() -> Iterator[tuple[Path, str]]:
    folders = ("client", "export", "server", "bench", "deploy", "docs", "docker", "examples", "tests")
    for path in (*ROOT.glob("*.md"), *(one for folder in folders for one in (ROOT / folder).rglob("*"))):
        if path.suffix in (".py", ".md", ".yml", ".toml", ".sh", ".html") and path != Path(__file__):
            yield path.relative_to(ROOT), path.read_text()


def test_spelling_is_american():
    """One spelling in code and documents."""
    found = [f"{path}: {match[0]}" for path, text in _texts() for match in _BRITISH.finditer(text)]
    assert not found, "\n".join(found)


def test_descriptions_begin_with_a_noun():
    """An argument's description says what it is, and not only of what: "status: the HTTP status code", not "of it"."""
    found = [
        f"{path}: {name}: {text}"
        for path, tree in _trees()
        for docstring in _documented(tree)
        for name, text in entries(docstring)
        if _NO_NOUN.match(text)
    ]
    assert not found, "\n".join(found)


def test_no_docstring_refers_to_its_module():
    """The words "See the module" describe nothing."""
    found = [f"{path}: {text}" for path, tree in _trees() for text in _documented(tree) if "See the module" in text]
    assert not found, "\n".join(found)


def test_a_class_has_a_name_of_its_own():
    """No two public classes of the project share a name."""
    places = defaultdict(list)
    for path, tree in _trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "TritonPythonModel":
                places[node.name].append(str(path))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert not shared, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(shared.items()))
