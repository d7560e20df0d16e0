"""The models behind the endpoint: what the server has of them, and a client for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from vitriton import AsyncClient, ClientError, ModelInfo, ModelNotFound, ModelNotReady, Options, list_models

from vitriton_api._errors import RequestRefused, public_text

_LOG = logging.getLogger("vitriton.api")

_LOOK_S = 5.0  # time between two looks at the server
_LOOK_AGAIN_S = 1.0  # the same while not all is ready
_LOOK_TIMEOUT_S = 5.0
_POOLED = {"image": "pooled", "text": "text_pooled"}


class Look(NamedTuple):
    """What a look at the server has found.

    Attributes:
        models: the models, by name.
        missing: why the server has not the others, for the log.
    """

    models: Mapping[str, ModelInfo]
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where the models are, and how they are asked.

    Attributes:
        address: the address of the server, or several.
        names: the names of the models; empty means all that the server lists.
        connection: the arguments `tls`, `token` and `headers` of a client.
        options: the limits of the clients.
        timeout_s: the longest time for the vectors of one request, in seconds.
    """

    address: str
    names: Sequence[str]
    connection: Mapping[str, Any]
    options: Options
    timeout_s: float

    def look(self) -> Look:
        """Describes the models; one that the server does not have is missing. Blocks its thread.

        Raises:
            ClientError: the server does not answer, or refuses.
        """
        if not self.names:
            return Look({model.name: model for model in self._list(())})
        found: dict[str, ModelInfo] = {}
        missing = []
        for name in self.names:
            try:
                found |= {model.name: model for model in self._list((name,))}
            except (ModelNotFound, ModelNotReady) as exc:
                missing.append(str(exc))
        return Look(found, "; ".join(missing))

    def client(self, model: ModelInfo) -> AsyncClient:
        """A client that embeds in the space of this model alone, so that no answer has another one's fingerprint."""
        return AsyncClient(
            self.address,
            model=model.name,
            timeout_s=self.timeout_s,
            options=self.options,
            expect_fingerprint=model.fingerprint,
            **self.connection,
        )

    def _list(self, names: Sequence[str]) -> list[ModelInfo]:
        return list_models(self.address, models=names, timeout_s=_LOOK_TIMEOUT_S, **self.connection)


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """A model, as the server last described it when it was loaded.

    Attributes:
        info: the description.
        client: the client for its embedding space.
        ready: whether the server answers, and has it loaded now.
    """

    info: ModelInfo
    client: AsyncClient
    ready: bool

    @property
    def towers(self) -> tuple[str, ...]:
        """What it has vectors for: "image", "text", or both."""
        return tuple(tower for tower in _POOLED if self.dimensions(tower) is not None)

    def dimensions(self, tower: str) -> int | None:
        """The number of dimensions of a tower's vectors; None: it has no such vectors."""
        output = next((each for each in self.info.outputs if each.kind == _POOLED[tower]), None)
        return None if output is None or output.shape is None else output.shape[0]


class Models:
    """The models behind the endpoint. It looks at the server again and again, from `start` to `close`.

    Args:
        upstream: where they are.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._served: dict[str, EmbeddingModel] = {}
        self._problem: str | None = "the server of the models has not answered yet"
        self._logged: str | None = None
        self._looks = 0
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def all(self) -> list[EmbeddingModel]:
        """The models that are known, sorted by name."""
        return [self._served[name] for name in sorted(self._served)]

    def listed(self) -> list[EmbeddingModel]:
        """The models, sorted by name.

        Raises:
            RequestRefused: it is not known yet which there are.
        """
        if self._problem is not None and not self._served:
            raise RequestRefused(self._problem, status=503, code="not_ready")
        return self.all

    @property
    def problem(self) -> str | None:
        """Why not all models can be used now; None: they can."""
        if self._problem is not None:
            return self._problem
        missing = [name for name in self._upstream.names if name not in self._served]
        waiting = missing + [name for name, model in sorted(self._served.items()) if not model.ready]
        if waiting:
            return f"not ready: {', '.join(waiting)}"
        return None if self._served else "not ready: the server has no model of vitriton export"

    def get(self, name: str) -> EmbeddingModel:
        """A model by its name.

        Raises:
            RequestRefused: there is none of that name, or it has not been loaded yet.
        """
        model = self._served.get(name)
        if model is not None and model.towers:
            return model
        if name in self._upstream.names or model is not None or not (self._served or self._problem is None):
            why = f": {self._problem}" if self._problem is not None else ""
            text = f"the model {name[:100]} is not ready{why}; try again later"
            raise RequestRefused(text, status=503, code="model_not_ready", param="model")
        known = ", ".join(sorted(self._served)) or "none"
        text = f"there is no model {name[:100]}; there is: {known}"
        raise RequestRefused(text, status=404, code="model_not_found", param="model")

    def start(self) -> None:
        """Begins to look at the server."""
        self._spawn(self._follow())

    async def look(self) -> None:
        """Looks at the server once. Callers that wait at the same time share one look."""
        looks = self._looks
        async with self._lock:
            if self._looks == looks:
                await self._look()
                self._looks += 1

    async def close(self) -> None:
        """Ends looking, and closes the clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        served, self._served = self._served, {}
        await asyncio.gather(*(model.client.close() for model in served.values()))

    async def _follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S if self.problem is None else _LOOK_AGAIN_S)

    async def _look(self) -> None:
        try:
            look = await asyncio.to_thread(self._upstream.look)
        except ClientError as exc:
            self._problem = public_text(exc)
            self._served = {name: replace(model, ready=False) for name, model in self._served.items()}
            self._log(f"not ready: {exc}")
            return
        found, missing = look
        self._problem = None
        for name in self._served.keys() - found.keys():
            if name in self._upstream.names:
                self._served[name] = replace(self._served[name], ready=False)
            else:
                self._retire(self._served.pop(name))
        for name, info in found.items():
            self._note(name, info)
        problem = self.problem
        self._log(f"not ready: {missing}" if problem and missing else problem)

    def _log(self, problem: str | None) -> None:
        """Logs why not all is ready, or that it is, if that has changed."""
        text = problem or f"ready: {', '.join(sorted(self._served))}"
        if text != self._logged:
            _LOG.log(logging.WARNING if problem else logging.INFO, "%s", text)
        self._logged = text

    def _note(self, name: str, info: ModelInfo) -> None:
        """Takes over a description. That of a model which is not loaded says too little to replace an earlier one."""
        known = self._served.get(name)
        if known is not None and not any(output.ready for output in info.outputs):
            self._served[name] = replace(known, ready=False)
        elif known is not None and known.info.fingerprint == info.fingerprint:
            self._served[name] = replace(known, info=info, ready=info.ready)
        else:
            self._served[name] = EmbeddingModel(info=info, client=self._upstream.client(info), ready=info.ready)
            if known is not None:
                _LOG.warning("model %s has a new fingerprint: %s", name, info.fingerprint)
                self._retire(known)

    def _retire(self, model: EmbeddingModel) -> None:
        """Closes a client when the requests that it still has are over."""
        self._spawn(self._close_later(model))

    async def _close_later(self, model: EmbeddingModel) -> None:
        try:
            await asyncio.sleep(2 * self._upstream.timeout_s)
        finally:
            await model.client.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
