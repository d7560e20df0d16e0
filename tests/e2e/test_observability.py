"""Alerts and dashboard against what a real server exports, so that none watches a metric that does not exist."""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import exports, monitoring, text_architectures
from support.promql import asked, by_name, exported, grouped_by
from vitriton import Client, InvalidImage, InvalidText
from vitriton_server import TritonServer

# Triton has them where there is a GPU: "GPU Metrics" in its docs/user_guide/metrics.md, each with the label gpu_uuid.
GPU_METRICS = {
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}
# The gateway's own, on the page that gateway.sh writes.
GATEWAY_METRICS = {"vitriton_gateway_input_good"}
# What Prometheus itself makes: of each scrape, and of the alerts.
OF_PROMETHEUS = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance", "service", "alertstate"}
EXPRESSIONS = monitoring.expressions()


PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_vit_checkpoint):
    """A small export with both outputs."""
    return exports.export(tiny_vit_checkpoint, tmp_path_factory.mktemp("observed") / "repository")


@pytest.fixture(scope="module")
def texts_repository(tmp_path_factory):
    """The same of a model for texts."""
    folder = tmp_path_factory.mktemp("observed-texts")
    return exports.export(text_architectures.write("bert", folder / "bert"), folder / "repository")


@pytest.fixture(scope="module", params=["images", "texts"])
def metrics(request):
    """The metrics of a server that has embedded inputs and refused one; labels by name."""
    summaries = monitoring.triton_options("--metrics-config")
    assert summaries
    texts = request.param == "texts"
    repository = request.getfixturevalue("texts_repository" if texts else "repository")
    with (
        TritonServer(repository, triton_arguments=summaries) as server,
        Client(server.grpc_address, model="bert" if texts else "tiny-vit") as client,
    ):
        embed, inputs = (client.embed_texts, ["a man"] * 8) if texts else (client.embed, PHOTOS)
        embed(inputs)
        embed(inputs, pool=False)
        with pytest.raises(InvalidText if texts else InvalidImage):
            embed(["the " * 100_000] if texts else [b"not an image"])
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as page:
            yield by_name(exported(page.read().decode()))


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_metric_is_exported(place, metrics):
    """Each metric that a rule or a panel names exists, with the labels and the values of labels that it is asked by."""
    recorded = {rule["record"] for rule in monitoring.rules() if "record" in rule}
    found = asked(EXPRESSIONS[place])
    known = set()
    for one in found:
        if one.metric in recorded | OF_PROMETHEUS:
            known |= TARGET_LABELS
        elif one.metric in GPU_METRICS:
            known |= TARGET_LABELS | {"gpu_uuid"}
        elif one.metric in GATEWAY_METRICS:
            known |= TARGET_LABELS | {"input"}
        else:
            assert one.metric in metrics, f"{one.metric}: the server has only {sorted(metrics)}"
            of_target = [(label, *_) for label, *_ in one.matchers if label in TARGET_LABELS]
            rest = type(one)(one.metric, tuple(entry for entry in one.matchers if entry[0] not in TARGET_LABELS))
            assert len(of_target) + len(rest.matchers) == len(one.matchers)
            answers = [labels for labels in metrics[one.metric] if rest.answered_by(labels)]
            assert answers, f"{rest}: the server has {metrics[one.metric]}"
            known |= TARGET_LABELS | set(answers[0])
    if found:
        assert grouped_by(EXPRESSIONS[place]) <= known


def test_every_metric_of_the_reference_is_exported(metrics):
    """What docs/reference/metrics.md says of Triton is there to be asked for."""
    page = (monitoring.ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert set(re.findall(r"`(nv_\w+)`", page)) - GPU_METRICS <= metrics.keys()


def test_an_invented_metric_would_be_seen():
    """The reading of expressions finds names in every position, labels and matchers, and takes no keyword for one."""
    expression = (
        'sum by (service, model) (rate(nv_a{model=~".+_x", reason="BACKEND"}[5m])) / on (pod) nv_b offset 15m > 1e6 '
        "and predict_linear(nv_c[5m:15s], 600) unless scalar(vitriton:d) or vector(0)"
    )
    found = asked(expression)
    assert [one.metric for one in found] == ["nv_a", "nv_b", "nv_c", "vitriton:d"]
    assert found[0].matchers == (("model", "=~", ".+_x"), ("reason", "=", "BACKEND"))
    assert grouped_by(expression) == {"service", "model", "pod"}


def test_nothing_that_matters_is_left_out():
    """The alerts and the rows that operations rest on are there, and each alert has a severity and a text."""
    alerts = {rule["alert"]: rule for rule in monitoring.rules() if "alert" in rule}
    assert {"TritonDown", "HighLatency", "QueueGrowing", "ModelFails", "PreprocessSaturated"} <= set(alerts)
    for rule in alerts.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
    tested = (monitoring.DOCKER / "prometheus" / "alerts_test.yml").read_text()
    assert set(re.findall(r"alertname: (\w+)", tested)) == set(alerts)
    runbook = (monitoring.ROOT / "docs" / "operations" / "alerts.md").read_text()
    assert [name for name in alerts if f"`{name}`" not in runbook] == []


@pytest.mark.usefixtures("subprocesses")
def test_the_dashboard_is_what_its_script_makes(tmp_path):
    """The committed file is made from the panels in dashboard.py."""
    made = tmp_path / "made.json"
    subprocess.run([sys.executable, monitoring.DOCKER / "grafana" / "dashboard.py", made], check=True, timeout=60)
    assert made.read_text() == monitoring.DASHBOARD.read_text()


def test_the_dashboard_can_be_drawn():
    """Ids are unique, panels do not overlap and lie in the grid, every query names the provisioned source."""
    dashboard = json.loads(monitoring.DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells, panel["title"]
        cells |= covered
    source = (monitoring.DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert "uid: prometheus" in source
    for panel in monitoring.panels():
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for asked_of in (panel, *panel["targets"], *dashboard["templating"]["list"]):
            assert asked_of["datasource"] == {"type": "prometheus", "uid": "prometheus"}


def test_traces_reach_a_collector(repository):
    """With OTEL_URL the server sends spans over HTTP: of the ensemble and of its steps."""
    spans: list[bytes] = []
    complete = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            spans.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            if all(name.encode() in b"".join(spans) for name in ("tiny-vit_pooled_encoder", "tiny-vit_preprocess")):
                complete.set()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        options = monitoring.triton_options("--trace-config", OTEL_URL=url, OTEL_RATE="1")
        with TritonServer(repository, triton_arguments=options) as server:
            with Client(server.grpc_address, model="tiny-vit") as client:
                client.embed(PHOTOS)
            assert complete.wait(60)
        collector.shutdown()
