"""The tables and the page of a session, made of its document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitriton_bench._tables.tables import Table, inputs, machine

from report.pages.markdown import as_markdown

Document = Mapping[str, Any]


def tables(document: Document) -> list[Table]:
    """The tables that the document has data for."""
    made = (_loads(document), _exports(document), _limits(document), _stages(document))
    return [table for table in made if table.rows]


def page(document: Document) -> str:
    """Writes the page as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    took = f" The session took {document['took_s'] / 60:.1f} minutes." if "took_s" in document else ""
    parts = [
        "# A session on one machine",
        f"<!-- Made by `{document['command']}`. -->",
        f"{document.get('model', {}).get('label', 'No model')}. {inputs(document)}. {machine(document)}, measured on "
        f"the {document['settings']['device'].upper()}. Python {document['machine']['python']}, {versions}.{took}",
        *(as_markdown(table) for table in tables(document)),
    ]
    return "\n\n".join(parts) + "\n"


def _loads(document: Document) -> Table:
    return Table(
        title="Loads",
        columns=("export", "way", "load", "images/s", "p50 ms", "p99 ms", "of the peak", "bottleneck"),
        rows=[
            [
                row["variant"],
                row["way"],
                row["load"],
                *(f"{row[name]:.4g}" for name in ("inputs_per_s", "p50_ms", "p99_ms")),
                _share(document, row),
                row.get("bottleneck", ""),
            ]
            for row in document["loads"]
        ],
        notes=[
            "of the peak: the operations of the model, as torch counts them, to the fastest matrix product of the same "
            "precision. The exported graph computes a little less: its last block is for the CLS token alone."
        ],
    )


def _share(document: Document, row: Document) -> str:
    flop, precision = document.get("model", {}).get("flop"), document["exports"][row["variant"]]["precision"]
    peak = document.get("limits", {}).get("products", {}).get(precision)
    return f"{row['inputs_per_s'] * flop / peak:.1%}" if flop and peak else ""


def _exports(document: Document) -> Table:
    return Table(
        title="Exports, verified through the server",
        columns=("export", "worst cosine", "images", "within its gates", "GPU memory, MB"),
        rows=[
            [
                name,
                f"{1 - known['distance']:.7f}" if "distance" in known else "",
                str(known.get("compared", "")),
                {True: "yes", False: "no"}.get(known.get("passed"), ""),
                f"{known['gpu_bytes'] / 1e6:.0f}" if "gpu_bytes" in known else "",
            ]
            for name, known in document["exports"].items()
        ],
    )


def _limits(document: Document) -> Table:
    limits, flop = document.get("limits", {}), document.get("model", {}).get("flop")
    rows = [
        [f"matrix products, {name}", f"{speed / 1e12:.4g} TFLOP/s", f"{speed / flop:.4g}" if flop else ""]
        for name, speed in limits.get("products", {}).items()
    ]
    for name, speed in limits.get("decoding", {}).items():
        rows.append([f"decoding and resizing, {name.replace('_', ' ')}", "", f"{speed:.4g}"])
    return Table(title="Limits of the machine", columns=("what", "fastest", "images/s at that rate"), rows=rows)


def _stages(document: Document) -> Table:
    return Table(
        title="Stages",
        columns=("stage", "s", "error"),
        rows=[
            [row["stage"], f"{row['took_s']:.1f}", " ".join(row.get("error", "").split())] for row in document["stages"]
        ],
    )
