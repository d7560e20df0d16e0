"""The inputs of a sweep: photos or texts, by the tower that is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitriton._repository.names import ENSEMBLES, KINDS, Tower, ensemble_name

from vitriton_bench import _photos, _texts
from vitriton_bench._payload import IMAGE, TEXT, read_images, write_payload
from vitriton_bench._statistics.source import StatisticsSource
from vitriton_bench._sweep.options import Sweep

_PHOTOS = Path("examples/photos")


@dataclass(frozen=True, kw_only=True)
class SweepInputs:
    """What is sent: photos to one tower, texts to the other.

    Attributes:
        tower: the tower that takes them.
        photos: the files of the photos; empty for texts.
        texts: the texts; empty for photos.
    """

    tower: Tower
    photos: Sequence[Path] = ()
    texts: Sequence[str] = ()

    @property
    def noun(self) -> str:
        """What they are called in the document and in tables: "images" or "texts"."""
        return f"{self.tower}s"

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self.photos) + len(self.texts)

    def describe(self) -> dict[str, Any]:
        """Their number and sizes, for the document."""
        return _texts.describe(self.texts) if self.texts else _photos.describe(list(read_images(self.photos)))

    def write(self, target: Path) -> None:
        """Writes the input file of perf_analyzer."""
        data: Iterable[bytes] = (text.encode() for text in self.texts) if self.texts else read_images(self.photos)
        write_payload(data, TEXT if self.texts else IMAGE, target)


def read_inputs(sweep: Sweep, tower: Tower) -> SweepInputs:
    """Finds and checks the inputs for a tower.

    Raises:
        UnusableOption: there are none, or one of them cannot be used.
    """
    if tower == "text":
        return SweepInputs(tower=tower, texts=_texts.check(sweep.texts))
    return SweepInputs(tower=tower, photos=_photos.check(sweep.images or _PHOTOS))


def find_tower(sweep: Sweep) -> Tower:
    """The tower to measure: the one that the options name, or that the export has, and of two the image tower."""
    if sweep.wanted_tower is not None:
        return sweep.wanted_tower
    served = _listed(sweep) if sweep.addresses else [path.name for path in sweep.repository.glob("*")]
    found = {ENSEMBLES[kind].tower for kind in KINDS if ensemble_name(sweep.name, kind) in served}
    return "text" if found == {"text"} else "image"


def _listed(sweep: Sweep) -> Sequence[str]:
    scheme, target = next(iter(sweep.addresses.items()))
    return StatisticsSource(f"{scheme}://{target}").models()
