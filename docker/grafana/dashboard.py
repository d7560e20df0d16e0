"""Writes the dashboard "Vitriton: what is slow, and why" from the panels below.

Usage: python docker/grafana/dashboard.py docker/grafana/dashboards/vitriton.json

The rows are to be read from above: is it well; if not, in which stage does the time go; are batches and queues the
reason; is the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH = 24  # of Grafana's grid

# What the variables `service` and `name` choose. Ensembles are what clients call, the steps do the work.
SERVICE = 'service=~"$service"'
ENSEMBLES = f'{SERVICE}, model=~"$name(_pooled|_unpooled)"'
STEPS = f'{SERVICE}, model=~"$name(_preprocess|_pooled_encoder|_unpooled_encoder)"'
PREPROCESS = f'{SERVICE}, model=~"$name(_preprocess)"'
ANY = f'{SERVICE}, model=~"$name(_.+)"'


@dataclass(frozen=True, kw_only=True)
class Query:
    """One line, or several, of a panel."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title: a few words.
        why: what it tells, and what to do then; Grafana shows it behind the (i).
        unit: Grafana's name of it.
        width: of 24.
        kind: Grafana's name of the panel.
        stacked: whether the lines are parts of a whole.
        colors: value from which → color, for a `stat`.
    """

    title: str
    why: str
    queries: Sequence[Query]
    unit: str
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False
    colors: Sequence[tuple[float | None, str]] = field(default=((None, "green"),))


def _rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def _by_model(metric: str, labels: str, more: str = "") -> str:
    return f"sum by (service, model{more}) ({_rate(metric, labels)})"


def _mean_seconds(part: str, labels: str) -> str:
    """Of a request, for each step."""
    spent = _by_model(f"nv_inference_{part}_duration_us", labels)
    return f"{spent} / {_by_model('nv_inference_request_success', labels)} / 1e6"


def _quantile(metric: str, quantile: str, labels: str) -> str:
    return f'max by (service, model) (nv_inference_{metric}_summary_us{{{labels}, quantile="{quantile}"}}) / 1e6'


def _stages(output: str) -> Panel:
    encoder = f'{SERVICE}, model=~"$name(_{output}_encoder)"'
    stages = (
        ("queue", "queue"),
        ("compute_input", "input"),
        ("compute_infer", "compute"),
        ("compute_output", "output"),
    )
    return Panel(
        title=f"Mean time of a request in each stage, {output}",
        why=(
            "Stacked: what a request waits for. The largest part is what to change. Queue of preprocess: more cores "
            "or instances for it, or pixels made by the client. Compute of the encoder: its precision, a GPU. Queue "
            "of the encoder: instances, or another server. One preprocess step serves both outputs."
        ),
        queries=[
            Query(expr=_mean_seconds(part, labels), legend=f"{step}: {text}")
            for step, labels in (("preprocess", PREPROCESS), ("encoder", encoder))
            for part, text in stages
        ],
        unit="s",
        width=12,
        stacked=True,
    )


ROWS: dict[str, Sequence[Panel]] = {
    "Is it well?": (
        Panel(
            title="Ready",
            why="1 when Triton says that it takes requests. TritonDown, TritonNotReady; ModelGone for a single model.",
            queries=[Query(expr=f'min by (service) (up{{job="triton-ready", {SERVICE}}})', legend="{{service}}")],
            unit="none",
            width=3,
            kind="stat",
            colors=((None, "red"), (1, "green")),
        ),
        Panel(
            title="Alerts",
            why="How many of docker/prometheus/alerts.yml fire now; docs/operations/alerts.md says of each what to do.",
            queries=[Query(expr='count(ALERTS{alertstate="firing"}) or vector(0)', legend="firing")],
            unit="none",
            width=3,
            kind="stat",
            colors=((None, "green"), (1, "red")),
        ),
        Panel(
            title="Images a second",
            why="What clients got, not counting what was refused.",
            queries=[Query(expr=_by_model("nv_inference_count", ENSEMBLES), legend="{{model}}")],
            unit="short",
            width=9,
        ),
        Panel(
            title="Latency of requests",
            why=(
                "From Triton's arrival to its answer, over the last minute; the wire and the gateway come on top. A "
                "request has as many images as its client put in it. The objective is in "
                "docker/prometheus/objectives.yml."
            ),
            queries=[
                *(
                    Query(expr=_quantile("request", quantile, ENSEMBLES), legend=f"{{{{model}}}} p{text}")
                    for quantile, text in (("0.5", "50"), ("0.95", "95"), ("0.99", "99"))
                ),
                Query(expr="vitriton:p99_objective_seconds", legend="objective of p99"),
            ],
            unit="s",
            width=9,
        ),
        Panel(
            title="Failures a second, by reason",
            why=(
                "BACKEND: a step's process died or raised, the model's fault (ModelFails). REJECTED: a queue was full "
                "or the wait too long (QueueFull). CANCELED: the client gave up. OTHER, of an ensemble: most often "
                "images that cannot be read, and it has what failed in its steps too. Triton 2.51 counts each twice "
                "there."
            ),
            queries=[
                Query(
                    expr=f"{_by_model('nv_inference_request_failure', ANY, ', reason')} > 0",
                    legend="{{model}} {{reason}}",
                )
            ],
            unit="short",
            width=12,
        ),
        Panel(
            title="Requests a second",
            why="Beside the images a second: how many images a client puts in a request.",
            queries=[Query(expr=_by_model("nv_inference_request_success", ENSEMBLES), legend="{{model}}")],
            unit="reqps",
            width=12,
        ),
    ),
    "Where does the time go?": (
        _stages("pooled"),
        _stages("unpooled"),
        Panel(
            title="p99 of each step, whole",
            why="The step whose p99 follows that of the ensemble is the one that makes it.",
            queries=[Query(expr=_quantile("request", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
        Panel(
            title="p99 in the queue of each step",
            why="Long here and short in the next panel: too much comes at once, or there are too few instances.",
            queries=[Query(expr=_quantile("queue", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
        Panel(
            title="p99 of the computing of each step",
            why=(
                "Of a whole batch. Longer than usual at the same batch size: the cores or the GPU are shared, or "
                "throttled."
            ),
            queries=[Query(expr=_quantile("compute_infer", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
    ),
    "Batches and queues": (
        Panel(
            title="Images in a batch",
            why=(
                "What the dynamic batcher makes of the requests. 1 under load: clients send one at a time and the "
                "step is never behind, or --max-queue-delay-us could gather more."
            ),
            queries=[
                Query(
                    expr=f"{_by_model('nv_inference_count', STEPS)} / {_by_model('nv_inference_exec_count', STEPS)}",
                    legend="{{model}}",
                )
            ],
            unit="short",
        ),
        Panel(
            title="Requests that wait",
            why="For each step, now. At --max-queue-size (vitriton:queue_size) more are turned away. QueueGrowing.",
            queries=[
                Query(
                    expr=f"sum by (service, model) (nv_inference_pending_request_count{{{STEPS}}})", legend="{{model}}"
                ),
                Query(expr="vitriton:queue_size", legend="limit"),
            ],
            unit="short",
        ),
        Panel(
            title="Instances at work",
            why=(
                "Batches of a step that are being computed at the same time, on average. At the number of its "
                "instances it is busy all the time; PreprocessSaturated for the first step."
            ),
            queries=[
                Query(
                    expr=f"{_mean_seconds('compute_infer', STEPS)} * {_by_model('nv_inference_exec_count', STEPS)}",
                    legend="{{model}}",
                )
            ],
            unit="short",
        ),
    ),
    "The machine": (
        Panel(
            title="Cores in use",
            why=(
                "Of the whole host, whoever uses them. All in use, and preprocess or a CPU's encoder slow: cores are "
                "what is short."
            ),
            queries=[Query(expr=f"max by (service) (nv_cpu_utilization{{{SERVICE}}})", legend="{{service}}")],
            unit="percentunit",
        ),
        Panel(
            title="Memory of the host",
            why="In use, and all that there is. HostMemory.",
            queries=[
                Query(expr=f"max by (service) (nv_cpu_memory_used_bytes{{{SERVICE}}})", legend="{{service}} used"),
                Query(expr=f"max by (service) (nv_cpu_memory_total_bytes{{{SERVICE}}})", legend="{{service}} total"),
            ],
            unit="bytes",
        ),
        Panel(
            title="Starts again",
            why="Counters that began again within 30 minutes. TritonRestarts.",
            queries=[
                Query(expr=f"max by (service) (resets(nv_inference_count{{{SERVICE}}}[30m]))", legend="{{service}}")
            ],
            unit="none",
        ),
        Panel(
            title="GPU: use",
            why="Low while requests wait for the encoder: batches are too small, or preprocess does not deliver.",
            queries=[Query(expr=f"nv_gpu_utilization{{{SERVICE}}}", legend="{{gpu_uuid}}")],
            unit="percentunit",
        ),
        Panel(
            title="GPU: memory",
            why="In use, and all that there is. GpuMemory.",
            queries=[
                Query(expr=f"nv_gpu_memory_used_bytes{{{SERVICE}}}", legend="{{gpu_uuid}} used"),
                Query(expr=f"nv_gpu_memory_total_bytes{{{SERVICE}}}", legend="{{gpu_uuid}} total"),
            ],
            unit="bytes",
        ),
        Panel(
            title="GPU: power",
            why="At the limit the GPU slows itself down.",
            queries=[
                Query(expr=f"nv_gpu_power_usage{{{SERVICE}}}", legend="{{gpu_uuid}}"),
                Query(expr=f"nv_gpu_power_limit{{{SERVICE}}}", legend="{{gpu_uuid}} limit"),
            ],
            unit="watt",
        ),
    ),
}


def make_dashboard() -> dict[str, Any]:
    """What Grafana reads."""
    return {
        "uid": "vitriton",
        "title": "Vitriton: what is slow, and why",
        "tags": ["vitriton", "triton"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                _variable("service", 'label_values(up{job="triton"}, service)', ""),
                _variable(
                    "name", 'label_values(nv_inference_count{service=~"$service"}, model)', "/^(.+)_(?:un)?pooled$/"
                ),
            ]
        },
        "panels": list(_placed()),
    }


def _variable(name: str, query: str, regex: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "Variable"},
        "regex": regex,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": "All", "value": "$__all"},
        "options": [],
    }


def _placed() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top},
            "panels": [],
        }
        top, left = top + 1, 0
        for panel in panels:
            if left + panel.width > _WIDTH:
                top, left = top + 8, 0
            number += 1
            yield _panel(panel, number, {"h": 8, "w": panel.width, "x": left, "y": top})
            left += panel.width
        top += 8


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for value, color in panel.colors]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "stat":
        options: dict[str, Any] = {
            "colorMode": "background",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    else:
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.why,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
            for index, query in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(make_dashboard(), indent=2) + "\n", encoding="utf-8")
