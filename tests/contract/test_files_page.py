"""docs/reference/files.md and docs/concepts/verify.md name the entries that the code writes for other programs."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from vitriton._served.model import ModelInfo, ModelOutput
from vitriton.commands import models

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "reference" / "files.md"
EXPORTER = ROOT / "export" / "src" / "vitriton_export"


def section(page: Path, title: str) -> str:
    """The part of a page below a heading of the second level."""
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def returned(path: Path, function: str) -> list[str]:
    """The keys of the dict that a function returns, by its source: the exporter imports large libraries."""
    found = next(node for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "name", None) == function)
    (document,) = (node.value for node in ast.walk(found) if isinstance(node, ast.Return))
    assert isinstance(document, ast.Dict)
    return [key.value for key in document.keys if isinstance(key, ast.Constant)]


@pytest.mark.parametrize(
    ("page", "title", "path", "function"),
    [
        (FILES, "manifest.json", EXPORTER / "_repository" / "manifest.py", "build"),
        (ROOT / "docs" / "concepts" / "verify.md", "For programs", EXPORTER / "_verify" / "report.py", "to_dict"),
    ],
)
def test_a_page_has_the_entries_of_a_document(page, title, path, function):
    """Each entry that the function writes is on the page."""
    text = section(page, title)
    assert [entry for entry in returned(path, function) if f"`{entry}`" not in text] == []


def test_the_page_of_files_says_where_the_entries_of_models_are():
    """`vitriton models --json`: the entries of an export, and those of each of its outputs."""
    output = ModelOutput(kind="pooled", model="one_pooled")
    document = models._model_document(ModelInfo(name="one", addresses=("here",), outputs=(output,)))
    (row,) = (line for line in section(FILES, "vitriton models --json").splitlines() if line.startswith("| `models`"))
    of_model, _, of_output = row.partition("Each of the `outputs`")
    own = document["outputs"][0].keys() - {field.name for field in fields(ModelOutput)} - {"ready"}
    assert [entry for entry in document if f"`{entry}`" not in of_model] == []
    assert [entry for entry in sorted(own) if f"`{entry}`" not in of_output or f"`{entry}`" in of_model] == []
