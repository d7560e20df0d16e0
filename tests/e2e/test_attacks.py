"""The attack corpus against a real Triton: only clean errors, nobody restarts, nothing grows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support import attacks, exports, siege
from support.awkward import encode
from support.siege import Plan
from vitriton import Client
from vitriton_server import TritonServer

NAME = "tiny-vit"
SMALL = Plan(fuzz=150, frames=5000, large_side=2500, oversized_bytes=9_000_000)
LIMIT = 8_000_000
STRICT = {"image_formats": ("PNG",), "max_image_frames": 2, "max_image_pixels": 100_000, "max_image_bytes": 200_000}
GROWTH = 0.05


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory, tiny_vit_checkpoint):
    """A real Triton with a small model."""
    repository = tmp_path_factory.mktemp("attacked") / "repository"
    for name, limits in {NAME: {"max_image_bytes": LIMIT}, "strict": STRICT}.items():
        exports.export(tiny_vit_checkpoint, repository, name=name, outputs="pooled", **limits)
    with TritonServer(repository) as running:
        yield running


def besiege(server: TritonServer, plan: Plan) -> siege.Report:
    return siege.attack(server.grpc_address, server.http_address, NAME, plan, lambda: siege.usage_of(server.pid))


def check(report: siege.Report, plan: Plan) -> None:
    assert report.unclean == []
    assert report.wrong == []
    assert not report.restarted, report.usage
    assert report.answered > 2 * len(attacks.photos())
    assert sum(report.refused.values()) > plan.fuzz / 4 * plan.passes
    resident, shared = report.growth()
    assert resident < GROWTH, report.usage
    assert shared < GROWTH, report.usage


@pytest.mark.long
def test_an_attack_leaves_the_server_as_it_was(server):
    """Twice the corpus, over both protocols: typed errors, the same processes, and the second time no more memory."""
    check(besiege(server, SMALL), SMALL)


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_a_refusal_says_what_to_change(server, preprocess):
    """With limits of its own, a model is served, takes what is within, and names the limit of what is not."""
    frames = [Image.new("RGB", (9, 9), (80 * number, 0, 0)) for number in range(3)]
    images = {
        "taken": encode(frames[0], "PNG"),
        "no image of a known format (": encode(frames[0], "JPEG"),
        "(max_frames); send only the first": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "(max_pixels); scale the image down": attacks.png_of_zeros(1000, 1000),
        "(max_bytes); send a smaller file": attacks.oversized(200_001),
    }
    with Client(server.grpc_address, model="strict", preprocess=preprocess, timeout_s=60) as client:
        results = list(client.stream(list(images.values())))
    assert results[0].error is None
    says = {name: result.error for name, result in zip(images, results, strict=True) if result.error}
    assert [name for name, error in says.items() if name not in error.reason or "--" in error.reason] == []
    assert [error.code for error in says.values()] == ["format", "too_large", "too_large", "too_large"]


def test_the_kernel_holds_the_step_to_its_memory(server):
    """The python step has a limit on its data, above what images may need, for files that lie."""
    limits = {}
    for pid in siege.usage_of(server.pid).pids[1:]:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        if f"{NAME}_preprocess" in line:
            limits[pid] = Path(f"/proc/{pid}/limits").read_text()
    assert len(limits) == 1
    [text] = limits.values()
    data = re.search(r"Max data size +(\d+) ", text)
    assert data is not None, text
    assert 2 << 30 < int(data[1]) < 8 << 30


def test_large_images_wait_for_each_other(server):
    """Sent at once, images that would not fit together are answered all the same, and the step stays within bounds."""
    image = attacks.within_limits(12_000)["large.png"]
    with Client(server.grpc_address, model=NAME, timeout_s=300) as client:
        assert client.embed([image] * 4).shape == (4, 32)
    pids = siege.usage_of(server.pid).pids
    peak = max(_status(pid, "VmHWM") for pid in pids)
    assert peak < (2 << 30) + (1 << 30)


def _status(pid: int, key: str) -> int:
    return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition(f"{key}:")[2].split()[0])


@pytest.mark.long
def test_the_whole_corpus(server):
    """A thousand fuzzed images, 100 000 frames, pictures as large as the limits allow."""
    plan = replace(Plan(), oversized_bytes=9_000_000, passes=4)
    check(besiege(server, plan), plan)
