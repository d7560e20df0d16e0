"""A LitServe server for a transformers model, as a person with LitServe experience would write it.

Run as a program: `python -m report.sides.litserve_app MODEL DTYPE POOLING PORT BATCH`. It takes an
encoded image as the body of a request and answers with the embedding as float32, so that no time is spent on base64 or
JSON.
"""

# No `from __future__ import annotations`: LitServe passes the annotations of its methods to FastAPI, as objects.

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import litserve
import torch
from fastapi import Body, Response
from PIL import Image
from vitriton_server import usable_cores

from report.sides.reference import load, pooled

BATCH_TIMEOUT_S = 0.01  # long enough for callers that were answered together to return together
REQUEST_TIMEOUT_S = 600


class Embedder(litserve.LitAPI):  # type: ignore[misc]  # it has no types
    """Decodes the images of a batch on all cores, then computes them together.

    Args:
        model: the folder of the checkpoint.
        dtype: the dtype of the weights and the arithmetic.
        pooling: the pooling: "pooler" or "cls".
        batch: the most images in a batch.
    """

    def __init__(self, model: str, dtype: str, pooling: str, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_S)
        self._settings = (model, dtype, pooling)

    def setup(self, device: str) -> None:
        """Loads the model in the worker process."""
        model, dtype, self._pooling = self._settings
        torch.set_num_threads(usable_cores())
        self._device = device
        self._threads = ThreadPoolExecutor(usable_cores())
        self._processor, self._model = load(model, dtype, device)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Returns the bytes unchanged: LitServe decodes requests one by one here, and `batch` all together."""
        return request

    def batch(self, inputs: list[bytes]) -> torch.Tensor:
        """Decodes images to (N, 3, H, W), normalized."""
        pixels = list(self._threads.map(self._pixels, inputs))
        return torch.cat(pixels).to(self._device, self._model.dtype)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings, (N, D) float32."""
        if isinstance(x, bytes):  # without batching, LitServe calls neither batch nor unbatch
            x = self.batch([x])
        with torch.inference_mode():
            return pooled(self._model(pixel_values=x), self._pooling).float().cpu()

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        """Splits the embeddings into a row for each image."""
        return list(output)

    def encode_response(self, output: torch.Tensor) -> Response:
        """Returns the raw bytes of the embedding."""
        return Response(output.numpy().tobytes(), media_type="application/octet-stream")

    def _pixels(self, image: bytes) -> torch.Tensor:
        made: torch.Tensor = self._processor(Image.open(io.BytesIO(image)).convert("RGB"), return_tensors="pt")[
            "pixel_values"
        ]
        return made


def main(arguments: list[str]) -> None:
    """Serves until it is killed."""
    model, dtype, pooling, port, batch = arguments
    api: Any = Embedder(model, dtype, pooling, int(batch))
    server = litserve.LitServer(api, accelerator="auto", devices=1, workers_per_device=1, timeout=REQUEST_TIMEOUT_S)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
