"""Objects of the Gateway API, of KEDA and of the Prometheus operator, by the rules of their schemas.

The schemas themselves are not here. These rules are what the objects need of Gateway API 1.6, KEDA 2.20 and
prometheus-operator 0.93, against whose schemas they were checked.
"""

from __future__ import annotations

import re

import pytest
from chart.objects import Document, of_kind, read, render

# A duration of Prometheus
_DURATION = re.compile(r"(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?")


@pytest.mark.parametrize("name", ["routes", "route-without-canary"])
def test_routes_name_services_with_ports_and_weights(name):
    """A backend that is a Service has a port; nothing but parents, hosts and one rule is in a route."""
    objects = render(read(name))
    routes = of_kind(objects, "GRPCRoute") + of_kind(objects, "HTTPRoute")
    assert routes
    for route in routes:
        assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert route["spec"].keys() <= {"parentRefs", "hostnames", "rules"}
        (rule,) = route["spec"]["rules"]
        assert rule.keys() == {"backendRefs"}
        for backend in rule["backendRefs"]:
            assert backend.keys() == {"name", "port", "weight"}
            assert isinstance(backend["port"], int)
            assert 0 <= backend["weight"] <= 1_000_000
        assert any(backend["weight"] for backend in rule["backendRefs"])


def _is_scaled_object(one: Document) -> None:
    spec = one["spec"]
    assert spec.keys() <= {
        "scaleTargetRef",
        "pollingInterval",
        "minReplicaCount",
        "maxReplicaCount",
        "fallback",
        "advanced",
        "triggers",
    }
    assert spec["scaleTargetRef"].keys() == {"apiVersion", "kind", "name"}
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == spec["minReplicaCount"] <= spec["maxReplicaCount"]


def test_a_scaled_object_has_what_keda_takes():
    """Each trigger has a name of its own, and texts alone in its metadata; a fallback needs average values."""
    (one,) = of_kind(render(read("keda")), "ScaledObject")
    _is_scaled_object(one)
    triggers = one["spec"]["triggers"]
    assert [trigger["name"] for trigger in triggers] == ["busy", "pending"]
    for trigger in triggers:
        assert trigger.keys() == {"type", "name", "metricType", "metadata"}
        assert trigger["metricType"] == "AverageValue"
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert float(trigger["metadata"]["threshold"]) > 0


def test_without_metrics_the_number_stays():
    """No series is a failure for KEDA, after which the number does not fall: it would be an idle server otherwise."""
    (one,) = of_kind(render(read("keda")), "ScaledObject")
    for trigger in one["spec"]["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert "vector(" not in trigger["metadata"]["query"]


def test_queries_are_about_the_servers_of_one_release():
    """The names of pods that a query takes are those of its Deployment alone, whatever runs in the namespace."""

    def taken(release: str) -> re.Pattern[str]:
        (one,) = of_kind(render(read("keda"), release=release), "ScaledObject")
        (name,) = {re.search(r'pod=~"([^"]+)"', each["metadata"]["query"])[1] for each in one["spec"]["triggers"]}
        return re.compile(name)

    pods = {
        release: [f"{name}-6d5f7c9b8-x2x4z" for name in (f"{release}-vitriton", f"{release}-vitriton-api")]
        for release in ("photos", "photos-next")
    }
    found = {
        release: [pod for each in pods.values() for pod in each if taken(release).fullmatch(pod)] for release in pods
    }
    assert found == {release: [f"{release}-vitriton-6d5f7c9b8-x2x4z"] for release in pods}


def test_monitors_have_what_the_operator_takes():
    """Endpoints name ports; relabelings replace or drop, and a pod that still exports or waits is not down."""
    monitors = of_kind(render(read("monitoring")), "PodMonitor")
    assert len(monitors) == 3
    for monitor in monitors:
        assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert endpoint.keys() <= {"port", "path", "interval", "relabelings"}
            assert _DURATION.fullmatch(endpoint["interval"])
            for each in endpoint["relabelings"]:
                assert each.keys() <= {"action", "sourceLabels", "regex", "targetLabel", "replacement"}
                assert each.get("action", "replace") in ("replace", "drop")
            drop = {"action": "drop", "sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Pending"}
            assert endpoint["relabelings"][0] == drop


def test_rules_have_what_the_operator_takes():
    """Groups have names of their own; a rule records or alerts, after a duration of Prometheus."""
    (one,) = of_kind(render(read("monitoring")), "PrometheusRule")
    groups = [group["name"] for group in one["spec"]["groups"]]
    assert len(set(groups)) == len(groups) > 1
    for group in one["spec"]["groups"]:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            assert ("alert" in rule) != ("record" in rule)
            assert rule.keys() <= {"alert", "record", "expr", "for", "labels", "annotations"}
            assert isinstance(rule["expr"], str)
            assert _DURATION.fullmatch(rule.get("for", "1m"))
            texts = [*rule.get("labels", {}).values(), *rule.get("annotations", {}).values()]
            assert all(isinstance(text, str) for text in texts)
