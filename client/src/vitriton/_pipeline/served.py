"""The model behind a pipeline: which of the server's it is, and what its export says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitriton._errors import ContractMismatch, ModelNotFound, ModelNotReady, PipelineMismatch
from vitriton._options import Options

if TYPE_CHECKING:
    from vitriton._client import Client
    from vitriton._wire.transport import Transport

# Asked for to hear which models there are: no export has this name, as their names begin with a letter or a digit.
_NO_MODEL = "-"
_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A served model, as far as its server tells. Its weights and its configuration stay there.

    Attributes:
        name: that it was exported under, as `Client(model=...)` takes it.
        address: of its server.
        parameters: what the export wrote into its configuration.
    """

    name: str
    address: str
    parameters: Mapping[str, str] = dataclasses.field(repr=False, hash=False)

    @property
    def name_or_path(self) -> str | None:
        """The hub id that it was exported from, or the name of the folder; None where the server does not tell."""
        return self.parameters.get("model")

    @property
    def revision(self) -> str | None:
        """The commit on the hub; None for a folder."""
        return self.parameters.get("revision")

    @property
    def precision(self) -> str | None:
        """What the encoder computes in: fp32, fp16, ..."""
        return self.parameters.get("precision")

    @property
    def pooling(self) -> str | None:
        """How its embedding is made: pooler, cls or mean."""
        return self.parameters.get("pooling")

    @property
    def l2_normalize(self) -> bool:
        """Whether its embedding has length 1."""
        return self.parameters.get("l2_normalize") == "true"

    @property
    def fingerprint(self) -> str | None:
        """Names its embedding space."""
        return self.parameters.get("fingerprint")

    if not TYPE_CHECKING:  # a type checker is to go on telling what is missing

        def __getattr__(self, name: str) -> Any:
            """Refuses what a transformers model has and this cannot have."""
            if name.startswith("__"):  # what copy and pickle look for
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: it describes a model on a server, where the weights and the "
                "configuration are. It has name, address, name_or_path, revision, precision, pooling, l2_normalize, "
                "fingerprint and parameters; transformers.AutoConfig reads the configuration of name_or_path"
            )

    def __str__(self) -> str:
        """As a message names it."""
        return f"model {self.name} on the server at {self.address}"


class Access:
    """How the clients of a pipeline are made: all go to the same servers, in the same way.

    Args:
        url: as `Client` takes it; None where the options have a transport.
        options: further arguments of `Client`.

    Raises:
        ValueError: there is no address.
    """

    def __init__(self, url: str | Sequence[str] | None, options: Mapping[str, Any] | None) -> None:
        self._options = dict(options or {})
        self._transport: Transport | None = self._options.pop("transport", None)
        if not url and self._transport is None:
            raise ValueError("url is missing; give the address of the server, like url='localhost:8001'")
        self._url: str | Sequence[str] = url or ""

    @property
    def address(self) -> str:
        """Of the servers, for messages."""
        if self._transport is not None:
            return self._transport.address
        return self._url if isinstance(self._url, str) else ", ".join(self._url)

    def client(self, model: str, *, fingerprint: str | None = None, **bounds: Any) -> Client:
        """A client for one export.

        Args:
            model: the name of the export.
            fingerprint: that it must have; what the user expects goes first.
            bounds: fields of `Options` that differ from the user's.
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

    def close(self) -> None:
        """Closes the transport, if one was given. May be called again."""
        if self._transport is not None:
            self._transport.close()


class _Lent:
    """A transport that is used by several clients one after the other, and that none of them closes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        pass


def find(model: str, access: Access) -> ServedModel:
    """The served model that a user means.

    Args:
        model: the name of an export, or the hub id that it was made of. Names go first.
        access: to the server.

    Raises:
        ModelNotFound: the server does not have it.
        ModelNotReady: the server has it, and has not loaded it.
        PipelineMismatch: it has several exports of this hub id.
        VitritonError: the server does not answer; as `Client.embed`.
    """
    if "/" in model:  # never the name of an export
        available, cause = _available(access), None
    else:
        try:
            return _read(model, access)
        except ModelNotFound as exc:
            if not exc.available or model in exc.available:
                raise
            available, cause = exc.available, exc
    # A server that does not list its models may still have this one, under the name that exports have by default.
    names = available or (model.rsplit("/", 1)[-1],)
    known = [served for name in names if (served := _read_if_ready(name, access)) is not None]
    found = [served for served in known if served.name_or_path == model]
    if len(found) > 1:
        listed = _listed([f"{served.name} ({_kind(served)})" for served in found])
        raise PipelineMismatch(
            f"model is {model!r}, and the server at {access.address} has {len(found)} exports of it: {listed}; give "
            "the name of one of them as model",
            address=access.address,
            model=model,
        )
    if not found:
        raise _unknown(model, access, known, available) from cause
    return found[0]


def _read(name: str, access: Access, **bounds: Any) -> ServedModel:
    with access.client(name, **bounds) as client:
        return ServedModel(name=name, address=access.address, parameters=client.parameters)


def _read_if_ready(name: str, access: Access) -> ServedModel | None:
    try:
        return _read(name, access, max_attempts=1)  # one that loads, or that failed to load, is not waited for
    except (ModelNotFound, ModelNotReady, ContractMismatch):
        return None


def _available(access: Access) -> tuple[str, ...]:
    """The names of all exports; empty where the server does not tell."""
    try:
        _read(_NO_MODEL, access)
    except ModelNotFound as exc:
        return exc.available
    return ()


def _unknown(model: str, access: Access, known: Sequence[ServedModel], available: tuple[str, ...]) -> ModelNotFound:
    if available:
        has = f"it has: {_listed([_with_source(served) for served in known]) or 'none that is ready'}"
    else:
        has = "it does not list what it has; give the name that the model was exported under"
    path = "; a path means nothing to a server: give the name of the export" if model[:1] in "./~" else ""
    return ModelNotFound(
        f"the server at {access.address} has no model {model}, and none that was exported from {model}: {has}{path}",
        available=available,
        address=access.address,
        model=model,
    )


def _with_source(served: ServedModel) -> str:
    return f"{served.name} (of {served.name_or_path})" if served.name_or_path else served.name


def _kind(served: ServedModel) -> str:
    length = ", length 1" if served.l2_normalize else ""
    return f"{served.precision}, {served.pooling}{length}"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    return ", ".join(texts[:_MAX_LISTED]) + more
