"""The structure of the distributions, measured from their code: rooms, imports, circles, sizes.

    python tests/contract/house.py [ROOT]

A room is what a person sees who opens a package: a module or a folder at its top. An arrow goes from a room to another
one that it imports, wherever in a file that is written; imports for type checkers alone count as well.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Collection
from pathlib import Path

# A distribution's package; and the project's own comparison, which is none.
PACKAGES = {
    "client": "client/src/vitriton",
    "export": "export/src/vitriton_export",
    "server": "server/src/vitriton_server",
    "bench": "bench/src/vitriton_bench",
    "api": "api/src/vitriton_api",
    "search": "search/src/vitriton_search",
    "ray": "ray/src/vitriton_ray",
    "report": "bench/report",
}
LONG_FILE = 400

Arrows = dict[str, set[str]]


def package_folder(root: Path, distribution: str) -> Path:
    """The folder of a package, by the name of its distribution."""
    return root / PACKAGES[distribution]


def rooms(package: Path) -> list[str]:
    """The names of a package's rooms."""
    inside = (path for path in package.iterdir() if path.suffix == ".py" or any(path.rglob("*.py")))
    return sorted(path.stem for path in inside if path.stem != "__pycache__")


def arrows(package: Path) -> Arrows:
    """Which other rooms of the package each room imports."""
    found: Arrows = {room: set() for room in rooms(package)}
    for module, imported in module_arrows(package).items():
        room = _room(module)
        found[room] |= {_room(name) for name in imported} - {room}
    return found


def module_arrows(package: Path) -> Arrows:
    """Which other modules of the package each module imports."""
    known = {_dotted(path, package) for path in package.rglob("*.py")}
    found: Arrows = {}
    for path in package.rglob("*.py"):
        module = _dotted(path, package)
        parent = module if path.stem == "__init__" else module.rpartition(".")[0]
        found[module] = _imported_modules(path, parent, known) - {module}
    return found


def circle(of: Arrows) -> list[str]:
    """Some circle of imports, each name importing the next and the last the first; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for to in sorted(of.get(name, ())):
            found = visit(to, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(of) if (found := visit(name, []))), [])


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _dotted(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_modules(path: Path, parent: str, known: Collection[str]) -> set[str]:
    """Those of the known modules that a file imports; of `from package import module` the module alone.

    Args:
        path: the file.
        parent: the package that its relative imports start from.
        known: the modules of the distribution.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(parent.split(".")[: parent.count(".") + 2 - node.level]) if node.level else ""
            source = ".".join(filter(None, (start, node.module)))
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= names if names <= set(known) else names | {source}
    return found & set(known)


def _functions(package: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    trees = (ast.walk(ast.parse(path.read_text())) for path in package.rglob("*.py"))
    return [node for tree in trees for node in tree if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _statements(package: Path) -> int:
    """Without imports, docstrings and what else is a value alone: a measure of code that its layout does not change."""
    nodes = (node for path in package.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    imports = (ast.Import, ast.ImportFrom)
    found = (node for node in nodes if isinstance(node, ast.stmt) and not isinstance(node, imports))
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in found)


def measure(package: Path) -> dict[str, object]:
    """The figures of one package."""
    lines = {path: len(path.read_text().splitlines()) for path in package.rglob("*.py")}
    functions = _functions(package)
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)
    return {
        "rooms": len(rooms(package)),
        "arrows": sum(map(len, arrows(package).values())),
        "module arrows": sum(map(len, module_arrows(package).values())),
        "circle": " > ".join(circle(module_arrows(package))) or "none",
        "files": len(lines),
        "lines": sum(lines.values()),
        "statements": _statements(package),
        f"files over {LONG_FILE}": sum(count > LONG_FILE for count in lines.values()),
        "function median": statistics.median(lengths),
        "function p90": lengths[len(lengths) * 9 // 10],
        "returns typed": f"{sum(node.returns is not None for node in functions)} of {len(functions)}",
    }


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    for distribution in (name for name, place in PACKAGES.items() if (root / place).is_dir()):
        print(distribution)
        for name, value in measure(package_folder(root, distribution)).items():
            print(f"  {name:18} {value}")
