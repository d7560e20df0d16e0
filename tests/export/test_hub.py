"""Checkpoints from the hub: a real download over a real socket, and every way in which it fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from support import hub

# In a process of its own: huggingface_hub reads its environment when it is imported.
SCRIPT = """
import json, sys
from vitriton_export._errors import ExportError
from vitriton_export._checkpoint.source import fetch_weights, find
try:
    source = fetch_weights(find(*json.loads(sys.argv[1])))
    print(json.dumps([str(source.folder), source.model_id, source.revision]))
except ExportError as exc:
    sys.exit(str(exc))
"""


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def find(subprocesses, tmp_path):
    """Runs `find` with a cache of its own and these environment variables; gives its result or its error."""

    def run(model, revision=None, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        variables = clean | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"} | environment
        command = [sys.executable, "-c", SCRIPT, json.dumps([model, revision])]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    return run


def test_a_download_brings_what_is_needed_and_the_commit(find, tiny_vit_checkpoint, tmp_path):
    """HF_ENDPOINT and HF_TOKEN are used; the revision becomes a commit; nothing is downloaded twice."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint}, token="secret")) as server:
        folder, model_id, revision = find("org/model", "v1", HF_ENDPOINT=server.url, HF_TOKEN="secret")
        assert (model_id, revision) == ("org/model", hub.COMMIT)
        assert names(folder) == ["config.json", "model.safetensors", "preprocessor_config.json"]
        server.requests.clear()
        find("org/model", "v1", HF_ENDPOINT=server.url, HF_TOKEN="secret")
        assert not any("resolve" in path for path in server.requests)


def test_a_folder_that_is_nearly_there_is_named(find, tmp_path, monkeypatch):
    """A relative path with one slash looks like an id; when the hub does not have it, the near folder is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "finetuned").mkdir(parents=True)
    with hub.serve(hub.Hub({})) as server:
        said = find("my/finetune", HF_ENDPOINT=server.url)
    assert said.endswith("if my/finetune is a folder, did you mean my/finetuned?"), said


def test_without_the_hub_the_cache_serves(find, tiny_vit_checkpoint):
    """What was downloaded once is found with HF_HUB_OFFLINE, and when the hub is down."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint})) as server:
        online = find("org/model", HF_ENDPOINT=server.url)
    assert find("org/model", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1") == online
    assert find("org/model", HF_ENDPOINT=server.url) == online


def test_safetensors_are_preferred(find, tiny_vit_checkpoint, tmp_path):
    """Pickled weights are downloaded only where there are no others."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (model / name).write_bytes((tiny_vit_checkpoint / name).read_bytes())
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with hub.serve(hub.Hub({"org/model": model})) as server:
        assert "pytorch_model.bin" not in names(find("org/model", HF_ENDPOINT=server.url)[0])
        (model / "model.safetensors").unlink()
        found = find("org/model", HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "other"))
        assert "pytorch_model.bin" in names(found[0])


def test_an_adapter_is_refused_as_in_a_folder(find, tiny_vit_checkpoint, tmp_path):
    """Its configuration is downloaded for that; no weights are."""
    model = shutil.copytree(tiny_vit_checkpoint, tmp_path / "model")
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (model / "adapter_model.safetensors").write_bytes(b"")
    with hub.serve(hub.Hub({"org/model": model})) as server:
        assert "org/model holds an adapter" in find("org/model", HF_ENDPOINT=server.url)
        assert not any("safetensors" in path for path in server.requests)
        (model / "config.json").unlink()
        found = find("org/model", HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "other"))
        assert "org/model holds an adapter" in found


def test_shards_are_those_that_the_index_names(find, tiny_vit_checkpoint, tmp_path):
    """Whatever their names are; a stale shard and a single file of another format are not downloaded."""
    model = shutil.copytree(tiny_vit_checkpoint, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "second.safetensors")
    save_file({"first": tensors["embeddings.cls_token"]}, model / "first.safetensors")
    mapping = dict.fromkeys(tensors, "second.safetensors") | {"first": "first.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    (model / "model-00009-of-00009.safetensors").write_bytes(b"stale")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    with hub.serve(hub.Hub({"org/model": model})) as server:
        found = names(find("org/model", HF_ENDPOINT=server.url)[0])
    assert [name for name in found if name.endswith((".safetensors", ".bin"))] == [
        "first.safetensors",
        "second.safetensors",
    ]


def test_a_variant_alone_is_named(find, tiny_vit_checkpoint, tmp_path):
    """Of weights that are not read the error says what the hub has, and what to do."""
    model = shutil.copytree(tiny_vit_checkpoint, tmp_path / "model")
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")
    with hub.serve(hub.Hub({"org/model": model})) as server:
        error = find("org/model", HF_ENDPOINT=server.url)
    assert "org/model has no weights" in error
    assert "it has model.fp16.safetensors, a variant: rename it" in error


def test_the_weights_come_after_the_configuration(tiny_vit_checkpoint, tmp_path):
    """A model that cannot be exported is refused before its weights are downloaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "esm"}')
    (model / "model.safetensors").write_bytes(b"weights")
    with hub.serve(hub.Hub({"org/model": model})) as server:
        variables = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
        command = [Path(sys.executable).with_name("vitriton"), "export", "org/model", "--repository", tmp_path / "r"]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
        assert done.returncode == 1
        assert "org/model is of type esm, which reads proteins and not texts" in done.stderr
        assert not any("safetensors" in path for path in server.requests)


