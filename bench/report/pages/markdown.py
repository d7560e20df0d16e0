"""The page, made of the report's document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitriton_bench._tables.tables import Table, left_out, machine, photos

from report.pages.tables import tables

_HOW = """\
Everything that is compared takes its turn in each round, the two sides of a ratio one after the other, every second
round backwards, so that whatever else the machine does hits all alike; a ratio is taken within a round, and its
median counts. So read the ratios, and take the images/s for this machine in that quarter of an hour. Rates of a
loaded server are taken over whole waves of answers. All sides get the same encoded images, and each its own best
batch size or number of callers. LitServe gets the image as the body of a request and answers with raw float32,
decodes on all cores, and batches up to 16; it is stopped while others are measured. ONNX Runtime alone has all
cores compute each image, as it does by itself; served, each core computes images of its own, which is why that can
be the faster one. The worst cosine is that of the image that is farthest from transformers in float32. A limit is
the number of images/s if nothing but the model's matrix products were computed, at the fastest rate that was seen
on this machine, and images only decoded by Pillow on all cores; the exported graph needs fewer of these than the
model has, as its last block computes the CLS token alone."""


_NOT_RUN = "it takes 20 minutes; tests/bench/test_report.py makes a small report"


def page(document: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """Writes the page as Markdown.

    Args:
        document: the document of a report or a sweep.
        plots: the addresses of the pictures, by title.
    """
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    model = document.get("model", {}).get("label") or document.get("name", "")
    parts = [
        "# Benchmarks",
        f"<!-- Made by `{document['command']}`; do not edit. -->",
        f"<!-- not run: {_NOT_RUN} -->\n```sh\n{document['command']}\n```",
        f"{model}. {photos(document)}. {machine(document)}. Python {document['machine']['python']}, {versions}."
        + (f" The run took {document['took_s'] / 60:.1f} minutes." if "took_s" in document else ""),
    ]
    parts += [f"**{line}**" for line in left_out(document)]
    if "rounds" in document:
        parts.append(_HOW)
    for table in tables(document):
        parts.append(_table(table))
    parts += [f"## {title}\n\n![{title}]({address})" for title, address in plots.items()]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"| {' | '.join(table.columns)} |", "|---|" + "---:|" * (len(table.columns) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    notes = "".join(f"\n\n{note}" for note in table.notes)
    return f"## {table.title}\n\n" + "\n".join(lines) + notes
