"""The chart renders valid objects that belong together, whatever is switched on."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from chart import tools
from chart.objects import bytes_of, containers, of_kind, pod_specs, read, render, server, triton

OLDEST, NEWEST = "1.29", "1.37"
# Objects of extensions, whose schemas are not Kubernetes's own
EXTENSIONS = ("gateway.networking.k8s.io/", "monitoring.coreos.com/", "keda.sh/")
_WEIGHTS_BYTES = 2 * 346 * 10**6  # the default model: one graph for each output


@pytest.mark.parametrize("layer", [tools.HELM_3, tools.HELM_4])
def test_helm_finds_no_fault(layer):
    """`helm lint --strict` passes with the oldest Helm and the newest, with little and with much switched on."""
    for name in ("defaults", "monitoring"):
        path = Path(__file__).parent / "values" / f"{name}.yaml"
        done = tools.helm("lint", "--strict", "--values", str(path), str(tools.CHART), layer=layer)
        assert done.returncode == 0, done.stdout + done.stderr


def test_objects_are_valid_for_the_oldest_and_the_newest_kubernetes(objects):
    """Each object has the fields that its schema names, and no others."""
    for one, version in itertools.product(objects, (OLDEST, NEWEST)):
        if not one["apiVersion"].startswith(EXTENSIONS):
            _validate(json.dumps(one), version)


@functools.cache  # most objects are the same for most values
def _validate(one: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(one), version, strict=True)


def test_old_and_new_helm_render_the_same(values, objects):
    """Helm 3.14 and Helm 4 make the same of the values."""
    assert tools.documents(tools.template(values, layer=tools.HELM_3)) == objects


def test_names_are_given_once(objects):
    """No two objects of a kind share a name, all are in the namespace, and names fit into a DNS label."""
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    for one in objects:
        assert one["metadata"]["namespace"] == "embeddings"
        assert len(one["metadata"]["name"]) <= 63


def test_selectors_match_their_pods(objects):
    """What selects pods selects those of one component of the release, and there is one."""
    labels = [metadata["labels"] for _, metadata, _ in pod_specs(objects)]
    for one in objects:
        spec = one.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        if one["kind"] in ("PersistentVolumeClaim", "Job") or not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        assert "app.kubernetes.io/component" in wanted, one["metadata"]["name"]
        matching = [each for each in labels if wanted.items() <= each.items()]
        assert len(matching) == 1, f"{one['kind']} {one['metadata']['name']} selects {matching}"


def test_ports_match_their_names(objects):
    """A Service, a probe and a monitor name ports that the pods have."""
    pods = [
        (metadata["labels"], {port["name"] for each in containers(spec) for port in each.get("ports", ())})
        for _, metadata, spec in pod_specs(objects)
    ]
    for service in of_kind(objects, "Service") + of_kind(objects, "PodMonitor"):
        spec = service["spec"]
        wanted = spec["selector"].get("matchLabels", spec["selector"])
        (ports,) = [names for labels, names in pods if wanted.items() <= labels.items()]
        used = [port["targetPort"] for port in spec.get("ports", ())]
        used += [endpoint["port"] for endpoint in spec.get("podMetricsEndpoints", ())]
        assert set(used) <= ports, service["metadata"]["name"]
    for _, _, spec in pod_specs(objects):
        for each in containers(spec):
            names = {port["name"] for port in each.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = each.get(probe, {}).get("httpGet", {}).get("port")
                assert asked is None or asked in names


def test_pods_are_restricted(objects):
    """Every pod meets the level `restricted` of the Pod Security Standards, and has no token and no writable image."""
    for one, _, spec in pod_specs(objects):
        name = one["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all("hostPath" not in volume for volume in spec.get("volumes", ()))
        for each in containers(spec):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }, f"{name}: {each['name']}"


def test_containers_have_bounds_and_fixed_images(objects):
    """Every container has requests and limits, and an image with a tag that is not `latest`."""
    for _, _, spec in pod_specs(objects):
        for each in containers(spec):
            for kind in ("requests", "limits"):
                assert {"memory"} <= each["resources"][kind].keys(), each["name"]
            assert re.fullmatch(r"\S+:[\w.-]+(@sha256:[0-9a-f]{64})?", each["image"]), each["image"]
            assert ":latest" not in each["image"]


def test_mounts_have_volumes(objects):
    """Every mount names a volume of its pod, and every volume is mounted."""
    for one, _, spec in pod_specs(objects):
        mounted = {mount["name"] for each in containers(spec) for mount in each.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in spec.get("volumes", ())}, one["metadata"]["name"]


def test_memory_holds_shared_memory_and_weights(objects):
    """Volumes in memory are part of the container's limit, which leaves room for the default model."""
    spec = server(objects)["spec"]["template"]["spec"]
    in_memory = {
        volume["name"]: bytes_of(volume["emptyDir"]["sizeLimit"])
        for volume in spec["volumes"]
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
    assert {"shm", "tmp"} <= in_memory.keys()
    limit = bytes_of(triton(objects)["resources"]["limits"]["memory"])
    assert limit >= sum(in_memory.values()) + _WEIGHTS_BYTES
    (mount,) = [mount for mount in triton(objects)["volumeMounts"] if mount["name"] == "shm"]
    assert mount["mountPath"] == "/dev/shm"


def test_pods_end_after_their_requests(objects):
    """The grace period holds the time before the signal, the time for requests, and more."""
    spec = server(objects)["spec"]["template"]["spec"]
    (seconds,) = [int(each) for each in triton(objects)["lifecycle"]["preStop"]["exec"]["command"][1:]]
    (exit_s,) = [int(each.partition("=")[2]) for each in triton(objects)["args"] if each.startswith("--exit-timeout")]
    assert spec["terminationGracePeriodSeconds"] >= seconds + exit_s + 10


def test_probes_wait_for_the_launcher(objects):
    """A start may take what the launcher allows, and a busy server is not killed before the launcher would end it."""
    probe = triton(objects)["startupProbe"]
    (ready_s,) = [int(each.partition("=")[2]) for each in triton(objects)["args"] if each.startswith("--ready-timeout")]
    assert probe["periodSeconds"] * probe["failureThreshold"] > ready_s
    alive = triton(objects)["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] > 120  # `stuck_after_s` of the launcher
    assert server(objects)["spec"]["progressDeadlineSeconds"] > ready_s


def test_replicas_are_left_to_a_scaler(values, objects):
    """The Deployment has a number only if the values have one, and never beside an autoscaler."""
    scalers = of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject")
    assert ("replicas" in server(objects)["spec"]) == ("replicas" in values)
    for scaler in scalers:
        assert "replicas" not in server(objects)["spec"]
        assert scaler["spec"]["scaleTargetRef"]["name"] == server(objects)["metadata"]["name"]


def test_common_labels_are_on_everything(values, objects):
    """Every object has the recommended labels, and those of the values."""
    for one in objects:
        labels = one["metadata"]["labels"]
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"} <= labels.keys()
        assert values.get("commonLabels", {}).items() <= labels.items()
    selector = server(objects)["spec"]["selector"]["matchLabels"]
    assert not values.get("commonLabels", {}).keys() & selector.keys()  # they cannot be changed later


def test_secrets_are_files(objects):
    """A Secret is mounted, for the pod's group alone, and is never a variable."""
    for _, _, spec in pod_specs(objects):
        for volume in spec.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
        for each in containers(spec):
            assert all("valueFrom" not in variable for variable in each.get("env", ()))
            assert "envFrom" not in each
    assert not of_kind(objects, "Secret")


def test_only_what_fetches_models_reaches_the_internet(values, objects):
    """The servers may connect to nothing unless their pods fetch the models, or the values say where to."""
    policies = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]
        for one in of_kind(objects, "NetworkPolicy")
    }
    if values.get("networkPolicy", {}).get("enabled") is False:
        assert not policies
        return
    assert {metadata["labels"]["app.kubernetes.io/component"] for _, metadata, _ in pod_specs(objects)} == set(policies)
    init = {each["name"] for each in server(objects)["spec"]["template"]["spec"].get("initContainers", ())}
    if not init & {"export", "download"} and not values.get("networkPolicy", {}).get("egress"):
        assert policies["server"]["egress"] == []
    for component, policy in policies.items():
        if component in ("api", "gateway", "test"):
            ends = [rule for rule in policy["egress"] if "to" not in rule]
            assert [port["port"] for rule in ends for port in rule["ports"]] == [53, 53], component


