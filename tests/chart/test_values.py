"""Wrong values are refused, with a text that names the value; right ones are described."""

from __future__ import annotations

import json
import re
from typing import Any

import generate
import pytest
import yaml
from chart import tools

_SCHEMA = json.loads((tools.CHART / "values.schema.json").read_text())

# Values that cannot be, and what the text names
WRONG = [
    ({"replica": 3}, "replica"),
    ({"model": {"modelId": "x"}}, "modelId"),
    ({"server": {"grpcPort": 8001}}, "grpcPort"),
    ({"gateway": {"image": {"version": "1"}}}, "version"),
    ({"replicas": "3"}, "replicas"),
    ({"replicas": -1}, "replicas"),
    ({"model": {"id": ""}}, "id"),
    ({"model": {"precision": "bf16"}}, "precision"),
    ({"model": {"name": "my model"}}, "name"),
    ({"model": {"extraArgs": ["instances=2"]}}, "extraArgs"),
    ({"model": {"extraArgs": "--instances=2"}}, "extraArgs"),
    ({"repository": {"source": "s3"}}, "source"),
    ({"repository": {"volume": {"size": "10 GB"}}}, "size"),
    ({"repository": {"volume": {"accessModes": []}}}, "accessModes"),
    ({"image": {"digest": "0123"}}, "digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"server": {"sharedMemory": "lots"}}, "sharedMemory"),
    ({"server": {"extraArgs": ["log-verbose=1"]}}, "extraArgs"),
    ({"shutdown": {"preStopSeconds": 0}}, "preStopSeconds"),
    ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"autoscaling": {"scaleDownStabilizationSeconds": 5000}}, "scaleDownStabilizationSeconds"),
    ({"tracing": {"url": "collector:4317"}}, "url"),
    ({"gateway": {"maxBody": "72 MB"}}, "maxBody"),
    ({"route": {"grpc": {"parentRefs": [{"name": "public", "section": "grpc"}]}}}, "section"),
    ({"route": {"http": {"hostnames": ["https://embed.example.com"]}}}, "hostnames"),
    ({"route": {"canary": {"weight": 101}}}, "weight"),
    ({"runAsUser": 0}, "runAsUser"),
    ({"nodeLossSeconds": -1}, "nodeLossSeconds"),
    ({"podDisruptionBudget": {"maxUnavailable": "a third"}}, "maxUnavailable"),
    ({"networkPolicy": {"clients": "all"}}, "clients"),
    ({"nodeSelector": {"gpu": True}}, "nodeSelector"),
]

# Values that are right each by itself, and a part of the text
TOGETHER = [
    ({"export": {"runIn": "job"}}, "export.runIn is job, and repository.volume.type is pod"),
    ({"repository": {"source": "existing"}}, "repository.volume.existingClaim is empty"),
    ({"repository": {"volume": {"existingClaim": "models"}}}, "set repository.volume.type=claim"),
    ({"repository": {"source": "image", "volume": {"type": "claim"}}}, "models in the image need no volume"),
    ({"repository": {"source": "download"}}, "download.from is empty"),
    (
        {"repository": {"source": "download", "volume": {"type": "claim"}}, "download": {"from": "s3:bucket"}},
        "repository.source is download, and repository.volume.type is claim",
    ),
    ({"model": {"id": "/checkpoints/photos"}}, "export.checkpoints is empty"),
    ({"replicas": 2, "autoscaling": {"kind": "hpa"}}, "replicas is 2, and autoscaling.kind is hpa"),
    ({"autoscaling": {"kind": "keda", "minReplicas": 20}}, "autoscaling.minReplicas is 20"),
    (
        {"replicas": 2, "repository": {"volume": {"type": "claim", "accessModes": ["ReadWriteOncePod"]}}},
        "repository.volume.accessModes has ReadWriteOncePod",
    ),
    ({"model": {"device": "gpu"}}, "model.device is gpu, and gpu.count is 0"),
    ({"gpu": {"count": 1}, "model": {"device": "cpu"}}, "gpu.count is 1, and model.device is cpu"),
    ({"server": {"resources": {"limits": {"memory": "1.5Gi"}}}}, "server.resources.limits.memory is 1.5Gi"),
    ({"server": {"sharedMemory": "8Gi"}}, "server.sharedMemory (8Gi)"),
    ({"shutdown": {"terminationGracePeriodSeconds": 30}}, "must be 75 or more"),
    ({"route": {"grpc": {"enabled": True}}}, "route.grpc.parentRefs is empty"),
    ({"route": {"canary": {"service": "photos-next"}}}, "there is no route that could share its requests"),
    ({"gateway": {"enabled": True}}, "gateway.secret is empty"),
    ({"tracing": {"url": "http://collector:4318/v1/traces"}}, "no trace would leave the servers"),
    ({"fullnameOverride": "2026-photos"}, "everything would be named 2026-photos"),
    ({"fullnameOverride": "photos.v2"}, "everything would be named photos.v2"),
]


