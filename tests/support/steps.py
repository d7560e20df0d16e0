"""A command in a process that goes on when a test lets it: from one step to the next, and behind the last one freely.

Behind each step it prints how far it is, and waits for a line of its input, or for the end of that.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence

from support.commands import QUIET

# `vitriton embed`, with a commit after each result: a step is a commit, and prints how many inputs are done.
EMBED = f"""
import sys
{QUIET}
import vitriton.commands.embed.embedding as embedding
from vitriton.cli import main

def commit_and_wait(work, outcomes):
    commit(work, outcomes)
    print(work.done, flush=True)
    sys.stdin.readline()

embedding._COMMIT_EVERY_S = 0
commit, embedding.WorkFolder.commit = embedding.WorkFolder.commit, commit_and_wait
main()
"""

# `vitriton search index`, with batches of the size that is the first argument: a step is a batch, and prints how many
# rows the store has.
INDEX = f"""
import math, sys
{QUIET}
import vitriton_search.index.rows as rows
from vitriton.cli import main

def write_and_wait(batches):
    has_some = bool(batches._waiting)
    write(batches)
    if has_some:
        print(len(batches._store), flush=True)
        sys.stdin.readline()

rows.BATCH_ROWS, rows.BATCH_EVERY_S = int(sys.argv.pop(1)), math.inf
write, rows.Batches.write = rows.Batches.write, write_and_wait
main()
"""


def start(code: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a command with its arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go_on(process: subprocess.Popen[str], far: int) -> None:
    """Lets it go on until it is so far, and from there on to its next step, behind which it waits again.

    Returns at a random moment on the way to that step.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    reached = 0
    while reached < far:
        line = process.stdout.readline()
        assert line, process.communicate()
        reached = int(line)
        process.stdin.write("\n")
        process.stdin.flush()
    time.sleep(random.uniform(0, 0.03))
