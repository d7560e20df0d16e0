"""The models that a server serves. No other module asks a server for them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vitriton._deadline import Deadline, share_s
from vitriton._errors import AccessDenied, ContractMismatch, DeadlineExceeded, Unavailable
from vitriton._keywords import suggests_keywords
from vitriton._options import check_time_limit
from vitriton._repository import names
from vitriton._served.contract import read_contract
from vitriton._served.failures import Call, after_attempts, is_down, not_served, to_error
from vitriton._served.index import served_models
from vitriton._served.model import ModelInfo, ModelOutput, model_info
from vitriton._wire.connect import connect
from vitriton._wire.connection import TLS, Token
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, ModelConfig, ModelStatus, ServerMetadata, Transport

_LOG = logging.getLogger("vitriton")

# Time before a server is asked again: longer with each attempt.
_POLL_S, _LONGEST_POLL_S = 0.1, 2.0
# Triton's reasons for a model that was never loaded, or was unloaded: they are no failures.
_NOT_FAILED = ("", "unloaded")


@suggests_keywords
def list_models(
    address: str | Sequence[str],
    *,
    models: Iterable[str] = (),
    timeout_s: float | None = 10.0,
    tls: TLS | None = None,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[ModelInfo]:
    """Lists the models of `vitriton export` on a server, ready or not, sorted by name, as `vitriton models` shows them.

    The function blocks its thread; in an event loop, call `await asyncio.to_thread(list_models, ...)`.

    Args:
        address: the server's address, in the form that `Client` takes. Of several servers, the first that answers is
            used.
        models: the names of the models to describe; none means all that the server lists.
        timeout_s: the longest wait, in seconds, of which several servers have equal parts; None means no limit.
        tls: the trusted certificates and the client's own, for grpcs:// and https://.
        token: the bearer token, sent with each request; a function is called for each request.
        headers: the headers to send with each request.

    Raises:
        ValueError: an argument is invalid; the text names it.
        Unavailable: no server could be reached.
        DeadlineExceeded: the last server did not answer in that time.
        ModelNotFound: the server does not have one of `models`.
        ModelNotReady: the server does not list its models, and one of `models` is not ready.
        AccessDenied: the server does not list its models to this client, and `models` names none.
        ContractMismatch: one of `models` was not made by `vitriton export`.
        ServerError: the server could not answer.
    """
    check_time_limit("timeout_s", timeout_s)
    asked = tuple(models)
    transports = connect(address, tls=tls, token=token, headers=headers)
    with contextlib.ExitStack() as stack:
        for transport in transports:
            stack.callback(transport.close)
        catalog = first_catalog(transports, Deadline.after(timeout_s), asked)
    if not (catalog.listed or asked):
        raise AccessDenied(
            f"the server at {catalog.address} does not list its models; name the models that you want (models)",
            address=catalog.address,
        )
    return list(catalog.models)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The models of a server.

    Attributes:
        address: the server's address.
        server: the server's metadata: its name and version.
        listed: whether the server lists its models; if not, `models` has the requested ones, and `others` is empty.
        models: the models that `vitriton export` made, sorted by name.
        others: the state of all other models, sorted by name.
    """

    address: str
    server: ServerMetadata
    listed: bool
    models: tuple[ModelInfo, ...]
    others: tuple[ModelStatus, ...]


def read_catalog(transport: Transport, timeout_s: float | None, asked: Sequence[str] = ()) -> Catalog:
    """Reads the catalog of a server.

    Args:
        transport: the transport to the server.
        timeout_s: the total time, in seconds; None means no limit.
        asked: the names of the exports to describe; none means all.

    Raises:
        ModelNotFound: the server does not have one of the requested exports.
        ModelNotReady: the server does not list its models, and one of the requested exports is not ready.
        ContractMismatch: one of the requested exports was not made by `vitriton export`.
        ClientError: the server does not answer, or refuses the requests.
    """
    deadline = Deadline.after(timeout_s)
    try:
        server = transport.server_metadata(deadline.remaining_s())
        index = read_index(transport, deadline)
        states = None if index is None else _by_name(index)
        models = [
            _model(transport, name, states, deadline, asked=bool(asked)) for name in asked or served_models(index or ())
        ]
    except CallError as exc:
        call = Call(address=transport.address, model="", timeout_s=timeout_s, expired=deadline.expired)
        raise to_error(exc, call) from exc
    for model in models:
        if asked and not model.outputs:
            raise not_served(model.name, "pooled", index, known=True, address=transport.address)
    found = tuple(model for model in models if model.outputs)
    ours = {part for model in found for part in names.model_names(model.name)}
    others = () if asked else tuple(status for name, status in sorted((states or {}).items()) if name not in ours)
    return Catalog(address=transport.address, server=server, listed=index is not None, models=found, others=others)


