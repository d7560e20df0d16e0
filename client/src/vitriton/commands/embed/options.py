"""What `vitriton embed` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitriton._console.embedding import IMAGES, MODEL, OUTPUT, TEXTS, EmbeddingOptions
from vitriton._console.inputs import read_every
from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption

if TYPE_CHECKING:
    from vitriton.commands.embed.outputs import Paths

# What options of images alone are told where there are texts.
_OF_IMAGES = {
    "path_column": "texts have a `text_column`",
    "append": "embed new texts into a file of their own",
    "preprocess": "texts are tokenized on the server",
}


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(EmbeddingOptions):
    """The options of `vitriton embed`.

    Attributes:
        output: the file to write; its suffix (.parquet, .npy or .jsonl) selects the format. With .npy, a file that ends
            in .sources.jsonl lists the input of each row.
        images: the images to embed, and with `every` the videos.
        list_file: a list of images: .csv, .jsonl or .parquet with a column of paths or URLs, or a file with one on each
            line, taken as it is; blank lines are skipped. - reads standard input.
        path_column: the column of the list that holds the paths or URLs. None: path.
        every: the time between two frames of a video that are embedded, such as 1s, 500ms or 2m. None: videos are
            skipped.
        texts: the file of texts to embed: .csv, .jsonl, .parquet, or .txt with a text on each line, empty ones
            included. - reads standard input.
        text_column: the column of the file that holds the texts. None: text.
        id_column: the column of the list, or of the file of texts, that identifies the inputs in the output. None: the
            path or URL of an image or a video; the file of a text and the number of its line or row.
        pool: the kind of output: one vector for each image or text, or all its tokens.
        recursive: include the subfolders of each DIR.
        errors: the file that lists the inputs that cannot be embedded. None: OUTPUT.errors.jsonl.
        append: add to an existing output: keep its rows, and embed only the images that it does not have. Images are
            compared by their names, and not by their contents.
        overwrite: replace an existing output.
        resume: continue an interrupted run, or start again.
        engine: the program that does the work: this command, or a Ray cluster, for which there are other options (see
            vitriton embed --engine ray --help).
    """

    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", rich_help_panel=OUTPUT)]
    images: Annotated[Sequence[str], typer.Argument(metavar="DIR|FILE|URL", show_default=False)] = ()
    list_file: Annotated[str | None, typer.Option("--from", metavar="FILE", rich_help_panel=IMAGES)] = None
    path_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=IMAGES)] = None
    every: Annotated[str | None, typer.Option(metavar="TIME", rich_help_panel=IMAGES)] = None
    texts: Annotated[str | None, typer.Option(metavar="FILE", rich_help_panel=TEXTS)] = None
    text_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=TEXTS)] = None
    id_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=OUTPUT)] = None
    pool: Annotated[bool, typer.Option("--pool/--no-pool", " /--unpooled", rich_help_panel=MODEL)] = True
    recursive: Annotated[bool, typer.Option(rich_help_panel=IMAGES)] = True
    errors: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=OUTPUT)] = None
    append: Annotated[bool, typer.Option("--append", rich_help_panel=OUTPUT)] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", rich_help_panel=OUTPUT)] = False
    resume: Annotated[bool, typer.Option(rich_help_panel=OUTPUT)] = True
    engine: Annotated[Literal["local", "ray"], typer.Option(rich_help_panel=MODEL)] = "local"

    def check_inputs(self) -> None:
        """Checks that there are either images or texts, and no options of the other.

        Raises:
            InvalidOption: the file of texts is missing, there are both or neither, or an option does not fit them.
        """
        if self.texts not in (None, "-") and (fault := file_fault(Path(self.texts))) is not None:
            raise InvalidOption("texts", fault)
        has_images = bool(self.images) or self.list_file is not None
        if self.texts is None:
            for name in ("text_column", "prompt", "no_prompt"):
                if getattr(self, name) not in (None, False):
                    raise InvalidOption(name, "is for texts; give their file with `texts`")
            for name in ("path_column", "id_column"):
                if getattr(self, name) is not None and self.list_file is None:
                    also = "" if name == "path_column" else " (or of a file of texts)"
                    raise InvalidOption(name, f"is for the columns of a list{also}; give the list with `list_file`")
            if not has_images:
                wanted = "name images, folders or URLs, or give a list with `list_file`, or texts with `texts`"
                raise InvalidOption("", wanted)
        elif self.every is not None:
            raise InvalidOption("every", "is for videos, and texts have no frames")
        elif has_images:
            raise InvalidOption("texts", "and images cannot be embedded together; run the command once for each")
        else:
            for name, advice in _OF_IMAGES.items():
                if getattr(self, name) != getattr(type(self), name):  # its default
                    raise InvalidOption(name, f"is for images; {advice}")

    def check_append(self) -> None:
        """Checks that the output is one that the command can add to, if it is asked to.

        Raises:
            InvalidOption: it is not.
        """
        if self.append and self.overwrite:
            raise InvalidOption("", "give either `append` or `overwrite`, not both")
        if self.append and self.output.suffix == ".jsonl":
            raise InvalidOption("append", f"is for .parquet and .npy, and the output is {self.output}")
        if self.append and self.every is not None:
            raise InvalidOption("append", "is for images; embed frames of videos (`every`) into a file of their own")

    @property
    def can_append(self) -> bool:
        """Whether the command could add to an output that is there."""
        return self.texts is None and self.every is None and self.output.suffix != ".jsonl"

    @property
    def every_s(self) -> float | None:
        """The distance between two frames of a video, in seconds; None: videos are not embedded.

        Raises:
            InvalidOption: `every` is no time above 0.
        """
        return None if self.every is None else read_every(self.every)

    @property
    def paths(self) -> Paths:
        """The files of the run."""
        from vitriton.commands.embed.outputs import Paths  # it imports numpy, for which --help need not wait

        return Paths(
            output=self.output, errors=self.errors or self.output.with_name(f"{self.output.name}.errors.jsonl")
        )
