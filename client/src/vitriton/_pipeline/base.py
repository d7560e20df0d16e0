"""What the pipelines of all tasks have in common."""

from __future__ import annotations

import abc
import contextlib
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from vitriton._pipeline import checks
from vitriton._pipeline.inputs import FeatureIterator, items_of
from vitriton._pipeline.parameters import CallParameters, import_torch
from vitriton._pipeline.served import ClientFactory, ServedModel
from vitriton._pipeline.tasks import PipelineTask

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client

_LOG = logging.getLogger("vitriton")

_END: Any = object()
_Self = TypeVar("_Self", bound="ServedPipeline")


class ServedPipeline(abc.ABC):
    """A pipeline that `vitriton.pipeline` returns. Its calls return what transformers' class of its name returns.

    Safe to share between threads. It is a context manager; an open pipeline closes at the end of the program. A pickle
    or a copy of it is another pipeline for the same model and fingerprint, which makes its own connections, as with
    `Client`.

    Attributes:
        task: the name of the task.
        model: the served model.
        binary_output: the argument of `vitriton.pipeline`.
    """

    _task: ClassVar[PipelineTask]

    def __init__(
        self,
        model: ServedModel,
        clients: ClientFactory,
        defaults: CallParameters,
        *,
        dtype: np.dtype[Any],
        allow_served_pooling: bool,
        binary_output: bool,
    ) -> None:
        self.task = self._task.name
        self.model = model
        self.binary_output = binary_output
        self._clients = clients
        self._defaults = defaults
        self._dtype = dtype
        self._allow_served_pooling = allow_served_pooling
        if defaults.pool:
            self._check_output(defaults)
        elif (missing := checks.missing_output(model, self._task, pool=False)) is not None:  # a call may say pool=True
            _LOG.warning("%s", missing)
        self._client = self._connect(defaults.timeout)
        self._client._core.lifetime.kind = "pipeline"  # what errors call it after a fork or after close()

    @abc.abstractmethod
    def __call__(self, inputs: Any) -> Any:
        """Embeds inputs."""

    @abc.abstractmethod
    def _is_single(self, inputs: Any) -> bool:
        """Whether the inputs are one input."""

    @abc.abstractmethod
    def _embed(self, client: Client, given: Any, parameters: CallParameters) -> list[Result]:
        """Embeds one input."""

    @abc.abstractmethod
    def _stream(
        self, client: Client, items: Iterable[Any], parameters: CallParameters
    ) -> Generator[Result, None, None]:
        """Embeds inputs, and gives their results in input order."""

    def _error(self, result: Result, parameters: CallParameters) -> Exception | None:
        """The error to raise in place of an answer; None if there is an answer."""
        return result.error

    def predict(self, X: Any) -> Any:  # noqa: N803 - transformers' own name
        """Calls the pipeline."""
        return self(X)

    def transform(self, X: Any) -> Any:  # noqa: N803 - transformers' own name
        """Calls the pipeline."""
        return self(X)

    def close(self) -> None:
        """Ends running calls and closes the connections. May be called again."""
        self._client.close()
        self._clients.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.name!r}, url={self.model.address!r})"

    if not TYPE_CHECKING:  # so that type checkers still report missing attributes

        def __getattr__(self, name: str) -> Any:
            """Refuses the attributes that transformers' pipeline has and this one cannot have."""
            if name.startswith("__"):  # copy and pickle look for these
                raise AttributeError(name)
            raise AttributeError(checks.no_attribute(type(self).__name__, name))

    def __reduce__(self) -> tuple[Any, ...]:
        self._client._core.arguments()  # raises, in the pipeline's name, for what another process cannot have
        again = partial(
            type(self),
            self.model,
            self._clients,
            self._defaults,
            dtype=self._dtype,
            allow_served_pooling=self._allow_served_pooling,
            binary_output=self.binary_output,
        )
        return again, ()

    def _answers(self, inputs: Any, parameters: CallParameters) -> Any:
        """The answers to a call, for inputs of all kinds."""
        self._check_output(parameters)
        if isinstance(inputs, (list, tuple)):
            return list(self._iterate(lambda: inputs, parameters, total=len(inputs)))
        if self._is_single(inputs):
            with self._client_for(parameters) as client:
                (result,) = self._embed(client, inputs, parameters)
            return self._answer(result, parameters)
        if isinstance(inputs, Iterator):
            first = next(inputs, _END)
            if first is _END:
                return []
            return self._iterate(lambda: itertools.chain([first], inputs), parameters, restarts=False)
        items = items_of(inputs, self._task)
        return self._iterate(items, parameters, total=len(inputs) if isinstance(inputs, Sized) else None)

    def _check_output(self, parameters: CallParameters) -> None:
        missing = checks.missing_output(self.model, self._task, pool=parameters.pool)
        if missing is not None:
            raise missing
        if parameters.pool and not self._allow_served_pooling:
            checks.check_pool(self.model, self._task)

    def _iterate(
        self,
        items: Callable[[], Iterable[Any]],
        parameters: CallParameters,
        *,
        total: int | None = None,
        restarts: bool = True,
    ) -> FeatureIterator:
        return FeatureIterator(
            lambda: self._results(items(), parameters),
            lambda result: self._answer(result, parameters),
            total,
            name=self.model.name,
            restarts=restarts,
        )

    def _results(self, items: Iterable[Any], parameters: CallParameters) -> Generator[Result, None, None]:
        with (
            self._client_for(parameters) as client,
            contextlib.closing(self._stream(client, items, parameters)) as results,
        ):
            yield from results

    def _answer(self, result: Result, parameters: CallParameters) -> Any:
        """The rows of a result, (1, ...), in the form that transformers returns."""
        error = self._error(result, parameters)
        if error is not None:
            raise error
        assert result.embedding is not None
        rows = np.require(result.embedding[np.newaxis], self._dtype, ["C", "W"])
        return import_torch().from_numpy(rows) if parameters.return_tensors else rows.tolist()

    @contextlib.contextmanager
    def _client_for(self, parameters: CallParameters) -> Iterator[Client]:
        """The pipeline's client, or for another URL timeout a new client for this call."""
        if parameters.timeout == self._defaults.timeout:
            yield self._client
            return
        with self._connect(parameters.timeout) as client:
            yield client

    def _connect(self, timeout: float | None) -> Client:
        bounds = {} if timeout is None else {"url_timeout_s": timeout}
        return self._clients.client(self.model.name, fingerprint=self.model.fingerprint, **bounds)
