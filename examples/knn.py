"""Measures how well vectors tell labels apart: the share of images whose nearest neighbors have the same label.

    vitriton embed photos -o vectors.npy
    python examples/knn.py vectors.npy labels.csv

labels.csv has a line `file,label` for each image. The file is its path as `vitriton embed` was given it, or its name.
Each image is compared with all others by cosine similarity, and gets the label that most of its neighbors have.
"""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("vectors", type=Path, help="array that `vitriton embed` wrote (.npy), with its .sources.jsonl")
parser.add_argument("labels", type=Path, help="CSV file with a line `file,label` for each image")
parser.add_argument("--neighbors", type=int, default=5, help="number of neighbors (default: %(default)s)")
given = parser.parse_args()

sources = [json.loads(line)["source"] for line in given.vectors.with_suffix(".sources.jsonl").open()]
with given.labels.open(newline="") as file:
    known = {row[0]: row[1] for row in csv.reader(file) if row}
labels = [known.get(source) or known.get(Path(source).name) for source in sources]
rows = [row for row, label in enumerate(labels) if label]
if len(rows) <= given.neighbors:
    raise SystemExit(f"{given.labels} has labels for {len(rows)} of {len(sources)} images; label more than --neighbors")

vectors = np.load(given.vectors)[rows]  # (N, D) float32
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
labels = [labels[row] for row in rows]
right = 0
for row, label in enumerate(labels):
    similarity = vectors @ vectors[row]  # (N,)
    similarity[row] = -np.inf  # an image is not its own neighbor
    nearest = np.argsort(-similarity)[: given.neighbors]
    votes = Counter(labels[other] for other in nearest)  # of labels with equally many votes, the nearest counts
    right += votes.most_common(1)[0][0] == label
chance = max(Counter(labels).values()) / len(labels)
print(
    f"{right} of {len(labels)} images ({right / len(labels):.1%}) get their own label from {given.neighbors} neighbors"
)
print(f"the most frequent label alone: {chance:.1%}")