@pytest.mark.parametrize("layer", [tools.HELM_3, tools.HELM_4])
@pytest.mark.parametrize(("values", "named"), WRONG, ids=lambda each: each if isinstance(each, str) else None)
def test_a_wrong_value_is_named(values, named, layer):
    """The schema refuses a name, a type or a value that does not exist, and the text names it."""
    assert named in tools.refusal(values, layer)


@pytest.mark.parametrize(("values", "text"), TOGETHER, ids=[text for _, text in TOGETHER])
def test_values_that_do_not_go_together_are_named(values, text):
    """A combination that cannot work is refused, with what to change."""
    assert text in tools.refusal(values)


def _defaults() -> dict[str, Any]:
    return dict(yaml.safe_load((tools.CHART / "values.yaml").read_text()))


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return _SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    named = _resolved(schema).get("properties")
    if named is None or path.endswith(("requests", "limits", "rollingUpdate")):
        return
    assert set(values) == set(named) - {"global"}, path
    for name, value in values.items():
        if isinstance(value, dict):
            _compare(value, named[name], f"{path}.{name}")


def test_every_value_has_a_type():
    """The schema and the defaults have the same names."""
    _compare(_defaults(), _SCHEMA, "")


def test_every_value_is_described():
    """Each value has a comment, from which the README is made."""
    assert [value.name for value in generate.values((tools.CHART / "values.yaml").read_text()) if not value.text] == []


def test_images_are_built_from_files_that_exist():
    """A Dockerfile that a comment names is in the checkout."""
    named = re.findall(r"docker/\w+/Dockerfile", (tools.CHART / "values.yaml").read_text())
    assert len(set(named)) == 4
    assert all((tools.ROOT / name).exists() for name in named), named


def test_the_readme_is_made_from_the_values():
    """After a change of values.yaml, `make chart` makes the README anew."""
    assert (tools.CHART / "README.md").read_text() == generate.readme(), "run `make chart`"


@pytest.mark.parametrize("name", generate.COPIES)
def test_copies_are_those_of_compose(name):
    """The chart has the files that the compose services mount."""
    original = (tools.ROOT / generate.COPIES[name]).read_bytes()
    assert (tools.CHART / "files" / name).read_bytes() == original, "run `make chart`"


def test_versions_are_those_of_the_distributions():
    """Chart and images have the version of everything else."""
    chart = yaml.safe_load((tools.CHART / "Chart.yaml").read_text())
    (line,) = [
        line
        for line in (tools.ROOT / "server" / "pyproject.toml").read_text().splitlines()
        if line.startswith("version")
    ]
    assert f'"{chart["version"]}"' in line
    assert chart["appVersion"] == chart["version"]
    compose = (tools.ROOT / "docker-compose.yml").read_text()
    assert f"nginx:${{NGINX_TAG:-{_defaults()['gateway']['image']['tag']}}}" in compose


def test_the_package_has_what_the_chart_needs(tmp_path):
    """`helm package` makes an archive that renders by itself."""
    done = tools.helm("package", str(tools.CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    rendered = tools.helm("template", "photos", str(archive), "--set", "monitoring.rules.enabled=true")
    assert rendered.returncode == 0, rendered.stderr
    assert "TritonDown" in rendered.stdout
