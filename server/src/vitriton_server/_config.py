"""The configuration of a server: validated once, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.options import faults
from vitriton._keywords import suggests_keywords

from vitriton_server._admin import check_key
from vitriton_server._errors import InvalidConfiguration

# Options that the launcher sets itself, or depends on. TLS is among them because readiness and canary use plain gRPC.
_RESERVED = {
    "--model-repository": "--repository",
    "--model-store": "--repository",
    "--http-address": "--host",
    "--grpc-address": "--host",
    "--metrics-address": "--host",
    "--http-port": "--http-port before the `--`",
    "--grpc-port": "--grpc-port before the `--`",
    "--metrics-port": "--metrics-port before the `--`",
    "--exit-timeout-secs": "--exit-timeout",
    "--backend-directory": "nothing: the launcher makes it",
    "--allow-grpc": "nothing: readiness is checked over gRPC",
    "--grpc-use-ssl": "a proxy in front of the server for TLS",
    "--grpc-use-ssl-mutual": "a proxy in front of the server for TLS",
}

# Options that --watch does not allow to change.
_WATCHING = ("--model-control-mode", "--repository-poll-secs")


# the groups of the options in the help
_REPOSITORY, _ADDRESSES, _LIFETIME = "Models", "Addresses", "Starting, watching and stopping"


@suggests_keywords
@dataclass(frozen=True, kw_only=True)
class WatchPolicy:
    """The policy for watching a server that is ready, and for restarting one that no longer answers.

    Attributes:
        canary_interval_s: the time without an answer after which a model receives a test image (a canary request), in
            seconds. With 0, no canary requests are sent, and only an exit of Triton is noticed.
        canary_timeout_s: the time limit of a canary request, in seconds.
        stuck_after_s: the time after which a model that answers no canary request counts as dead, in seconds; choose
            more than the longest batch takes.
        restart: restart Triton on the same ports if it dies; otherwise the server ends.
        max_restarts: the largest number of restarts within `restart_window_s`; one more failure ends the server.
        restart_window_s: the period in which restarts are counted, in seconds.
        backoff_s: the wait before the first restart, in seconds; it doubles with each further restart within the
            period.
    """

    canary_interval_s: Annotated[
        float, typer.Option("--canary-interval", metavar="SECONDS", rich_help_panel=_LIFETIME)
    ] = 8.0
    canary_timeout_s: float = 5.0
    stuck_after_s: float = 120.0
    restart: Annotated[bool, typer.Option(rich_help_panel=_LIFETIME)] = False
    max_restarts: int = 5
    restart_window_s: float = 600.0
    backoff_s: float = 0.5

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for option, wrong in faults(self):
            raise InvalidConfiguration(option, wrong)
        _require(self.canary_interval_s >= 0, "canary_interval_s", self.canary_interval_s, "0 (off) or more")
        for name in ("canary_timeout_s", "stuck_after_s", "restart_window_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        _require(self.max_restarts >= 1, "max_restarts", self.max_restarts, "1 or more")
        _require(self.backoff_s >= 0, "backoff_s", self.backoff_s, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The configuration of a server: what to serve, and where.

    Attributes:
        repository: the model repository to serve.
        host: the host name or address of this machine to listen on; 0.0.0.0 or :: means all addresses.
        http_port: the HTTP port; 0 picks a free port.
        grpc_port: the gRPC port; 0 picks a free port.
        metrics_port: the metrics port; 0 picks a free port.
        ready_timeout_s: the longest time for loading the models, in seconds.
        exit_timeout_s: the longest time for finishing running requests when the server stops, in seconds.
        watch: the policy for watching and restarting the server.
        watch_repository: apply changes of the repository while the server runs: exports that are added, replaced or
            removed.
        skip_broken: skip exports that lack files, with a warning, and serve the others.
        verify_at_start: compare what this machine computes with the references in each export before it is served.
        admin_key: the key that callers need for shared memory, trace settings and log settings. None: no key is needed.
        triton_arguments: further options of tritonserver, each as --name=value; on the command line, put them after a
            `--`.
    """

    repository: Annotated[Path, typer.Option(metavar="PATH", rich_help_panel=_REPOSITORY)] = Path("model_repository")
    host: Annotated[str, typer.Option(metavar="HOST", rich_help_panel=_ADDRESSES)] = "127.0.0.1"
    http_port: Annotated[int, typer.Option(metavar="PORT", rich_help_panel=_ADDRESSES)] = 0
    grpc_port: Annotated[int, typer.Option(metavar="PORT", rich_help_panel=_ADDRESSES)] = 0
    metrics_port: Annotated[int, typer.Option(metavar="PORT", rich_help_panel=_ADDRESSES)] = 0
    ready_timeout_s: Annotated[float, typer.Option("--ready-timeout", metavar="SECONDS", rich_help_panel=_LIFETIME)] = (
        300.0
    )
    exit_timeout_s: Annotated[float, typer.Option("--exit-timeout", metavar="SECONDS", rich_help_panel=_LIFETIME)] = (
        10.0
    )
    watch: WatchPolicy = field(default_factory=WatchPolicy)
    watch_repository: Annotated[bool, typer.Option("--watch/--no-watch", rich_help_panel=_REPOSITORY)] = False
    skip_broken: Annotated[bool, typer.Option("--skip-broken", rich_help_panel=_REPOSITORY)] = False
    verify_at_start: Annotated[
        bool, typer.Option("--verify-at-start/--no-verify-at-start", rich_help_panel=_REPOSITORY)
    ] = True
    admin_key: str | None = field(default=None, repr=False)
    triton_arguments: Annotated[Sequence[str], typer.Argument(metavar="TRITON_OPTION")] = ()

    @property
    def has_view(self) -> bool:
        """Whether Triton reads a folder of links to the models that it should serve, and not the repository itself."""
        return self.watch_repository or self.skip_broken

    def __post_init__(self) -> None:
        """Checks the bounds."""
        ports = {name: getattr(self, name) for name in ("http_port", "grpc_port", "metrics_port")}
        for name, port in ports.items():
            _require(0 <= port <= 65535, name, port, "0 (a free one) to 65535")
        chosen = [port for port in ports.values() if port]
        if len(set(chosen)) != len(chosen):
            said = ", ".join(f"`{name}` {port}" for name, port in ports.items())
            raise InvalidConfiguration("", f"the ports must differ from each other; they are {said}")
        for option, wrong in faults(self):
            raise InvalidConfiguration(option, wrong)
        _require(bool(self.host), "host", repr(self.host), "a name or an address")
        _require(self.ready_timeout_s > 0, "ready_timeout_s", self.ready_timeout_s, "more than 0")
        _require(self.exit_timeout_s >= 0, "exit_timeout_s", self.exit_timeout_s, "0 or more")
        if self.admin_key is not None:
            check_key(self.admin_key)
        for argument in self.triton_arguments:
            _check_argument(argument)
            if self.watch_repository and argument.partition("=")[0] in _WATCHING:
                raise InvalidConfiguration(
                    "", f"{argument} does not go together with --watch; leave out one of the two"
                )


def _check_argument(argument: str) -> None:
    option = argument.partition("=")[0]
    if not option.startswith("--") or option == "--":
        raise InvalidConfiguration(
            "", f"{argument!r} is not an option of tritonserver; write each as --name=value, after a `--` of its own"
        )
    if option in _RESERVED:
        raise InvalidConfiguration("", f"{option} cannot be passed on to tritonserver; use {_RESERVED[option]}")


def _require(holds: bool, name: str, value: object, bound: str) -> None:
    if not holds:
        raise InvalidConfiguration(name, f"is {value}; it must be {bound}")
