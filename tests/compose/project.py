"""A compose project of its own for the tests: its settings in an env file, its own name, ports and volumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = ("docker-compose.yml",)
CPU = ("docker-compose.yml", "docker-compose.cpu.yml")
PORTS = {
    "http": "HTTP_PORT",
    "grpc": "GRPC_PORT",
    "metrics": "METRICS_PORT",
    "gateway": "GATEWAY_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "grafana": "GRAFANA_PORT",
    "api": "API_PORT",
    "search": "SEARCH_PORT",
}
_PATIENCE_S = 900  # for one command; the longest builds an image with torch


def settings() -> set[str]:
    """The names that .env.example explains."""
    return set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def no_engine() -> str | None:
    """Why no container can be started here; None where one can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    for command in (("docker", "compose", "version"), ("docker", "info", "--format", "{{.ServerVersion}}")):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            return f"`{' '.join(command)}` says: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}"
    return None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Project:
    """The compose files under a name of their own.

    Args:
        name: of the project; what it makes bears it.
        folder: for its env file.
        env: settings, as in .env.
        files: the compose files, in the checkout.
        profiles: those that are on.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        env: Mapping[str, str],
        files: Sequence[str] = CPU,
        profiles: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.env = dict(env)
        self._env_file = folder / f"{name}.env"
        self._files, self._profiles = files, profiles

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `docker compose` with these arguments; fails with what it printed."""
        self._env_file.write_text("".join(f"{key}={value}\n" for key, value in self.env.items()))
        command = ["docker", "compose", "--project-name", self.name, "--env-file", str(self._env_file)]
        for file in self._files:
            command += ["--file", str(ROOT / file)]
        for profile in self._profiles:
            command += ["--profile", profile]
        return _run([*command, *arguments], check=check)

    def config(self) -> dict[str, Any]:
        """What compose makes of the files."""
        return dict(json.loads(self.compose("config", "--format", "json").stdout))

    def up(self, *services: str) -> None:
        """Starts services, and returns when they are healthy."""
        self.compose("up", "--detach", "--wait", *(services or ("triton",)))

    def down(self, *, volumes: bool = False) -> None:
        """Removes the containers, and with `volumes` everything."""
        self.compose("down", "--timeout", "60", "--remove-orphans", *(["--volumes"] if volumes else []))

    def logs(self, service: str) -> str:
        """What a service has printed since its container was made, first to standard output, then to standard error."""
        done = _run(["docker", "logs", self.container(service)])
        return done.stdout + done.stderr

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        return dict(json.loads(_run(["docker", "inspect", self.container(service)]).stdout)[0])

    def health(self, service: str) -> str:
        """What the engine says of a service's health: starting, healthy, unhealthy; or that it does not run."""
        state = self.inspect(service)["State"]
        return str(state["Health"]["Status"]) if state["Running"] else str(state["Status"])

    def execute(self, service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in a service's container, as its user."""
        return self.compose("exec", "--no-TTY", service, *command, check=check)

    def engine(self, *arguments: str) -> str:
        """Runs `docker` with these arguments."""
        return _run(["docker", *arguments]).stdout

    def address(self, protocol: str) -> str:
        """`host:port` on this machine of one of Triton's services, http, grpc or metrics, or of another service."""
        return f"127.0.0.1:{self.env[PORTS[protocol]]}"


def pids(container: str) -> dict[int, str]:
    """The processes of a container, by their ids on this machine, with their command lines."""
    lines = _run(["docker", "top", container, "-eo", "pid,args"]).stdout.splitlines()[1:]
    return {int(pid): line for pid, line in (text.split(maxsplit=1) for text in lines)}


def _run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    # what .env sets must not come from this process's own environment, which would win
    environment = {name: value for name, value in os.environ.items() if name not in settings()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, env=environment)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done
