"""The preprocessing of a model: its steps, size and limits, and their JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .limits import Limits
from .steps import STEPS, Rescale, ScaledDecoding, Step, frozen, resize_after_decoding

FORMAT = 1  # the version of the JSON file; raised when an older reader would misread a newer file


@dataclass(frozen=True)
class PreprocessSpec:
    """The steps of a model's image processor up to the pixels; the rest is in the encoder's graph.

    Attributes:
        steps: the steps, in order.
        height: the height of the resulting pixels.
        width: the width of the resulting pixels.
        limits: the limits of images.

    Raises:
        ValueError: scaled decoding is not the first step, or no resize follows it.
    """

    steps: tuple[Step, ...]
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Checks that a resize follows scaled decoding."""
        if self.scales_jpegs and resize_after_decoding(self.steps) is None:
            raise ValueError("scaled_decoding is to be the first step, and a resize the next")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the pixels: uint8, unless a step works on floats."""
        return np.dtype(np.float32 if any(isinstance(step, Rescale) for step in self.steps) else np.uint8)

    @property
    def scales_jpegs(self) -> bool:
        """Whether large JPEGs are decoded at a reduced size."""
        return any(isinstance(step, ScaledDecoding) for step in self.steps)

    def to_json(self) -> str:
        """The text of the JSON file, identical for equal specifications."""
        names = {step: name for name, step in STEPS.items()}
        steps = [
            {
                "op": names[type(step)],
                **{key: value for key, value in asdict(step).items() if value is not None},
            }
            for step in self.steps
        ]
        document = {
            "format": FORMAT,
            "steps": steps,
            "height": self.height,
            "width": self.width,
            "limits": asdict(self.limits),
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PreprocessSpec:
        """Reads the text of `to_json`.

        Raises:
            ValueError: the text has another format, or a step is unknown or invalid.
        """
        document: dict[str, Any] = json.loads(text)
        if document.get("format") != FORMAT:
            raise ValueError(f"preprocessing file has format {document.get('format')}; this reads format {FORMAT}")
        steps = []
        for entry in document["steps"]:
            parameters = dict(entry)
            name = parameters.pop("op")
            if name not in STEPS:
                raise ValueError(f"unknown preprocessing step {name!r}; known are {', '.join(STEPS)}")
            steps.append(STEPS[name](**{key: frozen(value) for key, value in parameters.items()}))
        return cls(
            steps=tuple(steps),
            height=document["height"],
            width=document["width"],
            limits=Limits.from_dict(document.get("limits", {})),
        )
