"""What `vitriton embed --engine ray` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from vitriton._console.embedding import IMAGES, MODEL, OUTPUT, TEXTS, EmbeddingOptions
from vitriton._console.server import SERVER
from vitriton._errors import InvalidOption

from vitriton_ray._output import check_output

_CLUSTER = "Cluster"
# Options, and what each is for.
_NEEDED = {
    "path_column": "list_file",
    "bytes_column": "list_file",
    "text_column": "texts",
    "prompt": "texts",
    "no_prompt": "texts",
    "worker_gpus": "repository",
    "price_per_hour": "dry_run",
}


@dataclass(frozen=True, kw_only=True)
class RayOptions(EmbeddingOptions):
    """The options of `vitriton embed --engine ray`.

    Attributes:
        output: the folder to write to, which all nodes reach: s3://, gs://, abfs://, or a path on a shared disk.
        images: the folders of images, or .tar files (also shards/{000..099}.tar and shards/*.tar), as URIs or paths.
            They are listed once; what is added later is for another output.
        list_file: a list of images: .csv, .jsonl or .parquet with a column of URIs, URLs or paths, a folder of such
            .parquet files, or .txt with one on each line; blank lines are skipped.
        path_column: the column of the list that holds the URIs, URLs or paths. None: uri, or else path.
        bytes_column: the column of a .parquet list that holds the images themselves, as encoded files; image.bytes is
            the field bytes of the column image.
        texts: the file of texts to embed: .csv, .jsonl, .parquet, a folder of .parquet files, or .txt with a text on
            each line, empty ones included.
        text_column: the column of the file that holds the texts. None: text.
        id_column: the column of the list, or of the file of texts, that identifies the inputs in the output; its values
            must differ. None: id, if there is one, and else the URI of an image; the file of another row and its
            number.
        keep_column: a column of a .parquet list or file of texts to copy to the output; repeat the option for more
            columns.
        model: the name that the model was exported under. None: the only model on the server, or in `repository`.
        repository: the URI of a model repository, or its path on all nodes: each worker starts a Triton of its own,
            and no server is asked.
        timeout_s: the longest time for each request, including its retries, in seconds. After it, the run ends, and the
            same command continues it.
        dtype: the type of the vectors in the output.
        shard_rows: the largest number of rows of a file of the output. None: a thousandth of all, from 256 to 8192.
        dedupe: compute the vector of images with the same content once; each image is read once more for that.
        max_errors: the number of rows with an error after which the job ends. None: it never ends for that.
        dry_run: write nothing; say how much there is, and what it would take.
        price_per_hour: the price of a worker for an hour, with which `dry_run` says what all workers cost. It is that
            of a node, divided by its number of workers.
        ray_address: the address of the Ray cluster. None: the environment variable RAY_ADDRESS, or else a cluster on
            this machine alone.
        workers: the largest number of workers. None: as many as the cluster has room for.
        worker_cpus: the number of cores that Ray sets aside for each worker. None: 1, and with `repository` all of a
            node.
        worker_gpus: the number of GPUs of each worker, with `repository`.
    """

    output: Annotated[str, typer.Option("--output", "-o", metavar="URI", rich_help_panel=OUTPUT)]
    images: Annotated[Sequence[str], typer.Argument(metavar="URI", show_default=False)] = ()
    list_file: Annotated[str | None, typer.Option("--from", metavar="URI", rich_help_panel=IMAGES)] = None
    path_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=IMAGES)] = None
    bytes_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=IMAGES)] = None
    texts: Annotated[str | None, typer.Option(metavar="URI", rich_help_panel=TEXTS)] = None
    text_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=TEXTS)] = None
    id_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=OUTPUT)] = None
    keep_column: Annotated[Sequence[str], typer.Option(metavar="NAME", rich_help_panel=OUTPUT)] = ()
    repository: Annotated[str | None, typer.Option(metavar="URI", rich_help_panel=MODEL)] = None
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 600.0
    dtype: Annotated[Literal["float32", "float16"], typer.Option(rich_help_panel=OUTPUT)] = "float32"
    shard_rows: Annotated[int | None, typer.Option(min=1, max=1_000_000, rich_help_panel=OUTPUT)] = None
    dedupe: Annotated[bool, typer.Option("--dedupe", rich_help_panel=IMAGES)] = False
    max_errors: Annotated[int | None, typer.Option(min=0, rich_help_panel=OUTPUT)] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", rich_help_panel=OUTPUT)] = False
    price_per_hour: Annotated[float | None, typer.Option(min=0, metavar="PRICE", rich_help_panel=OUTPUT)] = None
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", rich_help_panel=_CLUSTER)] = None
    workers: Annotated[int | None, typer.Option(min=1, rich_help_panel=_CLUSTER)] = None
    worker_cpus: Annotated[float | None, typer.Option(rich_help_panel=_CLUSTER)] = None
    worker_gpus: Annotated[float, typer.Option(rich_help_panel=_CLUSTER)] = 0.0

    def check(self) -> None:
        """Checks what can be checked without a look at a store, a server or a cluster.

        Raises:
            InvalidOption: an option is wrong.
        """
        kinds = [bool(self.images), self.list_file is not None, self.texts is not None]
        if sum(kinds) != 1:
            wanted = "name folders of images or .tar files, or a list of images with `list_file`, or texts with `texts`"
            raise InvalidOption("", wanted if not any(kinds) else f"{wanted}; one of these at a time")
        for name, other in _NEEDED.items():
            if self._is_given(name) and not self._is_given(other):
                raise InvalidOption(name, f"needs `{other}`")
        for name in ("id_column", "keep_column"):
            if self._is_given(name) and self.images:
                raise InvalidOption(name, "is for the columns of a list (`list_file`) or of a file of texts (`texts`)")
        for name in ("dedupe", "preprocess"):
            if self._is_given(name) and self.texts is not None:
                raise InvalidOption(name, "is for images")
        if self.dedupe and self.bytes_column is not None:
            raise InvalidOption("dedupe", "is for images with URIs; those of a column would have to be copied")
        if self.path_column is not None and self.bytes_column is not None:
            raise InvalidOption("", "give either `path_column` or `bytes_column`, not both")
        for name in ("worker_cpus", "worker_gpus"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise InvalidOption(name, f"is {value:g}; it must be 0 or more")
        check_output(self.output)
        self.check_model()

    def _is_given(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(type(self), name))
