"""What `vitriton embed --engine ray` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer
from vitriton._console.completion import served_names
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions
from vitriton._errors import InvalidOption

from vitriton_ray._output import check_output

_IMAGES, _TEXTS, _MODEL, _OUTPUT, _CLUSTER = "Images", "Texts", "Model", "Output", "Cluster"


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """The options of `vitriton embed --engine ray`.

    Attributes:
        output: the folder to write to, which all nodes reach: s3://, gs://, abfs://, or a path on a shared disk.
        images: the folders of images, as URIs or paths. They are listed once; what is added later is for another
            output.
        list_file: a table of images: .parquet, .csv or .jsonl, or a folder of .parquet files, as a URI or a path.
        path_column: the column of the table that holds the URIs of the images. None: uri, or else path.
        bytes_column: the column of a .parquet table that holds the images themselves, as encoded files.
        texts: a table of texts to embed: .parquet, .csv or .jsonl, a folder of .parquet files, or a .txt file with a
            text on each line.
        text_column: the column of the table that holds the texts. None: text.
        id_column: the column of the table that identifies a row; its values must differ. None: id, if there is one,
            and else the URI of an image, or the file of another row and its number.
        prompt: the name of the model's prompt to put before each text. None: the model's default prompt, if any.
        no_prompt: put no prompt before the texts, not even the model's default one.
        model: the name that the model was exported under. None: the only model on the server.
        repository: the URI of a model repository, or its path on all nodes: each worker starts a Triton of its own,
            and no server is asked.
        timeout_s: the longest time in which no server answers a worker, in seconds; then the job ends, and can be
            continued.
        preprocess: the place where images are decoded and resized.
        expect_fingerprint: the fingerprint that the model must have; any other model is refused.
        dtype: the type of the vectors in the output.
        shard_rows: the largest number of rows of a file of the output. None: a thousandth of all, from 256 to 8192.
        dedupe: compute the vector of images with the same content once; each image is read once more for that.
        max_errors: the number of rows with an error after which the job ends. None: it never ends for that.
        dry_run: write nothing; say how much there is, and what it would take.
        ray_address: the address of the Ray cluster. None: the environment variable RAY_ADDRESS, or else a cluster on
            this machine alone.
        workers: the largest number of workers. None: as many as the cluster has room for.
        worker_cpus: the number of cores that Ray sets aside for each worker. None: 1, and with `repository` all of a
            node.
        worker_gpus: the number of GPUs of each worker, with `repository`.
        access: the credentials, and the certificates to trust.
        as_json: print a summary as JSON.
        quiet: print errors only.
    """

    output: Annotated[str, typer.Option("--output", "-o", metavar="URI", rich_help_panel=_OUTPUT)]
    images: Annotated[Sequence[str], typer.Argument(metavar="URI", show_default=False)] = ()
    list_file: Annotated[str | None, typer.Option("--from", metavar="URI", rich_help_panel=_IMAGES)] = None
    path_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_IMAGES)] = None
    bytes_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_IMAGES)] = None
    texts: Annotated[str | None, typer.Option(metavar="URI", rich_help_panel=_TEXTS)] = None
    text_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_TEXTS)] = None
    id_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_OUTPUT)] = None
    prompt: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_TEXTS)] = None
    no_prompt: Annotated[bool, typer.Option("--no-prompt", rich_help_panel=_TEXTS)] = False
    url: Annotated[str, URL] = DEFAULT_ADDRESS
    model: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_MODEL, autocompletion=served_names)] = (
        None
    )
    repository: Annotated[str | None, typer.Option(metavar="URI", rich_help_panel=_MODEL)] = None
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=SERVER)] = 600.0
    preprocess: Annotated[Literal["server", "client"], typer.Option(rich_help_panel=_IMAGES)] = "server"
    expect_fingerprint: Annotated[str | None, typer.Option(metavar="FINGERPRINT", rich_help_panel=_MODEL)] = None
    dtype: Annotated[Literal["float32", "float16"], typer.Option(rich_help_panel=_OUTPUT)] = "float32"
    shard_rows: Annotated[int | None, typer.Option(min=1, max=1_000_000, rich_help_panel=_OUTPUT)] = None
    dedupe: Annotated[bool, typer.Option("--dedupe", rich_help_panel=_IMAGES)] = False
    max_errors: Annotated[int | None, typer.Option(min=0, rich_help_panel=_OUTPUT)] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", rich_help_panel=_OUTPUT)] = False
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", rich_help_panel=_CLUSTER)] = None
    workers: Annotated[int | None, typer.Option(min=1, rich_help_panel=_CLUSTER)] = None
    worker_cpus: Annotated[float | None, typer.Option(rich_help_panel=_CLUSTER)] = None
    worker_gpus: Annotated[float, typer.Option(rich_help_panel=_CLUSTER)] = 0.0
    access: Access = field(default_factory=Access)
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=_OUTPUT)] = False

    def check(self) -> None:
        """Checks what can be checked without a look at a store, a server or a cluster.

        Raises:
            InvalidOption: an option is wrong.
        """
        kinds = [bool(self.images), self.list_file is not None, self.texts is not None]
        if sum(kinds) != 1:
            wanted = "name folders of images, or a table of images with `list_file`, or one of texts with `texts`"
            raise InvalidOption("", wanted if not any(kinds) else f"{wanted}; one of these at a time")
        wrong = {
            "path_column": self.list_file is None,
            "bytes_column": self.list_file is None,
            "text_column": self.texts is None,
            "prompt": self.texts is None,
            "no_prompt": self.texts is None,
            "id_column": bool(self.images),
            "dedupe": self.texts is not None,
            "worker_gpus": self.repository is None,
        }
        table = {"path_column": "list_file", "bytes_column": "list_file", "id_column": "list_file"}
        for name, is_wrong in wrong.items():
            if is_wrong and getattr(self, name) not in (None, False, 0.0):
                needed = table.get(name, "repository" if name == "worker_gpus" else "texts")
                advice = "is for images" if name == "dedupe" else f"needs `{needed}`"
                raise InvalidOption(name, advice)
        if self.dedupe and self.bytes_column is not None:
            raise InvalidOption("dedupe", "is for images with URIs; those of a column would have to be copied")
        if self.path_column is not None and self.bytes_column is not None:
            raise InvalidOption("", "give either `path_column` or `bytes_column`, not both")
        if self.prompt is not None and self.no_prompt:
            raise InvalidOption("", "give either `prompt` or `no_prompt`, not both")
        if not self.timeout_s > 0:
            raise InvalidOption("timeout_s", f"is {self.timeout_s:g}; it must be a number of seconds above 0")
        for name in ("worker_cpus", "worker_gpus"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise InvalidOption(name, f"is {value:g}; it must be 0 or more")
        check_output(self.output)
        self.server.check()

    @property
    def server(self) -> ServerOptions:
        """The servers that embed."""
        return ServerOptions(address=self.url, access=self.access)
