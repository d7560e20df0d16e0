"""Near-duplicates, against all pairs compared by numpy."""

import numpy as np
import pytest
from search.store_contract import SPACE, cosines, rows, vectors
from vitriton_search.answers import duplicates
from vitriton_search.answers.duplicates import Sets, find_duplicates
from vitriton_search.answers.errors import AnswerError
from vitriton_search.stores import open_store
from vitriton_search.stores.store import COLUMNS
from vitriton_search.stores.where import parse


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "photos.lance"), SPACE) as store:
        yield store


def turned(degrees):
    """Vectors in one plane: the cosine of two of them is that of the difference."""
    angles = np.radians(degrees)
    return np.pad(np.stack([np.cos(angles), np.sin(angles)], axis=1), ((0, 0), (0, 6))).astype(np.float32)


def connected(near):
    """The groups of more than one of a graph, by its matrix."""
    left, groups = set(range(len(near))), set()
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            edge = {int(other) for one in edge for other in np.flatnonzero(near[one])} - group
        left -= group
        if len(group) > 1:
            groups.add(frozenset(group))
    return groups


def ids(found):
    return [[hit.id for hit in group] for group in found.groups]


def near_duplicates(number, seed=0):
    """Vectors of which some are copies of others, more or less."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((number, 8))
    copies = random.integers(number, size=number // 2)
    noise = random.choice([0.0, 0.02, 0.08, 0.12], size=(len(copies), 1))
    made[: len(copies)] = made[copies] + noise * random.standard_normal((len(copies), 8))
    return made.astype(np.float32)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("threshold", [0.7, 0.95, 0.999])
def test_groups_and_curve_are_numpys(store, monkeypatch, threshold, exact):
    """In blocks, the groups and the numbers of pairs are those of the whole matrix."""
    monkeypatch.setattr(duplicates, "_BLOCK", 64)
    monkeypatch.setattr(duplicates, "_ASKED", 37)
    monkeypatch.setattr(duplicates, "NEIGHBORS", 299)
    matrix = near_duplicates(300)
    store.write(rows([str(n) for n in range(300)], matrix))
    advanced = []
    found = find_duplicates(store, threshold, exact=exact, advance=advanced.append)
    similar = cosines(matrix, matrix)
    assert {frozenset(map(int, group)) for group in ids(found)} == connected(similar >= threshold)
    assert (found.rows, found.left_out, found.is_exact, sum(advanced)) == (300, 0, exact, 300)
    pairs = similar[np.triu_indices(300, 1)]
    edges = [*(bar.low for bar in found.curve), 1.0]
    assert edges == [round(n / 100, 2) for n in range(round(100 * min(0.8, threshold)), 101)]
    near_an_edge = np.abs(pairs[:, None] - np.array(edges)).min(axis=1) < 1e-6
    expected = np.histogram(np.minimum(pairs, 1), edges)[0]
    assert np.abs(expected - [bar.pairs for bar in found.curve]).sum() <= 2 * near_an_edge.sum()


def test_the_index_is_asked_for_a_few(store, monkeypatch):
    """With fewer neighbors than a group has, its rows are still joined, and a pair is counted once."""
    monkeypatch.setattr(duplicates, "NEIGHBORS", 3)
    matrix = np.concatenate([turned(np.linspace(0, 1, 12)), turned(np.linspace(90, 91, 12))])
    store.write(rows([f"{n:02}" for n in range(24)], matrix))
    found = find_duplicates(store, 0.99, exact=False)
    assert [sorted(group) for group in ids(found)] == [
        [f"{n:02}" for n in range(12)],
        [f"{n:02}" for n in range(12, 24)],
    ]
    assert 24 <= sum(bar.pairs for bar in found.curve) <= 2 * 12 * 11 / 2


def test_a_chain_is_one_group(store):
    """The score is that of a row and the first, also where it is below the threshold."""
    store.write(rows(["a", "b", "c", "d"], turned([0, 15, 30, 90]), width=[10, 40, 30, None], height=20))
    found = find_duplicates(store, 0.95)
    assert ids(found) == [["b", "a", "c"]] or ids(found) == [["b", "c", "a"]]
    store.write(rows(["a"], turned([0]), width=50, height=20))
    found = find_duplicates(store, 0.95)
    assert ids(found) == [["a", "b", "c"]]
    assert [hit.score for hit in found.groups[0]] == pytest.approx([1, np.cos(np.pi / 12), np.cos(np.pi / 6)])


def test_the_largest_photo_is_the_first(store):
    """Then the largest file, then the first by its name."""
    same = turned([0] * 5)
    store.write(rows(list("abcde"), same, width=[None, 5, 5, 9, 1], height=[None, 5, 5, 1, 2], bytes=[9, 1, 2, 1, 1]))
    assert ids(find_duplicates(store, 1))[0][0] == "c"
    assert ids(find_duplicates(store, 1, parse("id != 'c'", COLUMNS)))[0][0] == "b"


def test_frames_of_one_video_are_no_duplicates(store):
    """A photo and a frame are, and so are frames of two videos."""
    names = ["a#1", "a#2", "b#1", "photo"]
    matrix = turned([0, 1, 40, 1])
    store.write(rows(names, matrix, source=["a", "a", "b", "photo"], time_s=[1.0, 2.0, 1.0, None]))
    assert [sorted(group) for group in ids(find_duplicates(store, 0.99))] == [["a#1", "a#2", "photo"]]
    store.delete(["photo"])
    assert ids(find_duplicates(store, 0.99)) == []
    assert sum(bar.pairs for bar in find_duplicates(store, 0.99).curve) == 0


def test_rows_without_a_vector_are_left_out(store):
    store.write(rows(["bad", "a", "b"], [None, [1.0] * 8, [2.0] * 8], error=["truncated", None, None]))
    found = find_duplicates(store, 0.95)
    assert (found.rows, found.left_out, ids(found)) == (2, 1, [["a", "b"]])


def test_a_store_without_rows(store):
    found = find_duplicates(store, 0.95)
    assert (found.rows, list(found.groups), sum(bar.pairs for bar in found.curve)) == (0, [], 0)


def test_many_that_are_the_same(store):
    """Four million pairs of one group."""
    store.write(rows([f"{n:04}" for n in range(3000)], np.repeat(vectors(1), 3000, axis=0)))
    found = find_duplicates(store, 1)
    assert [len(group) for group in found.groups] == [3000]
    assert found.curve[-1].pairs == 3000 * 2999 / 2


def test_sets_are_those_of_a_graph():
    for seed in range(20):
        random = np.random.default_rng(seed)
        left, right = random.integers(60, size=(2, 10 + 2 * seed))
        near = np.zeros((60, 60), bool)
        near[left, right] = near[right, left] = True
        sets = Sets(60)
        for start in range(0, len(left), 7):
            sets.join(left[start : start + 7], right[start : start + 7])
        assert {frozenset(group.tolist()) for group in sets.groups()} == connected(near)


def test_duplicates_as_json(store):
    store.write(rows(["a", "b"], turned([0, 0])))
    document = find_duplicates(store, 0.95).document()
    assert (document["rows"], document["left_out"], document["exact"], document["threshold"]) == (2, 0, True, 0.95)
    assert document["curve"][-1] == {"low": 0.99, "high": 1.0, "pairs": 1}
    assert [[row["id"] for row in group] for group in document["groups"]] == [["a", "b"]]


def test_no_room_for_a_temporary_file(store, monkeypatch):
    """The error says where to make room."""
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with pytest.raises(
        AnswerError, match=r"temporary file: No such file or directory; name another folder with TMPDIR"
    ):
        find_duplicates(store, 0.95)
