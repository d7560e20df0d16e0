"""The pod of the Helm chart, started for real: it exports, gets ready, embeds, and ends without a lost request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from compose import pod as pods
from compose.conftest import TINY
from compose.pod import Pod
from compose.test_faults import PHOTOS
from compose.test_shutdown import ask_http
from vitriton import Client, ContractMismatch

_REQUESTS = 16
_PRE_STOP_S = 3

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not pods.HELM.exists(), reason="there is no helm; `make test-compose` unpacks it"),
]


class Endpoint:
    """A pod's ports, as the requests of other tests ask a project for them."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def address(self, protocol: str) -> str:
        return self._pod.address({"http": 8000, "grpc": 8001, "metrics": 8002}[protocol])


@pytest.fixture(scope="module")
def values(make_project, build_settings, checkpoints) -> dict[str, Any]:
    """A small model from a folder, for the images of this checkout."""
    make_project("pod").compose("build", "export", "triton")
    tag = build_settings["VITRITON_TAG"]
    return {
        "image": {"repository": "vitriton-server-cpu", "tag": tag},
        "export": {"image": {"tag": tag}, "checkpoints": {"hostPath": {"path": str(checkpoints)}}},
        "model": {"id": f"/checkpoints/{TINY}"},
        "shutdown": {"preStopSeconds": _PRE_STOP_S},
        "server": {
            "sharedMemory": "128Mi",
            "resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1536Mi"}},
        },
    }


@pytest.fixture(scope="module")
def objects(values, tmp_path_factory) -> list[dict[str, Any]]:
    """What the chart makes of these."""
    return pods.render(values, tmp_path_factory.mktemp("chart"))


def of_servers(objects: list[dict[str, Any]], name: str, folder: Path) -> Pod:
    """The pod of the Deployment."""
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    made = Pod(name, deployment["spec"]["template"]["spec"], objects, folder)
    made.remove()
    return made


@pytest.fixture(scope="module")
def pod(objects, tmp_path_factory) -> Iterator[Pod]:
    """The pod of the servers, started."""
    made = of_servers(objects, "vitriton-test-pod", tmp_path_factory.mktemp("pod"))
    try:
        made.initialize()
        made.start()
        made.wait_started()
        yield made
    finally:
        made.remove()


def test_the_pod_is_ready_and_embeds(pod):
    """All probes succeed, and a client gets vectors."""
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert pod.probe(probe) is None
    with Client(pod.address(8001), model=TINY) as client:
        assert client.embed(PHOTOS).shape[0] == len(PHOTOS)


def test_the_export_does_nothing_the_second_time(pod):
    """The init container of a pod whose volume has the model leaves it as it is."""
    (said,) = pod.initialize()
    assert "already" in said.lower(), said
    assert pod.probe("readinessProbe") is None


def test_the_test_of_the_chart_passes(pod, objects, tmp_path):
    """`helm test` runs a pod that embeds a photo on every address of the headless Service."""
    (one,) = (each for each in objects if each["kind"] == "Pod")
    hosts = {"photos-vitriton-headless": pod.ip()}
    said = Pod("vitriton-test-helm-test", one["spec"], objects, tmp_path, hosts).run_to_the_end()
    assert "1 servers answer" in said


def test_a_new_fingerprint_stands_beside_the_old(pod, values, tmp_path):
    """A second release serves vectors of its own, and refuses a client that expects those of the first."""
    changed = {**values, "model": {**values["model"], "pooling": "mean"}}
    second = of_servers(pods.render(changed, tmp_path, release="photos-mean"), "vitriton-test-pod-mean", tmp_path)
    try:
        second.initialize()
        second.start()
        second.wait_started()
        found = []
        for each in (pod, second):
            with Client(each.address(8001), model=TINY) as client:
                found.append(client.describe().fingerprint)
        old, new = found
        assert old != new
        for each, expected in ((pod, old), (second, new)):
            with Client(each.address(8001), model=TINY, expect_fingerprint=expected) as client:
                assert len(client.embed(PHOTOS)) == len(PHOTOS)
        wrong = Client(second.address(8001), model=TINY, expect_fingerprint=old)
        with wrong, pytest.raises(ContractMismatch):
            wrong.embed(PHOTOS)
    finally:
        second.remove()


def test_the_pod_ends_when_its_requests_are_answered(pod):
    """It serves on before the signal, answers what is in flight then, and ends with 0 within the grace period."""
    sent = threading.Barrier(_REQUESTS + 1)
    with ThreadPoolExecutor(_REQUESTS + 1) as threads:
        ended = threads.submit(pod.end)
        with Client(pod.address(8001), model=TINY) as client:
            assert len(client.embed(PHOTOS)) == len(PHOTOS)  # nothing has begun to stop
        time.sleep(_PRE_STOP_S - 1.0)
        asked = [threads.submit(ask_http, Endpoint(pod), sent) for _ in range(_REQUESTS)]
        sent.wait(30)
        assert [each.result(60) for each in asked] == [len(PHOTOS)] * _REQUESTS
        status, took_s = ended.result(120)
    assert status == 0, pod.logs()
    assert took_s < pod.spec["terminationGracePeriodSeconds"]


def test_a_model_in_the_image_needs_no_export(values, build_settings, checkpoints, tmp_path):
    """The image of docker/model/Dockerfile gets ready without a volume, and embeds."""
    tag, image = build_settings["VITRITON_TAG"], "vitriton-test-model"
    arguments = {"EXPORT_IMAGE": f"vitriton-export:{tag}", "SERVER_IMAGE": f"vitriton-server-cpu:{tag}"}
    build = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    build += [f"--build-arg=MODEL=/checkpoints/{TINY}", f"--build-context=checkpoints={checkpoints}"]
    pods.run(
        [
            "docker",
            "build",
            "--file",
            str(pods.ROOT / "docker" / "model" / "Dockerfile"),
            *build,
            "--tag",
            f"{image}:{tag}",
            str(pods.ROOT),
        ]
    )
    changed = {"image": {"repository": image, "tag": tag}, "repository": {"source": "image"}}
    made = of_servers(pods.render({**values, **changed}, tmp_path), "vitriton-test-baked", tmp_path)
    try:
        assert made.initialize() == []
        made.start()
        made.wait_started()
        with Client(made.address(8001), model=TINY) as client:
            assert len(client.embed(PHOTOS)) == len(PHOTOS)
    finally:
        made.remove()
