"""Upgrades, rollbacks and roll-outs: what may change changes, what must not does not, and pods end in their time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from chart import tools
from chart.objects import VALUES, Document, containers, of_kind, pod_specs, read, render, server, triton

# How long resolvers keep an answer of a cluster's DNS: `cache 30` and `ttl 30` of CoreDNS, and NodeLocal DNSCache
_DNS_S = 30

# What the API server refuses to change
_FIXED = {
    "Deployment": ("selector",),
    "Job": ("selector", "template", "completionMode"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "volumeName", "volumeMode", "resources"),
    "Service": ("clusterIP",),
}

# Changes of a release whose model a Job exports to a claim
_CHANGES: dict[str, Document] = {
    "images": {"image": {"tag": "0.1.1"}, "export": {"image": {"tag": "0.1.1"}}},
    "model": {"model": {"id": "facebook/dinov2-small"}},
    "revision": {"model": {"revision": "refs/pr/1"}},
    "options": {"model": {"extraArgs": ["--instances=2"]}},
    "labels": {"commonLabels": {"team": "search"}, "podLabels": {"tier": "gpu"}, "podAnnotations": {"note": "x"}},
    "user": {"runAsUser": 2000},
    "account": {"serviceAccount": {"create": False, "name": "embeddings"}},
    "registry": {"imagePullSecrets": [{"name": "registry"}]},
    "nodes": {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "pool", "operator": "Exists"}]},
    "memory": {"export": {"resources": {"limits": {"memory": "16Gi"}}}},
    "token": {"export": {"hfToken": {"secret": "another"}}},
    "tries": {"export": {"job": {"backoffLimit": 1, "activeDeadlineSeconds": 7200}}},
    "strategy": {"strategy": {"type": "Recreate", "rollingUpdate": None}},
    "service": {"service": {"type": "NodePort", "annotations": {"note": "x"}}},
}

# Changes that do not concern the servers
_BESIDE: dict[str, Document] = {
    "exporter": {"export": {"image": {"tag": "0.1.1"}}},
    "memory": {"export": {"resources": {"limits": {"memory": "16Gi"}}}},
    "options": {"model": {"extraArgs": ["--instances=2"]}},
    "api": {"api": {"enabled": True}},
    "gateway": {"gateway": {"enabled": True, "secret": "gateway"}},
    "scaler": {"replicas": None, "autoscaling": {"kind": "keda"}},
    "monitoring": read("monitoring"),
    "policies": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "routes": read("routes"),
    "service": {"service": {"type": "NodePort"}},
    "replicas": {"replicas": 5},
}


def _merged(values: Document, changes: Document) -> Document:
    """The values with changes, as Helm merges them."""
    return {
        **values,
        **{
            name: _merged(values[name], change) if isinstance(values.get(name), dict) else change
            for name, change in changes.items()
        },
    }


def _by_name(objects: list[Document]) -> dict[tuple[str, str], Document]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects if not _hook(one)}


def _hook(one: Document) -> str:
    return str(one["metadata"].get("annotations", {}).get("helm.sh/hook", ""))


@pytest.mark.parametrize("changes", _CHANGES.values(), ids=_CHANGES)
def test_an_upgrade_changes_nothing_that_is_fixed(changes):
    """After each change of the values, objects that keep their names keep what the API server does not let change."""
    before, after = _by_name(render(read("job"))), _by_name(render(_merged(read("job"), changes)))
    assert ("Deployment", "photos-vitriton") in before.keys() & after.keys()
    for name in before.keys() & after.keys():
        for field in _FIXED.get(name[0], ()):
            assert after[name]["spec"].get(field) == before[name]["spec"].get(field), f"{name}: {field}"


@pytest.mark.parametrize("changes", _BESIDE.values(), ids=_BESIDE)
def test_what_does_not_concern_the_servers_leaves_them(changes):
    """A change beside the servers, of what the Job exports too, replaces none of their pods."""
    before, after = render(read("job")), render(_merged(read("job"), changes))
    assert server(after)["spec"]["template"] == server(before)["spec"]["template"]


def test_another_export_is_another_job():
    """A Job has a new name if it does something else, so that Helm makes it; the same values give it the same name."""

    def job(**changes: Any) -> str:
        (one,) = of_kind(render(_merged(read("job"), changes)), "Job")
        return str(one["metadata"]["name"])

    names = [job(), job(model={"precision": "int8"}), job(runAsUser=2000), job(commonLabels={"team": "search"})]
    assert len(set(names)) == len(names)
    assert job(image={"tag": "2"}, replicas=7) == names[0]


def test_a_newer_chart_alone_replaces_no_pod(tmp_path):
    """The version of the chart is on objects, and not in the templates of pods."""
    done = tools.helm("package", str(tools.CHART), "--version", "9.9.9", "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    done = tools.helm("template", "photos", str(archive), "--namespace", "embeddings")
    newer = tools.documents(done.stdout)
    assert server(newer)["metadata"]["labels"]["helm.sh/chart"] == "vitriton-9.9.9"
    assert server(newer)["spec"]["template"] == server(render({}))["spec"]["template"]


def test_only_the_test_is_a_hook(objects):
    """Installs and upgrades run no hook, and nothing of the release uses what belongs to the test."""
    hooks = [one for one in objects if _hook(one)]
    assert {_hook(one) for one in hooks} == {"test"}
    for one in hooks:
        assert one["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    files = {one["metadata"]["name"] for one in hooks if one["kind"] == "ConfigMap"}
    for one, _, spec in pod_specs(objects):
        used = {volume.get("configMap", {}).get("name") for volume in spec.get("volumes", ())}
        assert bool(used & files) == bool(_hook(one))


def test_lists_that_are_maps_have_each_key_once(objects):
    """The API server merges such lists by their keys when Helm 4 applies them, and refuses a key twice."""

    def check(where: str, entries: list[Document], *keys: str) -> None:
        found = [tuple(each.get(key, "TCP" if key == "protocol" else None) for key in keys) for each in entries]
        assert len(set(found)) == len(found), f"{where}: {found}"

    for one, _, spec in pod_specs(objects):
        name = one["metadata"]["name"]
        check(name, containers(spec), "name")
        check(name, spec.get("volumes", []), "name")
        check(name, spec.get("imagePullSecrets", []), "name")
        check(name, spec.get("topologySpreadConstraints", []), "topologyKey", "whenUnsatisfiable")
        for each in containers(spec):
            check(f"{name}: {each['name']}", each.get("env", []), "name")
            check(f"{name}: {each['name']}", each.get("volumeMounts", []), "mountPath")
            check(f"{name}: {each['name']}", each.get("ports", []), "containerPort", "protocol")
    for service in of_kind(objects, "Service"):
        check(service["metadata"]["name"], service["spec"]["ports"], "port", "protocol")


def test_labels_are_texts_whatever_the_release_is_called():
    """A name like a number stays a text, and labels of the values do not replace those of the selectors."""
    values = {"fullnameOverride": "photos", "commonLabels": {"app.kubernetes.io/component": "mine", "a": "1"}}
    for one in render(values, release="1e5"):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "1e5"
        assert labels["app.kubernetes.io/component"] in ("server", "test")
        assert all(isinstance(value, str) for value in labels.values())


def test_a_label_of_two_values_is_there_once():
    """Labels for one kind of object stand over those for all; the loader refuses a name that is there twice."""
    every = {
        "api": {"enabled": True},
        "gateway": {"enabled": True, "secret": "gateway"},
        "commonLabels": {"team": "all"},
    }
    own = {"labels": {"team": "own"}}
    monitoring = {name: {"enabled": True, **own} for name in ("podMonitor", "rules", "dashboard")}
    objects = render({**every, "monitoring": monitoring, "podLabels": {"team": "servers"}})
    for one in objects:
        mine = one["kind"] in ("PodMonitor", "PrometheusRule") or one["metadata"]["name"].endswith("-dashboard")
        assert one["metadata"]["labels"]["team"] == ("own" if mine else "all"), one["metadata"]["name"]
    pods = {metadata["labels"]["team"] for one, metadata, _ in pod_specs(objects) if one["kind"] == "Deployment"}
    assert pods == {"all", "servers"}


def test_a_server_is_ready_before_another_ends():
    """Each Deployment replaces pods one by one, with one more than its number; drains take one pod at a time."""
    objects = render(read("gateway"))
    deployments = of_kind(objects, "Deployment")
    assert len(deployments) == 3
    for one in deployments:
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert {one["metadata"]["name"] for one in budgets} == {one["metadata"]["name"] for one in deployments}
    for one in budgets:  # with minAvailable, a single pod would keep its node from being drained
        assert one["spec"]["maxUnavailable"] == 1
        assert one["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_pod_serves_until_no_answer_of_dns_leads_to_it():
    """By default, pods that end serve for longer than resolvers keep their addresses, and still have time to end."""
    for one in of_kind(render(read("gateway")), "Deployment"):
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        options = dict(each.partition("=")[::2] for each in container.get("args", ()))
        if "lifecycle" in container:
            (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
        else:
            seconds = options["--drain"]
        assert int(seconds) > _DNS_S
        assert spec["terminationGracePeriodSeconds"] >= int(seconds) + int(options.get("--exit-timeout", 30)) + 10


def test_the_servers_are_spread_without_zones():
    """Every node has the labels of the default constraints: a node that lacks one would count for none of them."""
    for one in of_kind(render(read("gateway")), "Deployment"):
        constraints = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in constraints] == ["kubernetes.io/hostname"]
        for each in constraints:
            assert each["whenUnsatisfiable"] == "ScheduleAnyway"  # two servers must fit on the one node that is left
            assert each["labelSelector"]["matchLabels"] == one["spec"]["selector"]["matchLabels"]
            assert each["matchLabelKeys"] == ["pod-template-hash"]


def test_pods_of_a_lost_node_are_replaced_soon():
    """They tolerate a node that does not answer for a minute; tolerations of the values come in addition."""
    values = {**read("gateway"), "tolerations": [{"key": "pool", "operator": "Exists"}], "nodeLossSeconds": 45}
    for one in of_kind(render(values), "Deployment"):
        tolerations = one["spec"]["template"]["spec"]["tolerations"]
        lost = {each["key"]: each for each in tolerations if each["key"].startswith("node.kubernetes.io/")}
        assert lost.keys() == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
        assert {(each["effect"], each["tolerationSeconds"]) for each in lost.values()} == {("NoExecute", 45)}
        assert ({"key": "pool", "operator": "Exists"} in tolerations) == (one["metadata"]["name"] == "photos-vitriton")


def test_images_on_the_nodes_are_used():
    """By default, no container asks a registry for an image that its node has."""
    for _, _, spec in pod_specs(render(read("gateway"))):
        assert {each["imagePullPolicy"] for each in containers(spec)} == {"IfNotPresent"}


def test_the_test_runs_where_a_server_is(values, objects):
    """The pod of `helm test` has the image and the volume of a server: on its node if the volume may be there alone."""
    (one,) = of_kind(objects, "Pod")
    (kind,) = one["spec"]["affinity"]["podAffinity"]
    on_claim = values.get("repository", {}).get("volume", {}).get("type") == "claim"
    assert kind.startswith("required" if on_claim else "preferred")
    assert one["spec"]["containers"][0]["image"] == triton(objects)["image"]


def test_a_claim_without_a_class_takes_a_volume_made_by_hand():
    """`-` is no class, nothing is the cluster's own, and the claim stays when the release is uninstalled."""
    for storage_class, expected in (("-", ""), ("", None), ("nfs", "nfs")):
        volume = {"type": "claim", "storageClass": storage_class}
        (claim,) = of_kind(render({"repository": {"volume": volume}}), "PersistentVolumeClaim")
        assert claim["spec"].get("storageClassName") == expected
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


