"""What `helm test` runs: the chart's program, against a real server and the manifest of its export."""

import base64
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import exports
from vitriton_server import TritonServer

_PROGRAM = Path(__file__).parents[2] / "deploy" / "helm" / "vitriton" / "files" / "embed.py"
MODEL = "tiny-deit"


@pytest.fixture(scope="module")
def repository(tmp_path_factory, small_models) -> Path:
    """A small model."""
    return exports.export_all({MODEL: small_models[MODEL]}, tmp_path_factory.mktemp("helm") / "repository")


@pytest.fixture(scope="module")
def server(subprocesses, repository):
    """A real Triton with it."""
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, which the chart mounts into a pod."""
    specification = importlib.util.spec_from_file_location("helm_test_embed", _PROGRAM)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_server_answers_as_its_export_did(program, server, repository, capsys):
    """The vector of the photo is that of transformers, which the export keeps."""
    assert program.main(server.grpc_address, MODEL, str(repository)) == 0
    said = capsys.readouterr().out
    assert "1 servers answer" in said
    assert "to the reference of the export" in said


def test_another_vector_fails(program, server, repository, tmp_path, capsys):
    """A server whose vector is not that of the export is noticed."""
    (exported,) = (repository / f"{MODEL}_pooled").glob("[0-9]*")
    copied = shutil.copytree(exported, tmp_path / f"{MODEL}_pooled" / "1")
    document = json.loads((copied / "references.json").read_text())
    for each in document["inputs"]:
        each["values"] = base64.b64encode(np.arange(*each["dims"], dtype="<f4").tobytes()).decode()
    (copied / "references.json").write_text(json.dumps(document))
    assert program.main(server.grpc_address, MODEL, str(tmp_path)) == 1
    assert "failed" in capsys.readouterr().out


def test_servers_are_compared_where_there_are_no_references(program, server, tmp_path, capsys):
    """A pod with a volume of its own shows its export to nobody."""
    shutil.rmtree(tmp_path)
    assert program.main(server.grpc_address, MODEL, str(tmp_path)) == 0
    assert "compared with each other only" in capsys.readouterr().out
