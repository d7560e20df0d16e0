"""The page, made of the report's document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitriton_bench._tables.tables import Table, inputs, left_out, machine, noun

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


_HOW_TEXTS = """\
**How the sides are compared.** All sides take turns in each round, and every second round runs backwards, so that
other work on the machine affects all of them alike. A ratio is taken within a round, and the median of the rounds
counts; for so few rounds, the column *lowest to highest* is also the 95 % confidence interval of that median. So read
the ratios; the texts/s hold for this machine at that time only.

**The sides.** All sides have the same weights and get the same texts, cut at the same number of tokens. Vitriton and
infinity-emb answer callers that never pause, each with one text in a request: Vitriton over gRPC, infinity-emb over
HTTP/1.1 with kept connections and vectors as base64. Their callers are threads of one process. infinity-emb is stopped
while others are measured. transformers and sentence-transformers run in that process, at the best of several batch
sizes, and get all texts in one call. The pipeline's rows are averaged over the tokens of each text.

**At infinity's rate**, requests come at random times, as many a second as infinity-emb reached with callers that never
pause, and do not wait for earlier answers. The time of a request begins when it is due. The p99 is compared with that
of infinity-emb with its callers, which wait for their answers.

**The columns.** The worst cosine is that of the text that is farthest from sentence-transformers, which gets the texts
one at a time."""

_NOT_RUN = {
    "images": "it takes 20 minutes; tests/bench/test_report.py makes a small report",
    "texts": "it takes 12 minutes; tests/bench/test_text_report.py makes a small report",
}


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
        f"<!-- not run: {_NOT_RUN[noun(document)]} -->\n```sh\n{document['command']}\n```",
        f"{model}. {inputs(document)}. {machine(document)}. Python {document['machine']['python']}, {versions}."
        + (f" The run took {document['took_s'] / 60:.1f} minutes." if "took_s" in document else ""),
    ]
    parts += [f"**{line}**" for line in left_out(document)]
    if document.get("load", 0.0) > 1:
        parts.append(
            f"**When the run began, other programs kept {document['load']:.1f} cores busy. The threads of torch then "
            "wait for one another, so all peers look slower than they are: these ratios say nothing.**"
        )
    if "rounds" in document:
        parts.append(_HOW_TEXTS if noun(document) == "texts" else _HOW)
    if "infinity" in document:
        listed = ", ".join(f"{name} {version}" for name, version in document["infinity"].items())
        parts.append(f"infinity-emb runs in an environment of its own: {listed}.")
    for table in tables(document):
        parts.append(as_markdown(table))
    parts += [f"## {title}\n\n![{title}]({address})" for title, address in plots.items()]
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
    """Writes a table with its heading and notes."""
    lines = [f"| {' | '.join(table.columns)} |", "|---|" + "---:|" * (len(table.columns) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    notes = "".join(f"\n\n{note}" for note in table.notes)
    return f"## {table.title}\n\n" + "\n".join(lines) + notes
