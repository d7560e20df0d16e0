"""How well neighbors tell labels, against numpy; and where the labels come from."""

from collections import defaultdict

import numpy as np
import pytest
from search.store_contract import SPACE, cosines, rows, vectors
from vitriton_search.answers import neighbors
from vitriton_search.answers.errors import AnswerError
from vitriton_search.answers.labels import folder_labels, read_labels
from vitriton_search.answers.neighbors import Share, evaluate
from vitriton_search.answers.vectors import vectors_of
from vitriton_search.stores import open_store


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "photos.lance"), SPACE) as store:
        yield store


def expected(matrix, labels, k):
    """Which rows are voted right for, and which have their label among their neighbors."""
    similar = cosines(matrix, matrix)
    np.fill_diagonal(similar, -2)
    right, recalled = [], []
    for scores, label in zip(similar, labels, strict=True):
        votes = defaultdict(lambda: (0, 0.0))
        best = np.argsort(-scores)[:k]
        for other in best:
            number, total = votes[labels[other]]
            votes[labels[other]] = number + 1, total + scores[other]
        right.append(max(votes, key=votes.get) == label)
        recalled.append(label in [labels[other] for other in best])
    return np.array(right), np.array(recalled)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_scores_are_numpys(store, monkeypatch, k):
    """In blocks, and with many ties."""
    monkeypatch.setattr(neighbors, "_BLOCK", 70)
    monkeypatch.setattr(neighbors, "_OTHERS", 90)
    matrix = vectors(300)
    labels = [f"label {n}" for n in np.random.default_rng(1).integers(4, size=300)]
    store.write(rows([str(n) for n in range(300)], matrix))
    with vectors_of(store) as found:
        order = [int(id) for id in found.ids.to_pylist()]
        result = evaluate(found, [labels[n] for n in order], k)
    right, recalled = expected(matrix, labels, k)
    assert (result.all.accuracy.hits, result.all.recall.hits) == (right.sum(), recalled.sum())
    assert (result.all.rows, result.k, result.alone) == (300, k, 0)
    for score in result.labels:
        own = np.array([label == score.label for label in labels])
        assert (score.rows, score.accuracy.hits, score.recall.hits) == (
            own.sum(),
            right[own].sum(),
            recalled[own].sum(),
        )


def test_rows_without_a_label_do_not_vote(store):
    matrix = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 0, 0]]
    store.write(rows(list("abcdef"), matrix))
    labels = {"a": "x", "b": "x", "c": "y", "d": "y"}
    with vectors_of(store) as found:
        result = evaluate(found, [labels.get(id) for id in found.ids.to_pylist()], 1)
    assert (result.all.rows, result.all.accuracy.value, result.all.recall.value) == (4, 1, 1)


def test_frames_of_one_video_do_not_vote_for_each_other(store):
    """A label that one video alone has cannot be right."""
    matrix = np.eye(8, dtype=np.float32)[[0, 0, 0, 1, 1]]
    sources = ["film", "film", "film", "a", "b"]
    store.write(rows(list("12345"), matrix, source=sources))
    with vectors_of(store) as found:
        result = evaluate(found, ["x" if source == "film" else "y" for source in found.sources.to_pylist()], 3)
    assert {score.label: score.accuracy.value for score in result.labels} == {"x": 0, "y": 0}
    assert {score.label: score.recall.value for score in result.labels} == {"x": 0, "y": 1}
    assert result.alone == 3


def test_the_interval_is_wilsons():
    """By hand for 8 of 10; never outside of 0 and 1."""
    assert Share(hits=8, rows=10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share(hits=0, rows=5).interval[0] == 0
    assert Share(hits=5, rows=5).interval[1] == 1


def test_too_few_labels(store):
    store.write(rows(list("abc"), vectors(3)))
    with vectors_of(store) as found:
        for labels, k, text in (
            ([None] * 3, 1, "two labels at least, and the labeled rows have 0"),
            (["x"] * 3, 1, "the labeled rows have 1"),
            (["x", "y", "x"], 3, "more than 3 labeled rows, and there are 3"),
        ):
            with pytest.raises(AnswerError, match=text):
                evaluate(found, labels, k)


def test_labels_of_a_file(store, tmp_path, monkeypatch):
    """By id or by path; a path is relative to this folder, or to that of the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    sources = [str(tmp_path / "a.jpg"), str(tmp_path / "sub" / "b.jpg"), "https://example.com/c.jpg"]
    store.write(rows(["1", "2", "3"], vectors(3), source=sources))
    file = tmp_path / "sub" / "labels.csv"
    for text in (
        "path,label\na.jpg,x\nb.jpg,y\nhttps://example.com/c.jpg,z\nother.jpg,x\n",
        f"path,label\n{tmp_path}/./a.jpg,x\n{tmp_path}/sub/../sub/b.jpg,y\nhttps://example.com/c.jpg,z\nother.jpg,x\n",
        "\ufefflabel,more,source\r\nx,1,./a.jpg\r\ny,2,../sub/b.jpg\r\nz,,https://example.com/c.jpg\r\nx,,other.jpg\r\n",
        'id,label\n1,x\n"2",y\n3,z\nother.jpg,x\n',
    ):
        file.write_text(text, newline="")
        with vectors_of(store) as found:
            labels, missing = read_labels(file).match(found)
            assert dict(zip(found.ids.to_pylist(), labels, strict=True)) == {"1": "x", "2": "y", "3": "z"}
        assert missing == ["other.jpg"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "needs a column `label` and one of id, path, source in its first line; it has none"),
        (b"path,class\na,x\n", "it has path, class"),
        (b"name,label\na,x\n", "it has name, label"),
        (b"path,label\n", "holds no label"),
        (b"path,label\na,x\nb\n", "labels.csv:3: the line has no label"),
        (b"path,label\n,x\n", "labels.csv:2: the line has no path"),
        (b"path,label\na,x\nb,x\na,y\n", "labels.csv:4: a has the label y here, and x before"),
        (b"path,label\n\xff\xfe,x\n", "cannot be read: 'utf-8' codec"),
        (b"path,label\n" + b"a" * 200_000 + b",x\n", "cannot be read: field larger"),
    ],
)
def test_a_file_that_holds_no_labels(tmp_path, content, text):
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(AnswerError, match=text):
        read_labels(file)


def test_labels_of_folders(store):
    store.write(
        rows(
            ["1", "2", "3"],
            vectors(3),
            source=["/a/cat/1.jpg", "https://example.com/dog/2.jpg", "file:///a/b%20%FF/3.jpg"],
        )
    )
    with vectors_of(store) as found:
        labels = dict(zip(found.ids.to_pylist(), folder_labels(found), strict=True))
    assert labels == {"1": "cat", "2": "dog", "3": "b \udcff"}
