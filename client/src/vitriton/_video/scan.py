"""What one pass over the packets of a video finds, without decoding them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from vitriton._video.timeline import Timeline

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


@dataclass
class Scan:
    """The packets of a video so far.

    Attributes:
        finds_by_shown: whether the index of the file has the times when key frames are shown; else when decoded.
        entries: the places of key frames in the index of the file, by the time when each is shown, where these differ.
        total: the number of packets.
        shown: the number of packets with a whole frame that is shown.
        damaged: the number of packets that lack bytes.
        is_cut: whether the last packet lacks bytes.
        has_times: whether each frame has a time, and the times never go back, as they do in files that were joined.
    """

    finds_by_shown: bool
    entries: dict[int, int] = field(default_factory=dict)
    total: int = 0
    shown: int = 0
    damaged: int = 0
    is_cut: bool = False
    has_times: bool = True
    _ticks: array[int] = field(default_factory=lambda: array("q"))
    _keys: array[int] = field(default_factory=lambda: array("q"))
    _duration: int = 0  # of the last frame, in ticks
    _decoded: int | None = None  # when the last packet is decoded, in ticks

    def take(self, packet: Packet[VideoStream]) -> None:
        """Takes the next packet."""
        self.total += 1
        self.is_cut = packet.is_corrupt
        self.damaged += self.is_cut
        if packet.is_keyframe and packet.pts is not None:
            self._keys.append(packet.pts)
            if packet.dts not in (None, packet.pts) and not self.finds_by_shown:
                self.entries[packet.pts] = packet.dts
        if packet.dts is not None:
            self.has_times &= self._decoded is None or packet.dts >= self._decoded
            self._decoded = packet.dts
        if self.is_cut or not packet.size or packet.is_discard:  # the last: decoded for others, and not shown
            return
        self.shown += 1
        self._duration = packet.duration or self._duration
        if packet.pts is None:
            self.has_times = False
        else:
            self._ticks.append(packet.pts)

    def timeline(self, tick_s: Fraction, start_s: Fraction | None, rate: Fraction) -> Timeline:
        """The timeline of at least one frame.

        Args:
            tick_s: the duration of a tick, in seconds.
            start_s: the time at which the first stream of the file begins, from which players count; None: the first
                frame.
            rate: the frames per second, from which times follow if the file has none.
        """
        if not self.has_times:
            ticks = array("q", range(self.shown))
            return Timeline(ticks=ticks, keys=array("q"), origin=0, end=self.shown, tick_s=1 / rate, is_counted=True)
        ticks = array("q", np.unique(np.frombuffer(self._ticks, np.int64)).tobytes())
        return Timeline(
            ticks=ticks,
            keys=array("q", sorted(self._keys)),
            origin=ticks[0] if start_s is None else min(ticks[0], round(start_s / tick_s)),
            end=ticks[-1] + max(1, self._duration),
            tick_s=tick_s,
        )
