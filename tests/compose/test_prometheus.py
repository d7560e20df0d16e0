"""Prometheus: it scrapes Triton, its rules say what they should, and the dashboard's queries return data."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any

import pytest
from compose.conftest import TINY
from compose.project import ROOT
from compose.test_gateway_follows import INPUTS
from server.processes import wait_until
from support import monitoring
from vitriton import Client, InvalidImage, Unavailable

PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
SCRAPED_S = 300.0  # every 15 s; a rate wants several
RULES_FOLDER = "/etc/prometheus"


@pytest.fixture(scope="module")
def prometheus(front):
    """Prometheus beside a Triton with traffic: photos for both outputs, and what is no image."""
    own_volume(front)
    front.up("prometheus")
    stop = threading.Event()

    def traffic() -> None:
        with Client(front.address("grpc"), model=TINY, timeout_s=120.0) as client:
            while not stop.is_set():
                with suppress(Unavailable):  # while a test has stopped Triton
                    client.embed(PHOTOS)
                    client.embed(PHOTOS, pool=False)
                with suppress(Unavailable, InvalidImage):
                    client.embed([b"not an image"])
                stop.wait(0.5)

    thread = threading.Thread(target=traffic)
    thread.start()
    yield front
    stop.set()
    thread.join(300)


def own_volume(project) -> None:
    """Gives the volume to Prometheus' user, where the image, other than the official one, does not."""
    project.compose("create", "prometheus")
    image = project.inspect("prometheus")["Config"]["Image"]
    volume = f"{project.name}_metrics:/prometheus"
    project.engine(
        "run", "--rm", "--user", "0", "--volume", volume, "--entrypoint", "chown", image, "65534", "/prometheus"
    )


def ask(project, path: str, **parameters: str) -> Any:
    """An answer of Prometheus' API."""
    url = f"http://{project.address('prometheus')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        document = json.load(answer)
    assert document["status"] == "success", document
    return document["data"]


def value(project, expression: str) -> list[Any]:
    """What an expression gives now."""
    return list(ask(project, "query", query=expression)["result"])


@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", f"{RULES_FOLDER}/prometheus.yml"),
        ("check", "rules", f"{RULES_FOLDER}/objectives.yml", f"{RULES_FOLDER}/alerts.yml"),
        ("test", "rules", f"{RULES_FOLDER}/alerts_test.yml"),
    ],
    ids=lambda check: " ".join(check[:2]),
)
def test_promtool(front, check):
    """Prometheus' own tool finds nothing wrong, and each alert comes when it must and not otherwise."""
    done = front.compose("run", "--rm", "--no-deps", "--entrypoint", "promtool", "prometheus", *check)
    assert "FAILED" not in done.stdout + done.stderr


def test_triton_is_scraped(prometheus):
    """Both targets answer, and there is a series for each model of the export."""
    wait_until(
        lambda: len(value(prometheus, 'up{service="triton"} == 1')) == 2, SCRAPED_S, "metrics and readiness are up"
    )
    kinds = ("pooled", "unpooled", "preprocess", "pooled_encoder", "unpooled_encoder")
    expected = {f"{TINY}_{kind}" for kind in kinds}

    def models() -> set[str]:
        return {entry["metric"]["model"] for entry in value(prometheus, "nv_inference_count > 0")}

    wait_until(lambda: models() >= expected, SCRAPED_S, "each model has had a request")
    assert models() == expected


def test_the_gateway_is_scraped_where_there_is_one(prometheus):
    """With its profile it is a target that answers; without it there is none, and so nothing that is down."""
    wait_until(lambda: value(prometheus, 'up{job="gateway"} == 1'), SCRAPED_S, "the gateway is up")
    good = value(prometheus, "vitriton_gateway_input_good")
    assert {entry["metric"]["input"]: entry["value"][1] for entry in good} == dict.fromkeys(INPUTS, "1")
    assert {(entry["metric"]["service"], entry["metric"]["instance"]) for entry in good} == {
        ("gateway", "gateway:8082")
    }
    prometheus.compose("stop", "gateway")
    try:
        wait_until(lambda: not value(prometheus, 'up{job="gateway"}'), SCRAPED_S, "it is no target any more")
        targets = ask(prometheus, "targets", state="active")["activeTargets"]
        assert {target["health"] for target in targets} == {"up"}
    finally:
        prometheus.up("gateway")


def test_the_rules_are_evaluated(prometheus):
    """Every rule is loaded, and its expression can be computed; nothing fires in a service that is well."""
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule.get("alert") or rule["record"] for rule in monitoring.rules()}
    wait_until(lambda: value(prometheus, "vitriton:p99_objective_seconds"), SCRAPED_S, "objectives are recorded")
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    assert value(prometheus, 'ALERTS{alertstate="firing"}') == []


def test_every_panel_has_data(prometheus):
    """Each query of the dashboard can be computed, and returns data; those of GPUs, which are not here, need not."""
    silent: list[str] = []

    def all_speak() -> bool:
        silent[:] = [
            f"{panel['title']}: {target['expr']}"
            for panel in monitoring.panels()
            for target in panel["targets"]
            if not value(prometheus, monitoring.chosen(target["expr"])) and "nv_gpu_" not in target["expr"]
        ]
        return not silent

    try:
        wait_until(all_speak, SCRAPED_S, "every panel has data")
    except AssertionError as error:
        raise AssertionError(f"{error}; silent: {silent}") from error


@pytest.mark.long
def test_a_stopped_triton_is_told_of(prometheus):
    """TritonDown is pending at the next look, and fires a minute later."""
    prometheus.compose("kill", "triton")
    try:
        firing = 'ALERTS{alertname="TritonDown", alertstate="firing"}'
        wait_until(lambda: value(prometheus, firing), SCRAPED_S, "TritonDown fires")
    finally:
        prometheus.up("triton")
    wait_until(lambda: not value(prometheus, firing), SCRAPED_S, "it ends by itself")
