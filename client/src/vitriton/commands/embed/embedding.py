"""The embedding of a run's remaining inputs, in commits."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from vitriton._console.progress import duration
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import ClientError, ContractMismatch, TransportError, Unavailable
from vitriton.commands.embed.inputs import BulkInputs
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import Outcome, WorkFolder

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client
    from vitriton._console.progress import Advance

# A commit costs two fsyncs and a request to the server, little compared to a second's work. A crash loses what came
# since the last commit: about a second's work, or one request if that takes longer.
_COMMIT_EVERY_S = 1.0
_COMMIT_BYTES = 32 * 1024 * 1024


class Embedding:
    """Embeds the inputs that a work folder does not have yet.

    Args:
        work: the work folder, in which the job has begun.
        job: the job of the run.
        inputs: all inputs of the run.
        make_rescuer: the function that makes a client with little time, for the commit of a run that fails.
        signals: the signals that may end the run.
        advance: the function that counts each input.
    """

    def __init__(
        self,
        work: WorkFolder,
        job: Job,
        inputs: BulkInputs,
        make_rescuer: Callable[[], Client],
        signals: Signals,
        advance: Advance,
    ) -> None:
        self._work = work
        self._job = job
        self._inputs = inputs
        self._make_rescuer = make_rescuer
        self._signals = signals
        self._advance = advance
        self._waiting: list[Outcome] = []  # for the next commit
        self._waiting_bytes = 0
        self._committed_s = time.monotonic()
        self._answered_s: float | None = None  # the time of the last result

    def run(self, client: Client) -> None:
        """Embeds all remaining inputs.

        Raises:
            ClientError: the server failed; if it had answered before, the text says when it stopped.
            Stopped: a signal arrived.
            OSError: the work folder cannot be written.
            CommandFailed: the server's embeddings do not match the job, or the inputs have changed.

        Results from before any of these errors are committed, if the server can still confirm its fingerprint.
        """
        first = self._work.done
        stream = self._inputs.stream(client, first, pool=self._job.pool)
        try:
            with closing(stream) as results:
                for result in results:
                    self._take(result, first + result.index)
                    if self._is_due():
                        self._commit(client)
            self._commit(client)
        except (ClientError, Stopped) as exc:
            # Results that are not saved here are embedded again when the run resumes, so report the first error.
            with suppress(ClientError, Stopped), self._make_rescuer() as other:
                self._commit(other)
            if isinstance(exc, TransportError) and self._answered_s is not None:
                raise _stopped(exc, time.monotonic() - self._answered_s) from exc
            raise

    def _take(self, result: Result, index: int) -> None:
        self._answered_s = time.monotonic()
        problem = None if result.error is None else result.error.errors[0]
        reason, code = (None, None) if problem is None else (self._inputs.reason(index, problem.reason), problem.code)
        self._waiting.append(Outcome(index, result.embedding, reason, code, result.truncated))
        if result.embedding is not None:
            self._waiting_bytes += result.embedding.nbytes
        self._advance(failed=result.error is not None)

    def _is_due(self) -> bool:
        return self._waiting_bytes >= _COMMIT_BYTES or time.monotonic() - self._committed_s >= _COMMIT_EVERY_S

    def _commit(self, client: Client) -> None:
        if not self._waiting:
            return
        # Checked before the commit: if the server has another model now, the last results may be from either.
        if client.describe().fingerprint != self._job.fingerprint:
            raise ContractMismatch(
                f"the export of {self._job.model} on the server changed during the run, and vectors of the two exports "
                "must not be mixed",
                model=self._job.model,
            )
        with self._signals.held():
            self._work.commit(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            self._committed_s = time.monotonic()


def _stopped(error: TransportError, silent_s: float) -> Unavailable:
    """The error for a server that answered before: when it stopped."""
    since = datetime.now().astimezone() - timedelta(seconds=silent_s)
    return Unavailable(
        f"the server at {error.address} stopped answering at {since:%H:%M:%S}, {duration(silent_s)} ago; see whether "
        "it still runs",
        address=error.address,
        model=error.model,
    )