# Two releases side by side


def _selectors(objects: list[Document]) -> list[Document]:
    found = []
    for one in objects:
        spec = one.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        if selector and one["kind"] != "PersistentVolumeClaim":
            found.append(selector.get("matchLabels", selector))
    return found


@pytest.mark.parametrize("name", [name for name in VALUES if "fullnameOverride" not in read(name)])
def test_two_releases_have_nothing_in_common(name):
    """In one namespace, each has objects of its own, and selects its own pods."""
    first, second = render(read(name)), render(read(name), release="photos-next")
    assert not _by_name(first).keys() & _by_name(second).keys()
    for ours, theirs in ((first, second), (second, first)):
        labels = [metadata["labels"] for _, metadata, _ in pod_specs(theirs)]
        for selector, pod in itertools.product(_selectors(ours), labels):
            assert not selector.items() <= pod.items()


@pytest.mark.parametrize("weight", [0, 5, 100])
def test_a_canary_gets_its_share(weight):
    """The route of the first release shares its requests with the Service that the second one has."""
    canary = {"service": "photos-next-vitriton", "weight": weight}
    objects = render(_merged(read("routes"), {"route": {"canary": canary}}))
    services = _by_name(render(read("image"), release="photos-next"))
    for kind, port in (("GRPCRoute", 8001), ("HTTPRoute", 8000)):
        (route,) = of_kind(objects, kind)
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [
            {"name": "photos-vitriton", "port": port, "weight": 100 - weight},
            {"name": "photos-next-vitriton", "port": port, "weight": weight},
        ]
        for backend in rule["backendRefs"][1:]:
            ports = services["Service", backend["name"]]["spec"]["ports"]
            assert port in [each["port"] for each in ports]
