"""The served model behind a pipeline: how it is found, and its description."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitriton._deadline import Deadline
from vitriton._errors import ContractMismatch, ModelNotFound, ModelNotReady, PipelineMismatch
from vitriton._options import Options
from vitriton._pipeline.tasks import PipelineTask
from vitriton._repository.names import A_PATH, is_path
from vitriton._served.catalog import first_catalog, wait_for_catalog
from vitriton._served.model import ModelInfo
from vitriton._wire.connect import connect

if TYPE_CHECKING:
    from vitriton._client import Client
    from vitriton._wire.transport import Transport

_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel(ModelInfo):
    """A served model, in place of a transformers model. Its weights and its configuration are on the server."""

    @property
    def name_or_path(self) -> str | None:
        """The hub id or the folder name of the exported checkpoint; None if the server does not say."""
        return self.source

    @property
    def address(self) -> str:
        """The addresses of the model's servers, for messages."""
        return ", ".join(self.addresses)

    if not TYPE_CHECKING:  # so that type checkers still report missing attributes

        def __getattr__(self, name: str) -> Any:
            """Refuses the attributes that a transformers model has and this one cannot have."""
            if name.startswith("__"):  # copy and pickle look for these
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: it describes a model on a server, where the weights and the "
                "configuration are. It has what vitriton.ModelInfo has, and name_or_path, whose configuration "
                "transformers.AutoConfig reads"
            )

    def __str__(self) -> str:
        """The model in the text of a message."""
        return f"model {self.name} on the server at {self.address}"


class ClientFactory:
    """Makes the clients of a pipeline, with the same servers and the same options.

    Args:
        url: the servers' addresses, in the form that `Client` takes; None if the options have a transport.
        options: the other arguments of `Client`.

    Raises:
        ValueError: there is no address, or the options have an argument that the pipeline itself has.
    """

    def __init__(self, url: str | Sequence[str] | None, options: Mapping[str, Any] | None) -> None:
        self._options: dict[str, Any] = dict(options or {})
        if isinstance(self._options.get("headers"), Mapping):
            self._options["headers"] = dict(self._options["headers"])  # any mapping; a dict can be pickled
        for name, own in (("model", "model"), ("address", "url")):
            if name in self._options:
                raise ValueError(f"client_options has {name!r}; give it as the pipeline's own argument {own}")
        self._transport: Transport | None = self._options.pop("transport", None)
        if not url and self._transport is None:
            raise ValueError("url is missing; give the address of the server, like url='localhost:8001'")
        self._url: str | Sequence[str] = url or ""

    @property
    def address(self) -> str:
        """The servers' addresses, for messages."""
        if self._transport is not None:
            return self._transport.address
        return self._url if isinstance(self._url, str) else ", ".join(self._url)

    def client(self, model: str, *, fingerprint: str | None = None, **bounds: Any) -> Client:
        """Makes a client for one export.

        Args:
            model: the name of the export.
            fingerprint: the fingerprint that the export must have, unless the user's options name one.
            bounds: the fields of `Options` that differ from the user's.
        """
        from vitriton._client import Client

        arguments = dict(self._options)
        if fingerprint is not None:
            arguments["expect_fingerprint"] = arguments.get("expect_fingerprint") or fingerprint
        if bounds:
            arguments["options"] = dataclasses.replace(arguments.get("options") or Options(), **bounds)
        if self._transport is not None:
            arguments["transport"] = _Lent(self._transport)
        return Client(self._url, model=model, **arguments)

    def models(self, default: str) -> tuple[bool, list[ModelInfo]]:
        """Reads the loaded exports; waits for a server that answers.

        Args:
            default: the name of the export to read if the server does not list its models.

        Returns:
            Whether the server lists its models, and the exports.
        """
        deadline = Deadline.after(self._options.get("timeout_s", 60.0))
        with self._lent() as transports:
            catalog = wait_for_catalog(transports, deadline)
            if not catalog.listed:
                with contextlib.suppress(ModelNotFound, ModelNotReady, ContractMismatch):
                    catalog = first_catalog(transports, deadline, [default])
        return catalog.listed, [model for model in catalog.models if any(map(model.is_ready_for, model.towers))]

    def close(self) -> None:
        """Closes the transport, if one was given. May be called again."""
        if self._transport is not None:
            self._transport.close()

    @contextlib.contextmanager
    def _lent(self) -> Iterator[list[Transport]]:
        if self._transport is not None:
            yield [self._transport]
            return
        how = {name: self._options[name] for name in ("tls", "token", "headers", "options") if name in self._options}
        transports = connect(self._url, **how)
        try:
            yield transports
        finally:
            for transport in transports:
                transport.close()


