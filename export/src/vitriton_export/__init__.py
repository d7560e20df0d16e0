"""Exports Hugging Face vision models to a Triton model repository, and proves that they still agree."""

from typing import TYPE_CHECKING, Any

from vitriton._version import __version__

from vitriton_export._errors import ExportError, HubError, ParityError
from vitriton_export._options import DEFAULT_MODEL, ExportOptions

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult, TowerResult, export_model
    from vitriton_export._verify.options import VerifyOptions
    from vitriton_export._verify.report import TowerReport, VerifyReport, verify_model

__all__ = [
    "DEFAULT_MODEL",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "HubError",
    "ParityError",
    "TowerReport",
    "TowerResult",
    "VerifyOptions",
    "VerifyReport",
    "__version__",
    "export_model",
    "verify_model",
]


def __getattr__(name: str) -> Any:
    """Imports torch and transformers on first use, so that `vitriton --help` does not."""
    if name in ("ExportResult", "TowerResult", "export_model"):
        from vitriton_export import _export

        return getattr(_export, name)
    if name in ("TowerReport", "VerifyOptions", "VerifyReport", "verify_model"):
        from vitriton_export._verify import report

        return getattr(report, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
