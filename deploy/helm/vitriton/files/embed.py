"""Embeds a photo or a text on every server behind a name, and compares the vectors. Run by `helm test`.

Usage: python3 embed.py HOST:PORT MODEL REPOSITORY
"""

from __future__ import annotations

import base64
import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vitriton import Client

_TEXT = "A man is riding a bicycle along the river on a sunny afternoon."
_PHOTO = Path(__file__).parent / "cat.jpg"
_SAME = 0.9999  # the lowest cosine similarity of two servers' vectors
# The lowest cosine similarity with the vector of the export, by precision: the demands of the export itself
_AS_EXPORTED = {"fp32": 0.9999, "fp16": 0.9999, "int8": 0.99, "int8-fast": 0.99}


def main(target: str, model: str, repository: str) -> int:
    """Prints a line for each server; returns 0 if all answer alike, and as the export did."""
    host, _, port = target.rpartition(":")
    addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)})
    failed = False
    vectors: list[Any] = []
    example: dict[str, Any] | None = None
    lowest = _SAME
    for address in addresses:
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        with Client(where, model=model, timeout_s=60) as client:
            client.wait_ready(timeout_s=60)
            info = client.describe()
            if not vectors:
                example, lowest = exported(Path(repository), model, info.fingerprint)
            vector = client.embed([_PHOTO])[0] if "image" in info.towers else client.embed_texts([_TEXT])[0]
        vectors.append(vector)
        likeness = cosine(vector, vectors[0])
        good = bool(np.isfinite(vector).all()) and likeness >= _SAME
        failed |= not good
        print(f"{where}: {vector.shape[0]} dimensions, {info.fingerprint}, cosine {likeness:.6f} to the first server")
    if example is None:
        print("The manifest is not here, or has no example: the servers were compared with each other only.")
    else:
        likeness = cosine(vectors[0], np.frombuffer(base64.b64decode(example["embedding"]), "<f4"))
        failed |= not likeness >= lowest
        print(f"cosine {likeness:.6f} to the vector of the export, at least {lowest}")
    print("failed" if failed else f"{len(addresses)} servers answer")
    return int(failed)


def exported(repository: Path, model: str, fingerprint: str | None) -> tuple[dict[str, Any] | None, float]:
    """Returns the example in the manifest of a model, and the lowest cosine similarity with it."""
    for kind in ("pooled", "text_pooled"):
        for path in (repository / f"{model}_{kind}").glob("*/manifest.json"):
            manifest = json.loads(path.read_text())
            if manifest["fingerprint"] == fingerprint and manifest.get("example"):
                return manifest["example"], _AS_EXPORTED[manifest["precision"]]
    return None, _SAME


def cosine(one: Any, other: Any) -> float:
    """Returns the cosine similarity of two vectors."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