def find(model: str, clients: ClientFactory, task: PipelineTask | None) -> ServedModel:
    """Finds the served model for the argument `model`.

    Args:
        model: the name of an export, which is tried first, or the hub id of its checkpoint.
        clients: the factory for clients of the server.
        task: the task; of several exports of one checkpoint, those that do it are preferred. None means any task.

    Raises:
        ModelNotFound: the server does not have the model.
        ModelNotReady: the server has the model, but has not loaded it.
        PipelineMismatch: the server has several exports of this hub id.
        VitritonError: the server does not answer; see `Client.embed`.
    """
    cause = None
    if "/" not in model:  # the name of an export has no slash
        try:
            return _read(model, clients)
        except ModelNotFound as exc:
            if not exc.available or model in exc.available:
                raise
            cause = exc
    # A server that does not list its models may still have this one, under the default name of its export.
    listed, known = clients.models(model.rsplit("/", 1)[-1])
    fitting = [served for served in known if task is None or served.is_ready_for(task.tower)]
    found = next(filter(None, ([served for served in each if served.source == model] for each in (fitting, known))), [])
    if len(found) > 1:
        names = _listed([f"{served.name} ({_kind(served)})" for served in found])
        raise PipelineMismatch(
            f"model is {model!r}, and the server at {clients.address} has {len(found)} exports of it: {names}; give "
            "the name of one of them as model",
            address=clients.address,
            model=model,
        )
    if not found:
        raise _unknown(model, clients, fitting, listed) from cause
    return _read(found[0].name, clients)


class _Lent:
    """A transport that several clients use one after the other, and that none of them closes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        pass


def _read(name: str, clients: ClientFactory) -> ServedModel:
    with clients.client(name) as client:
        return ServedModel(**vars(client.describe()))


def _unknown(model: str, clients: ClientFactory, known: Sequence[ModelInfo], listed: bool) -> ModelNotFound:
    server = f"the server at {clients.address}"
    if listed:
        has = f"has {_listed([_with_source(served) for served in known]) or 'no model that is ready'}"
    else:
        has = "does not list its models; give the name that the model was exported under"
    if is_path(model):
        text = f"{model} {A_PATH}; {server} {has}"
    else:
        text = f"{server} has no model {model}, and none that was exported from it; it {has}"
    return ModelNotFound(
        f"{text}{_meant(model, known)}",
        available=tuple(served.name for served in known),
        address=clients.address,
        model=model,
    )


def _meant(model: str, known: Sequence[ModelInfo]) -> str:
    """What the user may have meant by a name that the server does not know: the end of a sentence, or nothing."""
    names = [name for served in known for name in (served.name, served.source) if name]
    last = Path(model).name
    near = [last] if last in names else difflib.get_close_matches(model, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _with_source(served: ModelInfo) -> str:
    return f"{served.name} (of {served.source})" if served.source else served.name


def _kind(served: ModelInfo) -> str:
    length = ", length 1" if served.l2_normalize else ""
    return f"{served.precision}, {served.pooling}{length}"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    return ", ".join(texts[:_MAX_LISTED]) + more
