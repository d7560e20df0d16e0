"""Reads the statistics and model configurations of a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from vitriton._repository.names import INPUT_IDS, TEXT, TOKEN_COUNTS, first_step_name
from vitriton._wire.connect import connect
from vitriton._wire.statistics import ModelStatistics, by_model
from vitriton._wire.transport import CallError, InferRequest, ModelConfig, Transport

from vitriton_bench._errors import BenchError
from vitriton_bench._statistics.split import EnsembleSteps

T = TypeVar("T")

_CALL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """The tokens of texts, as a server's tokenize step makes them.

    Attributes:
        counts: the number of tokens that the encoder gets of each text.
        padded: the number of tokens that it computes for all of them, with the padding of each request.
    """

    counts: tuple[int, ...]
    padded: int

    @property
    def padding(self) -> float:
        """The tokens that are computed for each token of the texts; 1 without padding."""
        return self.padded / sum(self.counts)


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

    def models(self) -> list[str]:
        """The names of the models that the server lists; none if it does not answer, or lists none to this client."""
        (transport,) = connect(self._address)
        try:
            return [status.name for status in transport.repository_index(_CALL_S)]
        except CallError:
            return []
        finally:
            transport.close()

    def tokens(self, name: str, texts: Sequence[str], batch: int) -> TokenCounts:
        """Counts tokens as the tokenize step of an export makes them, in requests of so many texts.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        model = first_step_name(name, "text_pooled")
        requests = [
            InferRequest(
                model=model,
                input_name=TEXT,
                images=[text.encode() for text in texts[start : start + batch]],
                output_name=INPUT_IDS,
                beside=(TOKEN_COUNTS,),
                timeout_s=None,
            )
            for start in range(0, len(texts), batch)
        ]
        replies = self._call(lambda transport: [transport.infer(request, _CALL_S) for request in requests], model)
        counts = [np.frombuffer(reply.beside[0].data, "<i4").reshape(-1, 2)[:, 0].tolist() for reply in replies]
        return TokenCounts(
            counts=tuple(count for part in counts for count in part),
            padded=sum(math.prod(reply.shape) for reply in replies),
        )

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