def test_servers_of_a_release_are_reached_by_its_own_parts(objects):
    """The endpoint, the gateway and the test may call the servers, whoever else may."""
    for policy in of_kind(objects, "NetworkPolicy"):
        if policy["metadata"]["labels"]["app.kubernetes.io/component"] == "server":
            (rule,) = [rule for rule in policy["spec"]["ingress"] if {"port": 8001, "protocol": "TCP"} in rule["ports"]]
            instance = policy["metadata"]["labels"]["app.kubernetes.io/instance"]
            peers = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule["from"]]
            assert any(labels.get("app.kubernetes.io/instance") == instance for labels in peers)


def test_the_model_is_exported_as_in_compose(objects):
    """The command is that of the compose file: it does nothing if the model is there."""
    compose = yaml.safe_load((tools.ROOT / "docker-compose.yml").read_text())["services"]
    for _, _, spec in pod_specs(objects):
        for each in containers(spec):
            if each["name"] == "export":
                assert "--skip-existing" in compose["export"]["command"]
                assert "--skip-existing" in each["args"]
    served = compose["triton"]["command"]
    assert "--exit-timeout 30" in served
    for option in ("--watch", "--metrics-config=summary_latencies=true"):
        assert option in served
        assert option in triton(objects)["args"]


def test_rules_are_those_of_compose():
    """The rules are those of alerts.yml, with the objectives of the values; the monitors give the labels."""
    objects = render(read("monitoring"))
    (rule,) = of_kind(objects, "PrometheusRule")
    groups = {group["name"]: group["rules"] for group in rule["spec"]["groups"]}
    docker = tools.ROOT / "docker" / "prometheus"
    for group in yaml.safe_load((docker / "alerts.yml").read_text())["groups"]:
        assert groups[group["name"]] == group["rules"]
    (objectives,) = yaml.safe_load((docker / "objectives.yml").read_text())["groups"]
    assert [each["record"] for each in groups["objectives"]] == [each["record"] for each in objectives["rules"]]
    assert [each["expr"] for each in groups["objectives"]] == ["vector(0.2)", "vector(64)"]
    jobs = {
        relabeling["replacement"]
        for monitor in of_kind(objects, "PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint["relabelings"]
        if relabeling.get("targetLabel") == "job"
    }
    compose = yaml.safe_load((docker / "prometheus.yml").read_text())["scrape_configs"]
    assert jobs == {job["job_name"] for job in compose} - {"prometheus"}
    (dashboard,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].endswith("-dashboard")]
    original = tools.ROOT / "docker" / "grafana" / "dashboards" / "vitriton.json"
    assert dashboard["data"]["vitriton.json"].strip() == original.read_text().strip()


def test_services_say_that_grpc_is_http_2():
    """A gateway speaks HTTP/2 without TLS to the gRPC port."""
    for service in of_kind(render({}), "Service"):
        (grpc,) = [each for each in service["spec"]["ports"] if each["name"] == "grpc"]
        assert grpc["appProtocol"] == "kubernetes.io/h2c"


def _notes(name: str) -> str:
    values = str(Path(__file__).parent / "values" / f"{name}.yaml")
    options = ("--dry-run=client", "--namespace", "embeddings", "--values", values)
    done = tools.helm("install", "photos", str(tools.CHART), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_the_notes_name_the_next_command():
    """What `helm install` prints has commands for this release, and what to know of these values."""
    outside = "networkPolicy.clients"
    notes = _notes("defaults")
    assert "helm -n embeddings test photos --logs" in notes
    assert "deployment/photos-vitriton" in notes
    assert "the first start exports the model" in notes
    assert outside not in notes
    assert outside in _notes("routes")
    (job,) = of_kind(render(read("job")), "Job")
    assert f"job/{job['metadata']['name']}" in _notes("job")
    assert "the first start" not in _notes("image")
