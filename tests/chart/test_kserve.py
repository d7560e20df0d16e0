"""The runtime of KServe is the chart's server."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from chart import tools

_FOLDER = tools.ROOT / "deploy" / "kserve"


@pytest.fixture(scope="module")
def runtime() -> dict[str, Any]:
    """The specification of the ServingRuntime."""
    return dict(yaml.safe_load((_FOLDER / "servingruntime.yaml").read_text())["spec"])


@pytest.fixture(scope="module")
def chart() -> dict[str, Any]:
    """The pod that the chart makes with its defaults."""
    (one,) = (each for each in tools.documents(tools.template({})) if each["kind"] == "Deployment")
    return dict(one["spec"]["template"]["spec"])


def _elsewhere(container: dict[str, Any], name: str) -> Any:
    """A part of a container, with KServe's folder in place of the chart's."""
    return yaml.safe_load(yaml.safe_dump(container[name]).replace("/mnt/models", "/data/models"))


def test_it_serves_as_the_chart_does(runtime, chart):
    """Options, probes, limits and the end are the same, but for what KServe does itself."""
    (one,), (other,) = runtime["containers"], chart["containers"]
    assert one["name"] == "kserve-container"  # as KServe wants it
    ours = [each for each in other["args"] if "connection-age" not in each and each != "--watch"]
    assert _elsewhere(one, "args") == ours
    for name in ("startupProbe", "readinessProbe", "lifecycle", "resources"):
        assert _elsewhere(one, name) == other[name]
    assert one["livenessProbe"] == {**other["livenessProbe"], "httpGet": {"path": "/v2/health/live", "port": 8000}}
    assert other["securityContext"].items() <= one["securityContext"].items()


def test_it_has_the_volumes_of_the_chart(runtime, chart):
    """Shared memory and temporary files have the chart's sizes."""
    ours = {volume["name"]: volume for volume in chart["volumes"]}
    for volume in runtime["volumes"]:
        assert volume == ours[volume["name"]]
    mounts = {mount["name"] for mount in runtime["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in runtime["volumes"]}


def test_the_example_asks_for_the_runtime(runtime):
    """Format, protocol and name of the InferenceService are those of the runtime."""
    service = yaml.safe_load((_FOLDER / "inferenceservice.yaml").read_text())["spec"]["predictor"]["model"]
    named = yaml.safe_load((_FOLDER / "servingruntime.yaml").read_text())["metadata"]["name"]
    assert service["runtime"] == named
    assert service["modelFormat"]["name"] in [each["name"] for each in runtime["supportedModelFormats"]]
    assert service["protocolVersion"] in runtime["protocolVersions"]
