"""The launcher's requests to a running Triton, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitriton._repository import names
from vitriton._wire.address import parse_address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.grpc import GrpcTransport
from vitriton._wire.statistics import by_model
from vitriton._wire.transport import CallError, InferRequest, TensorSpec

from vitriton_server._watch.canary import IMAGE, TEXT, CanaryResult, read_result
from vitriton_server._watch.verification import fault

_TIMEOUT_S = 5.0
_VERIFY_S = 120.0  # for each answer; a large model on one core takes seconds
_ONE = TensorSpec(datatype="BYTES", shape=(1,))
_CANARIES = {names.IMAGE: IMAGE, names.TEXT: TEXT}
# The server is about to start, so reconnects come sooner than in a client.
_CONNECTION = ConnectionSettings(grpc_options={"grpc.max_reconnect_backoff_ms": 500})


class Probe:
    """A connection to one Triton.

    Args:
        address: the address of its gRPC endpoint.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._transport = GrpcTransport(parse_address(f"grpc://{address}"), _CONNECTION)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def is_ready(self) -> bool:
        """Whether Triton answers and every model is ready."""
        try:
            return self._transport.is_server_ready(_TIMEOUT_S)
        except CallError:
            return False

    def version(self) -> str:
        """Triton's version."""
        return self._transport.server_metadata(_TIMEOUT_S).version

    def versions(self) -> dict[tuple[str, int], tuple[str, str]] | None:
        """Returns (model, version) → state and reason of every version that Triton has had; None without a response."""
        try:
            index = self._transport.repository_index(_TIMEOUT_S)
            statistics = self._transport.statistics(_TIMEOUT_S)
        except CallError:
            return None
        # The index leaves out models whose folder is gone; they have statistics as long as they are loaded.
        states = {(entry.name, int(entry.version)): ("READY", "") for entry in statistics}
        listed = {
            (entry.name, int(entry.version)): (entry.state, entry.reason) for entry in index if entry.version.isdigit()
        }
        return states | listed

    def fault(self, ensemble: Path, steps: Iterable[tuple[str, int]]) -> str | None:
        """Says how the outputs of loaded steps differ from an ensemble's references; None if they do not.

        Args:
            ensemble: the version folder of the ensemble.
            steps: the models that it runs, with their versions.
        """
        return fault(self._address, ensemble, dict(steps), _VERIFY_S)

    def successes(self) -> dict[str, int] | None:
        """Returns model → the requests that it has answered since it was loaded; None without a response."""
        try:
            statistics = self._transport.statistics(_TIMEOUT_S)
        except CallError:
            return None
        return {name: entry.requests for name, entry in by_model(statistics).items()}

    def served(self) -> tuple[tuple[str, ...], dict[str, InferRequest]] | None:
        """Returns the ready models, and among them the ensembles that take one encoded image or one text.

        Returns:
            The models in alphabetical order, and each ensemble with its canary request; None without a response.
        """
        try:
            models = sorted({entry.name for entry in self._transport.repository_index(_TIMEOUT_S) if entry.ready})
            canaries = {name: self._canary(name) for name in models}
        except CallError:
            return None
        return tuple(models), {name: canary for name, canary in canaries.items() if canary is not None}

    def _canary(self, name: str) -> InferRequest | None:
        config = self._transport.model_config(name, _TIMEOUT_S)
        input_name = next(iter(config.inputs), "")
        if input_name not in _CANARIES or config.inputs != {input_name: _ONE} or not config.steps:
            return None
        return InferRequest(
            model=name,
            input_name=input_name,
            images=[_CANARIES[input_name]],
            output_name=next(iter(config.outputs)),
            timeout_s=None,
            item_shape=(1,) if config.max_batch_size > 0 else (),
        )

    def ask(self, canary: InferRequest, timeout_s: float) -> tuple[CanaryResult, str]:
        """Sends the canary request.

        Returns:
            The result, and Triton's text for it.
        """
        try:
            self._transport.infer(canary, timeout_s)
        except CallError as exc:
            return read_result(exc.code.value, exc.message), exc.message
        return read_result(None, ""), ""
