"""What a server serves, seen from outside. Nothing else asks this."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vitriton._deadline import Deadline
from vitriton._errors import AccessDenied, ContractMismatch, Unavailable
from vitriton._options import check_seconds
from vitriton._repository import names
from vitriton._served.contract import read_contract, served_models
from vitriton._served.failures import Call, not_served, to_error
from vitriton._served.model import ModelInfo, ModelOutput, model_info
from vitriton._wire.connect import connect
from vitriton._wire.connection import TLS, Token
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, ModelConfig, ModelStatus, ServerMetadata, Transport

# What Triton calls a model that was never asked for, or was unloaded: no reason to be told.
_NOT_FAILED = ("", "unloaded")


def list_models(
    address: str | Sequence[str],
    *,
    models: Iterable[str] = (),
    timeout_s: float | None = 10.0,
    tls: TLS | None = None,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[ModelInfo]:
    """The models of `vitriton export` that a server has, ready or not, by name; what `vitriton models` shows.

    It waits for the server in the thread of its caller; in an event loop: `await asyncio.to_thread(list_models, ...)`.

    Args:
        address: the address of the server, as `Client` takes it. Of several, the first that answers is asked.
        models: the names of the models to describe; none means all that the server lists.
        timeout_s: the longest wait for one server, in seconds; None is no limit.
        tls: for grpcs:// and https://: whom to trust, and who the client is.
        token: sent with each request as `authorization: Bearer <token>`; a function is called each time.
        headers: sent with each request.

    Raises:
        ValueError: a parameter cannot be used; names it.
        Unavailable: no server answered in that time.
        ModelNotFound: the server does not have one of `models`.
        ModelNotReady: the server does not list its models, and one of `models` is not ready.
        AccessDenied: the server does not list its models to this client, and `models` names none.
        ContractMismatch: one of `models` was not made by `vitriton export`.
        ServerError: the server could not answer.
    """
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    asked = tuple(models)
    transports = connect(address, tls=tls, token=token, headers=headers)
    with contextlib.ExitStack() as stack:
        for transport in transports:
            stack.callback(transport.close)
        catalogue = first_catalogue(transports, timeout_s, asked)
    if not (catalogue.listed or asked):
        raise AccessDenied(
            f"the server at {catalogue.address} does not list its models; name those that you want (models)",
            address=catalogue.address,
        )
    return list(catalogue.models)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that a server has.

    Attributes:
        address: the address of the server.
        server: what the server says of itself.
        listed: whether it tells what it has; if not, `models` has those that were asked for, and `others` nothing.
        models: the models that `vitriton export` made, by name.
        others: the models of another kind, sorted.
    """

    address: str
    server: ServerMetadata
    listed: bool
    models: tuple[ModelInfo, ...]
    others: tuple[ModelStatus, ...]


def read_catalogue(transport: Transport, timeout_s: float | None, asked: Sequence[str] = ()) -> Catalogue:
    """Asks a server what it serves.

    Args:
        transport: the way to the server.
        timeout_s: the total time, in seconds; None is no limit.
        asked: the names of the exports to describe; none means all.

    Raises:
        ModelNotFound: the server does not have one of those that were asked for.
        ModelNotReady: the server does not tell what it has, and one of them is not ready.
        ContractMismatch: one of them was not made by `vitriton export`.
        ClientError: the server does not answer, or not these questions.
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
            raise not_served(model.name, True, index, known=True, address=transport.address)
    found = tuple(model for model in models if model.outputs)
    ours = {part for model in found for part in names.model_names(model.name)}
    others = () if asked else tuple(status for name, status in sorted((states or {}).items()) if name not in ours)
    return Catalogue(address=transport.address, server=server, listed=index is not None, models=found, others=others)


def first_catalogue(transports: Sequence[Transport], timeout_s: float | None, asked: Sequence[str] = ()) -> Catalogue:
    """The catalogue of the first server that answers; for the parameters and the errors see `read_catalogue`."""
    for transport in transports[:-1]:
        with contextlib.suppress(Unavailable):
            return read_catalogue(transport, timeout_s, asked)
    return read_catalogue(transports[-1], timeout_s, asked)


def read_model(transport: Transport, name: str, deadline: Deadline) -> ModelInfo:
    """What is loaded of a model, by its configuration alone; no outputs where nothing is.

    Raises:
        CallError: the server does not answer.
        ContractMismatch: the model was not made by `vitriton export`.
    """
    return _model(transport, name, None, deadline, asked=True)


def read_index(transport: Transport, deadline: Deadline) -> Sequence[ModelStatus] | None:
    """The state of all models that a server has; None where it does not tell.

    Raises:
        CallError: the server does not answer.
    """
    try:
        return transport.repository_index(deadline.remaining_s())
    except CallError as exc:
        if classify(exc.code, exc.message) is Failure.RESTRICTED:
            return None
        raise


def _by_name(index: Sequence[ModelStatus]) -> dict[str, ModelStatus]:
    """The index has a line for each version; a model is as good as its best one."""
    states: dict[str, ModelStatus] = {}
    for status in index:
        known = states.get(status.name)
        if known is None or (status.ready and not known.ready):
            states[status.name] = status
    return states


def _model(
    transport: Transport, name: str, states: Mapping[str, ModelStatus] | None, deadline: Deadline, *, asked: bool
) -> ModelInfo:
    """What there is of a model. Where another kind of model has such a name: no outputs, or an error if `asked`."""
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
                parameters = parameters or config.parameters
            except ContractMismatch:
                if asked:
                    raise
        elif states is not None:  # without an index, what is not ready cannot be told from what is not there
            reason = "; ".join(_reasons(name, kind, states))
            outputs.append(ModelOutput(kind=kind, model=model, state=states[model].state, reason=reason))
    return model_info(name, [transport.address], outputs, parameters)


def _config(transport: Transport, model: str, deadline: Deadline) -> ModelConfig | None:
    """None for a model that is not loaded: Triton shows the configuration of those that are ready."""
    try:
        return transport.model_config(model, deadline.remaining_s())
    except CallError as exc:
        if classify(exc.code, exc.message) in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):
            return None
        raise


def read_output(kind: names.Kind, config: ModelConfig) -> ModelOutput:
    """The output of a loaded ensemble.

    Raises:
        ContractMismatch: the model is not one that `vitriton export` makes.
    """
    contract = read_contract(config, kind == "pooled")
    return ModelOutput(
        kind=kind,
        model=config.name,
        tensor=contract.output,
        datatype=config.outputs[contract.output].datatype,
        shape=contract.shape,
        max_batch_size=contract.max_batch_size,
    )


def _reasons(name: str, kind: names.Kind, states: Mapping[str, ModelStatus]) -> Iterator[str]:
    """Why an ensemble is not ready: its own reason, and those of its steps, where the cause mostly is."""
    first = True
    for part in (names.ensemble_name(name, kind), *names.step_names(name, kind)):
        status = states.get(part)
        if status is not None and not status.ready and status.reason not in _NOT_FAILED:
            reason = " ".join(status.reason.split())
            yield reason if first else f"{part}: {reason}"
            first = False
