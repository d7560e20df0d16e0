"""pyarrow, which reads and writes Parquet files and is an extra of the client."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vitriton._console.failure import CommandFailed


def import_pyarrow(work: str, instead: str) -> tuple[Any, Any]:
    """Imports `pyarrow` and `pyarrow.parquet`.

    Args:
        work: the work that needs them: "reading" or "writing".
        instead: the advice for those who do without, as the rest of a sentence.

    Raises:
        CommandFailed: pyarrow is not installed, or does not work here.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as exc:
        raise CommandFailed(
            f"{work} .parquet needs pyarrow; install it with: pip install 'vitriton[parquet]' (or {instead})"
        ) from exc
    except ImportError as exc:  # pyarrow's metadata does not state the numpy it needs; only the import shows it
        raise CommandFailed(
            f"{_installed('pyarrow')} (beside {_installed('numpy')}) cannot be used: {exc}; install one that works "
            f"here: pip install 'vitriton[parquet]' (or {instead})"
        ) from exc
    return pyarrow, pyarrow.parquet


def _installed(distribution: str) -> str:
    """The name and version of a distribution."""
    with contextlib.suppress(PackageNotFoundError):  # not installed by pip
        return f"{distribution} {version(distribution)}"
    return distribution
