"""What a run embeds, in order, and how: the seam between the command and its images or texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from vitriton._console.inputs import Inputs
from vitriton._images.sources import source_name
from vitriton._options import Options
from vitriton._storage import Storage, is_remote, read_ahead
from vitriton.commands.embed.job import Job, Name, Shape

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client
    from vitriton._repository.names import Tower


class BulkInputs(ABC):
    """The images or the texts of a run.

    Attributes:
        tower: the tower that embeds them, which is also the noun for one of them.
        total: their number.
        note: one line about what was left out; empty if there is nothing to say.
        kept: the number of inputs, the first ones, whose embeddings come from an earlier output; None without --append.
        every_s: the distance between two frames of a video, in seconds; None if there are no videos.
    """

    tower: Tower
    total: int
    note: str = ""
    kept: int | None = None
    every_s: float | None = None

    @abstractmethod
    def sha256(self) -> str:
        """The hash of all that a resumed run must find unchanged."""

    @abstractmethod
    def names(self) -> Iterator[Name]:
        """Yields the name of each input."""

    @abstractmethod
    def shape(self, client: Client, *, pool: bool) -> Shape:
        """The shape of an embedding; 0 is a dimension that is open, and may differ between images.

        Raises:
            ClientError: the server failed, or its model does not embed such inputs.
        """

    @abstractmethod
    def stream(self, client: Client, first: int, *, pool: bool) -> Generator[Result, None, None]:
        """Embeds the inputs from an index on; the index of a result counts from there.

        Raises:
            ClientError: the server failed.
            CommandFailed, OSError: the inputs cannot be read any more.
        """

    @abstractmethod
    def details(self, job: Job, truncated: int) -> Mapping[str, object]:
        """What the summary of a run says of images alone, or of texts alone.

        Args:
            job: the job of the run.
            truncated: the number of texts that were cut.
        """

    def prompt(self, client: Client) -> str | None:
        """The name of the model's prompt that is put before each input; None if there is none.

        Raises:
            CommandFailed: the model does not have the prompt.
            ClientError: the server failed.
        """
        return None

    def reason(self, index: int, reason: str) -> str:
        """The reason why an input has no embedding, with its place if the name of the input does not tell it."""
        return reason

    def check(self, job: Job) -> None:  # noqa: B027 - most inputs take any job
        """Checks that a job's embeddings may stand beside those that are kept.

        Raises:
            CommandFailed: they may not.
        """


class BulkImages(BulkInputs):
    """The images of a run.

    Args:
        inputs: their paths and URLs.
    """

    tower: Tower = "image"

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self.total = len(inputs.sources)
        self.note = inputs.describe_passed_over() + inputs.describe_videos()

    def sha256(self) -> str:
        """See `BulkInputs`; the images' contents are not compared."""
        return self._inputs.sha256()

    def names(self) -> Iterator[Name]:
        """See `BulkInputs`."""
        return map(Name, self._inputs.names)

    def shape(self, client: Client, *, pool: bool) -> Shape:
        """See `BulkInputs`."""
        return client.embed([], pool=pool).shape[1:]

    def stream(self, client: Client, first: int, *, pool: bool) -> Generator[Result, None, None]:
        """See `BulkInputs`."""
        sources: Iterable[Any] = islice(self._inputs.sources, first, None)
        if any(map(is_remote, self._inputs.sources)):
            sources = read_ahead(sources, partial(_read, Storage()))
        return client.stream(sources, pool=pool, on_error="return")

    def details(self, job: Job, truncated: int) -> Mapping[str, object]:
        """See `BulkInputs`."""
        return {"passed_over": self._inputs.passed_over.total(), "kept": job.kept or 0}

    def reason(self, index: int, reason: str) -> str:
        """See `BulkInputs`."""
        return reason if self._inputs.ids is None else f"{source_name(self._source(index))}: {reason}"

    def _source(self, index: int) -> str:
        """The path or URL that an input comes from."""
        return self._inputs.sources[index]


def _read(storage: Storage, source: str) -> Any:
    """The bytes of an image of a store, or why there are none; the client reads other images itself."""
    return storage.read(source, Options().max_image_bytes) if is_remote(source) else source
