"""infinity-emb, which serves the weights over HTTP from an environment of its own."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
from vitriton_bench._errors import BenchError

from report.sides.peer import PeerServer, free_port

MODEL = "texts"  # the name in requests
_PACKAGES = ("infinity-emb", "optimum", "sentence-transformers", "transformers", "torch")
# No request leaves the machine, neither for weights nor with statistics of use.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


class Infinity(PeerServer[str]):
    """infinity-emb with its torch engine in float32, on the CPU.

    Args:
        program: the program infinity_emb.
        model: the folder of the checkpoint.
        batch: the most texts in a batch.
    """

    def __init__(self, program: Path, model: str, batch: int) -> None:
        port = free_port()
        command = [str(program), "v2", "--model-id", model, "--served-model-name", MODEL, "--batch-size", str(batch)]
        command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-model-warmup"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        super().__init__("infinity", command, port, _ENVIRONMENT)

    def embed(self, data: str) -> npt.NDArray[np.float32]:
        """Embeds a text, (D,); the vector comes as base64, which costs less than a list of numbers."""
        body = json.dumps({"model": MODEL, "input": [data], "encoding_format": "base64"}).encode()
        answer = json.loads(self.post("/embeddings", body, "application/json"))
        return np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), np.float32)


def versions(program: Path) -> dict[str, str]:
    """The versions of infinity-emb and of the libraries in its environment.

    Raises:
        BenchError: the program is not there, or is in no environment of Python.
    """
    code = f"from importlib.metadata import version\nfor name in {_PACKAGES}: print(version(name))"
    try:
        done = subprocess.run(
            [str(program.with_name("python")), "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise BenchError(f"{program} is not in an environment with infinity-emb; `make bench-texts` makes one") from exc
    return dict(zip(_PACKAGES, done.stdout.split(), strict=True))
