"""What the chart's autoscaler asks Prometheus, answered by Prometheus' own tool for rules."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from compose import pod as pods

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not pods.HELM.exists(), reason="there is no helm; `make test-compose` unpacks it"),
]

_BUSY, _IDLE, _OTHER = (
    "photos-vitriton-6d5f7c9b8-abcde",
    "photos-vitriton-6d5f7c9b8-fghij",
    "photos-vitriton-api-7-abcde",
)


def _series(pod: str, model: str, *, requests: int, batches: int, busy_s: float, pending: int) -> list[dict[str, str]]:
    """The counters of a step over ten minutes, from what happens in each 15 seconds of them."""
    labels = f'{{namespace="embeddings", pod="{pod}", model="{model}", version="1"}}'
    # each request of a batch counts the time of the whole batch
    microseconds = int(busy_s * 1e6 * requests / batches) if batches else 0
    values = {
        "nv_inference_request_success": f"0+{requests}x40",
        "nv_inference_exec_count": f"0+{batches}x40",
        "nv_inference_compute_infer_duration_us": f"0+{microseconds}x40",
        "nv_inference_pending_request_count": f"{pending}x40",
    }
    return [{"series": name + labels, "values": text} for name, text in values.items()]


@pytest.fixture(scope="module")
def queries(tmp_path_factory) -> dict[str, str]:
    """The queries of the ScaledObject, by trigger."""
    objects = pods.render({"autoscaling": {"kind": "keda"}}, tmp_path_factory.mktemp("keda"))
    (scaler,) = (each for each in objects if each["kind"] == "ScaledObject")
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]}


def test_the_signals_are_those_of_the_servers(engine, queries, tmp_path):
    """A busy server counts by its busiest step, an idle one as 0, and pods of other components not at all."""
    series = [
        *_series(_BUSY, "vit_preprocess", requests=80, batches=20, busy_s=1.5, pending=3),
        *_series(_BUSY, "vit_pooled_encoder", requests=80, batches=10, busy_s=12.0, pending=13),
        *_series(_BUSY, "vit_pooled", requests=80, batches=80, busy_s=15.0, pending=0),
        *_series(_IDLE, "vit_preprocess", requests=0, batches=0, busy_s=0.0, pending=0),
        *_series(_IDLE, "vit_pooled_encoder", requests=0, batches=0, busy_s=0.0, pending=0),
        *_series(_OTHER, "vit_pooled_encoder", requests=80, batches=10, busy_s=15.0, pending=50),
    ]
    expected = {"busy": 0.8, "pending": 16}
    checks = [
        {"expr": queries[name], "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": value}]}
        for name, value in expected.items()
    ]
    document: dict[str, Any] = {"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": checks}]}
    (tmp_path / "queries.yml").write_text(yaml.safe_dump(document))
    for path in (tmp_path, tmp_path / "queries.yml"):
        path.chmod(0o755)
    compose = (pods.ROOT / "docker-compose.yml").read_text()
    (tag,) = re.findall(r"prom/prometheus:\$\{PROMETHEUS_TAG:-(.+)\}", compose)
    mount = f"--volume={tmp_path}:/queries:ro"
    tool = ["docker", "run", "--rm", mount, "--entrypoint=promtool", f"prom/prometheus:{tag}"]
    said = pods.run([*tool, "test", "rules", "/queries/queries.yml"])
    assert "SUCCESS" in said
