"""The work folder of `vitriton embed`: what a commit has written stays, and only that."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from vitriton._console.failure import CommandFailed
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import Outcome, WorkFolder

JOB = Job(model="m", fingerprint="f", pool=True, shape=(2,), images=9, images_sha256="0")


def outcomes(*indices):
    """Those of odd images are bad."""
    return [
        Outcome(index, None, f"bad {index}", "corrupt")
        if index % 2
        else Outcome(index, np.full(2, index, np.float32), None)
        for index in indices
    ]


def state(path):
    with WorkFolder(path) as work:
        return work.done, work.rows, [(indices, rows.tolist()) for indices, rows in work.blocks(2)], [*work.failures()]


def test_the_journal(tmp_path):
    """What was committed is there when the folder is opened again."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0, 1, 2))
        work.commit(outcomes(3))
        work.commit(outcomes(4, 5, 6))
    assert state(path) == (
        7,
        4,
        [([0, 2], [[0, 0], [2, 2]]), ([4, 6], [[4, 4], [6, 6]])],
        [(1, "bad 1", "corrupt"), (3, "bad 3", "corrupt"), (5, "bad 5", "corrupt")],
    )


def test_a_run_of_an_older_vitriton(tmp_path):
    """Its journal has no codes; what it refused is "other", and what comes has its own."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0, 1))
    journal = path / "journal.jsonl"
    older = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in older:
        entry.pop("codes", None)
    journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in older))
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(2, 3))
    assert state(path)[3] == [(1, "bad 1", "other"), (3, "bad 3", "corrupt")]


@pytest.mark.parametrize("torn", [b'{"done": 3, "ro', b'{"done": 3, "rows": 2, "failed": []}', b"\0" * 40, b"\0\n"])
def test_a_torn_line(tmp_path, torn):
    """A line that was not written to its end, and rows behind the last commit, are as if they had never been."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0, 1))
    for name, data in (("journal.jsonl", torn), ("rows.f32", b"12345678901")):
        with (path / name).open("ab") as file:
            file.write(data)
    with WorkFolder(path) as work:
        work.begin(JOB)
        assert work.done == 2
        work.commit(outcomes(2, 3))
    assert state(path) == (4, 2, [([0, 2], [[0, 0], [2, 2]])], [(1, "bad 1", "corrupt"), (3, "bad 3", "corrupt")])


def test_rows_that_are_missing(tmp_path):
    """A commit whose rows are not there, as on a disk that lies about what it has written, does not count."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0))
        work.commit(outcomes(1, 2))
    os.truncate(path / "rows.f32", 15)
    assert state(path)[:2] == (1, 1)


def test_a_header_that_was_not_written_to_its_end(tmp_path):
    """A folder without a whole first line is one in which no run has begun."""
    path = tmp_path / "work"
    path.mkdir()
    (path / "journal.jsonl").write_text('{"format": 1, "jo')
    (path / "rows.f32").write_bytes(b"123")
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0))
    assert state(path)[:2] == (1, 1)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["a.jpg", "b.jpg", "c.jpg"], "c.jpg is new"),
        (["a.jpg", "x.jpg"], "x.jpg is new, b.jpg is missing"),
        (["a.jpg", "b.jpg", *"vwxyz"], "v, w, x and 2 more are new"),
        (["b.jpg", "a.jpg"], "it has the same images in another order, or another number of times"),
        (["a.jpg", "b.jpg"], "it has relative paths, and the command runs in another folder"),
    ],
)
def test_another_list(tmp_path, sources, says):
    """The error names the images that make the difference; --from keeps a list."""
    with WorkFolder(tmp_path / "work") as work:
        work.begin(JOB, ["a.jpg", "b.jpg"])
    with WorkFolder(tmp_path / "work") as work, pytest.raises(CommandFailed) as caught:
        work.begin(replace(JOB, images_sha256="1"), sources)
    assert f"cannot continue: the list of images has changed ({says}); a list that you give with --from" in str(
        caught.value
    )
    (tmp_path / "work" / "sources").unlink()  # as in a run that an older version began
    with WorkFolder(tmp_path / "work") as work, pytest.raises(CommandFailed, match="it had 9 images, and now has 10"):
        work.begin(replace(JOB, images=10), sources)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "other"}, "it was begun with --model m, and this command has --model other"),
        ({"fingerprint": "g"}, "the model had the fingerprint f, and now has g"),
        ({"pool": False}, "it was begun with --pool, and this command has --unpooled"),
        ({"shape": (3,)}, r"the model returned vectors of shape \[2\], and now returns \[3\]"),
    ],
)
def test_another_job(tmp_path, change, says):
    """A run is not gone on with as another one; the error names both. --no-resume begins anew."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB)
        work.commit(outcomes(0, 1))
    other = replace(JOB, **change)
    with WorkFolder(path) as work, pytest.raises(CommandFailed, match=says):
        work.begin(other)
    assert state(path)[0] == 2
    with WorkFolder(path, resume=False) as work:
        work.begin(other)
        assert work.done == 0
