"""Trains a classifier on the vectors of labeled photos, and says how well it does on photos that it has not seen.

    python examples/transfer.py photos --url localhost:8001 --model photos

The folder has a subfolder of photos for each class: photos/cats/1.jpg, photos/dogs/2.jpg and so on.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vitriton import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="folder with a subfolder of photos for each class")
parser.add_argument("--url", default="localhost:8001", help="address of the server (default: %(default)s)")
parser.add_argument("--model", default="photos", help="name of the model (default: %(default)s)")
parser.add_argument("--folds", type=int, default=5, help="number of parts, each left out once (default: %(default)s)")
given = parser.parse_args()

photos = sorted(path for path in given.folder.glob("*/*") if path.is_file())
vectors, labels = [], []
with Client(given.url, model=given.model) as client:
    for photo, result in zip(photos, client.stream(photos), strict=True):  # results come in the order of the photos
        if result.error is not None:
            print(f"left out: {result.error}")
            continue
        vectors.append(result.embedding)
        labels.append(photo.parent.name)
classes, counts = np.unique(labels, return_counts=True)
if len(classes) < 2 or counts.min() < given.folds:
    raise SystemExit(f"{given.folder} needs two classes or more, with at least {given.folds} photos each (--folds)")

classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
folds = StratifiedKFold(given.folds, shuffle=True, random_state=0)
predicted = cross_val_predict(classifier, np.stack(vectors), labels, cv=folds)  # each by a fit without that photo
right = int((predicted == np.array(labels)).sum())
interval = binomtest(right, len(labels)).proportion_ci(0.95, method="wilson")
print(f"{right} of {len(labels)} photos of {len(classes)} classes are recognized: {right / len(labels):.1%}")
print(f"95% confidence interval: {interval.low:.1%} to {interval.high:.1%}")
print(f"the most frequent class alone: {counts.max() / len(labels):.1%}")
