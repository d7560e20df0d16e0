"""A server compares itself with the references of its exports before it serves them."""

import base64
import hashlib
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from server.processes import wait_until
from support import exports, trained_minilm
from vitriton import Client
from vitriton._repository import references
from vitriton_server import TritonServer, WrongOutputs, health
from vitriton_server._watch.verification import fault

MODEL = "tiny-deit"
PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "cat.jpg"


@pytest.fixture
def repository(tmp_path, small_models) -> Path:
    """A small model, which the test may damage."""
    return exports.export(small_models[MODEL], tmp_path / "repository", name=MODEL)


def change_a_weight(repository: Path, kind: str) -> None:
    """Changes one weight of a graph: the file keeps its size, as a graph of another version may."""
    (path,) = (repository / f"{MODEL}_{kind}_encoder").glob("[0-9]*/model.onnx")
    graph = onnx.load(path)
    weights = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] += 1000
    weights.raw_data = values.tobytes()
    onnx.save(graph, path)


def of(repository: Path, kind: str) -> Path:
    """The version folder of an ensemble."""
    (folder,) = (repository / f"{MODEL}_{kind}").glob("[0-9]*")
    return folder


def change_references(folder: Path, **changes) -> None:
    """Changes fields of all references of an ensemble."""
    document = json.loads((folder / references.FILE).read_text())
    for each in document["inputs"]:
        each.update(changes)
    (folder / references.FILE).write_text(json.dumps(document))


def test_references_of_an_export(repository):
    """Three photos with their vectors, and one with some of its tokens; the hash is that of the pixels."""
    pooled, unpooled = (references.read(of(repository, kind)) for kind in ("pooled", "unpooled"))
    assert [each.name for each in pooled.inputs] == ["astronaut.jpg", "cat.jpg", "coffee.jpg"]
    assert {each.values.ndim for each in pooled.inputs} == {1}
    (tokens,) = unpooled.inputs
    assert len(tokens.rows) == len(tokens.values) == 3
    assert tokens.rows[0] == 0
    assert pooled.tolerance is not None
    assert all(len(each.pixels_sha256) == len(hashlib.sha256().hexdigest()) for each in pooled.inputs)


def test_formats_that_an_export_refuses_are_no_references(tmp_path, small_models):
    """Where JPEGs are not taken, other images of the gate take their place."""
    folder = exports.export(small_models[MODEL], tmp_path / "png", name=MODEL, image_formats=("PNG",))
    names = [each.name for each in references.read(of(folder, "pooled")).inputs]
    assert len(names) == 3
    assert all(name.endswith(".png") for name in names)


def test_another_graph_is_refused(subprocesses, repository):
    """With the ensembles, the worst image of each, how far its output is from the reference's, and what is allowed."""
    for kind in ("pooled", "unpooled"):
        change_a_weight(repository, kind)
    pattern = rf"{MODEL}_pooled: \w+\.jpg: max abs error .* is allowed; {MODEL}_unpooled: \w+\.jpg: max abs error"
    with pytest.raises(WrongOutputs, match=pattern):
        TritonServer(repository).start()
    with TritonServer(repository, verify_at_start=False) as server:
        assert f"{MODEL}_pooled" in server.models


def found(server: TritonServer, repository: Path) -> str | None:
    """What is wrong with the pooled ensemble of a server, by the references in a repository."""
    steps = {f"{MODEL}_preprocess": 1, f"{MODEL}_pooled_encoder": 1}
    return fault(server.grpc_address, of(repository, "pooled"), steps, 60)


def test_other_pixels(small_server, repository):
    """Pixels must be identical where the gate demands it."""
    assert found(small_server, repository) is None
    change_references(of(repository, "pooled"), pixels_sha256="0" * 64)
    assert "astronaut.jpg: its pixels differ" in found(small_server, repository)


