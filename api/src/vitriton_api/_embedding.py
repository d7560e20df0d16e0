"""From the inputs of a request to their vectors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect
from starlette.types import Receive
from vitriton import InvalidInput, Result
from vitriton._errors import Unreadable

from vitriton_api._dialects.request import AnswerRow, EmbeddingRequest, Input
from vitriton_api._errors import Fault, RequestRefused, fault_of, refused_form, refused_inputs
from vitriton_api._models import EmbeddingModel

_T = TypeVar("_T")


def check(request: EmbeddingRequest, model: EmbeddingModel) -> str | None:
    """Checks what is asked of a model; returns the name of the prompt for texts, or None for the model's own.

    Raises:
        RequestRefused: the model has no such tower, dimensions or prompt.
    """
    towers = model.towers
    faults = [fault for each in request.inputs if (fault := _no_tower(each, model)) is not None]
    if faults and not request.null_rows:
        raise refused_form(faults, code="modality")
    wanted = request.dimensions
    if wanted is not None:
        has = {model.dimensions(tower) for tower in towers}
        if has != {wanted}:
            shown = " and ".join(str(number) for number in sorted(filter(None, has)))
            text = (
                f"dimensions is {wanted}, and vectors of {model.info.name} have {shown}; its export does not say that "
                "it was trained for fewer (Matryoshka), so nothing is cut off"
            )
            raise RequestRefused(text, code="dimensions", param="dimensions")
    return _prompt(request, model)


async def embed(
    request: EmbeddingRequest, model: EmbeddingModel, prompt: str | None, timeout_s: float
) -> list[AnswerRow]:
    """Embeds the inputs of a request, images and texts at the same time; one row for each input, in their order.

    Raises:
        RequestRefused: inputs cannot be used, and the request wants no null rows.
        ClientError: the server cannot embed them.
    """
    rows: list[AnswerRow] = [AnswerRow(None, _unusable(each, model)) for each in request.inputs]
    places = {
        tower: [place for place, row in enumerate(rows) if row.fault is None and request.inputs[place].tower == tower]
        for tower in ("image", "text")
    }
    # What is left of their values are bytes and URLs, and texts
    images, texts = ([cast(Any, request.inputs[place].value) for place in places[tower]] for tower in places)
    calls: list[Coroutine[Any, Any, list[Result]]] = []
    if images:
        calls.append(model.client.embed(images, timeout_s=timeout_s, on_error="return"))
    if texts:
        calls.append(model.client.embed_texts(texts, prompt=prompt, timeout_s=timeout_s, on_error="return"))
    results = [result for answer in await _together(calls) for result in answer]
    for place, result in zip(places["image"] + places["text"], results, strict=True):
        rows[place] = _row(result, request.inputs[place].where, cuts=request.cuts)
    faults = [row.fault for row in rows if row.fault is not None]
    if faults and not request.null_rows:
        raise refused_inputs(faults)
    return rows


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work.

    If the caller leaves, the work goes on to its end: what has been sent to the server stays in its queue, and a caller
    that sends and leaves must not have more there than one that waits.

    Raises:
        ClientDisconnect: the caller has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())  # after the body, the next message is that the caller has left
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            with contextlib.suppress(asyncio.CancelledError):  # a stop: nobody waits for an answer
                await asyncio.wait({working})
            raise ClientDisconnect
        return working.result()
    finally:
        await _end(working, leaving)


async def _together(calls: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of calls that run at the same time; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _end(*tasks)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unusable(given: Input, model: EmbeddingModel) -> Fault | None:
    value = given.value
    if isinstance(value, Unreadable) and given.tower in model.towers:
        return Fault(given.where, value.reason, value.code)
    return _no_tower(given, model)


def _row(result: Result, where: str, *, cuts: bool) -> AnswerRow:
    error = result.error
    if isinstance(error, InvalidInput):
        return AnswerRow(None, fault_of(where, error))
    if result.truncated and not cuts:
        text = (
            f"it has {result.whole_tokens} tokens, and the model takes {result.tokens}; shorten it, or let it be cut "
            'with "truncate": "END"'
        )
        return AnswerRow(None, Fault(where, text, "too_large"))
    return AnswerRow(result.embedding, None, result.tokens or 0, result.truncated)


def _no_tower(given: Input, model: EmbeddingModel) -> Fault | None:
    name = model.info.name
    if given.tower in model.towers:
        return None
    if given.tower == "image":
        return Fault(given.where, f"it is an image, and {name} embeds texts only", "modality")
    text = (
        f"it is a text, and {name} embeds images only; an image is a data:image/...;base64,... URI, or, with "
        '"modality": "image", such a URI or base64'
    )
    return Fault(given.where, text, "modality")


def _prompt(request: EmbeddingRequest, model: EmbeddingModel) -> str | None:
    rules = model.info.texts
    prompts = {} if rules is None else rules.prompts
    if request.prompt is not None and request.prompt not in prompts:
        known = ", ".join(prompts) or "none"
        text = f"{model.info.name} has no prompt {request.prompt[:60]!r}; its prompts: {known}"
        raise RequestRefused(text, code="prompt", param="prompt_name")
    return request.prompt or next((name for name in request.prompts if name in prompts), None)
