"""A pod of the Helm chart on a Docker engine: its volumes, containers, limits, security settings, probes and end."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from compose.project import ROOT, free_ports

HELM = ROOT / ".venv-chart" / "tools" / "v37" / "helm"
CHART = ROOT / "deploy" / "helm" / "vitriton"
_PATIENCE_S = 600


def render(values: dict[str, Any], folder: Path, release: str = "photos") -> list[dict[str, Any]]:
    """What the chart makes of values, for a release in the namespace `embeddings`."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [str(HELM), "template", release, str(CHART), "--namespace", "embeddings", "--values", str(path)]
    return [each for each in yaml.safe_load_all(run(command)) if each]


def run(command: Sequence[str], *, check: bool = True) -> str:
    """Runs a command; returns what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    assert not check or done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout + done.stderr


class Pod:
    """The pod that a rendered specification describes. Each container gets what the kubelet would give it.

    Args:
        name: the name of the pod, which what is made for it bears.
        spec: the specification.
        objects: what was rendered with it, for its ConfigMaps.
        folder: a folder for these.
        hosts: names that the containers know, with their addresses.
    """

    def __init__(
        self,
        name: str,
        spec: dict[str, Any],
        objects: Sequence[dict[str, Any]],
        folder: Path,
        hosts: dict[str, str] | None = None,
    ) -> None:
        self.name, self.spec = name, spec
        self._objects, self._folder, self._hosts = objects, folder, hosts or {}
        self._ports: dict[int, int] = {}

    @property
    def container(self) -> dict[str, Any]:
        """The container that serves."""
        (one,) = self.spec["containers"]
        return dict(one)

    def initialize(self) -> list[str]:
        """Runs the init containers, one after the other, to their ends; returns what each printed."""
        given = self.spec.get("initContainers", ())
        return [self._run("--rm", f"--name={self.name}-{each['name']}", of=each) for each in given]

    def start(self) -> None:
        """Starts the container, in the process namespace of one that reaps."""
        ports = [port["containerPort"] for port in self.container.get("ports", ())]
        self._ports = dict(zip(ports, free_ports(len(ports)), strict=True))
        published = [f"--publish=127.0.0.1:{here}:{there}" for there, here in self._ports.items()]
        options: list[str] = []
        if self.spec.get("shareProcessNamespace"):
            pause = ["--detach", "--init", "--network=none", "--user=65535", "--entrypoint=sleep"]
            run(["docker", "run", f"--name={self.name}-pause", *pause, self.container["image"], "infinity"])
            options.append(f"--pid=container:{self.name}-pause")
        self._run("--detach", f"--name={self.name}", *options, *published, of=self.container)

    def run_to_the_end(self) -> str:
        """Runs the container of a pod that ends by itself; returns what it printed."""
        return self._run("--rm", f"--name={self.name}", of=self.container)

    def probe(self, kind: str) -> str | None:
        """Asks a probe once; returns why it failed, or None."""
        probe = self.container[kind]
        if "exec" in probe:
            command = ["docker", "exec", self.name, *probe["exec"]["command"]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=probe["timeoutSeconds"])
            return done.stderr or "no reason" if done.returncode else None
        (port,) = (
            port["containerPort"] for port in self.container["ports"] if port["name"] == probe["httpGet"]["port"]
        )
        try:
            url = f"http://{self.address(port)}{probe['httpGet']['path']}"
            urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]).close()
        except OSError as exc:
            return str(exc)
        return None

    def wait_started(self) -> None:
        """Asks the startup probe until it succeeds, at most as often as the kubelet would."""
        probe, reason = self.container["startupProbe"], None
        for _ in range(probe["failureThreshold"]):
            reason = self.probe("startupProbe")
            if reason is None:
                return
            assert run(["docker", "inspect", "--format", "{{.State.Running}}", self.name]).strip() == "true", (
                self.logs()
            )
            time.sleep(probe["periodSeconds"])
        raise AssertionError(f"the pod did not start: {reason}\n{self.logs()}")

    def end(self) -> tuple[int, float]:
        """Ends the pod as the kubelet does; returns the exit status, and the seconds that it took."""
        began = time.monotonic()
        run(["docker", "exec", self.name, *self.container["lifecycle"]["preStop"]["exec"]["command"]])
        left_s = self.spec["terminationGracePeriodSeconds"] - int(time.monotonic() - began)
        run(["docker", "stop", "--time", str(left_s), self.name])
        took_s = time.monotonic() - began
        return int(run(["docker", "inspect", "--format", "{{.State.ExitCode}}", self.name])), took_s

    def address(self, port: int) -> str:
        """`host:port` on this machine of a port of the container."""
        return f"127.0.0.1:{self._ports[port]}"

    def ip(self) -> str:
        """The address of the container in the engine's network."""
        return run(["docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", self.name]).strip()

    def logs(self) -> str:
        """What the container has printed."""
        return run(["docker", "logs", self.name])

    def remove(self) -> None:
        """Removes everything that was made for the pod."""
        run(["docker", "rm", "--force", self.name, f"{self.name}-pause"], check=False)
        for volume in self.spec.get("volumes", ()):
            run(["docker", "volume", "rm", "--force", f"{self.name}-{volume['name']}"], check=False)

    def _run(self, *options: str, of: dict[str, Any]) -> str:
        assert "command" not in of  # the image's entry point stays
        return run(["docker", "run", *options, *self._options(of), of["image"], *of["args"]])

    def _options(self, container: dict[str, Any]) -> list[str]:
        pod, own = self.spec["securityContext"], container["securityContext"]
        limits = container["resources"]["limits"]
        memory = _bytes(limits["memory"])
        options = [
            f"--user={pod['runAsUser']}:{pod['runAsGroup']}",
            f"--memory={memory}",
            f"--memory-swap={memory}",
            f"--cpus={_cores(limits['cpu'])}",
            *(f"--cap-drop={each}" for each in own["capabilities"]["drop"]),
            *(f"--env={each['name']}={each['value']}" for each in container.get("env", ())),
            *(f"--add-host={name}:{address}" for name, address in self._hosts.items()),
        ]
        if own["readOnlyRootFilesystem"]:
            options.append("--read-only")
        if not own["allowPrivilegeEscalation"]:
            options.append("--security-opt=no-new-privileges")
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}  # as the engine's own default
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            options.append(self._mount(volumes[mount["name"]], mount))
        return options

    def _mount(self, volume: dict[str, Any], mount: dict[str, Any]) -> str:
        target = f"destination={mount['mountPath']}{',readonly' if mount.get('readOnly') else ''}"
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            size = _bytes(volume["emptyDir"]["sizeLimit"])
            return f"--tmpfs={mount['mountPath']}:mode=1777,size={size},exec"  # the kubelet allows it, too
        if "emptyDir" in volume:
            return f"--mount=type=volume,source={self.name}-{volume['name']},{target}"
        if "configMap" in volume:
            return f"--mount=type=bind,source={self._config(volume['configMap']['name'])},{target}"
        return f"--mount=type=bind,source={volume['hostPath']['path']},{target}"

    def _config(self, name: str) -> Path:
        (found,) = (each for each in self._objects if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name))
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        for file, text in found.get("data", {}).items():
            (folder / file).write_text(text)
        for file, data in found.get("binaryData", {}).items():
            (folder / file).write_bytes(base64.b64decode(data))
        for path in (self._folder, folder, *folder.iterdir()):
            path.chmod(0o755)
        return folder


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", quantity).groups()
    return int(float(number) * {"": 1, "Mi": 2**20, "Gi": 2**30}[unit])


def _cores(quantity: str) -> float:
    cores = float(quantity.removesuffix("m")) / 1000 if quantity.endswith("m") else float(quantity)
    return min(cores, os.cpu_count() or 1)  # the engine takes no more; a kubelet does
