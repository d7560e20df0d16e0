"""The page, made of the report's document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitriton_bench._tables.tables import Table, left_out, machine, photos

from report.pages.tables import tables

_HOW = """\
**How the sides are compared.** All sides take turns in each round, and every second round runs backwards, so that
other work on the machine affects all of them alike. The two sides of a ratio are measured one after the other. A
ratio is taken within a round, and the median of the rounds counts. So read the ratios; the images/s hold for this
machine at that time only. All sides get the same encoded images, and each has its own best batch size or number of
callers. The rate of a loaded server is taken over whole waves of answers.

**The sides.** LitServe gets the image as the body of a request, answers with raw float32, decodes on all cores, and
batches up to 16 images; it is stopped while others are measured. ONNX Runtime alone uses all cores for each image,
which is its default. Served by Vitriton, each core computes its own images, so the served model can be the faster
one.

**The columns.** The worst cosine is that of the image that is farthest from transformers in float32. The limit is
the images/s that the machine would reach if it computed only the model's matrix products, at the fastest rate seen
on it, and decoded the images with Pillow on all cores. The exported graph needs fewer products than the model has,
because its last block computes the CLS token alone."""


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
