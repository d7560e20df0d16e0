"""`docker compose up`: from nothing to embeddings, and again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compose.conftest import MODEL, TINY, TINY_TOO, UNREADABLE
from compose.project import BASE, ROOT, Project, pids
from PIL import Image
from server.processes import wait_until
from transformers import AutoImageProcessor, pipeline
from vitriton import Client

PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
TOLERANCE = 1e-4
ALREADY = f"{MODEL} is in /data/models already"
LOADS_S = 120.0
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def reference(trained_checkpoint):
    """What transformers itself makes of the photos: embeddings (N, D) and tokens (N, T, D)."""
    extract = pipeline(
        "image-feature-extraction",
        model=str(trained_checkpoint),
        image_processor=AutoImageProcessor.from_pretrained(trained_checkpoint, backend="pil"),
    )
    images = [Image.open(path) for path in PHOTOS]
    return [np.concatenate(extract(images, pool=pool, return_tensors=True)) for pool in (True, False)]


def embeds_as(reference, project: Project) -> None:
    """Both outputs over both protocols are the reference's."""
    for url in (project.address("grpc"), f"http://{project.address('http')}"):
        with Client(url, model=MODEL, timeout_s=PATIENCE_S) as client:
            for pool, expected in zip((True, False), reference, strict=True):
                assert np.abs(client.embed(PHOTOS, pool=pool) - expected).max() <= TOLERANCE


def test_from_nothing(stack, reference):
    """One command exports and serves, and the client's numbers are the reference's."""
    assert stack.inspect("export")["State"]["ExitCode"] == 0
    embeds_as(reference, stack)


def test_each_core_computes_images_of_its_own(stack):
    """The volume of the CPU file has room for the prepared graph, and nothing stays in it."""
    assert "all cores compute each image together" not in stack.logs("triton")
    assert stack.execute("triton", "ls", "-A", "/var/tmp").stdout == ""


def test_the_kernel_schedules_triton_as_batch_work(stack):
    """The container, without capabilities and under Docker's seccomp profile, may ask for it."""
    policies = """
import os, pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text().strip() == "tritonserver":
        print(os.sched_getscheduler(int(path.parent.name)) == os.SCHED_BATCH)
"""
    assert stack.execute("triton", "python3", "-c", policies).stdout.split() == ["True"]


def test_healthy_means_every_model(stack):
    """The health check asks for each of the export's models, and says no where one is missing."""
    said = stack.execute("triton", "vitriton-health", "--repository", "/data/models").stdout
    assert all(f"{MODEL}_{kind}" in said for kind in ("pooled", "unpooled"))
    missing = stack.execute("triton", "vitriton-health", "--repository", "/opt", check=False)
    assert (missing.returncode, missing.stderr.strip()) == (1, "/opt has no model")


def test_a_second_up_exports_nothing(stack):
    """Where the volume holds the model, the export says so and ends, and Triton goes on as it is."""
    before = stack.inspect("triton")["State"]["StartedAt"]
    stack.up()
    assert stack.logs("export").splitlines()[-1] == ALREADY
    assert stack.inspect("triton")["State"]["StartedAt"] == before


def test_down_and_up_again(stack, reference):
    """The volume outlives the containers: nothing is exported, and the numbers are the same."""
    stack.down()
    stack.up()
    assert stack.logs("export").strip() == ALREADY
    embeds_as(reference, stack)


@pytest.mark.long
def test_on_nvidia_s_image(stack, reference, tmp_path):
    """The base file alone serves the same volume with the Triton of TRITON_IMAGE, where that image is here already."""
    project = Project(stack.name, tmp_path, stack.env, BASE)
    image = project.config()["services"]["triton"]["build"]["args"]["TRITON_IMAGE"]
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
        pytest.skip(f"{image} is not here, and has twenty GB")
    project.compose("build", "triton")
    project.up()
    assert "/opt/tritonserver/bin/tritonserver" in str(pids(project.container("triton")))
    assert project.logs("export").splitlines()[-1] == ALREADY
    embeds_as(reference, project)
    stack.up()


