"""The runtime of KServe is the chart's server, and the example keeps what the chart promises."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from chart import tools
from chart.objects import Document, render, server

_FOLDER = tools.ROOT / "deploy" / "kserve"


@pytest.fixture(scope="module")
def runtime() -> Document:
    """The specification of the ServingRuntime."""
    return dict(yaml.safe_load((_FOLDER / "servingruntime.yaml").read_text())["spec"])


@pytest.fixture(scope="module")
def predictor() -> Document:
    """The predictor of the InferenceService."""
    return dict(yaml.safe_load((_FOLDER / "inferenceservice.yaml").read_text())["spec"]["predictor"])


@pytest.fixture(scope="module")
def deployment() -> Document:
    """The Deployment that the chart makes with its defaults."""
    return dict(server(render({}))["spec"])


@pytest.fixture(scope="module")
def chart(deployment) -> Document:
    """Its pod."""
    return dict(deployment["template"]["spec"])


def _elsewhere(container: Document, name: str) -> Any:
    """A part of a container, with KServe's folder in place of the chart's."""
    return yaml.safe_load(yaml.safe_dump(container[name]).replace("/mnt/models", "/data/models"))


def test_it_serves_as_the_chart_does(runtime, chart):
    """Options, probes, limits and the end are the same; KServe copies a repository once, so nothing is watched."""
    (one,), (other,) = runtime["containers"], chart["containers"]
    assert one["name"] == "kserve-container"  # as KServe wants it
    assert _elsewhere(one, "args") == [each for each in other["args"] if each != "--watch"]
    for name in ("startupProbe", "readinessProbe", "lifecycle", "resources"):
        assert _elsewhere(one, name) == other[name]
    assert one["livenessProbe"] == {**other["livenessProbe"], "httpGet": {"path": "/v2/health/live", "port": 8000}}
    assert other["securityContext"].items() <= one["securityContext"].items()
    assert chart["securityContext"]["runAsUser"] == one["securityContext"]["runAsUser"]
    assert chart["securityContext"]["seccompProfile"] == one["securityContext"]["seccompProfile"]


def test_it_has_the_volumes_of_the_chart(runtime, chart):
    """Shared memory and temporary files have the chart's sizes."""
    ours = {volume["name"]: volume for volume in chart["volumes"]}
    for volume in runtime["volumes"]:
        assert volume == ours[volume["name"]]
    mounts = {mount["name"] for mount in runtime["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in runtime["volumes"]}


def test_its_ports_and_metrics_are_the_chart_s(runtime, chart):
    """The first port is that of gRPC, whose name tells KServe and gateways its protocol; metrics are annotated."""
    ports = {port["name"]: port["containerPort"] for port in chart["containers"][0]["ports"]}
    assert [(port["name"], port["containerPort"]) for port in runtime["containers"][0]["ports"]] == [
        ("h2c", ports["grpc"]),
        ("http1", ports["http"]),
    ]
    assert runtime["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_the_example_asks_for_the_runtime(runtime, predictor):
    """Format, protocol and name of the InferenceService are those of the runtime."""
    model = predictor["model"]
    named = yaml.safe_load((_FOLDER / "servingruntime.yaml").read_text())["metadata"]["name"]
    assert model["runtime"] == named
    assert model["modelFormat"]["name"] in [each["name"] for each in runtime["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["protocolVersions"]


def test_the_example_rolls_out_and_ends_as_the_chart_does(predictor, deployment, chart):
    """What a runtime cannot say stands in the InferenceService: the roll-out, the end, and what a pod shares."""
    assert predictor["deploymentStrategy"] == deployment["strategy"]
    for name in ("terminationGracePeriodSeconds", "shareProcessNamespace", "automountServiceAccountToken"):
        assert predictor[name] == chart[name], name
