"""The nearest rows of a photo, a text, or a row of the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vitriton_search.answers.documents import hit_document
from vitriton_search.answers.errors import AnswerError
from vitriton_search.sources import is_url
from vitriton_search.stores.store import Floats, Hit, Store
from vitriton_search.stores.where import Where

if TYPE_CHECKING:
    from vitriton import Client, ImageLike, ModelInfo

JOIN_S = 5.0  # frames of a video that are no farther apart are one answer

_ROW = "id:"
_TWO_TOWERS = "CLIP, SigLIP, SigLIP 2, Chinese-CLIP, AltCLIP and MetaCLIP 2"
_FRAMES = 4  # rows asked for at first, for each answer of a store that has frames of videos
_MOST_ROWS = 20_000  # rows looked at for one question


@dataclass(frozen=True)
class Question:
    """What is asked for.

    Attributes:
        kind: a photo to embed, a text to embed, or a row of the store.
        value: the path or the URL of the photo, the text, or the id of the row.
    """

    kind: Literal["photo", "text", "row"]
    value: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """One answer: a row, or the frames of a video that are near in time.

    Attributes:
        hit: the row; of several frames the best.
        start_s: the time of the first frame in its video, in seconds; None for a row that is no frame.
        end_s: the time of the last frame.
        frames: the number of frames that were found; 0 for a row that is no frame.
    """

    hit: Hit
    start_s: float | None = None
    end_s: float | None = None
    frames: int = 0

    def document(self) -> dict[str, Any]:
        """The answer as JSON takes it: `hit_document`, and the span of a video."""
        span = {"start_s": self.start_s, "end_s": self.end_s, "frames": self.frames} if self.frames else None
        return {**hit_document(self.hit), "span": span}


def read_question(given: str) -> Question:
    """Decides what a text on a command line means.

    `id:…` is a row of the store, an http(s) or data: URL and a path that exists are photos, all else is a text.
    """
    if given.startswith(_ROW):
        return Question("row", given.removeprefix(_ROW))
    if is_url(given) or os.path.lexists(given):
        return Question("photo", given)
    return Question("text", given)


def ask(question: Question, store: Store, client: Client | None) -> Floats:
    """Returns the vector of a question, (D,) float32.

    Args:
        question: the question.
        store: the store that is asked.
        client: the client that embeds with the store's model; None will do for a row.

    Raises:
        AnswerError: there is no such row, or the model does not embed photos or texts.
        ClientError: the photo or the text cannot be embedded.
    """
    if question.kind == "row":
        return row_vector(store, question.value)
    if client is None:
        raise AnswerError(f"a {question.kind} needs a server that embeds it")
    return photo_vector(client, question.value) if question.kind == "photo" else text_vector(client, question.value)


def row_vector(store: Store, id: str) -> Floats:
    """Returns the vector of a row, (D,) float32.

    Raises:
        AnswerError: there is no such row, or it has an error instead of a vector.
    """
    for row in store.rows([id]).to_pylist():
        if row["embedding"] is None:
            raise AnswerError(f"the row {id} has no vector: {row['error']}")
        return np.asarray(row["embedding"], np.float32)
    raise AnswerError(
        f"the store has no row with the id {id}; an id is the source, as `vitriton search query` shows it"
    )


def photo_vector(client: Client, photo: ImageLike) -> Floats:
    """Embeds a photo, (D,) float32.

    Raises:
        AnswerError: the model embeds no photos.
        ClientError: as from `Client.embed`.
    """
    model = client.describe()
    if model.pooled is None:
        raise AnswerError(f"the model {model.name} embeds no photos; ask with a text, or with `id:` and a row's id")
    vector: Floats = client.embed([photo])[0]
    return vector


def text_vector(client: Client, text: str) -> Floats:
    """Embeds a text, (D,) float32, with the model's prompt for queries, if it has one.

    Raises:
        AnswerError: the model embeds no texts.
        ClientError: as from `Client.embed_texts`.
    """
    model = client.describe()
    if model.text_pooled is None:
        raise AnswerError(
            f"the model {model.name} embeds no texts. Photos can be found by a text if they were indexed with a model "
            f"that has a text tower, too: {_TWO_TOWERS}"
        )
    vector: Floats = client.embed_texts([text], prompt=_prompt(model))[0]
    return vector


def nearest(
    store: Store,
    vector: Floats,
    k: int,
    where: Where | None = None,
    *,
    exact: bool = False,
    without: str | None = None,
    join_s: float = JOIN_S,
) -> list[Match]:
    """Finds the nearest rows of a vector, the best first; frames of one video that are near in time are one answer.

    Args:
        store: the store.
        vector: the query, (D,).
        k: the most answers.
        where: the condition that the rows meet; None for all rows.
        exact: whether to compare with every row instead of asking the approximate index.
        without: the id of a row that is no answer: the one that was asked for.
        join_s: the longest time between two frames of one answer, in seconds.
    """
    asked = k + (without is not None)
    while True:
        found = store.search(vector[None], asked, where, exact=exact)[0]
        hits = [hit for hit in found if hit.id != without]
        answers, is_full = join_frames(hits, k, join_s)
        is_whole = is_full or (len(answers) == k and not any(answer.frames for answer in answers))
        if is_whole or len(found) < asked or asked >= _MOST_ROWS:
            return answers
        asked = min(_FRAMES * asked, _MOST_ROWS)


def join_frames(hits: Sequence[Hit], k: int, join_s: float = JOIN_S) -> tuple[list[Match], bool]:
    """Joins frames of one video that are near in time.

    Hits are taken in their order until one would be the answer after the k-th, so that the number of hits that were
    asked for has no effect on the answers.

    Args:
        hits: the hits, the best first.
        k: the most answers.
        join_s: the longest time between two frames of one answer, in seconds.

    Returns:
        The answers, the best first, and whether the hits sufficed to tell them.
    """
    spans: list[_Span] = []
    by_source: dict[str, list[_Span]] = {}
    for hit in hits:
        time_s = hit.row["time_s"]
        of_video = [] if time_s is None else by_source.setdefault(hit.row["source"], [])
        near = [] if time_s is None else [span for span in of_video if span.is_near(time_s, join_s)]
        if near:
            first, *others = near  # in the order of their best frames
            first.add(time_s, others)
            for other in others:
                of_video.remove(other)
                spans.remove(other)
        elif len(spans) == k:
            return [span.match() for span in spans], True
        else:
            spans.append(_Span(hit, time_s))
            of_video.append(spans[-1])
    return [span.match() for span in spans], False


class _Span:
    """An answer that grows.

    Args:
        hit: the best hit.
        time_s: the time of a frame; None for another row.
    """

    def __init__(self, hit: Hit, time_s: float | None) -> None:
        self._hit = hit
        self._times: list[float] = [] if time_s is None else [time_s]

    def is_near(self, time_s: float, join_s: float) -> bool:
        return min(self._times) - join_s <= time_s <= max(self._times) + join_s

    def add(self, time_s: float, others: Sequence[_Span]) -> None:
        self._times += [time_s, *(time for other in others for time in other._times)]

    def match(self) -> Match:
        if not self._times:
            return Match(hit=self._hit)
        return Match(hit=self._hit, start_s=min(self._times), end_s=max(self._times), frames=len(self._times))


def _prompt(model: ModelInfo) -> str | None:
    rules = model.texts
    return "query" if rules is not None and "query" in rules.prompts else None