def test_unknown_models_and_revisions(find, tiny_vit_checkpoint):
    """The error says which of the two it is."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint})) as server:
        assert "has no model org/other, or it is private" in find("org/other", HF_ENDPOINT=server.url)
        assert "org/model has no revision v9" in find("org/model", "v9", HF_ENDPOINT=server.url)


def test_private_and_gated_models(find, tiny_vit_checkpoint):
    """The error says that a token, or an acceptance of terms, is missing."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint}, token="secret")) as server:
        assert "set HF_TOKEN" in find("org/model", HF_ENDPOINT=server.url)
        assert "set HF_TOKEN" in find("org/model", HF_ENDPOINT=server.url, HF_TOKEN="wrong")
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint}, gated=True)) as server:
        assert "org/model is gated: accept its terms" in find("org/model", HF_ENDPOINT=server.url)


def test_no_network(find):
    """The error names the address, and the ways around."""
    error = find("org/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert "is not in the local cache and http://127.0.0.1:9 cannot be reached" in error
    assert "or give a checkpoint's folder" in error
    assert "check the network, point HF_ENDPOINT at a mirror, or give" in error
    proxied = find("org/model", HF_ENDPOINT="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
    assert "check the network and HTTPS_PROXY, point HF_ENDPOINT at a mirror, or give" in proxied


@pytest.mark.parametrize("setting", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_without_the_model(find, setting):
    """The error says which setting to take away, and nothing of a network that nobody asked."""
    error = find("org/model", **{setting: "1"})
    assert f"{setting} is set; unset it to download the model, or give a checkpoint's folder" in error
    assert "network" not in error


@pytest.mark.parametrize(
    ("status", "advice"),
    [(404, "answers 404 (not found); check that HF_ENDPOINT is"), (410, "answers 410"), (500, "try again later")],
)
def test_a_mirror_that_answers_with_an_error(find, tiny_vit_checkpoint, status, advice):
    """It was reached: the error gives the status, and says what to check."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint}, status=status)) as server:
        error = find("org/model", HF_ENDPOINT=server.url)
    assert advice in error
    assert f"{server.url} answers {status}" in error
    assert "cannot be reached" not in error


def test_no_hub_id_at_all(find):
    """A name that the hub cannot have is not asked for."""
    assert "is neither a folder nor a hub id" in find("org/mo del")


PROXIES = [
    ({"ALL_PROXY": "socks5://127.0.0.1:9"}, ["ALL_PROXY", "pip install socksio"]),
    ({"all_proxy": "socks5h://127.0.0.1:9"}, ["all_proxy", "pip install socksio"]),
    ({"HTTPS_PROXY": ":::bad"}, ["HTTPS_PROXY"]),
    ({"HTTPS_PROXY": "http://[::1"}, ["HTTPS_PROXY"]),
    ({"HTTP_PROXY": "ftp://proxy:21"}, ["HTTP_PROXY"]),
    ({"HTTPS_PROXY": "http://user:pass:word@[::1]:none"}, ["HTTPS_PROXY"]),
    ({"HTTPS_PROXY": "http://user:pass:word@127.0.0.1:9"}, ["HTTPS_PROXY", "check the network"]),
    ({"HF_ENDPOINT": "nonsense"}, ["HF_ENDPOINT"]),
    ({"HF_ENDPOINT": "http://[::1"}, ["HF_ENDPOINT"]),
    ({"HF_ENDPOINT": "http://127.0.0.1:99999"}, ["HF_ENDPOINT"]),
    ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_é"}, ["HF_TOKEN"]),
    ({"SSL_CERT_FILE": "/no/such/file"}, ["SSL_CERT_FILE"]),
    ({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, ["HF_HUB_DOWNLOAD_TIMEOUT"]),
]


@pytest.mark.parametrize(("settings", "named"), PROXIES, ids=lambda each: next(iter(each)))
def test_settings_that_the_download_library_cannot_use(find, settings, named):
    """One line names the settings to look at, says what to do, and shows neither a password nor a token."""
    error = find("org/model", **settings)
    assert all(text in error for text in named)
    assert not any(text in error for text in ("Error:", "word@"))


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("settings", [{"ALL_PROXY": "socks5://127.0.0.1:9"}, {"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}])
def test_the_command_with_such_a_setting(settings, tmp_path):
    """It ends with that line and with exit code 1: whether a download meets the setting, or the import before it."""
    command = [Path(sys.executable).with_name("vitriton"), "export", "org/model", "--repository", tmp_path / "r"]
    variables = os.environ | {"HF_HOME": str(tmp_path / "hf")} | settings
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert next(iter(settings)) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("settings", [settings for settings, _ in PROXIES[:5:2]], ids=range(3))
def test_offline_no_proxy_is_looked_at(find, tiny_vit_checkpoint, settings):
    """With HF_HUB_OFFLINE what is in the cache is found, whatever the proxy's setting."""
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint})) as server:
        online = find("org/model", HF_ENDPOINT=server.url)
    assert find("org/model", HF_HUB_OFFLINE="1", **settings) == online
    assert "HF_HUB_OFFLINE is set" in find("org/other", HF_HUB_OFFLINE="1", **settings)
