"""What an index run does with a store, without a model: asks what is known, and writes the rest batch by batch.

Before each batch it waits for a line of its input, or for the end of that.

python index_run.py URL
"""

from __future__ import annotations

import sys

from search.store_contract import SPACE, rows, vectors
from vitriton_search.stores import open_store
from vitriton_search.stores.store import StoreError

BATCHES, SIZE = 40, 50
IDS = [f"/photos/{number}.jpg" for number in range(BATCHES * SIZE)]
VECTORS = vectors(len(IDS))


def main(url: str) -> None:
    with open_store(url, SPACE) as store:
        known = set(store.known()["id"].to_pylist())
        missing = [number for number, one in enumerate(IDS) if one not in known]
        print("known", len(known), flush=True)
        for start in range(0, len(missing), SIZE):
            batch = missing[start : start + SIZE]
            sys.stdin.readline()
            store.write(rows([IDS[number] for number in batch], VECTORS[batch]))
            print("written", len(batch), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except StoreError as exc:
        sys.exit(f"error: {exc}")
