"""The commands that other distributions plug in."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "vitriton.commands"

# The commands of the other distributions, which are listed even if these are not installed.
KNOWN = {
    "export": ("vitriton-export", "Turn a Hugging Face vision model into a Triton model repository."),
    "verify": ("vitriton-export", "Compare a deployed model with transformers, image by image."),
    "remove": ("vitriton-export", "Remove an export from a model repository."),
    "serve": ("vitriton-server", "Serve a model repository with Triton, without Docker."),
    "bench": ("vitriton-bench", "Measure the speed of an export under load."),
}


def plugged_in() -> dict[str, EntryPoint]:
    """The entry points of the commands that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def distribution_of(entry: EntryPoint) -> str:
    """The name of the distribution that an entry point comes from."""
    return entry.dist.name if entry.dist is not None else entry.value


def failure_of(entry: EntryPoint, error: Exception) -> str:
    """The text for a command that cannot be loaded."""
    reason = " ".join(str(error).split()) or "no reason given"
    return f"`vitriton {entry.name}` of {distribution_of(entry)} cannot be loaded: {type(error).__name__}: {reason}"
