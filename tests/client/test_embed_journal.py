"""The work folder of `vitriton embed`: what a commit has written stays, and only that."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from vitriton._console.failure import CommandFailed
from vitriton.commands.embed.job import Job, Name
from vitriton.commands.embed.journal import Outcome, WorkFolder

JOB = Job(model="m", fingerprint="f", pool=True, shape=(2,), inputs=9, inputs_sha256="0")
NAMES = [*map(Name, "abcdefghi")]


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
        blocks = [([index for index, _ in block.origins], block.rows.tolist()) for block in work.blocks(16)]
        return work.done, work.rows, blocks, [*work.failures()]


def test_the_journal(tmp_path):
    """What was committed is there when the folder is opened again."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
        work.commit(outcomes(0, 1, 2))
        work.commit(outcomes(3))
        work.commit(outcomes(4, 5, 6))
    assert state(path) == (
        7,
        4,
        [([0, 2], [[0, 0], [2, 2]]), ([4, 6], [[4, 4], [6, 6]])],
        [(1, Name("b"), "bad 1", "corrupt"), (3, Name("d"), "bad 3", "corrupt"), (5, Name("f"), "bad 5", "corrupt")],
    )


def test_a_run_of_an_older_vitriton(tmp_path):
    """Its folder is left alone: it is to be finished by that version, or discarded."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
    journal = path / "journal.jsonl"
    older = json.loads(journal.read_text())
    journal.write_text(json.dumps({**older, "format": older["format"] - 1}) + "\n")
    with pytest.raises(CommandFailed, match="holds a run that another version of vitriton began"):
        WorkFolder(path)
    with WorkFolder(path, resume=False) as work:
        assert work.job is None


def test_embeddings_of_different_lengths(tmp_path):
    """Ragged embeddings come back as they were, in blocks of a size, of which each has at least one."""
    path, job = tmp_path / "work", replace(JOB, pool=False, shape=(None, 2), tower="text")
    given = [np.full((tokens, 2), tokens, np.float32) for tokens in (1, 3, 9, 2)]
    with WorkFolder(path) as work:
        work.begin(job, NAMES)
        work.commit([Outcome(0, given[0], None), Outcome(1, None, "bad", "kind"), Outcome(2, given[1], None)])
        work.commit([Outcome(3, given[2], None, truncated=True), Outcome(4, given[3], None)])
        with pytest.raises(CommandFailed, match=r"shape \[2, 3\] after \[None, 2\]"):
            work.commit([Outcome(5, np.zeros((2, 3), np.float32), None)])
    with (path / "rows.f32").open("ab") as file:
        file.write(b"123")
    with WorkFolder(path) as work:
        work.begin(job)
        blocks = list(work.blocks(4 * 8))
        assert [block.origins for block in blocks] == [[(0, NAMES[0]), (2, NAMES[2])], [(3, NAMES[3])], [(4, NAMES[4])]]
        for rows, expected in zip((row for block in blocks for row in block.rows), given, strict=True):
            np.testing.assert_array_equal(rows, expected)
        assert (work.rows, work.truncated, list(work.tokens())) == (4, 1, [1, 3, 9, 2])


@pytest.mark.parametrize("torn", [b'{"done": 3, "ro', b'{"done": 3, "rows": 2, "failed": []}', b"\0" * 40, b"\0\n"])
def test_a_torn_line(tmp_path, torn):
    """A line that was not written to its end, and rows behind the last commit, are as if they had never been."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
        work.commit(outcomes(0, 1))
    for name, data in (("journal.jsonl", torn), ("rows.f32", b"12345678901")):
        with (path / name).open("ab") as file:
            file.write(data)
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
        assert work.done == 2
        work.commit(outcomes(2, 3))
    assert state(path) == (
        4,
        2,
        [([0, 2], [[0, 0], [2, 2]])],
        [(1, Name("b"), "bad 1", "corrupt"), (3, Name("d"), "bad 3", "corrupt")],
    )


def test_rows_that_are_missing(tmp_path):
    """A commit whose rows are not there, as on a disk that lies about what it has written, does not count."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
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
        work.begin(JOB, NAMES)
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
        work.begin(JOB, map(Name, ["a.jpg", "b.jpg"]))
    with WorkFolder(tmp_path / "work") as work, pytest.raises(CommandFailed) as caught:
        work.begin(replace(JOB, inputs_sha256="1"), map(Name, sources))
    assert f"cannot continue: the list of images has changed ({says}); a list that you give with --from" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [({"inputs": 8}, "it had 9 texts, and now has 8"), ({"inputs_sha256": "1"}, "another name, another content, or")],
)
def test_another_file_of_texts(tmp_path, change, says):
    """A run is not continued with a file of texts that somebody has changed."""
    job = replace(JOB, tower="text")
    with WorkFolder(tmp_path / "work") as work:
        work.begin(job, NAMES)
    with WorkFolder(tmp_path / "work") as work, pytest.raises(CommandFailed, match=says):
        work.begin(replace(job, **change), NAMES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "other"}, "it was begun with --model m, and this command has --model other"),
        ({"fingerprint": "g"}, "the model had the fingerprint f, and now has g"),
        ({"tower": "text"}, "it was begun with images, and this command has texts"),
        ({"prompt": "query"}, "it was begun with no prompt, and this command has --prompt query"),
        ({"every_s": 2.0}, "it was begun with no --every, and this command has --every 2s"),
        ({"id_column": "sku"}, "it was begun with no --id-column, and this command has --id-column sku"),
        ({"pool": False}, "it was begun with --pool, and this command has --unpooled"),
        ({"shape": (3,)}, r"the model returned vectors of shape \[2\], and now returns \[3\]"),
    ],
)
def test_another_job(tmp_path, change, says):
    """A run is not gone on with as another one; the error names both. --no-resume begins anew."""
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(JOB, NAMES)
        work.commit(outcomes(0, 1))
    other = replace(JOB, **change)
    with WorkFolder(path) as work, pytest.raises(CommandFailed, match=says):
        work.begin(other)
    assert state(path)[0] == 2
    with WorkFolder(path, resume=False) as work:
        work.begin(other)
        assert work.done == 0


def test_frames_of_videos(tmp_path):
    """The time and the number of a frame come back with its name, whatever bytes the name has."""
    names = [
        Name("a.jpg"),
        Name("f\xe4.mp4", 0.0, 0),
        Name("1 2", 33.366666666666667, 1000),
        Name("g.mp4"),
        Name("\udcff", 1e-9, 1),
    ]
    path = tmp_path / "work"
    with WorkFolder(path) as work:
        work.begin(replace(JOB, inputs=5), names)
        work.commit(outcomes(0, 1, 2, 3, 4))
    with WorkFolder(path) as work:
        assert [*work.names()] == names
        assert [*work.origins()] == [(index, names[index]) for index in (0, 2, 4)]
        assert [name for _, name, *_ in work.failures()] == [names[1], names[3]]
