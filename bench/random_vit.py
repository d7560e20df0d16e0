"""Writes a ViT-B/16 with seeded random weights, for benchmarks without the hub: speed does not depend on weights.

python bench/random_vit.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from report.exports.checkpoint import random_vit

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the checkpoint")
    random_vit("base", parser.parse_args().folder)
