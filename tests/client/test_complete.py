"""The look at the files of an export, which tells half-deleted, half-copied and changed ones."""

import hashlib
import json
import shutil

import pytest
from vitriton._repository import disk
from vitriton._repository.complete import broken_exports, by_export, missing

FINGERPRINT = 'parameters { key: "fingerprint" value { string_value: "abc" } }'


def entry(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


@pytest.fixture
def repository(tmp_path):
    """A pooled export with its manifest, and a model of another kind."""
    steps = "".join(
        f'step {{ model_name: "{name}" model_version: 1 }} ' for name in ("m_preprocess", "m_pooled_encoder")
    )
    configs = {
        "m_preprocess": f'backend: "python" {FINGERPRINT}',
        "m_pooled_encoder": f'backend: "onnxruntime" {FINGERPRINT}',
        "m_pooled": f'platform: "ensemble" ensemble_scheduling {{ {steps} }} {FINGERPRINT}',
        "other": 'backend: "python"',
    }
    for name, config in configs.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(config)
    for name in ("model.py", "preprocess.json"):
        (tmp_path / "m_preprocess" / "1" / name).write_text('{"limits": {"max_pixels": 9}}')
    (tmp_path / "m_pooled_encoder" / "1" / "model.onnx").write_bytes(b"graph")
    files = {
        "m_preprocess/preprocess.json": entry(b'{"limits": {"max_pixels": 9}}'),
        "m_pooled_encoder/model.onnx": entry(b"graph"),
        "m_unpooled_encoder/model.onnx": entry(b"other"),
    }
    manifest = {"fingerprint": "abc", "max_batch_size": 0, "files": files}
    (tmp_path / "m_pooled" / "1" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def broken(repository):
    return broken_exports(repository, disk.models(repository))


def test_a_whole_export(repository):
    """Nothing is missing, with a manifest or without; the other ensemble's graphs do not count."""
    assert missing(repository, "m_pooled") is None
    (repository / "m_pooled" / "1" / "manifest.json").unlink()
    assert broken(repository) == {}


@pytest.mark.parametrize(
    ("gone", "fault"),
    [
        ("m_pooled/config.pbtxt", "m_pooled/config.pbtxt is missing or cannot be read"),
        ("m_preprocess", "m_preprocess is missing"),
        ("m_preprocess/1", "version 1 of m_preprocess is missing"),
        ("m_preprocess/1/model.py", "m_preprocess/1/model.py is missing"),
        ("m_preprocess/1/preprocess.json", "m_preprocess/1/preprocess.json is missing"),
        ("m_pooled_encoder/config.pbtxt", "m_pooled_encoder/config.pbtxt is missing or cannot be read"),
        ("m_pooled_encoder/1/model.onnx", "m_pooled_encoder/1/model.onnx is missing"),
    ],
)
def test_a_half_deleted_export(repository, gone, fault):
    """The first thing that is missing is named."""
    path = repository / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert broken(repository) == {"m_pooled": fault}


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("m_pooled_encoder/1/model.onnx", "", "is empty"),
        ("m_pooled_encoder/1/model.onnx", "gra", "is not the file that was exported"),
        (
            "m_preprocess/1/preprocess.json",
            '{"limits": {"max_pixels": 8}}',
            "is not the file that was exported",
        ),
        ("m_preprocess/1/preprocess.json", "{", "is not the file that was exported"),
    ],
)
def test_a_file_that_is_not_the_exported_one(repository, file, content, fault):
    """The size of a graph tells, and the content of every other file."""
    (repository / file).write_text(content)
    assert broken(repository) == {"m_pooled": f"{file} {fault}"}


def test_a_graph_of_the_same_size(repository):
    """It is read only if that is asked for."""
    (repository / "m_pooled_encoder/1/model.onnx").write_bytes(b"grapf")
    assert missing(repository, "m_pooled") is None
    fault = "m_pooled_encoder/1/model.onnx is not the file that was exported"
    assert missing(repository, "m_pooled", read_graphs=True) == fault


@pytest.mark.parametrize("model", ["m_pooled", "m_preprocess", "m_pooled_encoder"])
def test_another_fingerprint(model, repository):
    config = repository / model / "config.pbtxt"
    config.write_text(config.read_text().replace("abc", "abd"))
    assert broken(repository) == {"m_pooled": f"{model}/config.pbtxt has another fingerprint than the manifest, abc"}


def test_another_largest_batch(repository):
    """Clients rely on that of the ensemble; a step may take more."""
    for model in ("m_pooled_encoder", "m_pooled"):
        assert broken(repository) == {}
        with (repository / model / "config.pbtxt").open("a") as config:
            config.write("max_batch_size: 8")
    assert broken(repository) == {"m_pooled": "m_pooled/config.pbtxt has another max_batch_size than its manifest"}


def test_an_older_export(repository):
    """Its manifest lists the graphs alone; nothing else is compared."""
    graphs = {"m_pooled_encoder/model.onnx": {"bytes": 5}}
    (repository / "m_pooled/1/manifest.json").write_text(json.dumps({"graphs": graphs}))
    (repository / "m_preprocess/1/preprocess.json").write_text("{}")
    assert broken(repository) == {}
    (repository / "m_pooled_encoder/1/model.onnx").write_bytes(b"gra")
    assert "is not the file" in broken(repository)["m_pooled"]


@pytest.mark.parametrize("manifest", ["[]", "{", '{"files": []}', '{"files": {"m_pooled_encoder/model.onnx": 5}}'])
def test_a_manifest_that_says_nothing(repository, manifest):
    """It is compared with nothing; `vitriton verify` refuses it."""
    (repository / "m_pooled" / "1" / "manifest.json").write_text(manifest)
    assert broken(repository) == {}


def test_text_files_without_weights(repository):
    """As a checkout has them."""
    config = repository / "m_pooled" / "config.pbtxt"
    config.write_text(config.read_text().replace("abc", "not-exported"))
    assert broken(repository) == {"m_pooled": "it has no weights yet, or its export did not finish"}


def test_one_fault_of_an_export_is_listed_once():
    """Its ensembles share it; an ensemble with a fault of its own keeps its name."""
    faults = {"a_pooled": "no weights", "a_unpooled": "no weights", "b_pooled": "no weights", "c_text_pooled": "cut"}
    assert by_export(faults) == {"a": "no weights", "b_pooled": "no weights", "c_text_pooled": "cut"}
    assert by_export({"a_pooled": "cut", "a_unpooled": "empty"}) == {"a_pooled": "cut", "a_unpooled": "empty"}
