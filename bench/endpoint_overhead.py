"""What the endpoint costs: `vitriton api` against the native client, with the same images.

    python bench/endpoint_overhead.py [--repository models --model NAME] [--rounds 20] [--seconds 1]

A real Triton serves a model that computes nothing, and with `--repository` an export. The native side is `AsyncClient`
in a process of its own; the other side is the process of `vitriton api`, which gets the same photos as `data:` URIs,
and answers in base64, as the client `openai` asks for it. Its callers are plain sockets, so that they take little of
the cores. The two take turns, and each goes first in every other round. For each number of callers, the program prints
the medians of requests/s, the median ratio with its 95 % confidence interval, and the CPU time for an image: of the
native client's process, and of the endpoint's process alone, which is in addition to its callers' own.

At the end it prints the shares of the endpoint's CPU time that base64 and JSON take: the same functions, timed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from client_overhead import in_turns, server, tasks
from report.median import confidence
from vitriton import AsyncClient
from vitriton_api._app import _parsed
from vitriton_api._dialects import openai
from vitriton_api._dialects.request import AnswerRow, Rules
from vitriton_server import TritonServer

CALLERS = (1, 8, 32)
PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))
_TICKS = os.sysconf("SC_CLK_TCK")


class Rate(NamedTuple):
    """What one side did in one turn."""

    per_s: float
    cpu_s: float  # of one image


def native(commands: Connection, address: str, model: str) -> None:
    """The native side, in a process of its own: for each number of callers and seconds it sends a Rate."""
    images = [path.read_bytes() for path in PHOTOS]

    async def run() -> None:
        async with AsyncClient(address, model=model) as client:
            number = 0

            async def call() -> None:
                nonlocal number
                number += 1
                await client.embed([images[number % len(images)]])

            while (asked := await asyncio.to_thread(commands.recv)) is not None:
                start_s = time.process_time()
                per_s = await tasks(call, *asked)
                commands.send(Rate(per_s, (time.process_time() - start_s) / (per_s * asked[1])))

    asyncio.run(run())


@contextmanager
def native_side(address: str, model: str) -> Iterator[Callable[[int, float], Rate]]:
    """A function that measures the native client."""
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=native, args=(there, address, model))
    process.start()

    def measure(callers: int, seconds: float) -> Rate:
        here.send((callers, seconds))
        answer: Rate = here.recv()
        return answer

    try:
        yield measure
    finally:
        here.send(None)
        process.join()


@contextmanager
def endpoint_side(address: str, model: str) -> Iterator[Callable[[int, float], Rate]]:
    """A function that measures the endpoint."""
    command = [
        str(Path(sys.executable).with_name("vitriton")),
        "api",
        "--url",
        address,
        "--model",
        model,
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()[1].removeprefix("http://").removesuffix("/v1").split(":")
        requests = [_request(path.read_bytes(), model) for path in PHOTOS]

        def measure(callers: int, seconds: float) -> Rate:
            start_s = _cpu_s(process.pid)
            per_s = asyncio.run(_ask(host, int(port), requests, callers, seconds))
            return Rate(per_s, (_cpu_s(process.pid) - start_s) / (per_s * seconds))

        yield measure
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def body(image: bytes, model: str) -> bytes:
    """The body of a request for one image."""
    uri = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    return json.dumps({"model": model, "input": [uri], "encoding_format": "base64"}).encode()


def _request(image: bytes, model: str) -> bytes:
    content = body(image, model)
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def _ask(host: str, port: int, requests: list[bytes], callers: int, seconds: float) -> float:
    """The requests a second of several callers, each on a connection of its own."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(callers):
        free.put_nowait(await asyncio.open_connection(host, port))
    number = 0

    async def call() -> None:
        nonlocal number
        number += 1
        reader, writer = connection = await free.get()
        while not await _answered(reader, writer, requests[number % len(requests)]):
            await asyncio.sleep(0.2)  # the models are not ready yet
        free.put_nowait(connection)

    await call()
    per_s = await tasks(call, callers, seconds)
    while not free.empty():
        free.get_nowait()[1].close()
    return per_s


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
    return b" 200 " in head.split(b"\r\n")[0]


def _cpu_s(pid: int) -> float:
    """The CPU time of a process so far, with that of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def compare(address: str, model: str, options: argparse.Namespace) -> float:
    """Prints a line for each number of callers; returns the endpoint's CPU time for an image with most callers."""
    ours_s = 0.0
    with native_side(address, model) as by_client, endpoint_side(address, model) as by_endpoint:
        for callers in options.callers:
            found: dict[Any, list[Rate]] = {by_client: [], by_endpoint: []}
            for turn in range(options.rounds + 1):
                for side in in_turns(turn, by_client, by_endpoint):
                    found[side].append(side(callers, options.seconds))
            first, second = found[by_client][1:], found[by_endpoint][1:]
            ratios = [ours.per_s / theirs.per_s for theirs, ours in zip(first, second, strict=True)]
            low, high = confidence(ratios)
            ours_s = statistics.median(rate.cpu_s for rate in second)
            theirs_s = statistics.median(rate.cpu_s for rate in first)
            rates = [statistics.median(rate.per_s for rate in each) for each in (first, second)]
            print(
                f"{model}, {callers:2} callers: native {rates[0]:.1f} requests/s, endpoint {rates[1]:.1f}: "
                f"{statistics.median(ratios):.2f} x ({low:.2f} to {high:.2f}); "
                f"CPU ms/image: {1000 * theirs_s:.2f} and {1000 * ours_s:.2f}",
                flush=True,
            )
    return ours_s


def shares(model: str, dimensions: int, cpu_s: float, times: int) -> None:
    """Prints what base64 and JSON take of an image's CPU time in the endpoint."""
    bodies = [body(path.read_bytes(), model) for path in PHOTOS]
    rules = Rules(max_inputs=2048, fetches_urls=False)
    asked = [_parsed(openai, bytearray(one), rules) for one in bodies]
    rows = [AnswerRow(np.zeros(dimensions, np.float32), None)]
    parts = {
        "JSON of the request": _mean_s(lambda: [orjson.loads(one) for one in bodies], times),
        "all of its reading": _mean_s(lambda: [_parsed(openai, bytearray(one), rules) for one in bodies], times),
        "the answer": _mean_s(lambda: [orjson.dumps(openai.answer(one, rows)) for one in asked], times),
    }
    parts["base64 and the dialect"] = parts.pop("all of its reading") - parts["JSON of the request"]
    for name, seconds in parts.items():
        print(f"{name}: {1000 * seconds:.3f} ms/image, {100 * seconds / cpu_s:.0f} % of the endpoint's CPU time")


def _mean_s(work: Callable[[], object], times: int) -> float:
    """The CPU time of one photo, in seconds."""
    start_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start_s) / times / len(PHOTOS)


def main(arguments: list[str] | None = None) -> None:
    """Measures the model that computes nothing, and an export if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--callers", type=lambda text: tuple(map(int, text.split(","))), default=CALLERS)
    parser.add_argument("--repository", type=Path, help="a repository with an export for images")
    parser.add_argument("--model", help="the name of the export")
    options = parser.parse_args(arguments)
    if (options.repository is None) != (options.model is None):
        parser.error("--repository and --model go together")
    with server() as running:
        cpu_s = compare(running.grpc_address, "noop", options)
    shares("noop", 768, cpu_s, max(1, options.rounds))
    if options.repository is not None:
        with TritonServer(options.repository) as running:
            compare(running.grpc_address, options.model, options)


if __name__ == "__main__":
    main()
