"""Writes the dashboard "Vitriton: what is slow, and why" from the panels below.

Usage: python docker/grafana/dashboard.py docker/grafana/dashboards/vitriton.json

Read the rows from top to bottom: the state of the service; the stages that take the time; batches and queues; the
machine.
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

# The series that the variables `service` and `name` select. Clients call ensembles, and their steps do the work.
SERVICE = 'service=~"$service"'
ENSEMBLES = f'{SERVICE}, model=~"$name(_text)?(_pooled|_unpooled)"'
STEPS = f'{SERVICE}, model=~"$name(_preprocess|_tokenize|(_text)?(_pooled|_unpooled)_encoder)"'
FIRST_STEP = f'{SERVICE}, model=~"$name(_preprocess|_tokenize)"'
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
        title: the title, a few words.
        why: the text behind Grafana's (i): what the panel shows, and what to do about it.
        unit: Grafana's name for the unit.
        width: the width, of 24 columns.
        kind: Grafana's name for the kind of panel.
        stacked: whether the lines are parts of a whole.
        colors: the color from each value on, for a `stat`.
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
    encoder = f'{SERVICE}, model=~"$name(_text)?_{output}_encoder"'
    stages = (
        ("queue", "queue"),
        ("compute_input", "input"),
        ("compute_infer", "compute"),
        ("compute_output", "output"),
    )
    return Panel(
        title=f"Mean time of a request in each stage, {output}",
        why=(
            "The parts of a request's mean time, stacked. Reduce the largest part. The first step preprocesses images "
            "or tokenizes texts, for both outputs. Its queue: add cores, or let clients make the pixels. Encoder "
            "compute: use a lower precision or a GPU. Encoder queue: add instances or a server."
        ),
        queries=[
            Query(expr=_mean_seconds(part, labels), legend=f"{step}: {text}")
            for step, labels in (("first step", FIRST_STEP), ("encoder", encoder))
            for part, text in stages
        ],
        unit="s",
        width=12,
        stacked=True,
    )


ROWS: dict[str, Sequence[Panel]] = {
    "State": (
        Panel(
            title="Ready",
            why="1 if Triton accepts requests. Alerts: TritonDown and TritonNotReady; ModelGone for a single model.",
            queries=[Query(expr=f'min by (service) (up{{job="triton-ready", {SERVICE}}})', legend="{{service}}")],
            unit="none",
            width=3,
            kind="stat",
            colors=((None, "red"), (1, "green")),
        ),
        Panel(
            title="Alerts",
            why="The number of alerts that fire now. docs/operations/alerts.md says what to do about each.",
            queries=[Query(expr='count(ALERTS{alertstate="firing"}) or vector(0)', legend="firing")],
            unit="none",
            width=3,
            kind="stat",
            colors=((None, "green"), (1, "red")),
        ),
        Panel(
            title="Images and texts per second",
            why="The images and texts in requests that were answered; refused requests do not count.",
            queries=[Query(expr=_by_model("nv_inference_count", ENSEMBLES), legend="{{model}}")],
            unit="short",
            width=9,
        ),
        Panel(
            title="Latency of requests",
            why=(
                "The time from a request's arrival at Triton to its answer, over the last minute, without the network "
                "and the gateway. A request may hold several images or texts. The objective is in "
                "docker/prometheus/objectives.yml."
            ),
            queries=[
                *(
                    Query(expr=_quantile("request", quantile, ENSEMBLES), legend=f"{{{{model}}}} p{text}")
                    for quantile, text in (("0.5", "50"), ("0.95", "95"), ("0.99", "99"))
                ),
                Query(expr="vitriton:p99_objective_seconds", legend="p99 objective"),
            ],
            unit="s",
            width=9,
        ),
        Panel(
            title="Failures per second, by reason",
            why=(
                "BACKEND: the process of a step died, or the step raised an error (alert ModelFails). REJECTED: a "
                "queue was full, or the wait was too long (alert QueueFull). CANCELED: the client gave up. OTHER, for "
                "an ensemble: most often inputs that cannot be read; failures of its steps count here too. Triton "
                "2.51 counts each of them twice."
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
            title="Requests per second",
            why="The answered requests. Images and texts per second divided by this is their mean number in a request.",
            queries=[Query(expr=_by_model("nv_inference_request_success", ENSEMBLES), legend="{{model}}")],
            unit="reqps",
            width=12,
        ),
    ),
    "Time by stage": (
        _stages("pooled"),
        _stages("unpooled"),
        Panel(
            title="p99 of each step",
            why="The p99 of queue and computing together. The step whose p99 follows that of the ensemble causes it.",
            queries=[Query(expr=_quantile("request", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
        Panel(
            title="p99 of the queue of each step",
            why="If it is long and computing is short, many requests come at once, or there are too few instances.",
            queries=[Query(expr=_quantile("queue", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
        Panel(
            title="p99 of the computing of each step",
            why=(
                "The computing time of a whole batch. If it is longer than usual at the same batch size, other "
                "programs use the cores or the GPU, or these are throttled."
            ),
            queries=[Query(expr=_quantile("compute_infer", "0.99", STEPS), legend="{{model}}")],
            unit="s",
            width=12,
        ),
    ),
    "Batches and queues": (
        Panel(
            title="Images or texts in a batch",
            why=(
                "The mean size of the batches that the dynamic batcher makes. If it is 1 under load, the step is never "
                "behind the clients, or a higher --max-queue-delay-us could gather more."
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
            title="Waiting requests",
            why="The requests in each step's queue. At --max-queue-size, more are refused. Alert: QueueGrowing.",
            queries=[
                Query(
                    expr=f"sum by (service, model) (nv_inference_pending_request_count{{{STEPS}}})", legend="{{model}}"
                ),
                Query(expr="vitriton:queue_size", legend="limit"),
            ],
            unit="short",
        ),
        Panel(
            title="Busy instances",
            why=(
                "The mean number of batches that a step computes at the same time. If it equals the number of the "
                "step's instances, the step is always busy. Alert for the first step: PreprocessSaturated."
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
                "The share of the host's cores that all programs use. If it is 1, and preprocessing or an encoder on "
                "the CPU is slow, add cores."
            ),
            queries=[Query(expr=f"max by (service) (nv_cpu_utilization{{{SERVICE}}})", legend="{{service}}")],
            unit="percentunit",
        ),
        Panel(
            title="Memory of the host",
            why="The used and the total memory. Alert: HostMemory.",
            queries=[
                Query(expr=f"max by (service) (nv_cpu_memory_used_bytes{{{SERVICE}}})", legend="{{service}} used"),
                Query(expr=f"max by (service) (nv_cpu_memory_total_bytes{{{SERVICE}}})", legend="{{service}} total"),
            ],
            unit="bytes",
        ),
        Panel(
            title="Restarts",
            why="The number of counter resets within 30 minutes. Alert: TritonRestarts.",
            queries=[
                Query(expr=f"max by (service) (resets(nv_inference_count{{{SERVICE}}}[30m]))", legend="{{service}}")
            ],
            unit="none",
        ),
        Panel(
            title="GPU: use",
            why="If it is low while requests wait for the encoder, batches are too small, or preprocessing is slow.",
            queries=[Query(expr=f"nv_gpu_utilization{{{SERVICE}}}", legend="{{gpu_uuid}}")],
            unit="percentunit",
        ),
        Panel(
            title="GPU: memory",
            why="The used and the total memory. Alert: GpuMemory.",
            queries=[
                Query(expr=f"nv_gpu_memory_used_bytes{{{SERVICE}}}", legend="{{gpu_uuid}} used"),
                Query(expr=f"nv_gpu_memory_total_bytes{{{SERVICE}}}", legend="{{gpu_uuid}} total"),
            ],
            unit="bytes",
        ),
        Panel(
            title="GPU: power",
            why="At the limit, the GPU slows down.",
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
                    "name",
                    'label_values(nv_inference_count{service=~"$service"}, model)',
                    "/^(.+?)(?:_text)?_(?:un)?pooled$/",
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
