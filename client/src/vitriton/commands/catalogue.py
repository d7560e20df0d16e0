"""What a server serves, seen from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vitriton._console.failure import CommandFailed
from vitriton._deadline import Deadline
from vitriton._errors import ContractMismatch, ModelNotReady, Unavailable
from vitriton._served.contract import ensemble_name, explain_not_ready, output_name, read_contract, served_models
from vitriton._served.failures import Call, to_error
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, ModelConfig, ModelStatus, ServerMetadata, Transport

if TYPE_CHECKING:
    from vitriton._console.server import Server

Kind = Literal["pooled", "unpooled"]
_READY = "READY"
# What Triton calls a model that was never asked for, or was unloaded: no reason to be told.
_NOT_FAILED = ("", "unloaded")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One of a model's two ensembles. What only a loaded model tells is None where it is not loaded.

    Attributes:
        kind: of the embedding.
        model: as the server knows it.
        state: Triton's word for it.
        reason: why it is not ready; empty if it is, or if the server does not say.
        tensor: that it returns.
        datatype: of the tensor, by Triton's name.
        shape: of one image's output.
        max_batch_size: images in a request.
        parameters: what the export wrote into the configuration.
    """

    kind: Kind
    model: str
    state: str
    reason: str = ""
    tensor: str | None = None
    datatype: str | None = None
    shape: tuple[int, ...] | None = None
    max_batch_size: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == _READY

    @property
    def fingerprint(self) -> str | None:
        """Names the embedding space."""
        return self.parameters.get("fingerprint")

    @property
    def l2_normalize(self) -> bool | None:
        """Whether its embeddings have length 1; of pooled ones only."""
        value = self.parameters.get("l2_normalize")
        return None if value is None or self.kind == "unpooled" else value == "true"

    @property
    def pooling(self) -> str | None:
        """How the embedding is made; of pooled ones only."""
        return None if self.kind == "unpooled" else self.parameters.get("pooling")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What one `vitriton export` has made, by the name that `Client(model=...)` takes."""

    name: str
    outputs: tuple[Output, ...]

    @property
    def ready(self) -> bool:
        """Whether all of its outputs are."""
        return all(output.ready for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that a server has.

    Attributes:
        address: of the server.
        server: what it says of itself.
        listed: whether it tells what it has; if not, `models` has those that were asked for, and `others` nothing.
        models: made by `vitriton export`, by name.
        others: models of another kind, sorted.
    """

    address: str
    server: ServerMetadata
    listed: bool
    models: tuple[ServedModel, ...]
    others: tuple[ModelStatus, ...]


def list_models(transport: Transport, timeout_s: float | None, names: Iterable[str] = ()) -> Catalogue:
    """Asks a server what it serves.

    Args:
        transport: to the server.
        timeout_s: total time, in seconds; None is no limit.
        names: only these, by the names that they were exported under; none means all.

    Raises:
        ModelNotReady: the server does not have one of `names`.
        ContractMismatch: one of `names` was not made by `vitriton export`.
        VitritonError: the server does not answer, or not these questions.
    """
    deadline = Deadline.after(timeout_s)
    asked = tuple(names)
    try:
        server = transport.server_metadata(deadline.remaining_s())
        index = _index(transport, deadline)
        states = None if index is None else _by_name(index)
        models = [
            _model(transport, name, states, deadline, asked=bool(asked)) for name in asked or served_models(index or ())
        ]
    except CallError as exc:
        call = Call(address=transport.address, model="", timeout_s=timeout_s, expired=deadline.expired)
        raise to_error(exc, call) from exc
    for model in models:
        if asked and not model.outputs:
            raise ModelNotReady(
                explain_not_ready(model.name, True, index, transport.address), address=transport.address
            )
    found = tuple(model for model in models if model.outputs)
    ours = {part for model in found for part in _parts(model.name)}
    others = () if asked else tuple(status for name, status in sorted((states or {}).items()) if name not in ours)
    return Catalogue(address=transport.address, server=server, listed=index is not None, models=found, others=others)


