"""Follows a repository that changes: Triton loads new models and drops removed ones, while it serves the others."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vitriton._repository import disk

from vitriton_server._config import ServerConfig
from vitriton_server._errors import RepositoryError
from vitriton_server._process.failure import with_memory
from vitriton_server._process.log import readable
from vitriton_server._process.memory import MemoryWatch
from vitriton_server._rollout.plan import Version, at_rest, ensembles, next_view, scan, without
from vitriton_server._rollout.view import Model, View, ViewFolder, newest_folder, version_folders

_LOG = logging.getLogger("vitriton_server.rollout")

INTERVAL_S = 0.5
_SWEEP_S = 5.0
_ALIVE = ("READY", "LOADING", "UNLOADING")
_UNLOADED = "unloaded"  # Triton's reason for a version that it should unload

State = tuple[str, str]  # the state in Triton's index, and the reason if it is not ready


class Versions(Protocol):
    """A source of the versions in Triton; `Probe` asks a real one."""

    def versions(self) -> Mapping[Version, State] | None:
        """Returns the state of each version that Triton has ever had; None if it does not answer."""

    def fault(self, ensemble: Path, steps: Iterable[Version]) -> str | None:
        """Says how the outputs of loaded steps differ from an ensemble's references; None if they do not."""


class Rollout:
    """The rollout of a repository's models to Triton.

    Args:
        repository: the repository to follow.
        patience_s: the time that new models may take to load before the old ones are restored, in seconds.
        clock: the function that returns monotonic seconds.
        memory: the watch for kills by the kernel for lack of memory.
        follows: whether changes are followed; if not, Triton keeps what it has at its start.
        verifies: whether new exports are compared with their references before they are served.
    """

    def __init__(
        self,
        repository: Path,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        memory: MemoryWatch | None = None,
        *,
        follows: bool = True,
        verifies: bool = False,
    ) -> None:
        self._repository = repository
        self._patience_s = patience_s
        self._clock = clock
        self._follows = follows
        self._verifies = verifies
        self._verified: dict[str, Model] = {}
        self._memory = memory or MemoryWatch()
        self._folder: ViewFolder | None = None
        self._view: View = {}
        self._wanted: View = {}
        self._retiring: dict[Version, frozenset[Version]] = {}
        self._rejected: dict[str, Model] = {}
        self._wanted_since_s: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._signature: object = None
        self._served: dict[str, frozenset[int]] = {}
        self._uses = disk.Uses()
        self._due_s = self._sweep_due_s = clock()

    @classmethod
    def of(cls, config: ServerConfig, memory: MemoryWatch) -> Rollout:
        """Returns the rollout for a configuration."""
        return cls(
            config.repository,
            config.ready_timeout_s,
            memory=memory,
            follows=config.watch_repository,
            verifies=config.verify_at_start,
        )

    def begin(self, folder: Path) -> None:
        """Fills a folder for a Triton that is about to start: with the models of the last one, or with all models.

        Raises:
            RepositoryError: the repository cannot be read, or another process is changing it for too long; or nothing
            in it can be served, and changes are not followed.
        """
        if not self._view:
            try:
                self._scan(disk.LOCK_S)
            except (OSError, disk.RepositoryBusy) as exc:
                raise RepositoryError(f"the model repository {self._repository} cannot be read: {exc}") from exc
            if not self._wanted and not self._follows:
                raise RepositoryError(f"nothing in {self._repository} can be served; export a model again")
            self._view = self._wanted
        self._view = at_rest(self._view)  # the requests of the last Triton are gone
        self._retiring.clear()
        self._folder = ViewFolder(self._repository, folder)
        self._folder.show(self._view)
        self._served = _versions(self._view)

    @property
    def view(self) -> View:
        """The models that Triton is shown."""
        return self._view

    def end(self) -> None:
        """Releases the versions that Triton was using, so that others may remove them."""
        self._uses.keep(())

    def delay_s(self) -> float | None:
        """Returns the time until the next look, in seconds; None if there is none."""
        return None if not self._follows else max(0.0, self._due_s - self._clock())

    def look(self, triton: Versions) -> bool:
        """Takes the next step, if a look is due; returns whether the ready models have changed."""
        if self.delay_s() != 0 or self._folder is None:
            return False
        self._due_s = self._clock() + INTERVAL_S
        with contextlib.suppress(OSError, disk.RepositoryBusy):  # missing or being changed: the next look tries again
            self._scan(0.0)
        states = triton.versions()
        if states is None:
            return False
        self._retiring = {
            version: steps
            for version, steps in self._retiring.items()
            if states.get(version, (_UNLOADED, ""))[0] in _ALIVE
        }
        self._reject(states)
        ready = {version for version, (state, _) in states.items() if state == "READY"}
        self._verify(triton, ready)
        wanted = without(self._wanted, self._view, self._rejected)
        self._show(next_view(self._view, wanted, self._retiring, ready))
        self._sweep()
        return self._tell(ready)

    def _scan(self, timeout_s: float) -> None:
        signature = _signature(self._repository)
        if signature == self._signature:
            return
        with disk.locked(self._repository, exclusive=False, timeout_s=timeout_s):
            wanted, problems = scan(self._repository)
            self._uses.add(version_folders(self._repository, wanted.items()))
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                _LOG.warning("%s in %s is not served: %s", name, self._repository, problem)
        for name, model in wanted.items():
            if self._wanted.get(name) != model:
                self._wanted_since_s[name] = self._clock()
        self._rejected = {name: model for name, model in self._rejected.items() if wanted.get(name) == model}
        self._wanted, self._problems, self._signature = wanted, problems, signature

    def _reject(self, states: Mapping[Version, State]) -> None:
        """Rejects ensembles that Triton cannot load, or a step of which it cannot load; their old versions stay."""
        failed: dict[str, str] = {}
        for name, model in self._wanted.items():
            if not model.steps or model.config is None or name in self._rejected:
                continue
            own = {(name, version) for version in model.versions}
            if all(states.get(version, ("", ""))[0] == "READY" for version in own) and _is(self._view.get(name), model):
                continue
            reason = next((text for each in model.steps | own if (text := _failure(states.get(each)))), None)
            if reason is None and self._clock() - self._wanted_since_s[name] > self._patience_s:
                reason = f"it was not ready within {self._patience_s:g} s"
            if reason is not None:
                failed[name] = readable(reason)
        memory = self._memory.verdict(None) if failed else None
        for name, reason in failed.items():
            old = "; the loaded version stays" if name in self._served else ""
            _LOG.warning("%s cannot be loaded: %s%s", name, with_memory(reason, memory), old)
            self._rejected[name] = self._wanted[name]

    def refuse(self, faults: Mapping[str, str]) -> None:
        """Takes ensembles out of the view whose outputs are wrong, at a start: there is no older version to keep.

        Args:
            faults: what is wrong with each, by name.
        """
        assert self._folder is not None  # since `begin`
        self._rejected |= {name: self._view[name] for name in faults}
        self._view = at_rest({name: model for name, model in self._view.items() if name not in faults})
        self._folder.show(self._view)
        self._served = _versions(self._view)
        for name, fault in faults.items():
            self._say_refused(name, fault)

    def _verify(self, triton: Versions, ready: set[Version]) -> None:
        """Compares new exports, whose steps are loaded, with their references: the ensemble is shown afterwards."""
        if not self._verifies:
            return
        for name, model in ensembles(self._wanted).items():
            if name in self._rejected or _is(self._view.get(name), model) or self._verified.get(name) == model:
                continue
            if model.versions and model.steps <= ready:
                fault = triton.fault(newest_folder(self._repository, name, model), model.steps)
                if fault is None:
                    self._verified[name] = model
                else:
                    self._say_refused(name, fault)
                    self._rejected[name] = model

    def _say_refused(self, name: str, fault: str) -> None:
        old = "; the loaded version stays" if name in self._served else ""
        _LOG.error("%s is not served, as its outputs are wrong on this machine: %s%s", name, fault, old)

    def _show(self, view: View) -> None:
        if view == self._view or self._folder is None:
            return
        for name, model in self._view.items():
            if model.steps and not _is(view.get(name), model):
                self._retiring |= {(name, version): model.steps for version in model.versions}
        self._folder.show(view)
        self._view = view
        self._uses.keep(version_folders(self._repository, [*view.items(), *self._wanted.items()]))

    def _sweep(self) -> None:
        """Removes models from the repository that this server was the last to need, as far as permitted."""
        if self._clock() < self._sweep_due_s or not (self._repository / disk.JOURNAL).exists():
            return
        self._sweep_due_s = self._clock() + _SWEEP_S
        with (
            contextlib.suppress(OSError, disk.RepositoryBusy),
            disk.locked(self._repository, exclusive=True, timeout_s=0.0),
            disk.workspace(self._repository) as workspace,
        ):
            disk.sweep(self._repository, workspace)

    def _tell(self, ready: set[Version]) -> bool:
        """Logs the ensembles that were added, replaced or removed; returns whether any was."""
        before, served = self._served, {}
        for name, versions in _versions(self._view).items():
            if all((name, version) in ready for version in versions):
                served[name] = versions
            elif name in before:  # Triton is about to switch, and serves the old one meanwhile
                served[name] = before[name]
        self._served = served
        for name in sorted(before.keys() | served.keys()):
            old, new = before.get(name), served.get(name)
            if old is None and new is not None:
                _LOG.info("%s is ready, version %s", name, _numbers(new))
            elif new is None and old is not None and name not in self._view:
                _LOG.info("%s is removed", name)
            elif old is not None and new is not None and old != new:
                _LOG.info("%s has version %s in place of %s", name, _numbers(new), _numbers(old))
        return before != served


def _is(shown: Model | None, model: Model) -> bool:
    """Whether this model is shown, apart from old versions that still have to go."""
    return shown is not None and replace(shown, leaving=model.leaving) == model


def _failure(state: State | None) -> str | None:
    """Says why Triton could not load a version; None if it could, has not tried, or has unloaded it on purpose."""
    if state is None or state[0] != "UNAVAILABLE" or state[1] in ("", _UNLOADED):
        return None
    return state[1]


def _versions(view: View) -> dict[str, frozenset[int]]:
    return {name: model.versions for name, model in ensembles(view).items()}


def _numbers(versions: frozenset[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _signature(repository: Path) -> object:
    """Returns a value that changes with the repository and is cheap to compute: no file is read."""

    def stamp(path: Path) -> tuple[int, int]:
        try:
            status = path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_ino

    folders = sorted(entry.name for entry in repository.iterdir() if entry.is_dir())
    return [(name, stamp(repository / name), stamp(repository / name / disk.CONFIG)) for name in folders]
