"""What is installed: versions, what each distribution requires, and which commands work. Nothing large is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from vitriton._console.diagnosis import Finding, how_to_install
from vitriton._console.plugged import distribution_of, failure_of
from vitriton.commands.plugins import KNOWN, plugged_in

_OURS = (
    *("vitriton", "vitriton-export", "vitriton-server", "vitriton-bench", "vitriton-api", "vitriton-search"),
    "vitriton-ray",
)
_LIBRARIES = (
    *("numpy", "pillow", "tritonclient", "grpcio", "protobuf", "httpx", "typer", "rich"),
    *("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "nvidia-pytriton", "pyarrow", "av"),
)
# A distribution → another one that has the same modules.
_STANDS_IN = {"onnxruntime": "onnxruntime-gpu"}
# The server's own checks judge these: an image with a Triton of its own has no need of them.
_JUDGED_THERE = {"vitriton-server": ("nvidia-pytriton", "onnxruntime")}
# Parts of the client that need an extra: what they are for → the distribution, and the extra.
_EXTRAS = {
    "embed to .parquet": ("pyarrow", "parquet"),
    "frames of videos": ("av", "video"),
    "tracing": ("opentelemetry-api", "otel"),
}


def versions() -> Iterator[Finding]:
    """Finds the versions of the project's distributions and of the libraries that matter, and what is missing."""
    for name in _OURS:
        version = _version(name)
        if version is not None:
            yield Finding(name, version, "; ".join(_unmet(name)) or None)
    yield Finding("python", platform.python_version())
    yield from (Finding(name, version) for name in _LIBRARIES if (version := _version(name)) is not None)


def commands() -> Iterator[Finding]:
    """Finds the commands that other distributions plug in, and the parts of the client that need an extra."""
    plugged = plugged_in()
    for name in sorted({*KNOWN, *plugged}):
        if name not in plugged:
            yield Finding(f"vitriton {name}", f"not installed: {how_to_install(KNOWN[name][0])}")
            continue
        entry = plugged[name]
        try:
            entry.load()
        # A plug-in is foreign code and can fail in any way.
        except Exception as exc:
            remedy = f"install it again: {how_to_install(distribution_of(entry), again=True)}"
            yield Finding(f"vitriton {name}", "cannot be loaded", f"{failure_of(entry, exc)}; {remedy}")
        else:
            yield Finding(f"vitriton {name}", "installed")
    for what, (distribution, extra) in _EXTRAS.items():
        there = _version(distribution) is not None
        yield Finding(what, "installed" if there else f"not installed: pip install 'vitriton[{extra}]'")


def _unmet(name: str) -> Iterator[str]:
    """Says which requirements of a distribution are not met."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        version = _version(requirement.name)
        if version is None:
            is_met = _version(_STANDS_IN.get(requirement.name, "")) or requirement.name in _JUDGED_THERE.get(name, ())
            if is_met:
                continue
            yield f"{name} needs {wanted}, which is not installed: `pip install '{wanted}'`"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{name} needs {wanted}, and {version} is installed: `pip install '{wanted}'`"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name) if name else None
    except metadata.PackageNotFoundError:
        return None
