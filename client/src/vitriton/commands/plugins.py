"""The commands that other distributions plug in."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "vitriton.commands"

# The commands of the other distributions, which are listed even if these are not installed.
KNOWN = {
    "export": ("vitriton-export", "Turn a Hugging Face model into a Triton model repository."),
    "verify": ("vitriton-export", "Compare a deployed model with transformers, input by input."),
    "remove": ("vitriton-export", "Remove an export from a model repository."),
    "serve": ("vitriton-server", "Serve a model repository with Triton, without Docker."),
    "api": ("vitriton-api", "Serve an OpenAI-style HTTP endpoint for embeddings."),
    "search": ("vitriton-search", "Search images, videos and texts by their embeddings."),
    "bench": ("vitriton-bench", "Measure the speed of an export under load."),
}


def plugged_in() -> dict[str, EntryPoint]:
    """The entry points of the commands that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}
