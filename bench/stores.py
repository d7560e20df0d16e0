"""What a vector store does with many vectors: time, recall, memory and disk.

    python bench/stores.py ./x.lance [--vectors 200000] [--dimensions 384] [--queries 200] [--gaussian] [--json FILE]

The store must not be there yet, and is removed at the end unless `--keep` is given. The vectors are drawn from a seed:
by default from clusters (one for 200 vectors; two vectors of one have a cosine around 0.67), as embeddings are; with
`--gaussian` independently, the hardest case for an approximate index, as all vectors are nearly at the same distance.
Queries are further draws. The program writes batches, makes the index, and asks for the 10 nearest rows of each query,
one at a time: with every row compared (exact) and with the index, without a condition and with conditions that 10 % and
1 % of the rows meet. Recall is the share of the exact answer that the index finds.

Writing and asking are in a process each, whose peak of resident memory is printed beside that before the store was
opened. The memory of a database server is not in it. Disk is the size of a store's folder, after the index was made.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from vitriton_search.stores import open_store
from vitriton_search.stores.store import COLUMNS, Floats, Space, Store
from vitriton_search.stores.where import parse

K = 10
_CLUSTER = 200  # vectors
_SPREAD = 0.7  # of a cluster, in the length of its center: the cosine of two of its vectors is 1 / (1 + 0.7²)
_GROUPS = 100  # the values of the column of the conditions
_CONDITIONS = {"": None, "10 %": "width < 10", "1 %": "width = 7"}
_BLOCK = 4096  # vectors that one seed draws


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Vectors that are drawn anew whenever they are asked for.

    Attributes:
        number: the number of vectors.
        dimensions: the length of a vector.
        gaussian: whether they are drawn independently, instead of from clusters.
        seed: the seed.
    """

    number: int
    dimensions: int
    gaussian: bool = False
    seed: int = 0

    def blocks(self, first: int = 0) -> Iterator[Floats]:
        """Yields them in blocks, (B, D); other values of `first` give others of the same clusters."""
        centers: Floats = np.random.default_rng(self.seed).standard_normal(
            (max(10, self.number // _CLUSTER), self.dimensions), np.float32
        )
        for start in range(0, self.number, _BLOCK):
            random = np.random.default_rng((self.seed, first, start))
            block = random.standard_normal((min(_BLOCK, self.number - start), self.dimensions), np.float32)
            if not self.gaussian:
                block = centers[random.integers(len(centers), size=len(block))] + _SPREAD * block
            yield block / np.linalg.norm(block, axis=1, keepdims=True)

    def queries(self, number: int) -> Floats:
        """Returns vectors of the same kind that are not among these, (number, D)."""
        enough = islice(self.blocks(first=1), -(-number // _BLOCK))
        return np.concatenate(list(enough))[:number]


def rows(start: int, block: Floats, schema: pa.Schema) -> pa.Table:
    """Returns the rows of vectors, as an index of photos would have them."""
    numbers = range(start, start + len(block))
    values: dict[str, list[Any]] = {name: [None] * len(block) for name in COLUMNS}
    values["id"] = values["source"] = [f"/photos/{number // 1000:05}/IMG_{number:08}.jpg" for number in numbers]
    values["sha256"] = [f"{number:064x}" for number in numbers]
    values["bytes"] = [3_000_000 + number for number in numbers]
    values["width"] = [number * 7919 % _GROUPS for number in numbers]
    flat = pa.array(block.ravel(), pa.float32())
    columns = [pa.array(values[name], kind) for name, kind in COLUMNS.items()]
    return pa.table([*columns, pa.FixedSizeListArray.from_arrays(flat, block.shape[1])], schema=schema)


def fill(url: str, vectors: Vectors, batch: int) -> dict[str, float]:
    """Writes the vectors and makes the index, and returns figures."""
    before = peak_mb()
    space = Space(model="bench", fingerprint=f"bench-{vectors.dimensions}", dimensions=vectors.dimensions)
    with open_store(url, space) as store:
        started, slowest, start = time.perf_counter(), 0.0, 0
        for block in vectors.blocks():
            for first in range(0, len(block), batch):
                part = block[first : first + batch]
                begun = time.perf_counter()
                store.write(rows(start, part, store.schema))
                slowest = max(slowest, time.perf_counter() - begun)
                start += len(part)
        written = time.perf_counter()
        store.build_index()
        ended = time.perf_counter()
    figures = {"write_s": written - started, "slowest_write_s": slowest, "index_s": ended - written}
    return figures | {"start_mb": before, "peak_mb": peak_mb()}


def ask(url: str, vectors: Vectors, number: int) -> dict[str, Any]:
    """Asks the store, and returns figures."""
    before = peak_mb()
    queries = vectors.queries(number)
    answers: dict[str, dict[str, float]] = {}
    with open_store(url) as store:
        for name, text in _CONDITIONS.items():
            where = parse(text, store.columns) if text else None
            exact, truth = _timed(queries, lambda one, where=where: _ids(store, one, where, exact=True))
            approximate, found = _timed(queries, lambda one, where=where: _ids(store, one, where, exact=False))
            shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]
            answers[f"exact {name}".strip()] = exact | {"recall": 1.0}
            answers[f"index {name}".strip()] = approximate | {"recall": float(np.mean(shares))}
        has_index = store.has_index
    return {"answers": answers, "has_index": has_index, "start_mb": before, "peak_mb": peak_mb()}


def _ids(store: Store, query: Floats, where: Any, *, exact: bool) -> list[str]:
    return [hit.id for hit in store.search(query[None], K, where, exact=exact)[0]]


def _timed(queries: Floats, answer: Callable[[Floats], list[str]]) -> tuple[dict[str, float], list[list[str]]]:
    """The median and the 99th percentile of the times of the answers, and the answers."""
    answer(queries[0])  # opens files
    times, answers = [], []
    for query in queries:
        begun = time.perf_counter()
        answers.append(answer(query))
        times.append(time.perf_counter() - begun)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"p50_ms": float(p50), "p99_ms": float(p99)}, answers


def peak_mb() -> float:
    """The peak of this process's resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def disk_mb(url: str) -> float | None:
    """The size of a store's folder; None if it is not in one."""
    folder = Path(url.removeprefix("qdrant-edge:"))
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def table(document: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the table."""
    vectors, filled, asked = document["vectors"], document["fill"], document["ask"]
    kind = "independent" if vectors["gaussian"] else "clustered"
    yield f"{vectors['number']} {kind} vectors of {vectors['dimensions']} numbers"
    batches = f"{document['batch']} rows each, the slowest {filled['slowest_write_s']:.2f} s"
    none = "" if asked["has_index"] else " (none: every row is compared)"
    yield f"written in {filled['write_s']:.1f} s, {batches}; index {filled['index_s']:.1f} s{none}"
    disk = "" if document["disk_mb"] is None else f"; disk {document['disk_mb']:.0f} MiB"
    memory = (
        f"{name} {part['peak_mb']:.0f} MiB ({part['start_mb']:.0f} at the start)"
        for name, part in (("writing", filled), ("asking", asked))
    )
    yield f"memory: {', '.join(memory)}{disk}"
    yield f"{'':<12} {'p50 ms':>8} {'p99 ms':>8} {'recall@' + str(K):>10}"
    for name, one in asked["answers"].items():
        yield f"{name:<12} {one['p50_ms']:8.2f} {one['p99_ms']:8.2f} {one['recall']:10.4f}"


def main(argv: list[str] | None = None) -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", metavar="URL", help="the URL of a store that is not there yet")
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256, help="the number of rows in a write")
    parser.add_argument("--gaussian", action="store_true", help="independent vectors instead of clusters")
    parser.add_argument("--keep", action="store_true", help="leave the store")
    parser.add_argument("--json", type=Path, help="the file to write the figures to")
    arguments = parser.parse_args(argv)
    vectors = Vectors(number=arguments.vectors, dimensions=arguments.dimensions, gaussian=arguments.gaussian)
    context = multiprocessing.get_context("spawn")  # a process's peak is its own
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        filled = pool.submit(fill, arguments.store, vectors, arguments.batch).result()
        disk = disk_mb(arguments.store)
        asked = pool.submit(ask, arguments.store, vectors, arguments.queries).result()
    if not arguments.keep:
        with open_store(arguments.store) as store:
            store.remove()
    document = {"vectors": asdict(vectors), "batch": arguments.batch, "fill": filled, "disk_mb": disk, "ask": asked}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(table(document)))


if __name__ == "__main__":
    main()
