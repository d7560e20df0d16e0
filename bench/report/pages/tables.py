"""The report's tables, made of its document: the same rows for the terminal and for the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitriton_bench._tables.tables import Table, noun, sweep_tables

from report.pages.targets import Verdict, verdicts

Document = Mapping[str, Any]

_SIDE = ("lowest to highest", "p50 ms", "p99 ms", "worst cosine")
_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def tables(document: Document) -> list[Table]:
    """The tables that the document has data for."""
    made = [
        _targets(document),
        _contenders(document),
        _limits(document),
        *sweep_tables(document),
        _steady(document),
        _rest(document),
    ]
    return [table for table in made if table.rows]


def limit_images_per_s(document: Document, name: str) -> float | None:
    """The machine's limit for a side: its matrix products, and Pillow on the same cores.

    On a GPU the two run in parallel, so the slower one is the limit; on a CPU they share the cores.
    """
    limits, flop = document.get("limits"), document.get("model", {}).get("flop")
    precision = next((known for known in _PRECISIONS if known in name.replace(",", " ").split()), None)
    if limits is None or not flop or precision not in limits["products"]:
        return None
    compute_s = flop / limits["products"][precision]
    decode_s = 0.0 if "ready pixels" in name else 1 / limits["decoding"]["all_cores"]
    on_gpu = document["settings"]["device"] == "gpu"
    return float(1 / (max(compute_s, decode_s) if on_gpu else compute_s + decode_s))


def _targets(document: Document) -> Table:
    found = verdicts(document) if "rounds" in document else []
    met = sum(verdict.met is True for verdict in found)
    bounds = sum(verdict.target.bound is not None for verdict in found)
    notes = [f"{met} of {bounds} targets are met in this run."]
    notes += sorted({f"{verdict.target.what}: {verdict.target.note}." for verdict in found if verdict.target.note})
    return Table(
        title="Targets",
        columns=("ratio", "target", "median", "lowest to highest", "rounds", "met"),
        rows=[_target_row(verdict) for verdict in found],
        notes=notes if found else (),
    )


def _target_row(verdict: Verdict) -> list[str]:
    target, ratios = verdict.target, verdict.ratios
    wanted = "" if target.bound is None else f"{'≥' if target.at_least else '≤'} {target.bound:g}"
    if verdict.median is None:
        return [target.what, wanted, "not measured", "", "0", "?"]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    met = {None: "", True: "yes", False: "no"}[verdict.met]
    return [target.what, wanted, f"{verdict.median:.2f}", spread, str(len(ratios)), met]


def _contenders(document: Document) -> Table:
    rounds = document.get("rounds", [])
    known = sorted({name for entry in rounds for name in entry}, key=_order)
    return Table(
        title="Side by side",
        columns=("what", "batch", f"{noun(document)}/s", *_SIDE, *(["of the limit"] if "limits" in document else [])),
        rows=[_contender_row(document, name, [entry[name] for entry in rounds if name in entry]) for name in known],
    )


def _order(name: str) -> tuple[int, str]:
    kinds = ("Vitriton", "pipeline", "sentence-transformers", "LitServe", "infinity", "ONNX Runtime")
    return next((index for index, kind in enumerate(kinds) if name.startswith(kind)), len(kinds)), name


def _contender_row(document: Document, name: str, samples: Sequence[Document]) -> list[str]:
    speeds = [sample["inputs_per_s"] for sample in samples]
    speed = statistics.median(speeds)
    accuracy = document.get("accuracy", {}).get(" ".join(name.split(",")[0].removesuffix(" unpooled").split()))
    limit = limit_images_per_s(document, name)
    served = name.startswith(("Vitriton", "LitServe", "infinity"))
    timed = served or "one by one" in name
    batch = "1" if "one by one" in name else str(document["settings"].get("batch", {}).get(name, "server's"))
    return [
        name,
        batch,
        f"{speed:.4g}",
        f"{min(speeds):.4g} to {max(speeds):.4g}",
        _median(samples, "p50_ms") if timed else "",
        _median(samples, "p99_ms") if timed else "",
        "" if accuracy is None or "unpooled" in name else f"{accuracy:.5f}",
        *([] if "limits" not in document else ["" if limit is None else f"{speed / limit:.0%}"]),
    ]


def _median(samples: Sequence[Document], field: str) -> str:
    return f"{statistics.median(sample[field] for sample in samples):.4g}"


def _limits(document: Document) -> Table:
    limits, flop = document.get("limits"), document.get("model", {}).get("flop")
    if limits is None:
        return Table(title="", columns=(), rows=[])
    rows = [
        [f"matrix products, {name}", f"{speed / 1e9:.0f} GFLOP/s", f"{speed / flop:.4g}" if flop else ""]
        for name, speed in limits["products"].items()
    ]
    rows.append(["memory, a copy read and written", f"{limits['memory_bytes_per_s'] / 1e9:.1f} GB/s", ""])
    rows.append(["Pillow on one core", "", f"{limits['decoding']['one_core']:.4g}"])
    rows.append(["Pillow on all cores", "", f"{limits['decoding']['all_cores']:.4g}"])
    notes = [f"The model needs {flop / 1e9:.4g} GFLOP per image, as torch counts them."] if flop else []
    return Table(
        title="Limits of the machine", columns=("what", "fastest", "images/s at that rate"), rows=rows, notes=notes
    )


def _steady(document: Document) -> Table:
    return Table(
        title="At 70 % of the peak load, fp32",
        columns=("requests", "images/s", "p50 ms", "p99 ms", "one by one, p50 ms", "p99 / p50 one by one"),
        rows=[
            [
                f"{row['rate']:.3g}/s, {row['arrivals']}",
                *(f"{row[name]:.4g}" for name in ("inputs_per_s", "p50_ms", "p99_ms", "alone_p50_ms")),
                f"{row['p99_ms'] / row['alone_p50_ms']:.2f}",
            ]
            for row in document.get("steady", [])
        ],
    )


def _rest(document: Document) -> Table:
    rows: list[list[str]] = []
    steps = document.get("preprocessing", [])
    if steps:
        rows.append(["preprocessing inside the step, images/s", _spread(row["inside_images_per_s"] for row in steps)])
        rows.append(["Pillow on one core, images/s", _spread(row["one_core_images_per_s"] for row in steps)])
    large = document.get("large")
    if large:
        photo = f"{' × '.join(map(str, large['size']))} JPEG, {large['mean_bytes'] / 1e6:.1f} MB"
        for way in ("exact", "scaled"):
            taken = (1e3 * entry[f"{way}_s"] for entry in large["rounds"])
            rows.append([f"{photo}, to pixels on one core, {way} decoding, ms", _spread(taken)])
        rows.append(["scaled decoding, worst cosine to exact", f"{large['worst_cosine']:.5f}"])
    small = document.get("small", {}).get("rounds", [])
    if small:
        rows.append(["ViT-Tiny fp32 served, images/s", _spread(row["served"]["inputs_per_s"] for row in small)])
        rows.append(
            ["ViT-Tiny fp32 in one process, images/s", _spread(row["one process"]["inputs_per_s"] for row in small)]
        )
    memory = document.get("memory")
    if memory:
        rows.append(["memory of the server, MB, shared pages once", f"{memory['shared_once'] / 1e6:.0f}"])
        rows.append(["memory of the server, MB, sum of its processes", f"{memory['sum'] / 1e6:.0f}"])
        rows.append(["weights that the server has loaded, MB", f"{memory['weights'] / 1e6:.0f}"])
    return Table(title="Other measurements", columns=("what", "median (lowest to highest)"), rows=rows)


def _spread(values: Iterable[float]) -> str:
    known = list(values)
    return f"{statistics.median(known):.4g} ({min(known):.4g} to {max(known):.4g})"
