"""The options of `vitriton bench`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from vitriton._console.completion import exported_names
from vitriton._console.options import faults
from vitriton._repository.names import Tower, kind_of

from vitriton_bench._errors import UnusableOption
from vitriton_bench._load.point import Point, Protocol, SharedMemory, grid


def _choices(known: Any, option: str, text: str) -> tuple[Any, ...]:
    """Parses a list like `grpc,http`."""
    given = tuple(part.strip() for part in text.split(","))
    for part in given:
        if part not in get_args(known):
            raise UnusableOption(option, f"has {part!r}, which is not one of {', '.join(get_args(known))}")
    return given


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Parses a list of numbers like `1,8,32`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UnusableOption(option, f"is {text!r}, which is not a list of numbers above 0, such as 1,8,32")
    return tuple(int(part) for part in parts)


Output = Literal["pooled", "unpooled"]
_LOAD, _SERVER = "Load", "Server"  # groups of options in the help
_CALLERS = typer.Option(parser=functools.partial(_numbers, "concurrency"), metavar="N,...", rich_help_panel=_LOAD)
_BATCHES = typer.Option(parser=functools.partial(_numbers, "batch_size"), metavar="N,...", rich_help_panel=_LOAD)
_OUTPUTS = typer.Option(
    "--output", parser=functools.partial(_choices, Output, "outputs"), metavar="OUTPUT,...", rich_help_panel=_LOAD
)
_PROTOCOLS = typer.Option(
    parser=functools.partial(_choices, Protocol, "protocol"), metavar="PROTOCOL,...", rich_help_panel=_LOAD
)
_SHARED = typer.Option(
    parser=functools.partial(_choices, SharedMemory, "shared_memory"), metavar="KIND,...", rich_help_panel=_LOAD
)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The options of `vitriton bench`: the loads to measure, and their server.

    Attributes:
        name: the name of the export to measure.
        url: the address of a running server, such as grpc://host:8001 or http://host:8000; repeat the option to measure
            both protocols.
        repository: the model repository to serve if there is no `url`.
        images: the folder of the images to send; the files are sent unchanged. None: examples/photos.
        texts: the file of the texts to send, one on each line, in UTF-8. None: built-in texts of 3 to 512 tokens.
        tower: the tower to measure, image or text. None: that of `images` or `texts`; without them, image if
            the export has that tower.
        concurrency: the numbers of concurrent callers to measure.
        batch_size: the numbers of images or texts per request to measure.
        outputs: the outputs to measure: pooled, unpooled, or both, separated by a comma.
        protocol: the protocols to measure: grpc, http, or both, separated by a comma. None: those of `url`, or grpc.
        shared_memory: the kinds of shared memory for results: none, system, or both, separated by a comma.
        seconds: the length of each measurement, in seconds.
        perf_analyzer: the perf_analyzer program to run. None: the one on PATH, or a download.
    """

    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, autocompletion=exported_names)] = ""
    url: Annotated[Sequence[str], typer.Option(metavar="ADDRESS", rich_help_panel=_SERVER)] = ()
    repository: Annotated[Path, typer.Option(metavar="PATH", rich_help_panel=_SERVER)] = Path("model_repository")
    images: Annotated[Path | None, typer.Option(metavar="DIR", rich_help_panel=_LOAD)] = None
    texts: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_LOAD)] = None
    tower: Annotated[Tower | None, typer.Option(metavar="TOWER", rich_help_panel=_LOAD)] = None
    concurrency: Annotated[tuple[int, ...], _CALLERS] = (1, 2, 4, 8, 16, 32)
    batch_size: Annotated[tuple[int, ...], _BATCHES] = (1,)
    outputs: Annotated[tuple[Output, ...], _OUTPUTS] = ("pooled",)
    protocol: Annotated[tuple[Protocol, ...] | None, _PROTOCOLS] = None
    shared_memory: Annotated[tuple[SharedMemory, ...], _SHARED] = ("none",)
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, rich_help_panel=_LOAD)] = 9.0
    perf_analyzer: Annotated[Path | None, typer.Option(metavar="PROGRAM")] = None

    def __post_init__(self) -> None:
        """Refuses values that cannot be measured, and protocols that have no address."""
        for option, wrong in faults(self):
            raise UnusableOption(option, wrong)
        if self.images is not None and self.texts is not None:
            raise UnusableOption("", "give either `images` or `texts`, not both")
        if self.tower is not None and self.wanted_tower != self.tower:
            raise UnusableOption("tower", f"is {self.tower}, and the inputs that are given are {self.wanted_tower}s")
        missing = set(self._protocols) - (set(self.addresses) or {"grpc", "http"})
        if missing:
            raise UnusableOption(
                "protocol", f"has {(scheme := missing.pop())}, and no `url` has the scheme {scheme}://"
            )

    @property
    def addresses(self) -> dict[Protocol, str]:
        """The `host:port` of a running server, by protocol; empty to start one."""
        from vitriton._wire.address import parse_address

        found: dict[Any, str] = {}
        for text in self.url:
            try:
                address = parse_address(text)
            except ValueError as exc:
                raise UnusableOption("url", str(exc).removeprefix("address ")) from exc
            if address.is_secure:
                raise UnusableOption("url", f"{text} uses TLS, which cannot be measured; give grpc:// or http://")
            if address.scheme in found:
                raise UnusableOption("url", f"has two addresses with the scheme {address.scheme}; give one")
            found[address.scheme] = address.target
        return found

    @property
    def wanted_tower(self) -> Tower | None:
        """The tower that the options name; None if the export decides."""
        if self.images is None and self.texts is None:
            return self.tower
        return "image" if self.texts is None else "text"

    def points(self, tower: Tower) -> list[Point]:
        """The loads to measure on a tower of the model, in order."""
        kinds = [kind_of(output == "pooled", tower) for output in self.outputs]
        return grid(kinds, self._protocols, self.batch_size, self.concurrency, self.shared_memory)

    @property
    def _protocols(self) -> tuple[Protocol, ...]:
        return self.protocol or tuple(self.addresses) or ("grpc",)
