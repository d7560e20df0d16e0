"""Embeds the sample photos with a server that is already running, and shows which photos look alike.

python examples/quickstart.py [ADDRESS] [MODEL]
"""

import sys
from pathlib import Path

import numpy as np
from vitriton import Client

address, model = [*sys.argv[1:], *["localhost:8001", "vit-base-patch16-224"][len(sys.argv) - 1 :]]
photos = sorted((Path(__file__).parent / "photos").glob("*.jpg"))

with Client(address, model=model) as client:
    client.wait_ready(timeout_s=60)
    vectors = client.embed(photos)  # (N, D) float32

vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
similarity = vectors @ vectors.T - 2 * np.eye(len(photos))  # (N, N); a photo is not its own neighbor
print(f"{len(photos)} photos, {vectors.shape[1]} numbers each")
for photo, row in zip(photos, similarity, strict=True):
    print(f"{photo.name:15} is most like {photos[row.argmax()].name:15} ({row.max():.3f})")
