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
_EXAMPLES = ("cat.jpg", "sentence")  # the names of these two in the export's references
_SAME = 0.9999  # the lowest cosine similarity of two servers' vectors


def main(target: str, model: str, repository: str) -> int:
    """Prints a line for each server; returns 0 if all answer alike, and as the export did."""
    host, _, port = target.rpartition(":")
    addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)})
    failed = False
    vectors: list[Any] = []
    expected: Any | None = None
    lowest = _SAME
    for address in addresses:
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        with Client(where, model=model, timeout_s=60) as client:
            client.wait_ready(timeout_s=60)
            info = client.describe()
            if not vectors:
                expected, lowest = exported(Path(repository), model, info.fingerprint)
            vector = client.embed([_PHOTO])[0] if "image" in info.towers else client.embed_texts([_TEXT])[0]
        vectors.append(vector)
        likeness = cosine(vector, vectors[0])
        good = bool(np.isfinite(vector).all()) and likeness >= _SAME
        failed |= not good
        print(f"{where}: {vector.shape[0]} dimensions, {info.fingerprint}, cosine {likeness:.6f} to the first server")
    if expected is None:
        print("The export's references are not here: the servers were compared with each other only.")
    else:
        likeness = cosine(vectors[0], expected)
        failed |= not likeness >= lowest
        print(f"cosine {likeness:.6f} to the reference of the export, at least {lowest}")
    print("failed" if failed else f"{len(addresses)} servers answer")
    return int(failed)


def exported(repository: Path, model: str, fingerprint: str | None) -> tuple[Any | None, float]:
    """Returns the reference's vector of the photo or the text, and the lowest cosine similarity with it."""
    for kind in ("pooled", "text_pooled"):
        for path in (repository / f"{model}_{kind}").glob("*/references.json"):
            manifest = json.loads((path.parent / "manifest.json").read_text())
            references = json.loads(path.read_text())
            for each in references["inputs"]:
                if manifest["fingerprint"] == fingerprint and each["name"] in _EXAMPLES:
                    lowest = references["min_cosine"] or _SAME  # fp32 has a tolerance in its place
                    return np.frombuffer(base64.b64decode(each["values"]), "<f4"), lowest
    return None, _SAME


def cosine(one: Any, other: Any) -> float:
    """Returns the cosine similarity of two vectors."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
