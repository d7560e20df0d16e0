"""The fast layer: tests that need nothing but their process. What a test needs is read off, never written down twice.

A test says that it needs more by asking for a fixture, itself or by way of others: `subprocesses` to start processes
(a Triton, a command), `torch` to work with torch's models. A file that cannot be imported without torch needs it as a
whole. All other tests are the fast layer, `pytest --unit`, and a guard fails those that start or import more.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.testing  # noqa: F401 - before the guard watches: it runs lscpu
import pytest

MORE = {"subprocesses", "torch"}
_LIBRARIES = ("torch", "transformers", "onnxruntime")
_DISTRIBUTIONS = ("vitriton_export", "vitriton_server", "vitriton_bench", "vitriton_api", "vitriton_search")
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}  # events that Python audits


class _Guard(importlib.abc.MetaPathFinder):
    """Fails a test of the fast layer that starts a process, and in a run of that layer one that imports a library.

    Attributes:
        watches: a test of the fast layer is running.
        faults: what the running test has done; it may have been in a thread of its own.
    """

    def __init__(self) -> None:
        self.watches = False
        self.faults: list[str] = []
        absent = [name for name in _DISTRIBUTIONS if importlib.util.find_spec(name) is None]
        self._heavy = {*_LIBRARIES, *absent}

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Is asked first for each module that is imported."""
        if name not in self._heavy:
            return
        if not self.watches:
            pytest.skip(f"needs {name}", allow_module_level=True)  # a file of tests is being imported
        self._fail(f"imports {name}; ask for the fixture torch, or import it at the top of the file")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Is told of what Python does."""
        if self.watches and event in _STARTS:
            self._fail(f"starts a process ({event} {arguments[:1]}); ask for the fixture subprocesses")

    def _fail(self, fault: str) -> None:
        self.faults.append(f"a test of the fast layer {fault}")
        raise AssertionError(self.faults[-1])

    def watch(self, item: pytest.Item) -> Generator[None, object, object]:
        """Spans a phase of a test."""
        self.faults.clear()
        self.watches = is_unit(item)
        try:
            result = yield
        finally:
            self.watches = False
        if self.faults:
            pytest.fail(self.faults[0])
        return result


_guard = _Guard()


def is_unit(item: pytest.Item) -> bool:
    """Whether a test is in the fast layer."""
    return not MORE & set(getattr(item, "fixturenames", ()))


def _rank(item: pytest.Item) -> int:
    """0 for what works with torch, 1 for what starts processes, 2 for the rest."""
    modules = (value for value in vars(item.module).values() if isinstance(value, ModuleType))
    imported = {module.__name__.partition(".")[0] for module in modules}
    if "torch" in item.fixturenames or imported & set(_LIBRARIES):
        return 0
    return 2 if is_unit(item) else 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--unit`."""
    parser.addoption("--unit", action="store_true", help="the tests alone that need nothing but their process")


def pytest_configure(config: pytest.Config) -> None:
    """Sets up the guard."""
    if config.getoption("unit"):
        sys.addaudithook(_guard.audit)
        sys.meta_path.insert(0, _guard)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the fast layer in a run of it; others begin with the longest files, and short ones fill what is left."""
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(_rank(item), ranks.get(item.path, _rank(item)))
    items.sort(key=lambda item: ranks[item.path])
    if config.getoption("unit"):
        config.hook.pytest_deselected(items=[item for item in items if not is_unit(item)])
        items[:] = [item for item in items if is_unit(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fixtures are held to the layer as well."""
    return (yield from _guard.watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """So is the test itself."""
    return (yield from _guard.watch(item))
