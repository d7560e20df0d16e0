"""Where the scenes of a video begin. Pure: it sees small gray pictures, one after another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# FFmpeg's rule (libavfilter/f_select.c), with the lower one of the thresholds that its manual calls sane: 0.3 × 100.
_THRESHOLD = 30.0


class Cuts:
    """Finds cuts: a frame that differs from the one before much, and much more than that one from its own predecessor.

    The second condition leaves out fast motion and flicker, in which all frames differ.
    """

    def __init__(self) -> None:
        self._before: NDArray[np.int16] | None = None
        self._change = 0.0

    def is_first(self, thumbnail: NDArray[np.uint8]) -> bool:
        """Whether a scene begins with the next frame.

        Args:
            thumbnail: the frame, small and gray, (h, w) uint8.
        """
        now = thumbnail.astype(np.int16)
        before, self._before = self._before, now
        if before is None:
            return True
        change = float(np.abs(now - before).mean())
        more, self._change = abs(change - self._change), change
        return min(change, more) >= _THRESHOLD
