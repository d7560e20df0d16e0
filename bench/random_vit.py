"""Writes a ViT-B/16 of seeded random weights: for benchmarks without the hub, since speed does not depend on them."""

from __future__ import annotations

import sys
from pathlib import Path

from report.exports.checkpoint import random_vit

if __name__ == "__main__":
    random_vit("base", Path(sys.argv[1]))
