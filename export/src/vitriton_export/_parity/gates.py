"""The demands of the parity gate: data, with one row for each precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitriton._repository.names import OUTPUT, PIXELS


def alone(stage: str) -> str:
    """Names the stage that compares an image alone with the same image in a batch."""
    return f"{stage} alone"


def scaled(stage: str) -> str:
    """Names the stage that compares images decoded at reduced size with the reference's exact decoding."""
    return f"{stage} scaled"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The demands on the worst image of one stage. At least one of the first two is set, or the stage only reports.

    Attributes:
        tolerance: the largest absolute error, in units of max(1, max|reference|); 0 demands identical values.
        min_cosine: the lowest cosine similarity of a vector (a token, a pixel) with the reference's.
        moved: whether the user set the demand in place of the precision's.
        reports: whether the stage only reports; another one decides.
    """

    tolerance: float | None = None
    min_cosine: float | None = None
    moved: bool = False
    reports: bool = False

    def __post_init__(self) -> None:
        """Refuses a gate that demands nothing, or values out of bounds."""
        if self.tolerance is None and self.min_cosine is None and not self.reports:
            raise ValueError("a gate needs a tolerance or a min_cosine")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be at least 0")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise ValueError(f"min_cosine is {self.min_cosine}; it must be from -1 to 1")

    def passes(self, max_abs_error: float, min_cosine: float, max_abs_reference: float) -> bool:
        """Whether a stage's figures meet the demands; NaN never does."""
        error_passes = self.tolerance is None or max_abs_error <= self._max_abs_error(self.tolerance, max_abs_reference)
        return error_passes and (self.min_cosine is None or min_cosine >= self.min_cosine)

    def describe(self, max_abs_reference: float) -> str:
        """Returns the demands in words."""
        demands = []
        if self.tolerance == 0:
            demands.append("identical")
        elif self.tolerance is not None:
            demands.append(f"max abs error <= {self._max_abs_error(self.tolerance, max_abs_reference):.3g}")
        if self.min_cosine is not None:
            demands.append(f"cosine >= {self.min_cosine:.15g}")
        if self.reports:
            demands.append("none: the outputs decide")
        return ", ".join(demands) + (" (set by --min-cosine)" if self.moved else "")

    def to_dict(self) -> dict[str, float | bool]:
        """Returns the gate for JSON."""
        entries = {"tolerance": self.tolerance, "min_cosine": self.min_cosine, "moved": self.moved or None}
        entries["reports"] = self.reports or None
        return {key: value for key, value in entries.items() if value is not None}

    @staticmethod
    def _max_abs_error(tolerance: float, max_abs_reference: float) -> float:
        return tolerance * max(1.0, max_abs_reference)


FP32_TOLERANCE = 1e-4
_OUTPUT_NAMES = (OUTPUT["pooled"], OUTPUT["unpooled"])

# The gates for the outputs of the pooled and of the unpooled encoder, by precision.
_OUTPUTS = {
    "fp32": (Gate(tolerance=FP32_TOLERANCE), Gate(tolerance=FP32_TOLERANCE)),
    "fp16": (Gate(min_cosine=0.9999), Gate(min_cosine=0.9999)),
    "int8": (Gate(min_cosine=0.99), Gate(min_cosine=0.98)),
    "int8-fast": (Gate(min_cosine=0.99), Gate(min_cosine=0.98)),
}
# The change that an image's neighbors in a batch may cause in its vector. One scale for a whole batch (int8-fast)
# makes each image depend on the others: they may change it as much as the quantization itself does.
_ALONE = (Gate(min_cosine=0.99999), Gate(min_cosine=0.99999))
_ALONE_BY_PRECISION = {"int8-fast": _OUTPUTS["int8-fast"]}
# The change that decoding JPEGs at reduced size may cause, together with the precision. A sharp edge changes a pixel
# much, and an output hardly.
_SCALED_PIXELS = Gate(reports=True)
_SCALED = (Gate(min_cosine=0.99), Gate(min_cosine=0.98))


def gates(
    precision: str,
    min_cosine: float | None = None,
    *,
    output_dtype: str = "fp32",
    first: str = PIXELS,
    pixel_tolerance: float = 0.0,
    scaled_decoding: bool = False,
) -> dict[str, Gate]:
    """Returns the gates of a precision, by stage.

    Args:
        precision: the precision of the encoders.
        min_cosine: the lowest cosine similarity of both outputs, in place of the precision's own.
        output_dtype: the data type of the outputs; float16 is too coarse for the gate of fp32, and has that of fp16.
        first: the tensor of the first step that is compared.
        pixel_tolerance: the tolerance of the pixels, for two implementations of one filter on floats; 0: identical.
        scaled_decoding: whether large JPEGs are decoded at reduced size; they have gates of their own.
    """
    arithmetic = "fp16" if (precision, output_dtype) == ("fp32", "fp16") else precision
    outputs = dict(zip(_OUTPUT_NAMES, _OUTPUTS[arithmetic], strict=True))
    by_themselves = zip(map(alone, outputs), _ALONE_BY_PRECISION.get(precision, _ALONE), strict=True)
    demanded = {first: Gate(tolerance=pixel_tolerance), **outputs, **dict(by_themselves)}
    if scaled_decoding:
        demanded |= {scaled(PIXELS): _SCALED_PIXELS, **dict(zip(map(scaled, outputs), _SCALED, strict=True))}
    return with_min_cosine(demanded, min_cosine)


def with_min_cosine(demanded: Mapping[str, Gate], min_cosine: float | None) -> dict[str, Gate]:
    """Returns the gates with another demand on the outputs; None leaves them as they are."""
    if min_cosine is None:
        return dict(demanded)
    outputs = {*_OUTPUT_NAMES, *map(scaled, _OUTPUT_NAMES)} & demanded.keys()
    return {
        stage: Gate(min_cosine=min_cosine, moved=True) if stage in outputs else gate for stage, gate in demanded.items()
    }


def to_document(demanded: Mapping[str, Gate]) -> dict[str, dict[str, float | bool]]:
    """Returns the gates for manifest.json."""
    return {stage: gate.to_dict() for stage, gate in demanded.items()}


def from_document(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Gate]:
    """Reads the gates that `to_document` wrote.

    Raises:
        TypeError, ValueError: the document holds something else.
    """
    return {stage: Gate(**entries) for stage, entries in document.items()}