def first_catalog(
    transports: Sequence[Transport], deadline: Deadline, asked: Sequence[str] = (), *, again: bool = False
) -> Catalog:
    """The catalog of the first server that answers. `read_catalog` describes the errors.

    Args:
        transports: the transports to the servers. A silent one has only its part of the time.
        deadline: the end of all attempts.
        asked: the names of the exports to describe; none means all.
        again: whether the last of several servers leaves a part of the time, too, so that all can be asked again.
    """
    *others, last = transports
    for parts, transport in zip(range(len(transports) + again, 1, -1), others, strict=False):
        with contextlib.suppress(Unavailable, DeadlineExceeded):
            return read_catalog(transport, share_s(deadline.remaining_s(), parts), asked)
    left_s = deadline.remaining_s()
    return read_catalog(last, share_s(left_s, 2) if again and others else left_s, asked)


def wait_for_catalog(transports: Sequence[Transport], deadline: Deadline) -> Catalog:
    """The catalog of the first server that answers. If none does, this warns once, and waits for one.

    Raises:
        Unavailable: no server answered in that time.
        ClientError: see `read_catalog`.
    """
    error: Unavailable | DeadlineExceeded | None = None
    attempts = 0
    while True:
        attempts += 1
        try:
            catalog = first_catalog(transports, deadline, again=True)
            break
        except (Unavailable, DeadlineExceeded) as exc:
            is_late = isinstance(exc, DeadlineExceeded)
            if error is None:
                if is_late and deadline.expired:
                    raise
                _LOG.warning("%s", is_down(transports[-1].address, exc, deadline, deadline.clock()))
            if error is None or not is_late:  # a wait that was cut short says less
                error = exc
        if deadline.expired:
            raise after_attempts(error, attempts, deadline)
        time.sleep(deadline.bounded_s(min(_POLL_S * attempts, _LONGEST_POLL_S)))
    if error is not None:
        _LOG.warning("the server at %s answers again", catalog.address)
    return catalog


def read_model(transport: Transport, name: str, deadline: Deadline) -> ModelInfo:
    """Reads a model from its configuration alone; the outputs that are not loaded are missing.

    Raises:
        CallError: the server does not answer.
        ContractMismatch: the model was not made by `vitriton export`.
    """
    return _model(transport, name, None, deadline, asked=True)


def read_index(transport: Transport, deadline: Deadline) -> Sequence[ModelStatus] | None:
    """Reads the state of all models of a server; None if the server does not list them.

    Raises:
        CallError: the server does not answer.
    """
    try:
        return transport.repository_index(deadline.remaining_s())
    except CallError as exc:
        if classify(exc.code, exc.message) is Failure.RESTRICTED:
            return None
        raise


def read_output(kind: names.Kind, config: ModelConfig) -> ModelOutput:
    """The output of a loaded ensemble.

    Raises:
        ContractMismatch: the model was not made by `vitriton export`.
    """
    contract = read_contract(config, kind)
    return ModelOutput(
        kind=kind,
        model=config.name,
        tensor=contract.output,
        datatype=config.outputs[contract.output].datatype,
        shape=contract.shape,
        max_batch_size=contract.max_batch_size,
    )


def _by_name(index: Sequence[ModelStatus]) -> dict[str, ModelStatus]:
    """The state of each model, by name: the index has a line for each version, and a ready version counts first."""
    states: dict[str, ModelStatus] = {}
    for status in index:
        known = states.get(status.name)
        if known is None or (status.ready and not known.ready):
            states[status.name] = status
    return states


def _model(
    transport: Transport, name: str, states: Mapping[str, ModelStatus] | None, deadline: Deadline, *, asked: bool
) -> ModelInfo:
    """Describes a model. If another kind of model has that name, it has no outputs; with `asked` that is an error."""
    outputs: list[ModelOutput] = []
    parameters: Mapping[str, str] = {}
    for kind in names.KINDS:
        model = names.ensemble_name(name, kind)
        if states is not None and model not in states:
            continue
        config = _config(transport, model, deadline)
        if config is not None:
            try:
                outputs.append(read_output(kind, config))
                parameters = {**config.parameters, **parameters}  # those of texts after those of images
            except ContractMismatch:
                if asked:
                    raise
        elif states is not None:  # without an index, a missing model looks like one that is not ready
            reason = "; ".join(_reasons(name, kind, states))
            outputs.append(ModelOutput(kind=kind, model=model, state=states[model].state, reason=reason))
    return model_info(name, [transport.address], outputs, parameters)


def _config(transport: Transport, model: str, deadline: Deadline) -> ModelConfig | None:
    """The configuration of a model; None if it is not loaded, as Triton shows only those of ready models."""
    try:
        return transport.model_config(model, deadline.remaining_s())
    except CallError as exc:
        if classify(exc.code, exc.message) in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):
            return None
        raise


def _reasons(name: str, kind: names.Kind, states: Mapping[str, ModelStatus]) -> Iterator[str]:
    """The reasons why an ensemble is not ready: its own, and those of its steps, which usually have the cause."""
    first = True
    for part in (names.ensemble_name(name, kind), *names.step_names(name, kind)):
        status = states.get(part)
        if status is not None and not status.ready and status.reason not in _NOT_FAILED:
            reason = " ".join(status.reason.split())
            yield reason if first else f"{part}: {reason}"
            first = False
