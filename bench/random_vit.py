"""Writes a ViT-B/16 with seeded random weights, for benchmarks without the hub: speed does not depend on weights."""

from __future__ import annotations

import sys
from pathlib import Path

from report.exports.checkpoint import random_vit

if __name__ == "__main__":
    random_vit("base", Path(sys.argv[1]))
