"""An endpoint for tests: as the command runs it, or in this process on a fake transport."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from support.http_call import JSON, HttpAnswer, send
from vitriton import AsyncClient, Client, ModelInfo, Options
from vitriton.testing import FakeTransport
from vitriton_api._models import Look, Upstream


class Answer(HttpAnswer):
    """What an endpoint answered."""

    @property
    def error(self) -> Any:
        """The error in OpenAI's form, whose fields are all there."""
        error = self.document["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert self.headers.get("content-type") == "application/json"
        return error


@dataclass
class Running:
    """A process of `vitriton api`."""

    url: str
    process: subprocess.Popen[str]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def call(self, path: str, document: Any = None, **headers: str) -> Answer:
        """GET without a document, else POST; bytes are sent as they are."""
        return Answer(*send(self.url.removeprefix("http://"), path, document, JSON | headers))

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = self.call("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@contextmanager
def running(address: str, *options: object, waits: bool = True, log: IO[str] | None = None) -> Iterator[Running]:
    """Runs `vitriton api` on a free port, until its models are ready; `log` takes its messages."""
    program = [Path(sys.executable).with_name("vitriton"), "api", "--url", address, "--port", "0", *map(str, options)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("endpoint  http://"), line
        endpoint = Running(line.split()[1].removesuffix("/v1"), process)
        while waits and endpoint.call("/health/ready").status != 200:
            assert process.poll() is None
            time.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def uri(data: bytes, kind: str = "image/png") -> str:
    """A `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(seed: int = 0, width: int = 30) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class FakeUpstream(Upstream):
    """Models of any name, on a fake transport."""

    transport: FakeTransport
    address: str = ""
    names: tuple[str, ...] = ("fake",)
    connection: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=lambda: Options(refuse_paths=True, initial_backoff_s=0.001))
    timeout_s: float = 60.0

    def look(self) -> Look:
        described = (Client("", model=name, transport=self.transport).describe() for name in self.names)
        return Look({model.name: model for model in described})

    def client(self, model: ModelInfo) -> AsyncClient:
        return AsyncClient(
            "",
            model=model.name,
            transport=self.transport,
            options=self.options,
            expect_fingerprint=model.fingerprint,
        )
