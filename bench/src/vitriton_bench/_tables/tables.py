"""The tables of a sweep, made of its document: the same rows for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitriton._repository.names import Tower

from vitriton_bench._load import names
from vitriton_bench._statistics.split import FIRST_STEP, SPLIT

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text.

    Attributes:
        title: the heading above the table.
        columns: the heads of the columns; the first column is text, the others are figures.
        rows: the rows, each with a cell for every column.
        notes: the sentences below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def sweep_tables(document: Document) -> list[Table]:
    """The tables of the loads and of the split of their time; empty without a load."""
    return [table for table in (_loads(document), _split(document)) if table.rows]


def machine(document: Document) -> str:
    """The machine, in one line."""
    known = document["machine"]
    cores = f"{known['cores']} core" + ("" if known["cores"] == 1 else "s")
    return f"{known['cpu']}, {cores}" + (f", {known['gpu']}" if known.get("gpu") else "")


def noun(document: Document) -> str:
    """What was sent: "images" or "texts"."""
    return "texts" if "texts" in document else "images"


def inputs(document: Document) -> str:
    """The images or texts that were sent, in one line."""
    return _texts(document["texts"]) if noun(document) == "texts" else _images(document["images"])


def _texts(known: Document) -> str:
    unit = "tokens" if "mean_tokens" in known else "bytes"
    mean, least, most = (known[f"{part}_{unit}"] for part in ("mean", "least", "most"))
    padding = f"; padded, {known['padding']:.2f} times as many" if "padding" in known else ""
    return f"{known['count']} texts of {least} to {most} {unit}, {mean:.0f} on average{padding}"


def _images(known: Document) -> str:
    kilobytes = [known[name] / 1e3 for name in ("mean_bytes", "least_bytes", "most_bytes")]
    sizes = ", ".join(known["sizes"][:5]) + (", …" if len(known["sizes"]) > 5 else "")
    mean, least, most = (f"{size:.0f}" for size in kilobytes)
    return f"{known['count']} images of {sizes}, {mean} kB on average ({least} to {most})"


def left_out(document: Document) -> list[str]:
    """A line for each thing that could not be measured."""
    lines = [f"left out: {name} ({reason.splitlines()[0]})" for name, reason in document.get("failed", {}).items()]
    if document.get("interrupted"):
        lines.append("The run was interrupted; missing figures were not measured.")
    return lines


def _load(row: Document) -> str:
    return ", ".join([*([row["precision"]] if "precision" in row else []), names.load(row)])


def _loads(document: Document) -> Table:
    rows, what = document.get("sweep", []), noun(document)
    is_padded = bool(rows) and all("padding" in row for row in rows)
    return Table(
        title="Load, by perf_analyzer",
        columns=(
            "load",
            f"{what}/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            f"{what}/batch",
            *(["padding"] if is_padded else []),
        ),
        rows=[
            [
                _load(row),
                *(f"{row[name]:.4g}" for name in ("inputs_per_s", "p50_ms", "p90_ms", "p99_ms")),
                _batch(row),
                *([f"{row['padding']:.2f}"] if is_padded else []),
            ]
            for row in rows
        ],
        notes=["padding: tokens that the server computes for each token of the texts."] if is_padded else (),
    )


def _batch(row: Document) -> str:
    return f"{row['inputs_per_batch']:.1f}" if "inputs_per_batch" in row else ""


def _split(document: Document) -> Table:
    rows = [row for row in document.get("sweep", []) if "split_ms" in row]
    tower: Tower = "text" if noun(document) == "texts" else "image"
    parts = ["tokenize" if tower == "text" and part == "preprocess" else part for part in SPLIT]
    return Table(
        title="Where the time of a request goes, by Triton's statistics",
        columns=("load, ms", *parts, "encoder busy", f"{FIRST_STEP[tower]} busy", "bottleneck"),
        rows=[[_load(row), *_parts(row)] for row in rows],
        notes=(
            [
                "client: time outside the server; copies: tensors into and out of the steps; other: time between the "
                "steps; busy: share of the time in which the step works."
            ]
            if rows
            else ()
        ),
    )


def _parts(row: Document) -> list[str]:
    busy = [f"{row['busy'][step]:.0%}" for step in ("encode", "preprocess")]
    return [*(f"{row['split_ms'][part]:.3g}" for part in SPLIT), *busy, row["bottleneck"]]
