"""A Triton that runs as long as a `with` block."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vitriton._keywords import suggests_keywords
from vitriton._repository import disk

from vitriton_server._config import ServerConfig, WatchPolicy
from vitriton_server._drain.drain import drain
from vitriton_server._errors import AddressError, LauncherError, ServerDied, ServerStopped, WrongOutputs
from vitriton_server._process.cores import usable_cores
from vitriton_server._process.failure import StartCrashed, death, last_lines, with_memory
from vitriton_server._process.guard import clean_up
from vitriton_server._process.locate import Host, locate
from vitriton_server._process.log import MAX_LINES
from vitriton_server._process.memory import MemoryWatch, limit_bytes, memory_warning, prefer_for_oom_kill
from vitriton_server._process.ports import Endpoints, keep_ports, reserve
from vitriton_server._process.ready import wait_until_ready
from vitriton_server._process.runtime import Runtime, command, environment, prepare
from vitriton_server._process.tritonserver import TritonProcess
from vitriton_server._rollout import repository as _repository
from vitriton_server._rollout.plan import ensembles, scan
from vitriton_server._rollout.rollout import Rollout
from vitriton_server._rollout.view import newest_folder
from vitriton_server._watch.steps import StepProcesses
from vitriton_server._watch.watch import RestartBudget, Watch
from vitriton_server.health import starting

if TYPE_CHECKING:
    from vitriton._wire.transport import InferRequest

    from vitriton_server._watch.probe import Probe

_LOG = logging.getLogger("vitriton_server")

_PORT_ATTEMPTS = 5  # another process can take a free port before Triton binds it
_UNLOADED_S = 30.0  # Triton looks at its models every second
_POLL_S = 0.1
_EXIT_MARGIN_S = 5.0  # Triton starts to count the exit timeout after stopping its endpoints


@suggests_keywords
class TritonServer:
    """A tritonserver process for a model repository: ready when `start()` returns, and gone when `stop()` returns.

    Triton also ends when this process ends, in whatever way. A ready server is watched (see WatchPolicy): if Triton
    exits or stops answering, it is restarted, or the server ends and `wait()` reports that.

    Args:
        repository: the model repository to serve.
        host: the host name or address of this machine to listen on; 0.0.0.0 or :: means all addresses.
        http_port: the HTTP port; 0 picks a free port.
        grpc_port: the gRPC port; 0 picks a free port.
        metrics_port: the metrics port; 0 picks a free port.
        ready_timeout_s: the longest time for loading the models, in seconds.
        exit_timeout_s: the longest time for finishing running requests when the server stops, in seconds.
        watch_repository: whether to apply changes of the repository while the server runs: exports that are added,
            replaced or removed. The repository may be empty at first.
        skip_broken: whether to skip exports that lack files, with a warning, and to serve the others.
        verify_at_start: whether to compare what this machine computes with the references in each export before it is
            served.
        watch: the policy for watching and restarting; None means the defaults.
        admin_key: the key that callers need for shared memory, trace settings and log settings; None means that no key
            is needed.
        triton_arguments: further options of tritonserver, each as --name=value.
        on_log_line: the callback for each line of Triton's log, called in a separate thread; it must be quick.

    Raises:
        InvalidConfiguration: an option has an invalid value.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str] = "model_repository",
        *,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        ready_timeout_s: float = 300.0,
        exit_timeout_s: float = 10.0,
        watch_repository: bool = False,
        skip_broken: bool = False,
        verify_at_start: bool = True,
        watch: WatchPolicy | None = None,
        admin_key: str | None = None,
        triton_arguments: Sequence[str] = (),
        on_log_line: Callable[[str], None] | None = None,
    ) -> None:
        self._config = ServerConfig(
            repository=Path(repository),
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            ready_timeout_s=ready_timeout_s,
            exit_timeout_s=exit_timeout_s,
            watch_repository=watch_repository,
            skip_broken=skip_broken or _repository.has_unfilled_export(Path(repository)),
            verify_at_start=verify_at_start,
            watch=watch or WatchPolicy(),
            admin_key=admin_key,
            triton_arguments=tuple(triton_arguments),
        )
        self._on_log_line = on_log_line or (lambda line: None)
        self._memory = memory = MemoryWatch()
        self._rollout = Rollout.of(self._config, memory) if self._config.has_view else None
        self._lock = threading.Lock()
        self._process: TritonProcess | None = None
        self._endpoints: Endpoints | None = None
        self._models: tuple[str, ...] = ()
        self._version = ""
        self._watched: dict[str, InferRequest] = {}
        self._only_python = False
        self._was_clean = True
        self._supervisor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: LauncherError | None = None

    def __enter__(self) -> TritonServer:
        """Starts the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    @property
    def grpc_address(self) -> str:
        """The `host:port` of gRPC for a client on this machine."""
        endpoints = self._known_endpoints()
        return endpoints.address(endpoints.grpc_port)

    @property
    def http_address(self) -> str:
        """The `host:port` of HTTP for a client on this machine."""
        endpoints = self._known_endpoints()
        return endpoints.address(endpoints.http_port)

    @property
    def metrics_address(self) -> str:
        """The `host:port` of the metrics (path /metrics) for a client on this machine."""
        endpoints = self._known_endpoints()
        return endpoints.address(endpoints.metrics_port)

    @property
    def ip(self) -> str:
        """The address that is bound: 0.0.0.0 or :: for all of them."""
        return self._known_endpoints().ip

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are ready, in alphabetical order."""
        return self._models

    @property
    def version(self) -> str:
        """Triton's version."""
        return self._version

    @property
    def pid(self) -> int:
        """The process id of tritonserver; it changes with a restart."""
        process = self._process
        if process is None:
            raise LauncherError("the server has not been started; call start() or use it in a `with`")
        return process.pid

    def log_tail(self, lines: int = 50) -> list[str]:
        """Returns the last lines of Triton and its models, the oldest first; at most 1000 are kept."""
        process = self._process
        return process.log.last(lines) if process is not None else []

    def is_alive(self) -> bool:
        """Whether tritonserver is running and has not been stopped."""
        process = self._process
        return process is not None and not process.ended.is_set() and not self._ended.is_set()

    def start(self) -> None:
        """Starts Triton, and returns when every model is ready.

        Raises:
            InstallationError: no Triton can run here.
            RepositoryError: the repository has nothing to serve.
            InvalidConfiguration: the host is not this machine.
            AddressError: a port is taken.
            ModelLoadError: a model cannot be loaded.
            NotReadyInTime: loading took longer than `ready_timeout_s`.
            ServerStopped: `stop()` was called meanwhile.
        """
        if self._process is not None or self._stopping.is_set():
            raise LauncherError("a TritonServer starts once; make a new one")
        if (warning := memory_warning(limit_bytes())) is not None:
            _LOG.warning("%s", warning)
        try:
            probe = self._start_on_free_ports()
        except BaseException:
            self.stop()
            raise
        self._supervisor = threading.Thread(
            target=self._supervise, args=(probe,), name="vitriton-serve-watch", daemon=True
        )
        self._supervisor.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the server has ended.

        Args:
            timeout_s: the longest wait, in seconds; None: without a limit.

        Returns:
            True once the server has been stopped, False after `timeout_s`.

        Raises:
            ServerDied: Triton exited, or stopped answering and was ended.
        """
        if not self._ended.wait(timeout_s):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def stop(self) -> bool:
        """Ends Triton; after `exit_timeout_s` for requests in flight, it is killed. May be called more than once.

        Returns:
            Whether every accepted request has been answered.
        """
        self._stopping.set()
        with self._lock:
            process, endpoints = self._process, self._endpoints
        if process is not None and endpoints is not None and not process.ended.is_set():
            timeout_s, kind = self._config.exit_timeout_s + _EXIT_MARGIN_S, (self._version, self._only_python)
            traces = any(argument.startswith("--trace") for argument in self._config.triton_arguments)
            finished = drain(process, endpoints, timeout_s, kind, traces=traces)
            self._was_clean = finished or not process.serves
        self._join()
        return self._was_clean

    def kill(self) -> None:
        """Kills Triton, and requests in flight with it; also while `stop()` waits for these."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            process.kill()
        self._join()

    def _join(self) -> None:
        supervisor = self._supervisor
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()
        self._end()

    def _end(self) -> None:
        if self._rollout is not None:
            self._rollout.end()
        self._ended.set()

    def _known_endpoints(self) -> Endpoints:
        if self._endpoints is None:
            raise LauncherError("the server has no address before it is started; call start() or use it in a `with`")
        return self._endpoints

    def _start_on_free_ports(self) -> Probe:
        chooses = 0 in (self._config.http_port, self._config.grpc_port, self._config.metrics_port)
        for _ in range(_PORT_ATTEMPTS if chooses else 1):
            try:
                return self._start_twice(self._config)
            except AddressError as exc:
                lost_race = exc
                if self._process is None:  # found before Triton was started, so not a race
                    raise
        raise lost_race

    def _start_twice(self, config: ServerConfig) -> Probe:
        """Starts Triton, and retries once if it crashes before it is ready, as happens now and then."""
        try:
            return self._start_once(config)
        except StartCrashed as exc:
            if self._stopping.is_set():
                raise ServerStopped("the server was stopped before it was ready") from exc
            _LOG.warning("%s; starting it again", exc.message)
        return self._start_once(config)

    def _start_once(self, config: ServerConfig) -> Probe:
        """Starts Triton, and waits until it is ready; leaves nothing behind on failure."""
        # a restarted Triton gets the checked view of its predecessor
        if self._rollout is None or self._process is None:
            _repository.check(config.repository, may_be_empty=config.watch_repository, skip_broken=config.skip_broken)
        installation, cores = locate(Host.detect()), usable_cores()
        endpoints = reserve(config)
        runtime = prepare(installation)
        if self._rollout is not None:
            self._begin_rollout(self._rollout, runtime)
        with self._lock:
            if self._stopping.is_set():
                raise ServerStopped("the server was stopped before it was ready")
            self._endpoints, self._only_python = endpoints, installation.stub is not None  # the wheel has no others
            self._process = process = TritonProcess(
                command(config, endpoints, installation, runtime, cores),
                environment(installation, cores, os.environ),
                runtime,
                self._on_log_line,
            )
        prefer_for_oom_kill(process.pid, limit_bytes())
        # Importing grpc takes longer than the rest of the launcher; Triton loads its models meanwhile.
        from vitriton_server._watch.probe import Probe

        probe = Probe(endpoints.address(endpoints.grpc_port))
        try:
            with disk.in_use(config.repository), starting(endpoints.http_port):
                wait_until_ready(process, probe, config, endpoints, self._stopping, self._memory)
                self._verify(probe)
            served = probe.served()
            if served is None:
                raise LauncherError(
                    "Triton was ready and then stopped answering", last_lines(process.log.last(MAX_LINES))
                )
            (self._models, self._watched), self._version = served, probe.version()
            process.serves = True
        except BaseException:
            probe.close()
            process.kill()
            raise
        return probe

    def _verify(self, probe: Probe) -> None:
        """Compares what this machine computes with the references of the exports, unless that is turned off.

        Raises:
            WrongOutputs: it is something else. A server that follows its repository leaves these exports out.
        """
        if not self._config.verify_at_start:
            return
        rollout, repository = self._rollout, self._config.repository
        view = scan(repository)[0] if rollout is None else rollout.view
        found = {
            name: probe.fault(newest_folder(repository, name, model), model.steps)
            for name, model in ensembles(view).items()
            if model.versions
        }
        faults = {name: fault for name, fault in found.items() if fault is not None}
        if faults and rollout is not None and self._config.watch_repository:
            rollout.refuse(faults)
            _wait_until_gone(probe, faults)
        elif faults:
            raise WrongOutputs(
                "models are not served, as their outputs are wrong on this machine: "
                f"{'; '.join(f'{name}: {fault}' for name, fault in faults.items())} (--no-verify-at-start serves them "
                "all the same)"
            )

    def _begin_rollout(self, rollout: Rollout, runtime: Runtime) -> None:
        try:
            rollout.begin(runtime.models)
        except BaseException:
            clean_up(str(runtime.folder), runtime.shm_prefix)
            raise

    def _supervise(self, probe: Probe) -> None:
        budget = RestartBudget(self._config.watch)
        try:
            while True:
                reason = self._watch_to_the_end(probe)
                if reason is None:
                    return
                restarted = self._restart(budget, reason)
                if restarted is None:
                    return
                probe = restarted
        except BaseException as exc:  # the watch itself is broken, and would not notice a dead server
            _LOG.exception("the watch of the server failed")
            self._failure = ServerDied(f"the watch of the server failed: {exc!r}", last_lines(self.log_tail(MAX_LINES)))
        finally:
            probe.close()
            process = self._process
            if process is not None and not process.ended.is_set() and not self._stopping.is_set():
                process.kill()
            self._end()

    def _watch_to_the_end(self, probe: Probe) -> str | None:
        """Watches Triton; returns why it has ended or been ended, or None after `stop()`."""
        process = self._process
        assert process is not None  # set before the supervisor starts
        watch = Watch(probe, self._watched, self._config.watch)
        steps = StepProcesses(process.pid) if self._config.watch.canary_interval_s else None
        stale = False
        while not process.ended.wait(self._delay_s(watch, steps)):
            if self._stopping.is_set():  # no more canaries: they would be requests in flight
                process.ended.wait()
                return None
            stale |= self._rollout is not None and self._rollout.look(probe)
            if stale and (served := probe.served()) is not None:
                stale = False
                self._models, self._watched = served
                watch.follow(self._watched)
            reason = None if steps is None else steps.look()
            if reason is None and not (steps is not None and steps.suspect):
                reason = watch.look()
            if reason is not None and not self._stopping.is_set():
                # Killed, not terminated: with a dead stub, Triton waits for its whole exit timeout.
                memory = self._memory.verdict(None)
                process.kill()
                return with_memory(reason, memory)
        if self._stopping.is_set():
            return None
        return death(process.exit_status, self._memory.verdict(process.exit_status))

    def _delay_s(self, watch: Watch, steps: StepProcesses | None) -> float | None:
        delays = [each.delay_s() for each in (watch, steps, self._rollout) if each is not None]
        return min((delay for delay in delays if delay is not None), default=None)

    def _restart(self, budget: RestartBudget, reason: str) -> Probe | None:
        """Starts Triton again on the same ports; None if restarts are off or used up, or the start fails."""
        log = last_lines(self.log_tail(MAX_LINES))
        config = keep_ports(self._config, self._known_endpoints())
        while (backoff_s := budget.take()) is not None:
            _LOG.warning("%s; restarting in %.1f s", reason, backoff_s)
            if self._stopping.wait(backoff_s):
                return None
            try:
                probe = self._start_twice(config)
            except ServerStopped:
                return None
            except LauncherError as exc:
                reason, log = exc.message, list(exc.log)
                continue
            _LOG.warning("restarted; every model is ready again")
            return probe
        limit = self._config.watch
        times = f"restarted {limit.max_restarts} times in {limit.restart_window_s:g} s"
        hint = "turn on `restart` (--restart) to have it started again"
        self._failure = ServerDied(f"{reason}; {times if limit.restart else hint}", log)
        return None


def _wait_until_gone(probe: Probe, names: Collection[str]) -> None:
    """Waits until Triton has unloaded models that it is no longer shown."""
    deadline = time.monotonic() + _UNLOADED_S
    while time.monotonic() < deadline:
        versions = probe.versions()  # the index does not list a model whose folder is gone and which is still loaded
        if versions is not None and not any(
            name in names and state[0] == "READY" for (name, _), state in versions.items()
        ):
            return
        time.sleep(_POLL_S)
