"""Embeds the sample photos with a server that is already running, and shows which photos look alike."""

import argparse
from pathlib import Path

import numpy as np
from vitriton import Client

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("address", nargs="?", default="localhost:8001", help="address of the server (default: %(default)s)")
parser.add_argument("model", nargs="?", default="vit-base-patch16-224", help="name of the model (default: %(default)s)")
given = parser.parse_args()
photos = sorted((Path(__file__).parent / "photos").glob("*.jpg"))

with Client(given.address, model=given.model) as client:
    client.wait_ready(timeout_s=60)
    vectors = client.embed(photos)  # (N, D) float32

vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
similarity = vectors @ vectors.T - 2 * np.eye(len(photos))  # (N, N); a photo is not its own neighbor
print(f"{len(photos)} photos, {vectors.shape[1]} numbers each")
for photo, row in zip(photos, similarity, strict=True):
    print(f"{photo.name:15} is most like {photos[row.argmax()].name:15} ({row.max():.3f})")
