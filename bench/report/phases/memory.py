"""The memory of the server."""

from __future__ import annotations

from pathlib import Path

from report.state import State

_PROC = Path("/proc")


def memory(state: State) -> None:
    """Measures all processes of the server of the float32 export."""
    own = state.served["fp32", "pooled"]
    state.document["memory"] = {"weights": own.graph_bytes, **resident_bytes(own.pid)}


def resident_bytes(process: int) -> dict[str, int]:
    """The memory of a process and its descendants.

    Returns:
        "shared_once": the bytes with shared pages counted once (Linux's proportional set size); "sum": the sum of the
        resident sizes that `ps` shows.
    """
    tree = _tree(process)
    return {"shared_once": sum(_field(one, "Pss:") for one in tree), "sum": sum(_field(one, "Rss:") for one in tree)}


def _tree(process: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            # the name, in brackets, may contain blanks
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # the process has ended meanwhile
        parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def _field(process: int, name: str) -> int:
    try:
        lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
