"""What the launcher asks a running Triton, over gRPC."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc as triton
from vitriton import _names as names
from vitriton._wire.channel import CHANNEL_OPTIONS

from vitriton_server._watch.canary import IMAGE, Answer, read_answer

_QUESTION_S = 5.0
_BATCHED, _SINGLE = (1, 1), (1,)  # the shape of one image, with and without a batch axis
# Where any is given, tritonclient drops its own. The server is about to come up: it is tried sooner than by a client.
_CHANNEL = {**dict(CHANNEL_OPTIONS), "grpc.max_reconnect_backoff_ms": 500}


class Probe:
    """A connection to one Triton.

    Args:
        address: of its gRPC.
    """

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, channel_args=list(_CHANNEL.items()))

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def is_ready(self) -> bool:
        """Whether Triton answers and every model is ready."""
        try:
            return bool(self._client.is_server_ready(client_timeout=_QUESTION_S))
        except triton.InferenceServerException:
            return False

    def version(self) -> str:
        """Triton's version."""
        return str(self._client.get_server_metadata(client_timeout=_QUESTION_S).version)

    def versions(self) -> dict[tuple[str, int], tuple[str, str]] | None:
        """(model, version) → state and reason, of every version that Triton has had; None when it does not say."""
        try:
            index = self._client.get_model_repository_index(client_timeout=_QUESTION_S).models
            statistics = self._client.get_inference_statistics(client_timeout=_QUESTION_S).model_stats
        except triton.InferenceServerException:
            return None
        # The index leaves out models whose folder has gone; as long as they are loaded they have statistics.
        states = {(entry.name, int(entry.version)): ("READY", "") for entry in statistics}
        listed = {
            (entry.name, int(entry.version)): (entry.state, entry.reason) for entry in index if entry.version.isdigit()
        }
        return states | listed

    def successes(self) -> dict[str, int] | None:
        """Model → requests that it has answered since it was loaded; None when Triton does not say."""
        try:
            statistics = self._client.get_inference_statistics(client_timeout=_QUESTION_S)
        except triton.InferenceServerException:
            return None
        counts: dict[str, int] = {}
        for entry in statistics.model_stats:
            counts[entry.name] = counts.get(entry.name, 0) + entry.inference_stats.success.count
        return counts

    def served(self) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]] | None:
        """What is ready, and of that the ensembles that take one encoded image.

        Returns:
            The models in alphabetical order, and the ensembles with the shape of a request for one image; None when
            Triton does not say.
        """
        try:
            index = self._client.get_model_repository_index(client_timeout=_QUESTION_S)
            models = tuple(sorted({entry.name for entry in index.models if entry.state == "READY"}))
            shapes = {name: self._image_shape(name) for name in models}
        except triton.InferenceServerException:
            return None
        return models, {name: shape for name, shape in shapes.items() if shape is not None}

    def _image_shape(self, name: str) -> tuple[int, ...] | None:
        config: Any = self._client.get_model_config(name, client_timeout=_QUESTION_S).config
        is_image = (
            len(config.input) == 1
            and config.input[0].name == names.IMAGE
            and config.input[0].data_type == triton.model_config_pb2.TYPE_STRING
            and list(config.input[0].dims) == [1]
        )
        if not is_image or not config.HasField("ensemble_scheduling"):
            return None
        return _BATCHED if config.max_batch_size > 0 else _SINGLE

    def ask(self, model: str, shape: tuple[int, ...], timeout_s: float) -> tuple[Answer, str]:
        """Sends the canary image.

        Returns:
            What the answer says, and Triton's text for it.
        """
        image = triton.InferInput(names.IMAGE, list(shape), "BYTES")
        image.set_data_from_numpy(np.array([IMAGE], dtype=np.object_).reshape(shape))
        try:
            self._client.infer(model, [image], client_timeout=timeout_s)
        except triton.InferenceServerException as exc:
            status = str(exc.status() or "").removeprefix("StatusCode.")
            return read_answer(status, str(exc.message())), str(exc.message())
        return read_answer(None, ""), ""