def only_model(server: Server, timeout_s: float) -> str:
    """The one model that a server serves, by the name that it was exported under.

    Raises:
        CommandFailed: it serves none or several, or does not tell.
        VitritonError: it does not answer.
    """
    catalogue = _first_answer(server, timeout_s)
    names = [model.name for model in catalogue.models if any(output.ready for output in model.outputs)]
    if not catalogue.listed:
        raise CommandFailed(f"the server at {catalogue.address} does not list its models; name one with --model")
    if not names:
        raise CommandFailed(
            f"the server at {catalogue.address} has no model of `vitriton export` that is ready; see `vitriton models`"
        )
    if len(names) > 1:
        raise CommandFailed(
            f"the server at {catalogue.address} has several models; choose one with --model: {', '.join(names)}"
        )
    return names[0]


def _first_answer(server: Server, timeout_s: float) -> Catalogue:
    transports = server.transports()
    try:
        for transport in transports[:-1]:
            with contextlib.suppress(Unavailable):
                return list_models(transport, timeout_s)
        return list_models(transports[-1], timeout_s)
    finally:
        for transport in transports:
            transport.close()


def to_document(catalogue: Catalogue) -> dict[str, Any]:
    """The catalogue for programs; the keys are a promise."""
    return {
        "address": catalogue.address,
        "server": {"name": catalogue.server.name, "version": catalogue.server.version},
        "listed": catalogue.listed,
        "models": [_model_document(model) for model in catalogue.models],
        "others": [asdict(status) for status in catalogue.others],
    }


def _model_document(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "ready": model.ready,
        "outputs": [
            {
                "kind": output.kind,
                "model": output.model,
                "ready": output.ready,
                "state": output.state,
                "reason": output.reason,
                "tensor": output.tensor,
                "datatype": output.datatype,
                "shape": output.shape,
                "max_batch_size": output.max_batch_size,
                "source_model": output.parameters.get("model"),
                "revision": output.parameters.get("revision"),
                "precision": output.parameters.get("precision"),
                "pooling": output.pooling,
                "l2_normalize": output.l2_normalize,
                "fingerprint": output.fingerprint,
            }
            for output in model.outputs
        ],
    }


def _index(transport: Transport, deadline: Deadline) -> Sequence[ModelStatus] | None:
    """None where the server does not tell."""
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
) -> ServedModel:
    """What there is of a model. Where another kind of model has such a name: nothing, or an error if `asked`."""
    kinds: tuple[Kind, ...] = ("pooled", "unpooled")
    outputs = []
    for kind in kinds:
        model = ensemble_name(name, kind == "pooled")
        if states is not None and model not in states:
            continue
        config = _config(transport, model, deadline)
        if config is not None:
            try:
                outputs.append(_output(kind, config))
            except ContractMismatch:
                if asked:
                    raise
        elif states is not None:  # without an index, what is not ready cannot be told from what is not there
            state = states[model].state
            outputs.append(Output(kind=kind, model=model, state=state, reason=_reason(name, kind, states)))
    return ServedModel(name=name, outputs=tuple(outputs))


def _config(transport: Transport, model: str, deadline: Deadline) -> ModelConfig | None:
    """None for a model that is not loaded."""
    if not transport.is_model_ready(model, deadline.remaining_s()):
        return None
    try:
        return transport.model_config(model, deadline.remaining_s())
    except CallError as exc:
        if classify(exc.code, exc.message) in (Failure.UNKNOWN_MODEL, Failure.NOT_READY):  # unloaded just now
            return None
        raise


def _output(kind: Kind, config: ModelConfig) -> Output:
    contract = read_contract(config, kind == "pooled")
    return Output(
        kind=kind,
        model=config.name,
        state=_READY,
        tensor=contract.output,
        datatype=config.outputs[output_name(kind == "pooled")].datatype,
        shape=contract.shape,
        max_batch_size=contract.max_batch_size,
        parameters=contract.parameters,
    )


def _reason(name: str, kind: Kind, states: Mapping[str, ModelStatus]) -> str:
    """Why an ensemble is not ready: its own reason, and those of its steps, where the cause mostly is."""
    reasons: list[str] = []
    for part in (f"{name}_{kind}", f"{name}_preprocess", f"{name}_{kind}_encoder"):
        status = states.get(part)
        if status is not None and not status.ready and status.reason not in _NOT_FAILED:
            reasons.append(status.reason if not reasons else f"{part}: {status.reason}")
    return "; ".join(" ".join(reason.split()) for reason in reasons)


def _parts(name: str) -> list[str]:
    """The models that an export of this name has."""
    return [
        f"{name}_preprocess",
        *(f"{name}_{kind}{suffix}" for kind in ("pooled", "unpooled") for suffix in ("", "_encoder")),
    ]
