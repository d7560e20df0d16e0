"""Exports as an older `vitriton export` left them: preprocessing in one file beside the step's own."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

from vitriton import preprocessing
from vitriton._repository import disk

# what is imported comes before what imports it
_ORDER = [
    "refusals",
    "steps",
    "limits",
    "spec",
    "memory",
    "tiff",
    "headers",
    "orientation",
    "pixels",
    "scaled",
    "decoding",
]


def with_one_file(version: Path) -> None:
    """Changes a preprocess step, in its version folder, to what it was before preprocessing was a folder."""
    shutil.rmtree(version / disk.PREPROCESSING)
    (version / f"{disk.PREPROCESSING}.py").write_text(_one_file())
    with_graphs_alone(version.parents[1])


def with_graphs_alone(repository: Path) -> None:
    """Changes the manifests of a repository to what they were before they listed all files of an export."""
    for path in repository.glob("*/[0-9]*/manifest.json"):
        manifest = json.loads(path.read_text())
        files = manifest.pop("files")
        manifest["graphs"] = {name: entry for name, entry in files.items() if "/model.onnx" in name}
        path.write_text(json.dumps(manifest))


def _one_file() -> str:
    folder = Path(preprocessing.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *_ORDER}
    return "from __future__ import annotations\n" + "".join(
        _without_imports_of_ours((folder / f"{module}.py").read_text()) for module in _ORDER
    )


def _without_imports_of_ours(source: str) -> str:
    """A module's source, without its imports from the package and from the future."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "".join(lines)
