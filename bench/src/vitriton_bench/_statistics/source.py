"""One server, asked for its statistics and its models' configurations."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from vitriton._wire.channel import CHANNEL_OPTIONS

from vitriton_bench._errors import BenchError
from vitriton_bench._statistics.counters import Counters, parse
from vitriton_bench._statistics.split import Steps

_CALL_S = 30.0
# Without the proxies of the environment: the server is near, and the loads do not use them either.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Source:
    """Asks one server, over HTTP or gRPC.

    Args:
        scheme: "http" or "grpc".
        target: `host:port`.
    """

    def __init__(self, scheme: str, target: str) -> None:
        self._scheme = scheme
        self._target = target

    def look(self, models: Iterable[str]) -> dict[str, Counters]:
        """The counters of these models, now.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        answers = [self._ask(f"v2/models/{name}/stats", "get_inference_statistics", name) for name in models]
        return {name: counters for answer in answers for name, counters in parse(answer).items()}

    def steps(self, ensemble: str) -> Steps:
        """What an ensemble is made of.

        Raises:
            BenchError: the server does not answer, has no such model, or it is not an ensemble of two steps.
        """
        config = self.config(ensemble)
        names = [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])]
        if len(names) != 2:
            raise BenchError(
                f"{ensemble} is not an ensemble of two steps, as `vitriton export` makes them, but has {len(names)}"
            )
        return Steps(
            ensemble=ensemble,
            preprocess=names[0],
            encoder=names[1],
            instances={name: _instances(self.config(name)) for name in names},
        )

    def config(self, model: str) -> dict[str, Any]:
        """A model's configuration, as Triton completed it.

        Raises:
            BenchError: the server does not answer, or has no such model.
        """
        answer = self._ask(f"v2/models/{model}/config", "get_model_config", model)
        found: dict[str, Any] = answer.get("config", answer)  # gRPC's is inside of a message
        return found

    def _ask(self, path: str, method: str, model: str) -> dict[str, Any]:
        try:
            if self._scheme == "http":
                with _DIRECT.open(f"http://{self._target}/{path}", timeout=_CALL_S) as response:
                    answer: dict[str, Any] = json.load(response)
                    return answer
            import tritonclient.grpc

            with tritonclient.grpc.InferenceServerClient(self._target, channel_args=list(CHANNEL_OPTIONS)) as client:
                return dict(getattr(client, method)(model, as_json=True, client_timeout=_CALL_S))
        except Exception as exc:  # urllib's, tritonclient's and gRPC's own have no base in common
            raise BenchError(
                f"{self._scheme}://{self._target} does not tell about the model {model}: {exc}; is a Triton running "
                "there, and does it serve that model (`vitriton models` lists them)?"
            ) from exc


def _instances(config: Mapping[str, Any]) -> int:
    return sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
