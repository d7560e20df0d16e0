"""The preprocessing of a model: steps, size and limits, and the JSON file that they are kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .limits import Limits
from .steps import STEPS, Rescale, ScaledDecoding, Step, frozen, resize_after_decoding

FORMAT = 1  # of the JSON file; raised when an older reader would misunderstand a newer file


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model's image processor does to a picture up to the pixels; the rest is in the encoder's graph.

    Attributes:
        steps: done in this order.
        height: of the pixels that come out.
        width: of the pixels that come out.
        limits: what is refused.

    Raises:
        ValueError: scaled decoding is not the first step, or no resize follows it.
    """

    steps: tuple[Step, ...]
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Checks that scaled decoding knows what the image will be resized to."""
        if self.scales_jpegs and resize_after_decoding(self.steps) is None:
            raise ValueError("scaled_decoding is to be the first step, and a resize the next")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels: uint8, unless a step works on floats."""
        return np.dtype(np.float32 if any(isinstance(step, Rescale) for step in self.steps) else np.uint8)

    @property
    def scales_jpegs(self) -> bool:
        """Whether large JPEGs are decoded at a part of their size."""
        return any(isinstance(step, ScaledDecoding) for step in self.steps)

    def to_json(self) -> str:
        """The text of the file, the same for equal specs."""
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
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is of a newer format, or a step is unknown or contradicts itself.
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
