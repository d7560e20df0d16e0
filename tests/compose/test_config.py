"""The compose files as they are written: valid in every combination, and closed unless told otherwise."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess

import pytest
from compose.project import BASE, CPU, ROOT, Project, settings

GPU = (*BASE, "docker-compose.gpu.yml")
COMBINATIONS = [BASE, GPU, CPU]
PASSED_ON = ("HF_ENDPOINT", "HF_HUB_OFFLINE")  # to the hub's library, which has the defaults
_USED = re.compile(r"\$\{([A-Z_]+)(?::?[-+]([^${}]*))?")
_EXPLAINED = re.compile(r"^#([A-Z_]+)=(\S*)", re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")


def profiles() -> list[str]:
    """All profiles of the compose file."""
    command = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--profiles"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("files", COMBINATIONS, ids="+".join)
def test_every_combination_is_valid(tmp_path, files):
    """Each set of files with no, each, each two and all profiles is understood, with and without settings."""
    known = profiles()
    for count in (0, 1, 2, len(known)):
        for chosen in itertools.combinations(known, count):
            for env in ({}, {"MODEL_NAME": "mine", "OTEL_URL": "http://collector:4318/v1/traces", "GPU_COUNT": "2"}):
                done = Project("config", tmp_path, env, files, chosen).compose("config", "--quiet")
                assert done.stderr == "", (chosen, env)


def test_gpus_are_reserved(tmp_path):
    """The GPU file gives Triton all of NVIDIA's devices, or as many as are asked for."""
    for env, count in (({}, -1), ({"GPU_COUNT": "2"}, 2)):
        config = Project("config", tmp_path, env, GPU).config()
        devices = config["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]
        assert "deploy" not in config["services"]["export"]


def test_the_cpu_file_needs_no_image_of_nvidia(tmp_path):
    """With it nothing comes from NVIDIA's registry; without it the image is theirs, or what TRITON_IMAGE names."""
    assert "nvcr.io" not in str(Project("config", tmp_path, {}, CPU).config())
    assert "nvcr.io/nvidia/tritonserver:26.08-py3" in str(Project("config", tmp_path, {}, BASE).config())
    pinned = f"registry.example.com/tritonserver@sha256:{'0' * 64}"
    assert pinned in str(Project("config", tmp_path, {"TRITON_IMAGE": pinned}, BASE).config())


def test_an_image_is_pinned_by_its_digest(tmp_path):
    """Each tag may have a digest behind it, as .env.example says."""
    digest = f"sha256:{'0' * 64}"
    for name, tag in _EXPLAINED.findall((ROOT / ".env.example").read_text()):
        if name.endswith(("_TAG", "_IMAGE")) and name not in ("VITRITON_TAG", "PYTHON_IMAGE"):
            pinned = f"{tag}@{digest}"
            assert pinned in str(Project("config", tmp_path, {name: pinned}, BASE, profiles()).config()), name
    pinned = f"python:3.11-slim-bookworm@{digest}"
    assert pinned in str(Project("config", tmp_path, {"PYTHON_IMAGE": pinned}, CPU).config())


@pytest.mark.parametrize("files", COMBINATIONS, ids="+".join)
def test_every_service_is_closed(tmp_path, files):
    """No writable root, no capabilities, no new privileges, bounded memory, processes and logs; ports on loopback."""
    services = Project("config", tmp_path, {}, files, profiles()).config()["services"]
    for name, service in services.items():
        assert service.get("read_only") is True, name
        assert service.get("cap_drop") == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service.get("security_opt") == ["no-new-privileges:true"], name
        assert int(service.get("mem_limit", 0)) > 0, name
        assert int(service.get("pids_limit", 0)) > 0, name
        assert service["logging"]["options"].keys() >= {"max-size", "max-file"}, name
        assert service.get("user", "").split(":")[0] not in ("", "0", "root"), name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", (name, port)


def test_no_secret_is_in_the_environment(tmp_path):
    """The hub's token and the admin key are files; a token in the caller's environment is not passed on."""
    config = Project("config", tmp_path, {"HF_TOKEN": "hf_secret"}, CPU, profiles()).config()
    assert "hf_secret" not in str(config)
    assert config["services"]["export"]["environment"]["HF_TOKEN_PATH"] == "/run/secrets/hf_token"


def test_grace_is_longer_than_the_exit_timeout(tmp_path):
    """Docker waits for longer than Triton takes for requests in flight, and the launcher after that."""
    triton = Project("config", tmp_path, {}).config()["services"]["triton"]
    exit_timeout_s = int(triton["command"][triton["command"].index("--exit-timeout") + 1])
    assert int(triton["stop_grace_period"].removesuffix("s")) > exit_timeout_s + 5


def test_every_setting_is_explained():
    """.env.example has each variable that the files use, with the default that they have, and no other."""
    used: dict[str, set[str]] = {}
    for path in ROOT.glob("docker-compose*.yml"):
        for name, default in _USED.findall(path.read_text()):
            used.setdefault(name, set()).add(default)
    assert used.keys() | set(PASSED_ON) == settings()
    explained = dict(_EXPLAINED.findall((ROOT / ".env.example").read_text()))
    for name, defaults in used.items():
        plain = {default for default in defaults if default and not default.startswith("-")}
        assert plain <= {explained[name]}, name


def test_the_defaults_are_what_env_example_says(tmp_path):
    """Uncommented as it stands, comments behind values and all, it changes nothing."""
    lines = [line[1:] for line in (ROOT / ".env.example").read_text().splitlines() if _EXPLAINED.match(line)]
    written = dict(line.split("=", 1) for line in lines if not line.startswith(PASSED_ON))
    for files in COMBINATIONS:
        assert Project("config", tmp_path, written, files).config() == Project("config", tmp_path, {}, files).config()
