"""What the adapters for other libraries share; tests/integrations has the adapters themselves."""

import ast
import importlib
import importlib.util
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import vitriton.integrations
from vitriton import ContractMismatch
from vitriton.integrations import _space
from vitriton.integrations._space import EmbeddingSpace

FOLDER = Path(vitriton.integrations.__file__).parent
PUBLIC = {
    "chroma": ["VitritonEmbeddingFunction"],
    "daft": ["embedder"],
    "haystack": ["VitritonDocumentEmbedder", "VitritonDocumentImageEmbedder", "VitritonTextEmbedder"],
    "lancedb": ["VitritonLanceFunction"],
    "langchain": ["VitritonEmbeddings"],
    "llama_index": ["VitritonEmbedding"],
}
ADAPTERS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def test_public_names():
    """A change here is a change for users. They are read from the code, as the libraries are not here."""
    found = {}
    for name in ADAPTERS:
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        lists = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        found[name] = ast.literal_eval(lists[0])
        defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        assert {each for each in defined if not each.startswith("_")} == set(found[name])
    assert found == PUBLIC


def test_each_adapter_is_short():
    """A page of code, so that whoever needs another library sees how."""
    assert ADAPTERS
    assert all(len((FOLDER / f"{name}.py").read_text().splitlines()) < 80 for name in ADAPTERS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_library_is_named(name, monkeypatch):
    """With the extra that installs it."""
    for library in ("chromadb", "daft", "haystack", "lancedb", "langchain_core", "llama_index"):
        known = [module for module in sys.modules if module.startswith(f"{library}.")]
        for module in (library, f"{library}.core", *known):
            monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"vitriton.integrations.{name}", raising=False)
    extra = name.replace("_", "-")
    with pytest.raises(ImportError, match=rf"pip install 'vitriton\[{extra}\]'"):
        importlib.import_module(f"vitriton.integrations.{name}")


def test_the_fingerprint_is_found(address, http_address, files, embeddings):
    """The server is asked for it once, and a model with another one is refused; also after pickling."""
    space = EmbeddingSpace(address, "tiny")
    assert space.config == {
        "url": address,
        "model": "tiny",
        "fingerprint": "space-1",
        "token_env": None,
        "ca_file": None,
        "timeout_s": 60.0,
    }
    for one in (space, EmbeddingSpace(**json.loads(json.dumps(space.config))), pickle.loads(pickle.dumps(space))):
        np.testing.assert_allclose(one.images(files), embeddings, atol=1e-4)
        assert one.dimensions == 4
    assert pickle.loads(pickle.dumps(space)).config == space.config
    several = EmbeddingSpace([f"http://{http_address}"], "tiny", fingerprint="space-2")
    assert several.config["url"] == [f"http://{http_address}"]
    with pytest.raises(ContractMismatch, match="space-2 was expected"):
        pickle.loads(pickle.dumps(several)).images(files)


def test_a_model_without_a_fingerprint_is_refused(address):
    """No collection could tell it from another."""
    with pytest.raises(ValueError, match="model wide has no fingerprint"):
        EmbeddingSpace(address, "wide")


def test_the_token_stays_in_the_environment(address, files, monkeypatch):
    """A configuration and a pickle have the name of its variable."""
    monkeypatch.setenv("SEARCH_TOKEN", "secret\n")
    space = EmbeddingSpace(address, "tiny", token_env="SEARCH_TOKEN")
    space.images(files[:1])
    assert space.config["token_env"] == "SEARCH_TOKEN"
    assert b"secret" not in pickle.dumps(space)
    assert _space._token("SEARCH_TOKEN") == "secret"
    monkeypatch.delenv("SEARCH_TOKEN")
    with pytest.raises(ValueError, match="token_env is 'SEARCH_TOKEN', and the environment variable"):
        EmbeddingSpace(address, "tiny", token_env="SEARCH_TOKEN")


def test_misspelled_arguments():
    """The error names the argument that was meant."""
    with pytest.raises(TypeError, match="did you mean 'fingerprint'"):
        EmbeddingSpace("h:1", "tiny", fingerprnt="space-1")
