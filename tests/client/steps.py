"""`vitriton embed` in a process that goes on when a test lets it, from one commit to the next."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence

# A commit after each result, and behind it a wait for a line of the input, until that ends.
_RUN_IN_STEPS = """
import sys
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


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts the command with its arguments; it prints how many inputs are done, and waits, behind each commit."""
    return subprocess.Popen(
        [sys.executable, "-c", _RUN_IN_STEPS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go_on(process: subprocess.Popen[str], done: int) -> None:
    """Lets it go on until `done` inputs are done, and from there: to the next commit, behind which it waits again.

    Returns at any moment on the way to that commit.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    reached = 0
    while reached < done:
        line = process.stdout.readline()
        assert line, process.communicate()
        reached = int(line)
        process.stdin.write("\n")
        process.stdin.flush()
    time.sleep(random.uniform(0, 0.03))
