"""The pictures of the report: throughput against p99 latency, and the split of a request's time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitriton_bench._errors import BenchError
from vitriton_bench._load import names
from vitriton_bench._statistics.split import SPLIT
from vitriton_bench._tables.tables import noun

Document = Mapping[str, Any]
TITLES = {"throughput.svg": "Throughput against p99 latency", "stages.svg": "Where the time of a request goes"}


def draw(document: Document, folder: Path) -> list[Path]:
    """Writes the pictures that the document has data for.

    Raises:
        BenchError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as exc:
        raise BenchError("plots need matplotlib; `pip install -r bench/report/requirements.txt`") from exc
    rows = document.get("sweep", [])
    if not rows:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    # the same document gives the same bytes
    with mpl.rc_context({"svg.hashsalt": "vitriton", "svg.fonttype": "path", "font.size": 9}):
        return [_throughput(document, folder / "throughput.svg"), _stages(rows, folder / "stages.svg")]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")  # without pyplot: no window system, no global state


def _series(row: Document) -> str:
    parts = [str(row[name]) for name in ("precision", "kind", "protocol") if name in row]
    parts += [f"batch {row['batch']}"] if row["batch"] > 1 else []
    return " ".join(parts) + (" shared memory" if row["shared_memory"] == "system" else "")


def _throughput(document: Document, target: Path) -> Path:
    figure = _figure(9.0, 4.5)
    axes = figure.subplots()
    series: dict[str, list[Document]] = {}
    for row in document["sweep"]:
        series.setdefault(_series(row), []).append(row)
    for name, rows in series.items():
        known = sorted(rows, key=lambda row: row.get("concurrency", 0))
        axes.plot([row["inputs_per_s"] for row in known], [row["p99_ms"] for row in known], "o-", label=name)
        for row in known:
            axes.annotate(str(row.get("concurrency", "")), (row["inputs_per_s"], row["p99_ms"]), fontsize=7)
    for name, samples in _peers(document).items():
        speed, p99 = (statistics.median(sample[field] for sample in samples) for field in ("inputs_per_s", "p99_ms"))
        axes.plot([speed], [p99], "x", label=name)
    axes.set(xlabel=f"{noun(document)}/s", ylabel="p99 latency, ms", yscale="log", title="beside the points: callers")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(fontsize=7, loc="outside right upper")
    return _save(figure, target)


def _peers(document: Document) -> dict[str, list[Document]]:
    rounds = document.get("rounds", [])
    names = sorted({name for entry in rounds for name in entry if name.startswith("LitServe")})
    return {name: [entry[name] for entry in rounds if name in entry] for name in names}


def _stages(rows: list[Document], target: Path) -> Path:
    known = [row for row in rows if "split_ms" in row]
    figure = _figure(7.5, 1.2 + 0.32 * len(known))
    axes = figure.subplots()
    labels = [f"{_series(row)}, {names.callers(row['concurrency'])}" for row in known]
    left = [0.0] * len(known)
    for part in SPLIT:
        values = [row["split_ms"][part] for row in known]
        axes.barh(labels, values, left=left, label=part)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set(xlabel="ms of a request")
    axes.invert_yaxis()
    figure.legend(fontsize=7, ncols=len(SPLIT), loc="outside upper right")
    return _save(figure, target)


def _save(figure: Any, target: Path) -> Path:
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    return target
