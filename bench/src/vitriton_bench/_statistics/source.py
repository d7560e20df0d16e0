"""Reads the statistics and model configurations of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from vitriton._wire.connect import connect
from vitriton._wire.statistics import ModelStatistics, by_model
from vitriton._wire.transport import CallError, ModelConfig, Transport

from vitriton_bench._errors import BenchError
from vitriton_bench._statistics.split import EnsembleSteps

T = TypeVar("T")

_CALL_S = 30.0


class StatisticsSource:
    """Reads from one server, over HTTP or gRPC.

    Args:
        address: the server's address, with the scheme grpc:// or http://.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def read(self, models: Iterable[str]) -> dict[str, ModelStatistics]:
        """Reads the current counters of these models.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        wanted = list(models)
        known = by_model(self._call(lambda transport: transport.statistics(_CALL_S), ", ".join(wanted)))
        missing = [name for name in wanted if name not in known]
        if missing:
            raise BenchError(f"{self._address} has no statistics of the model {missing[0]}; was it unloaded?")
        return {name: known[name] for name in wanted}

    def steps(self, ensemble: str) -> EnsembleSteps:
        """Reads the models of an ensemble.

        Raises:
            BenchError: the server does not answer, has no such model, or the model is not an ensemble of two steps.
        """
        names = self.config(ensemble).steps
        if len(names) != 2:
            raise BenchError(
                f"{ensemble} is not an ensemble of two steps, as `vitriton export` makes them, but has {len(names)}"
            )
        instances = {name: self.config(name).instances for name in names}
        return EnsembleSteps(ensemble=ensemble, preprocess=names[0], encoder=names[1], instances=instances)

    def config(self, model: str) -> ModelConfig:
        """Reads a model's configuration, as completed by Triton.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        return self._call(lambda transport: transport.model_config(model, _CALL_S), model)

    def _call(self, method: Callable[[Transport], T], model: str) -> T:
        (transport,) = connect(self._address)
        try:
            return method(transport)
        except CallError as exc:
            raise BenchError(
                f"{self._address} does not describe the model {model}: {exc}; is a Triton running there, and does it "
                "serve that model (`vitriton models` lists them)?"
            ) from exc
        finally:
            transport.close()
