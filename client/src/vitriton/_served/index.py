"""A server's list of its models, as Triton's repository index has it: what is there, what is ready, and why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vitriton._repository import names
from vitriton._wire.transport import ModelStatus

_MAX_LISTED = 20


def served_models(index: Sequence[ModelStatus]) -> tuple[str, ...]:
    """The names of a server's exports, as `Client(model=...)` takes them, sorted."""
    ensembles = (names.read_ensemble_name(status.name) for status in index)
    return tuple(sorted({ensemble[0] for ensemble in ensembles if ensemble is not None}))


def explain_not_ready(model: str, kind: names.Kind, index: Sequence[ModelStatus] | None, address: str) -> str:
    """Explains why `model` cannot be used, and what to do.

    Args:
        model: the name that the user gave.
        kind: the kind of the requested ensemble.
        index: the state of the server's models; None if the server does not list them.
        address: the server's address.
    """
    wanted = names.ensemble_name(model, kind)
    path = f"{model} {names.A_PATH}; " if names.is_path(model) else ""
    if index is None:
        return f"{path}the server at {address} has no model {model} that is ready, and does not list its models"
    states = {status.name: status for status in index}
    if wanted in states:
        reason = f" ({states[wanted].reason})" if states[wanted].reason else ""
        return (
            f"model {model} is on the server at {address}, and its {kind} output is not ready: "
            f"{states[wanted].state}{reason}"
        )
    others = [other for other in names.KINDS if names.ensemble_name(model, other) in states]
    if others:
        return _explain_other(model, kind, others, address)
    models = served_models(index)
    more = f" and {len(models) - _MAX_LISTED} more" if len(models) > _MAX_LISTED else ""
    listed = ", ".join(models[:_MAX_LISTED]) + more if models else "no model that `vitriton export` made"
    if path:
        return f"{path}the server at {address} has: {listed}"
    return f"the server at {address} does not have model {model}; it has: {listed}"


def is_ready(model: str, ready: Collection[names.Kind], index: Sequence[ModelStatus] | None) -> bool:
    """Whether a model can be used: one of its ensembles is ready, and each other is ready, missing or has failed.

    Args:
        model: the name that the user gave.
        ready: the kinds of the ensembles that are ready.
        index: the state of the server's models; None if the server does not list them.
    """
    loading = {status.name for status in index or () if status.state == "LOADING"}
    return bool(ready) and not any(
        names.ensemble_name(model, kind) in loading for kind in names.KINDS if kind not in ready
    )


def _explain_other(model: str, kind: names.Kind, others: Sequence[names.Kind], address: str) -> str:
    """Explains that a model has only other ensembles than the wanted one."""
    tower, pooled = names.ENSEMBLES[kind].tower, names.ENSEMBLES[kind].pooled
    if names.kind_of(not pooled, tower) not in others:
        other = names.ENSEMBLES[others[0]].tower
        return f"model {model} on the server at {address} has no {tower}s; it embeds {other}s"
    call, other_kind = {"image": "embed", "text": "embed_texts"}[tower], names.kind_of(not pooled, tower)
    return (
        f"model {model} was exported without its {kind} output: the server at {address} has only the {other_kind} one. "
        f"Call {call}(pool={not pooled}), or export it again with --outputs both"
    )
