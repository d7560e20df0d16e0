"""A server's list of its models, as Triton's repository index has it: what is there, what is ready, and why not."""

from __future__ import annotations

from collections.abc import Sequence

from vitriton._repository import names
from vitriton._served.contract import ensemble_name
from vitriton._wire.transport import ModelStatus

_MAX_LISTED = 20


def served_models(index: Sequence[ModelStatus]) -> tuple[str, ...]:
    """The names of a server's exports, as `Client(model=...)` takes them, sorted."""
    ensembles = (names.read_ensemble_name(status.name) for status in index)
    return tuple(sorted({ensemble[0] for ensemble in ensembles if ensemble is not None}))


def explain_not_ready(model: str, pool: bool, index: Sequence[ModelStatus] | None, address: str) -> str:
    """Explains why `model` cannot be used, and what to do.

    Args:
        model: the name that the user gave.
        pool: whether the pooled ensemble was requested.
        index: the state of the server's models; None if the server does not list them.
        address: the server's address.
    """
    wanted, kind = ensemble_name(model, pool), names.kind_of(pool)
    if index is None:
        return f"the server at {address} has no model {model} that is ready, and does not list its models"
    states = {status.name: status for status in index}
    if wanted in states:
        reason = f" ({states[wanted].reason})" if states[wanted].reason else ""
        return (
            f"model {model} is on the server at {address}, and its {kind} output is not ready: "
            f"{states[wanted].state}{reason}"
        )
    if ensemble_name(model, not pool) in states:
        other = names.kind_of(not pool)
        return (
            f"model {model} was exported without its {kind} output: the server at {address} has only the {other} one. "
            f"Call embed(pool={not pool}), or export it again with --outputs both"
        )
    models = served_models(index)
    more = f" and {len(models) - _MAX_LISTED} more" if len(models) > _MAX_LISTED else ""
    listed = ", ".join(models[:_MAX_LISTED]) + more if models else "no model that `vitriton export` made"
    return f"the server at {address} does not have model {model}; it has: {listed}"


def is_ready(model: str, ready: Sequence[bool], index: Sequence[ModelStatus] | None) -> bool:
    """Whether a model can be used: one of its ensembles is ready, and the other is ready, missing or has failed.

    Args:
        model: the name that the user gave.
        ready: the readiness of the pooled and of the unpooled ensemble.
        index: the state of the server's models; None if the server does not list them.
    """
    if not any(ready) or all(ready):
        return any(ready)
    loading = {status.name for status in index or () if status.state == "LOADING"}
    return not any(ensemble_name(model, pool) in loading for pool in (True, False))
