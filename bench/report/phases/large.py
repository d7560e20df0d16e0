"""Photos of 12 megapixels: exact decoding beside scaled decoding (`vitriton export --jpeg-decoding scaled`)."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from vitriton.preprocessing import PreprocessSpec, ScaledDecoding, preprocess

from report.sides.reference import worst_cosine
from report.state import State

SIZE = (4000, 3000)
_PHOTOS = 3
_ROUNDS = 15
_QUALITY = 92
_NOISE = 3.0  # gray levels, like a camera's sensor: a file without noise would have little to decode

Embed = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def large(state: State) -> None:
    """Decodes the photos both ways, in turns, and compares their embeddings."""
    state.clock.say("photos of 12 megapixels, decoded exactly and at a part of their size")
    bare = state.bares["fp32"]
    photos = Large.of(state.images, bare.spec)
    state.document["large"] = {
        "size": list(SIZE),
        "mean_bytes": statistics.mean(map(len, photos.photos)),
        "worst_cosine": photos.worst_cosine(bare.run),
        "rounds": [photos.round(number) for number in range(_ROUNDS)],
    }


@dataclass(frozen=True, kw_only=True)
class Large:
    """Large photos, and both ways to decode them.

    Attributes:
        photos: the encoded photos.
        exact: the export's default preprocessing.
        scaled: the preprocessing with scaled decoding.
    """

    photos: Sequence[bytes]
    exact: PreprocessSpec
    scaled: PreprocessSpec

    @classmethod
    def of(cls, images: Sequence[bytes], spec: PreprocessSpec) -> Large:
        """Enlarges some photos to 12 megapixels."""
        scaled = replace(spec, steps=(ScaledDecoding(), *spec.steps))
        return cls(photos=[_enlarged(image) for image in images[:_PHOTOS]], exact=spec, scaled=scaled)

    def round(self, number: int) -> dict[str, float]:
        """Measures the seconds for one photo on one core, both ways, in alternating order."""
        data, ways = self.photos[number % len(self.photos)], [("exact_s", self.exact), ("scaled_s", self.scaled)]
        return {name: _seconds(data, spec) for name, spec in (ways if number % 2 else reversed(ways))}

    def worst_cosine(self, embed: Embed) -> float:
        """The worst cosine similarity between the embeddings of scaled and exact pixels."""
        both = [
            embed(np.stack([preprocess(photo, spec) for photo in self.photos])) for spec in (self.scaled, self.exact)
        ]
        return worst_cosine(*both)


def _enlarged(image: bytes) -> bytes:
    with Image.open(io.BytesIO(image)) as opened:
        large = np.asarray(opened.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)).astype(np.float32)
    large += np.random.default_rng(0).normal(0, _NOISE, (*large.shape[:2], 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(large, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _seconds(photo: bytes, spec: PreprocessSpec) -> float:
    started = time.perf_counter()
    preprocess(photo, spec)
    return time.perf_counter() - started
