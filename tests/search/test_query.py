"""The nearest rows: against numpy, and frames of videos as spans."""

from datetime import datetime, timezone

import numpy as np
import pytest
from search.store_contract import SPACE, cosines, rows, vectors
from vitriton_search.answers import query
from vitriton_search.answers.errors import AnswerError
from vitriton_search.answers.query import Question, join_frames, nearest, read_question, row_vector
from vitriton_search.stores import open_store
from vitriton_search.stores.store import COLUMNS, Hit
from vitriton_search.stores.where import parse


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "photos.lance"), SPACE) as store:
        yield store


def frame(score, time_s, source="a.mp4"):
    id = f"{source}#t={time_s}"
    return Hit(id=id, score=score, row={"id": id, "source": source, "time_s": time_s})


def photo(score, id="a.jpg"):
    return Hit(id=id, score=score, row={"id": id, "source": id, "time_s": None})


def spans(answers):
    return [(answer.hit.score, answer.start_s, answer.end_s, answer.frames) for answer in answers]


@pytest.mark.parametrize("exact", [True, False])
def test_answers_are_numpys(store, exact):
    matrix, questions = vectors(300), vectors(5, seed=1)
    store.write(rows([f"{n}.jpg" for n in range(300)], matrix, width=list(range(300))))
    for number, scores in enumerate(cosines(questions, matrix)):
        answers = nearest(store, questions[number], 10, exact=exact)
        best = np.argsort(-scores)[:10]
        assert [answer.hit.id for answer in answers] == [f"{n}.jpg" for n in best]
        np.testing.assert_allclose([answer.hit.score for answer in answers], scores[best], atol=1e-5)
        some = nearest(store, questions[number], 3, parse("width >= 200", COLUMNS), exact=exact)
        assert [answer.hit.id for answer in some] == [f"{n}.jpg" for n in np.argsort(-scores) if n >= 200][:3]


def test_a_row_is_no_answer_to_itself(store):
    """Nor is one answer lost by that, also where the condition leaves the row out."""
    matrix = vectors(50)
    store.write(rows([f"{n}.jpg" for n in range(50)], matrix, width=list(range(50))))
    order = np.argsort(-cosines(matrix[7:8], matrix)[0])
    vector = row_vector(store, "7.jpg")
    np.testing.assert_array_equal(vector, matrix[7])
    answers = nearest(store, vector, 4, without="7.jpg")
    assert [answer.hit.id for answer in answers] == [f"{n}.jpg" for n in order if n != 7][:4]
    others = nearest(store, vector, 4, parse("width != 7", COLUMNS), without="7.jpg")
    assert [answer.hit.id for answer in others] == [answer.hit.id for answer in answers]
    assert len(nearest(store, vector, 100, without="7.jpg")) == 49


def test_a_row_that_cannot_be_asked_for(store):
    store.write(rows(["bad.jpg"], [None], error="truncated"))
    for id, text in (
        ("other.jpg", "no row with the id other.jpg"),
        ("bad.jpg", "bad.jpg has no vector: truncated"),
    ):
        with pytest.raises(AnswerError, match=text):
            row_vector(store, id)


def test_an_empty_store_has_no_answers(store):
    assert nearest(store, vectors(1)[0], 5) == []


@pytest.mark.parametrize(
    ("given", "question"),
    [
        ("id:/photos/a.jpg", Question("row", "/photos/a.jpg")),
        ("id:id:a", Question("row", "id:a")),
        ("https://example.com/a.jpg", Question("photo", "https://example.com/a.jpg")),
        ("data:image/png;base64,AAAA", Question("photo", "data:image/png;base64,AAAA")),
        ("there.jpg", Question("photo", "there.jpg")),
        ("broken link", Question("photo", "broken link")),
        ("missing.jpg", Question("text", "missing.jpg")),
        ("a cat on a sofa", Question("text", "a cat on a sofa")),
        ("ID:a", Question("text", "ID:a")),
        ("x" * 5000, Question("text", "x" * 5000)),
        ("a\0b", Question("text", "a\0b")),
    ],
)
def test_what_a_question_is_taken_for(tmp_path, monkeypatch, given, question):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jpg").write_bytes(b"")
    (tmp_path / "broken link").symlink_to("nowhere")
    assert read_question(given) == question


def test_frames_that_are_near_are_one_answer():
    """Whatever their order; frames that are far, of another video, or photos are others."""
    hits = [frame(0.9, 10), frame(0.8, 30), photo(0.7), frame(0.6, 14), frame(0.5, 6), frame(0.4, 10, "b.mp4")]
    answers, is_full = join_frames(hits, 10, 5)
    assert spans(answers) == [(0.9, 6, 14, 3), (0.8, 30, 30, 1), (0.7, None, None, 0), (0.4, 10, 10, 1)]
    assert not is_full


def test_a_frame_joins_two_spans():
    hits = [frame(0.9, 10), frame(0.8, 18), photo(0.7), frame(0.6, 14)]
    assert spans(join_frames(hits, 10, 5)[0]) == [(0.9, 10, 18, 3), (0.7, None, None, 0)]


def test_spans_end_with_the_ranking():
    """A frame that comes after the last answer is not in a span, however near it is."""
    hits = [frame(0.9, 10), photo(0.8), photo(0.7, "b.jpg"), frame(0.6, 11)]
    answers, is_full = join_frames(hits, 2, 5)
    assert spans(answers) == [(0.9, 10, 10, 1), (0.8, None, None, 0)]
    assert is_full


def test_the_number_of_hits_does_not_change_the_answers(store, monkeypatch):
    """Of a store with videos, as many rows are looked at as the answers need."""
    random = np.random.default_rng(3)
    n, matrix = 400, vectors(400)
    sources, times = [f"{n % 3}.mp4" for n in range(n)], random.permutation(n).astype(float).tolist()
    ids = [f"{source}#t={time}" for source, time in zip(sources, times, strict=True)]
    store.write(rows(ids, matrix, source=sources, time_s=times))
    question = vectors(1, seed=4)[0]
    order = np.argsort(-cosines(question[None], matrix)[0])
    hits = [
        Hit(id=ids[n], score=1 - place / 1000, row={"source": sources[n], "time_s": times[n]})
        for place, n in enumerate(order)
    ]
    for k in (1, 3, 10, 50, 400):
        expected = [
            (answer.hit.id, answer.start_s, answer.end_s, answer.frames) for answer in join_frames(hits, k, 8)[0]
        ]
        answers = nearest(store, question, k, join_s=8)
        assert [(one.hit.id, one.start_s, one.end_s, one.frames) for one in answers] == expected
    monkeypatch.setattr(query, "_MOST_ROWS", 20)
    assert nearest(store, question, 5, join_s=1000)[0].frames <= 20


def test_an_answer_as_json():
    taken = datetime(2025, 1, 2, 3, 4, 5)
    row = {"id": "a", "source": "a", "time_s": 2.0, "taken": taken, "modified": taken.replace(tzinfo=timezone.utc)}
    answers, _ = join_frames([Hit(id="a", score=0.5, row=row)], 1)
    assert answers[0].document() == {
        "id": "a",
        "score": 0.5,
        "source": "a",
        "time_s": 2.0,
        "taken": "2025-01-02T03:04:05",
        "modified": "2025-01-02T03:04:05+00:00",
        "span": {"start_s": 2.0, "end_s": 2.0, "frames": 1},
    }
    assert join_frames([photo(0.7)], 1)[0][0].document()["span"] is None
