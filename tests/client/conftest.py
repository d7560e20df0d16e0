import io
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vitriton.preprocessing
from PIL import Image

HERE = Path(__file__).parent

CONFIG = """
backend: "python"
max_batch_size: {max_batch_size}
input {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "{output}" data_type: {datatype} dims: [ {dims} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{
  default_queue_policy {{
    max_queue_size: {max_queue_size}
    allow_timeout_override: true
    default_timeout_microseconds: 30000000
  }}
}}
{parameters}
"""


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling {
  step {
    model_name: "tiny_pooled"
    model_version: -1
    input_map { key: "image" value: "image" }
    output_map { key: "embedding" value: "embedding" }
  }
}
"""


def write_model(
    repository: Path,
    name: str,
    *,
    max_batch_size: int = 8,
    datatype: str = "TYPE_FP32",
    max_queue_size: int = 100,
    fingerprint: str | None = None,
) -> None:
    """A model that takes images and returns their mean color (tiny_model.py)."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    shutil.copy(HERE / "tiny_model.py", version / "model.py")
    source = Path(vitriton.preprocessing.__file__).parent
    shutil.copytree(source, version / "vitriton_preprocessing", ignore=shutil.ignore_patterns("__pycache__"))
    unpooled = name.endswith("_unpooled")
    parameter = f'parameters {{ key: "fingerprint" value {{ string_value: "{fingerprint}" }} }}' if fingerprint else ""
    text = CONFIG.format(
        max_batch_size=max_batch_size,
        output="last_hidden_state" if unpooled else "embedding",
        datatype=datatype,
        dims="3, 4" if unpooled else "4",
        max_queue_size=max_queue_size,
        parameters=parameter,
    )
    (version.parent / "config.pbtxt").write_text(text)


@pytest.fixture(scope="session")
def server(subprocesses, tmp_path_factory):
    """A real Triton.

    It has `tiny` (both outputs), `wide` (pooled: FP16, batches of 4096) `narrow` (pooled: a queue of one), and
    `staged` (pooled: an ensemble around the tiny model).
    """
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1")
    write_model(repository, "tiny_unpooled", fingerprint="space-1")
    write_model(repository, "wide_pooled", max_batch_size=4096, datatype="TYPE_FP16")
    write_model(repository, "narrow_pooled", max_queue_size=1)
    (repository / "staged_pooled" / "1").mkdir(parents=True)
    (repository / "staged_pooled" / "config.pbtxt").write_text(ENSEMBLE)
    from vitriton_server import TritonServer  # not in the environment where the client is alone

    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="session")
def address(server) -> str:
    """Its gRPC address."""
    return server.grpc_address


@pytest.fixture(scope="session")
def http_address(server) -> str:
    """Its HTTP address."""
    return server.http_address


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Twenty random pictures of different sizes, (H, W, 3) uint8."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (20 + index, 30 + index, 3), np.uint8) for index in range(20)]


@pytest.fixture(scope="session")
def files(pictures: list[np.ndarray]) -> list[bytes]:
    """The pictures as PNG files."""
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


@contextmanager
def held_model(client: Any, folder: Path) -> Iterator[None]:
    """The model of the client answers nothing: it is held at an image, which is answered afterwards."""
    gate = folder / "gate"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.embed, [b"hold:" + os.fsencode(gate)], timeout_s=120)
        try:
            while not (gate.with_suffix(".held").exists() or call.done()):
                time.sleep(0.02)
            yield
        finally:
            gate.touch()
        assert call.result().shape == (1, 4)


def expected(pictures: list[np.ndarray]) -> np.ndarray:
    """(N, 4) float32: what the tiny model answers for `pictures`."""
    rows = [[*picture.reshape(-1, 3).mean(axis=0), picture.shape[1]] for picture in pictures]
    return np.array(rows, np.float32)


@pytest.fixture(scope="session")
def embeddings(pictures: list[np.ndarray]) -> np.ndarray:
    """(20, 4) float32: the tiny model's answers for the pictures."""
    return expected(pictures)