@pytest.fixture(scope="module")
def changing(make_project) -> Project:
    """A project whose model is changed, with one to begin with."""
    project = make_project("changing", MODEL=f"/checkpoints/{TINY}")
    project.compose("build", "export", "triton")
    project.up()
    return project


def is_served(project: Project, name: str) -> bool:
    """Whether Triton has all that is on the volume, and a model among it."""
    said = project.execute("triton", "vitriton-health", "--repository", "/data/models", check=False)
    return said.returncode == 0 and f"{name}_pooled" in said.stdout


UPDATE = ("up", "--exit-code-from", "export", "export")


def test_an_update_that_fails(small):
    """The command for updates fails with the export, and Triton goes on with what it has, without a restart."""
    before, model = small.inspect("triton")["State"]["StartedAt"], small.env["MODEL"]
    small.env["MODEL"] = "/checkpoints/not-there"
    try:
        failed = small.compose(*UPDATE, check=False)
        assert failed.returncode == 2  # a path that is not there
        assert "/checkpoints/not-there" in failed.stdout + failed.stderr
    finally:
        small.env["MODEL"] = model
    assert small.compose(*UPDATE).returncode == 0
    assert (small.inspect("triton")["State"]["StartedAt"], small.health("triton")) == (before, "healthy")


@pytest.mark.long
def test_another_model(changing):
    """Another MODEL in .env is exported and served by an update, while the one before goes on, without a restart."""
    started = changing.inspect("triton")["State"]["StartedAt"]
    changing.env["MODEL"] = f"/checkpoints/{TINY_TOO}"
    changing.compose(*UPDATE)
    wait_until(lambda: is_served(changing, TINY_TOO), LOADS_S, "both models are served")
    for name in (TINY, TINY_TOO):
        with Client(changing.address("grpc"), model=name) as client:
            assert len(client.embed(PHOTOS)) == len(PHOTOS)
    assert changing.inspect("triton")["State"]["StartedAt"] == started
    remove = ("vitriton", "remove", TINY, "--repository", "/data/models")
    changing.compose("run", "--rm", "export", *remove)
    with Client(changing.address("grpc"), model=TINY_TOO) as client:
        assert len(client.embed(PHOTOS)) == len(PHOTOS)


@pytest.mark.long
def test_another_precision_under_the_same_name(changing):
    """It would mix two embedding spaces: `up` fails, the reason is in the log, and Triton goes on as before."""
    changing.env["PRECISION"] = "int8"
    failed = changing.compose("up", "--detach", "--wait", "triton", check=False)
    assert failed.returncode
    assert "another embedding space" in changing.logs("export")
    changing.env["PRECISION"] = "fp32"
    changing.up()
    assert is_served(changing, Path(changing.env["MODEL"]).name)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() == 1000, reason="it is the container's user who owns the file")
def test_a_checkpoint_that_may_not_be_read(changing):
    """The export says which file, and how to change that."""
    command = ("vitriton", "export", f"/checkpoints/{UNREADABLE}", "--repository", "/data/models")
    failed = changing.compose("run", "--rm", "export", *command, check=False)
    assert failed.returncode == 1
    text = f"user 1000 may not read /checkpoints/{UNREADABLE}/model.safetensors; `chmod -R a+rX"
    assert text in failed.stdout + failed.stderr


@pytest.mark.long
def test_a_damaged_graph_is_exported_again(changing):
    """A graph on the volume that is not the manifest's is replaced by the next `up`."""
    name = Path(changing.env["MODEL"]).name
    graph = f"/data/models/{name}_pooled_encoder/1/model.onnx"
    changing.compose("run", "--rm", "--no-deps", "export", "truncate", "--size=100", graph)
    changing.up()
    changing.compose("restart", "triton")
    wait_until(lambda: changing.health("triton") == "healthy", LOADS_S, "healthy")
    assert is_served(changing, name)
    assert f"{name}_pooled_encoder/1/model.onnx is not the file that was exported" in changing.logs("export")
    manifest = changing.execute("triton", "cat", f"/data/models/{name}_pooled/2/manifest.json").stdout
    assert json.loads(manifest)["name"] == name
