"""The work of a run: what is embedded, with which model, and into how many parts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["uri", "member", "bytes", "text"]
DType = Literal["float32", "float16"]

FORMAT = 1  # of job.json and of the parts
# The columns of the output, before those that are kept.
COLUMNS = ("id", "uri", "sha256", "embedding", "error", "error_code", "width", "height", "fingerprint")
_TOLD = 5  # inputs or columns named in a message
# The words for fields whose difference is told; the other fields have their own names.
_WORDS = {
    "sources": "inputs",
    "kind": "kind of inputs",
    "value_column": "column of the inputs",
    "id_column": "column of the ids",
    "kept_columns": "kept columns",
    "manifest_sha256": "hash of the names, sizes and times of the inputs",
    "dtype": "type of the vectors",
    "prompt": "prompt",
    "preprocess": "place of preprocessing",
    "format": "format of the output",
}


class Shard(NamedTuple):
    """A part of the work: rows of one file that follow one another. Its vectors become one file.

    Attributes:
        number: the number of the shard, from 0, by which the file of its vectors is named.
        uri: the URI of the Parquet file that lists the rows.
        first: the index of the first row in that file.
        rows: the number of rows.
    """

    number: int
    uri: str
    first: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """What two runs must have in common to write into one output.

    Attributes:
        sources: the folders, tables or files of texts, as they were given.
        kind: whether a row has the URI of an image, the place of one in a tar, its bytes, or a text.
        value_column: the column with that.
        id_column: the column that identifies a row; None: the URI of an image; the file and number of another row.
        kept_columns: the columns of the inputs that are copied to the output.
        manifest_sha256: the hash of the names, sizes and times of the tables or tars; None for folders, which are
            listed once.
        model: the name that the model was exported under.
        fingerprint: the fingerprint of the embedding space.
        dimension: the number of floats of a vector.
        dtype: their type in the output.
        prompt: the name of the prompt that is put before each text; None if there is none.
        preprocess: the place where images are decoded and resized.
        dedupe: whether rows with the same content share one vector that is computed once.
        format: the version of the output's layout.
    """

    sources: tuple[str, ...]
    kind: Kind
    value_column: str
    id_column: str | None
    kept_columns: tuple[str, ...] = ()
    manifest_sha256: str | None
    model: str
    fingerprint: str
    dimension: int
    dtype: DType = "float32"
    prompt: str | None = None
    preprocess: Literal["server", "client"] = "server"
    dedupe: bool = False
    format: int = FORMAT

    @property
    def has_uris(self) -> bool:
        """Whether a row says where its image is."""
        return self.kind in ("uri", "member")

    @property
    def noun(self) -> str:
        """The noun for a row."""
        return "text" if self.kind == "text" else "image"

    def change(self, now: BulkJob) -> str | None:
        """What this job, that of an earlier run, has and another one does not; None if they are equal."""
        for name, then in asdict(self).items():
            value = getattr(now, name)
            if then != value:
                return f"the {_WORDS.get(name, name)} {_told(then)}, and not {_told(value)}"
        return None


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """How a job is cut.

    Attributes:
        rows: the number of rows.
        shards: the number of shards.
        shard_rows: the usual number of rows of a shard.
        value_column: the column of the shards' tables with the inputs.
        id_column: their column of the ids; None: see `BulkJob`.
        id_type: the type of the ids in the output: string or int64.
    """

    rows: int
    shards: int
    shard_rows: int
    value_column: str
    id_column: str | None
    id_type: Literal["string", "int64"] = "string"


def to_json(job: BulkJob, plan: ShardPlan) -> str:
    """Writes a job and its plan as JSON."""
    return json.dumps({"job": asdict(job), "plan": asdict(plan)}, indent=2, ensure_ascii=False)


def from_json(text: str) -> tuple[BulkJob, ShardPlan]:
    """Reads a job and its plan.

    Raises:
        ValueError: the text is of another version.
    """
    document: dict[str, Any] = json.loads(text)
    if document.get("job", {}).get("format") != FORMAT:
        raise ValueError(f"it has another format than {FORMAT}")
    job: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document["job"].items()
    }
    return BulkJob(**job), ShardPlan(**document["plan"])


def _told(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    more = f" and {len(value) - _TOLD} more" if len(value) > _TOLD else ""
    return (", ".join(map(str, value[:_TOLD])) or "none") + more
