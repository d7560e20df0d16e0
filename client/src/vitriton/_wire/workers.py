"""A thread pool whose queued tasks expire at their deadlines.

A ThreadPoolExecutor will not do: the interpreter's exit waits for its threads, and nothing expires in its queue.
"Decisions" in the documentation has the figures.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from vitriton._deadline import Deadline

_IDLE_S = 10.0  # an idle thread ends after this time


class Task(Protocol):
    """A unit of work. No method raises."""

    deadline: Deadline

    def run(self) -> None:
        """Does the work."""

    def expire(self) -> None:
        """Called if the deadline passed before the task started."""

    def cancel(self) -> None:
        """Called if the workers were closed before the task started."""


class Workers:
    """At most `limit` threads, started on demand. Safe to share between threads.

    They are daemon threads: a program that forgets to close them still ends.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._time = threading.Condition(self._lock)
        self._queue: OrderedDict[Task, None] = OrderedDict()
        self._threads: set[threading.Thread] = set()
        self._watcher: threading.Thread | None = None
        self._idle = 0
        self._closed = False

    def submit(self, task: Task) -> None:
        """Queues `task` to run on a thread, or to expire at its deadline.

        Raises:
            RuntimeError: the workers are closed, or no thread can be started.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._queue[task] = None
            try:
                self._serve(task)
            except RuntimeError:
                if not self._threads:
                    del self._queue[task]
                    raise

    def withdraw(self, task: Task) -> None:
        """Removes `task` from the queue, if it is still there."""
        with self._lock:
            self._queue.pop(task, None)

    def close(self) -> None:
        """Cancels the queued tasks, and ends each thread after its current task."""
        with self._lock:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._work.notify_all()
            self._time.notify_all()
        for task in waiting:
            task.cancel()

    def join(self, timeout_s: float) -> None:
        """Waits until all threads but the caller's have ended, at most `timeout_s` seconds."""
        deadline = Deadline.after(timeout_s)
        with self._lock:
            threads = [*self._threads, *([self._watcher] if self._watcher else [])]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(deadline.bounded_s(timeout_s))

    def _serve(self, task: Task) -> None:
        if self._idle >= len(self._queue):
            self._work.notify()
        elif len(self._threads) < self._limit:
            self._threads.add(self._start(self._run))
        elif task.deadline.timeout_s is not None:
            if self._watcher is None:
                self._watcher = self._start(self._watch)
            self._time.notify()

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=self._name, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while (task := self._next()) is not None:
            task.run()
            del task  # an idle thread keeps no reference

    def _next(self) -> Task | None:
        with self._lock:
            self._idle += 1
            try:
                while not self._queue:
                    if self._closed or not (self._work.wait(_IDLE_S) or self._queue):
                        self._threads.discard(threading.current_thread())
                        return None
                return self._queue.popitem(last=False)[0]
            finally:
                self._idle -= 1

    def _watch(self) -> None:
        """Expires late tasks while all threads are busy; ends when the queue is empty."""
        while True:
            with self._lock:
                late = [task for task in self._queue if task.deadline.expired]
                for task in late:
                    del self._queue[task]
                if not late:
                    if self._closed or not self._queue:
                        self._watcher = None
                        return
                    self._time.wait(min(task.deadline.bounded_s(_IDLE_S) for task in self._queue))
            for task in late:
                task.expire()