def test_another_cosine(small_server, repository):
    """Other precisions than fp32 demand a cosine."""
    folder = of(repository, "pooled")
    told = references.read(folder)
    references.write(folder, replace(told, tolerance=None, min_cosine=0.99))
    assert found(small_server, repository) is None
    others = tuple(replace(each, values=np.flip(each.values)) for each in told.inputs)
    references.write(folder, replace(told, tolerance=None, min_cosine=0.99, inputs=others))
    assert re.search(r"cosine -?0\.\d+ to the reference, and at least 0\.99 is", found(small_server, repository))


def test_references_that_cannot_be_read(small_server, repository):
    """A damaged file is no reason to serve without a look; an older export has none, and is served."""
    file = of(repository, "pooled") / references.FILE
    file.write_text("{")
    assert "its references cannot be read" in found(small_server, repository)
    file.unlink()
    assert found(small_server, repository) is None


def test_a_server_that_does_not_answer(repository):
    """Nothing was compared, so nothing is served."""
    steps = {f"{MODEL}_preprocess": 1, f"{MODEL}_pooled_encoder": 1}
    told = fault("127.0.0.1:9", of(repository, "pooled"), steps, 5)
    assert "it could not be compared with its references" in told


def test_a_watched_repository_serves_the_others(subprocesses, repository, caplog):
    """The wrong ensemble is left out and named, the health check fails, and a new export of it is served."""
    change_a_weight(repository, "pooled")
    with caplog.at_level(logging.ERROR), TritonServer(repository, watch_repository=True) as server:
        assert f"{MODEL}_pooled is not served, as its outputs are wrong on this machine" in caplog.text
        assert f"{MODEL}_pooled" not in server.models
        assert f"{MODEL}_unpooled" in server.models
        arguments = ["--repository", str(repository), "--http-port", server.http_address.rpartition(":")[2]]
        assert health.main(arguments) == 1


@pytest.mark.long
def test_a_wrong_export_does_not_replace_a_right_one(subprocesses, tmp_path, small_models, repository, caplog):
    """The version that is served stays, and answers."""
    newer = exports.export(small_models["tiny-dinov2"], tmp_path / "newer", name=MODEL)
    with caplog.at_level(logging.INFO), TritonServer(repository, watch_repository=True) as server:
        with Client(server.grpc_address, model=MODEL) as client:
            before = client.embed([PHOTO])
        change_references(of(newer, "pooled"), data=json.loads('"d3Jvbmc="'))
        _install(newer, repository)
        wait_until(lambda: f"{MODEL}_pooled is not served" in caplog.text, 120, "the refusal")
        with Client(server.grpc_address, model=MODEL) as client:
            assert (client.embed([PHOTO]) == before).all()


def _install(newer: Path, repository: Path) -> None:
    """Installs version 2 of each model, the ensembles last, as `vitriton export` does."""
    for folder in sorted(newer.iterdir(), key=lambda each: each.name.endswith("pooled")):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        shutil.copytree(folder / "1", repository / folder.name / "2")
        config = (folder / "config.pbtxt").read_text().replace("versions: 1", "versions: 2")
        config = config.replace("model_version: 1", "model_version: 2")
        (repository / folder.name / "config.pbtxt").write_text(config)


@pytest.mark.long
def test_texts_are_compared(subprocesses, tmp_path):
    """A text model, with token ids between its steps."""
    folder = exports.export(trained_minilm.checkpoint(), tmp_path / "repository", name="minilm")
    with TritonServer(folder) as server:
        assert "minilm_text_pooled" in server.models
    (version,) = (folder / "minilm_text_pooled").glob("[0-9]*")
    assert [each.name for each in references.read(version).inputs] == ["sentence", "German", "numbers"]
    change_references(version, data=base64.b64encode(b"other words").decode())
    with pytest.raises(WrongOutputs, match=r"minilm_text_pooled: \w+: max abs error"):
        TritonServer(folder).start()


def test_a_server_that_starts_is_not_healthy():
    """Triton answers before the comparison has ended; the health check knows."""
    assert not health.is_starting(1)
    with health.starting(1):
        assert health.is_starting(1)
        assert (
            health.main(["--repository", str(Path(__file__).parents[2] / "model_repository"), "--http-port", "1"]) == 1
        )
    assert not health.is_starting(1)
