"""What is to be done, by what is there and what a store knows: no file, no server, no store."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from vitriton_search.index.plan import make_plan
from vitriton_search.index.scan import Found
from vitriton_search.stores.store import COLUMNS, KNOWN

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SCHEMA = pa.schema([(name, COLUMNS[name]) for name in KNOWN])


def known(*rows):
    """What a store knows: id, hash, size, microseconds of its time, and error."""
    return pa.Table.from_pylist(
        [
            {
                "id": name,
                "source": name.partition("#")[0],
                "sha256": sha256,
                "bytes": size,
                "modified": None if time_us is None else EPOCH + timedelta(microseconds=time_us),
                "error": error,
            }
            for name, sha256, size, time_us, error in rows
        ],
        schema=SCHEMA,
    )


A = Found("/photos/a.jpg", 10, 1_000_000)
ROW_A = (A.id, "aa", 10, 1_000_000, None)
BAD_A = (A.id, "aa", 10, 1_000_000, "it is no image")
UNREAD_A = (A.id, None, 10, 1_000_000, "it cannot be read")
URL = "https://example.com/a.jpg"


@pytest.mark.parametrize(
    ("rows", "found", "retry", "unchanged", "bad", "alike", "new"),
    [
        ([], A, False, 0, 0, [], [A]),
        ([ROW_A], A, False, 1, 0, [], []),
        ([ROW_A], A._replace(modified_us=1_000_001), False, 0, 0, [A._replace(modified_us=1_000_001)], []),
        ([ROW_A], A._replace(size=11), False, 0, 0, [], [A._replace(size=11)]),
        ([ROW_A], A._replace(size=None, modified_us=None), False, 0, 0, [], [A._replace(size=None, modified_us=None)]),
        ([BAD_A], A, False, 1, 1, [], []),
        ([BAD_A], A, True, 0, 0, [], [A]),
        ([UNREAD_A], A, False, 0, 0, [], [A]),
        ([("/old/b.jpg", "bb", 10, 5, None)], A, False, 0, 0, [A], []),
        ([("/old/b.jpg", "bb", 11, 5, None)], A, False, 0, 0, [], [A]),
        ([(URL, None, None, None, None)], Found(URL), False, 1, 0, [], []),
        ([(URL, None, None, None, "not fetched")], Found(URL), False, 1, 1, [], []),
        ([(URL, None, None, None, "not fetched")], Found(URL), True, 0, 0, [], [Found(URL)]),
        ([], Found(URL), False, 0, 0, [], [Found(URL)]),
        # from a .parquet file, when the file was not there
        ([(A.id, None, None, None, None)], A, False, 0, 0, [], [A]),
    ],
    ids=[
        "new",
        "unchanged",
        "touched",
        "changed",
        "not to be looked at",
        "bad",
        "bad and tried again",
        "unreadable",
        "perhaps moved",
        "another size",
        "URL",
        "bad URL",
        "bad URL tried again",
        "new URL",
        "taken without its file",
    ],
)
def test_one_image(rows, found, retry, unchanged, bad, alike, new):
    """What is done with an image is decided by the size and time of its file, and by its row."""
    plan = make_plan([found], known(*rows), (), retry_errors=retry)
    assert (plan.unchanged, plan.bad, list(plan.alike), list(plan.new)) == (unchanged, bad, alike, new)


def test_a_moved_file_has_the_row_of_the_old_one():
    """Rows are found by content, and those of other sizes are not among them."""
    plan = make_plan([A], known(("/old/b.jpg", "bb", 10, 5, None), ("/old/c.jpg", "cc", 12, 5, None)), ())
    assert plan.row_with("bb", A.id) == "/old/b.jpg"
    assert plan.row_with("cc", A.id) is None
    assert plan.row_with("dd", A.id) is None


def test_a_touched_file_has_its_own_row():
    """Of several rows with its content, a file's own is the best: it has the user's columns."""
    touched = A._replace(modified_us=7)
    plan = make_plan([touched], known(("/0.jpg", "aa", 10, 5, None), ROW_A, ("/z.jpg", "aa", 10, 5, None)), ())
    assert plan.row_with("aa", A.id) == A.id


def test_an_error_is_copied_unless_it_is_tried_again():
    """The content of a bad file is as bad under another name."""
    rows = known(("/old/b.jpg", "bb", 10, 5, "it is no image"))
    assert make_plan([A], rows, ()).row_with("bb", A.id) == "/old/b.jpg"
    again = make_plan([A], rows, (), retry_errors=True)
    assert (list(again.alike), list(again.new), again.row_with("bb", A.id)) == ([], [A], None)


def test_missing_rows_are_those_of_the_folders():
    """Of other folders nothing is known, nor of URLs; all frames of a video go with it."""
    rows = known(
        ROW_A,
        ("/photos/gone.jpg", "bb", 1, 1, None),
        ("/photos/more/film.mp4#t=1", "cc", 1, 1, None),
        ("/photos/more/film.mp4#t=2", "cc", 1, 1, None),
        ("/photos2/other.jpg", "dd", 1, 1, None),
        ("file:///photos/%FF.jpg", "ee", 1, 1, None),
        (URL, None, None, None, None),
    )
    plan = make_plan([A], rows, ("/photos",))
    assert [row.id for row in plan.missing] == [
        "/photos/gone.jpg",
        "/photos/more/film.mp4#t=1",
        "/photos/more/film.mp4#t=2",
        "file:///photos/%FF.jpg",
    ]
    assert not make_plan([A], rows, ()).missing
    assert [row.id for row in make_plan([], rows, ("/",)).missing][-2:] == [
        "/photos2/other.jpg",
        "file:///photos/%FF.jpg",
    ]


def test_nothing():
    """An empty folder and an empty store."""
    plan = make_plan([], known(), ("/photos",))
    assert (plan.unchanged, list(plan.alike), list(plan.new), list(plan.missing)) == (0, [], [], [])
