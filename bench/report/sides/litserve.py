"""The LitServe server of `litserve_app`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from report.sides.peer import PeerServer, free_port

_REPORTS = Path(__file__).parents[2]  # the folder of the package `report`


class LitServe(PeerServer[bytes]):
    """LitServe with a model for images.

    Args:
        model: the folder or hub id of the checkpoint.
        dtype: the dtype: "fp32", "bf16" or "fp16".
        pooling: the pooling of the embedding.
        batch: the most images in a batch.
    """

    def __init__(self, model: str, dtype: str, pooling: str, batch: int) -> None:
        port = free_port()
        command = [sys.executable, "-m", "report.sides.litserve_app", model, dtype, pooling, str(port), str(batch)]
        super().__init__("LitServe", command, port, {"PYTHONPATH": str(_REPORTS)})

    def embed(self, data: bytes) -> npt.NDArray[np.float32]:
        """Embeds an encoded image, (D,)."""
        return np.frombuffer(self.post("/predict", data, "application/octet-stream"), np.float32)
