"""A run of `vitriton embed`: from the first image that is not done to the last, in commits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import TYPE_CHECKING

from vitriton._console.signals import Signals, Stopped
from vitriton._errors import ClientError, ContractMismatch
from vitriton.commands.embed.journal import Job, Outcome, WorkFolder

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client
    from vitriton._console.progress import Advance

# A commit is two fsyncs and a question to the server: little beside a second's work. A crash costs what came since the
# last one: about a second's work, or that of one request where it takes longer.
_COMMIT_EVERY_S = 1.0
_COMMIT_BYTES = 32 * 1024 * 1024
_RESCUE_TIMEOUT_S = 1.0


class Embedding:
    """Embeds what a work folder has not yet.

    Args:
        work: where it goes, begun.
        job: what is to be done.
        sources: all images of the run.
        make_client: makes a client with this timeout, in seconds.
        signals: that may end the run.
        advance: is told of each image.
    """

    def __init__(
        self,
        work: WorkFolder,
        job: Job,
        sources: Sequence[str],
        make_client: Callable[[float], Client],
        signals: Signals,
        advance: Advance,
    ) -> None:
        self._work = work
        self._job = job
        self._sources = sources
        self._make_client = make_client
        self._signals = signals
        self._advance = advance
        self._waiting: list[Outcome] = []  # for the next commit
        self._waiting_bytes = 0
        self._committed_s = time.monotonic()

    def run(self, client: Client) -> None:
        """Embeds to the end.

        Raises:
            ClientError: the server did not do it.
            Stopped: a signal came.
            OSError: the work folder cannot be written.
            CommandFailed: the server returned something else than the job says.

        What came before any of these is committed, as far as the server can still tell what it is.
        """
        first = self._work.done
        rest = islice(self._sources, first, None)
        stream = client.stream(rest, pool=self._job.pool, on_error="return")
        try:
            with closing(stream) as results:
                for result in results:
                    self._take(result, first + result.index)
                    if self._is_due():
                        self._commit(client)
            self._commit(client)
        except (ClientError, Stopped):
            # What is not saved here is embedded again when the run goes on, so the first error is the one to tell.
            with suppress(ClientError, Stopped), self._make_client(_RESCUE_TIMEOUT_S) as other:
                self._commit(other)
            raise

    def _take(self, result: Result, index: int) -> None:
        problem = None if result.error is None else result.error.errors[0]
        reason, code = (None, None) if problem is None else (problem.reason, problem.code)
        self._waiting.append(Outcome(index, result.embedding, reason, code))
        if result.embedding is not None:
            self._waiting_bytes += result.embedding.nbytes
        self._advance(failed=result.error is not None)

    def _is_due(self) -> bool:
        return self._waiting_bytes >= _COMMIT_BYTES or time.monotonic() - self._committed_s >= _COMMIT_EVERY_S

    def _commit(self, client: Client) -> None:
        if not self._waiting:
            return
        # Before the commit: if the server has another model now, what came last may be of either.
        if client.describe().fingerprint != self._job.fingerprint:
            raise ContractMismatch(
                f"the server has another export of {self._job.model} than the run began with, and vectors of the two "
                "must not be mixed",
                model=self._job.model,
            )
        with self._signals.held():
            self._work.commit(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            self._committed_s = time.monotonic()
