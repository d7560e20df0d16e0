"""Every public name, used as a user would. Nothing here runs: mypy and pyright read it (`make check`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import vitriton
import vitriton_api
import vitriton_bench
import vitriton_export
import vitriton_search
import vitriton_server
from numpy.typing import NDArray
from PIL.Image import Image
from vitriton import (
    TLS,
    AccessDenied,
    AsyncClient,
    Client,
    ClientClosed,
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    DType,
    ImageLike,
    InferenceFailed,
    InputCode,
    InputProblem,
    InvalidImage,
    InvalidInput,
    InvalidText,
    InvalidVideo,
    ModelInfo,
    ModelNotFound,
    ModelNotReady,
    ModelOutput,
    OnError,
    Options,
    PillowVersionWarning,
    PipelineMismatch,
    Preprocess,
    Result,
    ServerBusy,
    ServerError,
    Stats,
    TextRules,
    Token,
    Transport,
    TransportError,
    Unavailable,
    VitritonError,
    WaitFor,
    embed,
    list_models,
    pipeline,
)
from vitriton.testing import (
    CallError,
    Code,
    FakePending,
    FakeTransport,
    InferReply,
    InferRequest,
    busy,
    invalid_images,
    invalid_texts,
    model_died,
    unavailable,
)
from vitriton.video import Frame, VideoLike, frames
from vitriton_export import (
    DEFAULT_MODEL,
    ExportError,
    ExportOptions,
    ExportResult,
    HubError,
    ParityError,
    TowerReport,
    TowerResult,
    VerifyOptions,
    VerifyReport,
    export_model,
    verify_model,
)
from vitriton_server import (
    AddressError,
    InstallationError,
    InvalidConfiguration,
    LauncherError,
    ModelLoadError,
    NotReadyInTime,
    RepositoryError,
    ServerDied,
    ServerStopped,
    TritonServer,
    WatchPolicy,
    usable_cores,
)

versions: list[str] = [
    vitriton.__version__,
    vitriton_export.__version__,
    vitriton_server.__version__,
    vitriton_bench.__version__,
    vitriton_api.__version__,
    vitriton_search.__version__,
]
mistakes_of_the_caller: tuple[type[ClientError], ...] = (
    InvalidInput,
    InvalidText,
    ContractMismatch,
    PipelineMismatch,
    ClientClosed,
)
worth_another_try: tuple[type[ClientError], ...] = (TransportError, Unavailable, DeadlineExceeded, ServerBusy)
of_the_server: tuple[type[ServerError], ...] = (
    ServerBusy,
    ModelNotFound,
    ModelNotReady,
    AccessDenied,
    InferenceFailed,
)
warning: type[UserWarning] = PillowVersionWarning
of_a_video: type[VitritonError] = InvalidVideo


def in_a_film(video: VideoLike) -> list[tuple[float, int, NDArray[np.uint8], bool]]:
    """The frames of a video."""
    found: Iterator[Frame] = frames(video, every_s=2.0, options=Options())
    return [(each.time_s, each.number, each.image, each.is_interlaced) for each in (*found, *frames(video, scene=True))]


def images(file: BinaryIO, picture: Image, array: NDArray[np.uint8]) -> list[ImageLike]:
    """Whatever an image may be."""
    return [
        "cat.jpg",
        Path("cat.jpg"),
        "https://example.com/cat.jpg",
        b"...",
        file,
        picture,
        array,
        {"path": "cat.jpg"},
    ]


def token() -> str:
    """A token that is read each time."""
    return "secret"


def blocking(
    dtype: DType, on_error: OnError, preprocess: Preprocess, some_token: Token, transport: Transport
) -> Iterator[Result]:
    """The client that waits in its thread."""
    with Client(
        ["a:8001", "b:8001"],
        model="vit",
        timeout_s=None,
        options=Options(max_in_flight=2),
        tls=TLS(ca_file="ca.pem"),
        token=some_token,
        headers={"x-team": "search"},
        preprocess=preprocess,
        expect_fingerprint=None,
        tracing=False,
        transport=transport,
    ) as client:
        wait_for: WaitFor = "any"
        client.wait_ready(servers=wait_for, timeout_s=10)
        fingerprint: str | None = client.describe(timeout_s=5.0).fingerprint
        scale: float | None = client.describe().logit_scale
        print(fingerprint, scale)
        one: NDArray[np.floating[Any]] = client.embed("cat.jpg")
        many: NDArray[np.floating[Any]] = client.embed(["cat.jpg", b"..."], pool=False, timeout_s=5.0, dtype=dtype)
        results: list[Result] = client.embed([one, many], on_error="return")
        yield from results
        yield from client.stream(iter(["cat.jpg"]), ordered=False, on_error=on_error)
        vectors: NDArray[np.floating[Any]] = client.embed_texts(["a cat", "a dog"], prompt="query")
        tokens: list[NDArray[np.floating[Any]]] = client.embed_texts("a cat", pool=False, dtype=dtype)
        cut: list[bool] = [result.truncated for result in client.embed_texts([], pool=False, on_error="return")]
        print(vectors, tokens, cut)
        yield from client.stream_texts(iter(["a cat"]), prompt=None, on_error=on_error)
        stats: Stats = client.stats()
        print(stats)


async def asynchronous() -> None:
    """The client for asyncio."""

    async def paths() -> AsyncIterator[str]:
        yield "cat.jpg"

    async with AsyncClient("a:8001", model="vit", token=token) as client:
        await client.wait_ready(servers="any")
        model: ModelInfo = await client.describe(timeout_s=None)
        vectors: NDArray[np.floating[Any]] = await client.embed(paths())
        results: list[Result] = await client.embed("cat.jpg", on_error="return")
        async for result in client.stream(paths()):
            problem: InvalidInput | None = result.error
            print(model, vectors, results, problem)
        texts: NDArray[np.floating[Any]] = await client.embed_texts(paths())
        tokens: list[NDArray[np.floating[Any]]] = await client.embed_texts(paths(), pool=False)
        async for result in client.stream_texts(paths(), pool=False):
            print(texts, tokens, result.truncated, result.tokens)
    models: list[ModelInfo] = await asyncio.to_thread(list_models, "a:8001")
    print(models)


def in_one_line() -> NDArray[np.floating[Any]]:
    """Without a client."""
    return embed(["cat.jpg"], url="a:8001", model="vit", timeout_s=None)


def what_is_served() -> tuple[int, ...]:
    """Models and their outputs."""
    for model in list_models("https://a:8000", models=["vit"], timeout_s=None, tls=TLS(), token=token, headers={}):
        output: ModelOutput | None = model.pooled
        if output is not None and output.shape is not None and model.limits is not None:
            print(model.fingerprint, output.kind, output.dtype, model.limits.max_pixels, model.addresses)
            return output.shape
        rules: TextRules | None = model.texts
        if rules is not None and "text" in model.towers:
            print(rules.max_length, rules.prompts, rules.default_prompt, model.text_pooled, model.text_unpooled)
    return ()


def errors(client: Client) -> list[InputProblem]:
    """What a caller does about an error."""
    try:
        client.embed("cat.jpg")
    except InvalidImage as exc:
        code: InputCode = exc.code
        return [problem for problem in exc.errors if problem.code == code]
    except ModelNotFound as exc:
        print(exc.available)
    except ClientError as exc:
        print(exc.address, exc.model, exc.status, exc.attempts)
    except VitritonError as exc:
        print(exc)
    return []


def transformers() -> None:
    """The pipeline."""
    extractor = pipeline("image-feature-extraction", model="vit", url="a:8001")
    print(extractor("cat.jpg"))
    print(extractor("cat.jpg", image_processor_kwargs={}))
    texts = pipeline("feature-extraction", "words", url="a:8001", truncation=True, batch_size=8)
    print(texts("a cat", tokenize_kwargs={"max_length": 256}))
    print(pipeline(model="words", url="a:8001")(["a cat"], pool=True))


def a_test_of_an_application() -> FakePending:
    """The transport that is not there."""

    class Odd(FakeTransport):
        def respond(self, request: InferRequest) -> InferReply:
            raise CallError(Code.INTERNAL, f"{request.model} is odd")

    faults: list[CallError | None] = [busy(), None, unavailable(), model_died(), invalid_images({0: "no image"}, 1)]
    faults.append(invalid_texts({0: "no text"}, 1))
    transport: Transport = Odd(faults=faults)
    Client("fake", model="any", transport=transport)
    return Odd(answers_at_once=False).sent[0]


def export_and_serve() -> None:
    """The other distributions."""
    try:
        result: ExportResult = export_model(ExportOptions(model=DEFAULT_MODEL, repository="models", precision="int8"))
        report: VerifyReport = verify_model(VerifyOptions(repository=result.repository))
        pairs: list[tuple[TowerResult, TowerReport]] = list(zip(result.towers, report.towers, strict=True))
        print(pairs)
    except (HubError, ParityError, ExportError) as exc:
        raise SystemExit(str(exc)) from exc
    try:
        with TritonServer("models", watch=WatchPolicy(restart=True), watch_repository=True) as server:
            print(server.grpc_address, server.http_address, server.models, server.version, usable_cores(), report)
            server.wait(timeout_s=60.0)
    except (AddressError, InstallationError, InvalidConfiguration, RepositoryError) as exc:
        raise SystemExit(str(exc)) from exc
    except (ModelLoadError, NotReadyInTime, ServerDied, ServerStopped, LauncherError):
        raise
