"""The profile bench: perf_analyzer sends real photos to the service."""

from __future__ import annotations

import re

import pytest
from compose.conftest import TEXTS, TINY
from compose.project import ROOT

# A few dozen requests, whether or not the measurements agree with each other.
SHORT = "--request-count 40 --concurrency-range 2"


@pytest.fixture(scope="module")
def sdk(front):
    """An image with perf_analyzer: a stand-in for NVIDIA's."""
    tag = f"{front.name}-sdk"
    front.engine("build", "--quiet", "--tag", tag, str(ROOT / "tests" / "compose" / "sdk"))
    yield tag
    front.engine("image", "rm", "--no-prune", tag)


@pytest.mark.long
@pytest.mark.parametrize("output", ["pooled", "unpooled"])
def test_photos_are_measured(front, sdk, output):
    """One command measures; the server embeds what is sent, so none of it is refused."""
    front.env.update(SDK_IMAGE=sdk, BENCH_MODEL=f"{TINY}_{output}", BENCH_ARGS=SHORT)
    done = front.compose("run", "--rm", "bench")
    assert re.search(r"Concurrency: 2, throughput: [1-9][\d.]* infer/sec, latency \d+ usec", done.stdout), done.stdout


@pytest.mark.long
def test_a_file_of_texts(text_front, sdk, tmp_path):
    """In place of a folder of photos, for a model for texts."""
    tmp_path.chmod(0o755)
    (tmp_path / "texts.txt").write_text("a man rides a bicycle\n\nthe quick brown fox\n")
    text_front.env.update(
        SDK_IMAGE=sdk, BENCH_MODEL=f"{TEXTS}_text_pooled", BENCH_INPUT=str(tmp_path / "texts.txt"), BENCH_ARGS=SHORT
    )
    done = text_front.compose("run", "--rm", "bench")
    assert re.search(r"Concurrency: 2, throughput: [1-9][\d.]* infer/sec, latency \d+ usec", done.stdout), done.stdout


@pytest.mark.long
def test_a_folder_without_images(front, sdk, tmp_path):
    """It is named, and nothing is measured."""
    tmp_path.chmod(0o755)
    front.env.update(SDK_IMAGE=sdk, BENCH_MODEL=f"{TINY}_pooled", BENCH_INPUT=str(tmp_path))
    done = front.compose("run", "--rm", "bench", check=False)
    front.env.pop("BENCH_INPUT")
    assert done.returncode == 1
    assert "/input has no .jpg, .jpeg, .png, .webp files" in done.stderr
