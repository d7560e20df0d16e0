"""The files of a checkpoint's weights: those that transformers would read, found and checked beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vitriton_export import _documents
from vitriton_export._errors import ExportError, one_line

# In the order of transformers (modeling_utils.py, _get_resolved_checkpoint_files): it reads the first that exists.
ENTRIES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER = "adapter_config.json"

# Names of files of weights, and those of distributed checkpoints, which transformers would prefer.
_NAMED = re.compile(r"(model|pytorch_model)\b.*\.(safetensors|bin)(\.index\.json)?")
_ELSEWHERE = re.compile(r".+\.(safetensors|bin|h5|msgpack|gguf|onnx|pt|pth|ckpt|npz)")
_SHARD = re.compile(r"(model|pytorch_model)(\.\w+)?-\d+-of-\d+(\.\w+)?\.(safetensors|bin)")
_INDEX = re.compile(r"(model|pytorch_model)\b.*\.index\b.*\.json")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
# Data types of quantized tensors, which need scales from elsewhere
_QUANTIZED = re.compile(r"[IU][48]|F[468](_.*)?")

_TORCH = (b"PK\x03\x04", b"\x80")  # a zip archive, or (before torch 1.6) a pickle


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint on disk.

    Attributes:
        files: the paths of the files that hold tensors.
        passed_over: the names of other files of weights beside them, which are not read.
    """

    files: tuple[Path, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The total size of the files, in bytes."""
        return sum(path.stat().st_size for path in self.files)


def check_adapter(folder: Path, where: str) -> None:
    """Refuses an adapter: with peft installed, transformers would apply it; without peft, it would drop it silently.

    Raises:
        ExportError: the folder holds an adapter.
    """
    if not (folder / ADAPTER).is_file():
        return
    base = _documents.read(folder / ADAPTER, where).get("base_model_name_or_path")
    raise ExportError(
        f"{where} holds an adapter ({ADAPTER}), such as LoRA's, and an export takes whole weights; merge it into "
        f"{repr(base)[:80] if isinstance(base, str) and base else 'its base model'} with merge_and_unload() of peft, "
        'as "Merging an adapter" in the documentation shows, and export what that saves'
    )


def entry(folder: Path) -> Path | None:
    """Returns the file that transformers reads first; None where there is none."""
    return next((folder / name for name in ENTRIES if (folder / name).is_file()), None)


def shards(index: Path, where: str) -> dict[str, list[str]]:
    """Returns the files that an index names, and the tensors that each should hold.

    Raises:
        ExportError: the file is not an index, or names a file in another folder.
    """
    mapping = _documents.read(index, where).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(name, str) for name in mapping.values()):
        raise ExportError(f"{index.name} of {where} has no weight_map, which says what file a tensor is in")
    named: dict[str, list[str]] = {}
    for tensor, name in mapping.items():
        if Path(name).name != name:
            raise ExportError(f"{index.name} of {where} names {name!r}; the shards must be beside the index")
        named.setdefault(name, []).append(tensor)
    return named


def read_files(folder: Path) -> Iterator[Path]:
    """Yields the files that `find` would take, present or not: for hashes, even of a damaged checkpoint."""
    yield folder / ADAPTER
    start = entry(folder)
    if start is None:
        return
    yield start
    if start.name.endswith(".index.json"):
        try:
            yield from (folder / name for name in sorted(shards(start, folder.name)))
        except ExportError:  # an export reports it
            return


def find(folder: Path, where: str, others: list[str] | None = None) -> Weights:
    """Returns the files of weights, after checking that they are what their names say.

    Args:
        folder: the folder of the checkpoint.
        where: the name of the checkpoint in errors.
        others: the names of the checkpoint's files elsewhere, for an error's text; by default those in the folder.

    Raises:
        ExportError: there are no weights, some are missing, or the files are not what their names say.
    """
    names = sorted(path.name for path in folder.iterdir())
    distributed = [name for name in names if _DISTRIBUTED.fullmatch(name)]
    if distributed:
        raise ExportError(f"{where} holds a distributed checkpoint ({distributed[0]}); write one with save_pretrained")
    start = entry(folder)
    if start is None:
        for name in ENTRIES:
            _documents.check_regular(folder / name, where)
        raise ExportError(f"{where} has no weights: none of {', '.join(ENTRIES)}{_instead(others or names)}")
    named = shards(start, where) if start.name.endswith(".index.json") else {start.name: []}
    files = tuple(folder / name for name in sorted(named))
    for path in files:
        _documents.check_regular(path, where)
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ExportError(
            f"{start.name} of {where} names {len(absent)} {'file' if len(absent) == 1 else 'files'} that "
            f"{'is' if len(absent) == 1 else 'are'} missing: {_few(absent)}; download the shards that belong to it"
        )
    owners: dict[str, str] = {}
    for path in files:
        _check(path, where, named[path.name], owners)
    read = {start.name, *named}
    passed_over = tuple(name for name in names if _NAMED.fullmatch(name) and name not in read)
    return Weights(files, passed_over)


def _check(path: Path, where: str, expected: list[str], owners: dict[str, str]) -> None:
    """Checks the head of one file; `owners` maps each tensor to the file that had it first."""
    _documents.check_downloaded(path, where)
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            if not file.read(4).startswith(_TORCH):
                raise ExportError(f"{path.name} of {where} is not a torch file; download it again")
        return
    try:
        with safe_open(path, framework="np") as tensors:
            types = {name: str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118, no dict
    except (SafetensorError, OSError) as exc:
        raise ExportError(
            f"{path.name} of {where} is damaged or only a part of the file ({one_line(exc)}); download it again"
        ) from exc
    absent = [name for name in expected if name not in types]
    twice = [name for name in types if name in owners]
    if absent or twice:
        what = f"does not hold {_few(absent)}" if absent else f"holds {_few(twice)}, as {owners[twice[0]]} does"
        raise ExportError(f"{path.name} of {where} {what}: the shards and their index are not from one save")
    owners |= dict.fromkeys(types, path.name)
    quantized = [name for name, dtype in types.items() if _QUANTIZED.fullmatch(dtype)]
    if quantized:
        raise ExportError(
            f"{path.name} of {where} is quantized: {len(quantized)} of {len(types)} tensors "
            f"{'is' if len(quantized) == 1 else 'are'} {types[quantized[0]]} "
            f"({_few(quantized)}); export the original weights (--precision int8 quantizes them)"
        )


def _instead(names: list[str]) -> str:
    """Says what the checkpoint has in place of the weights, and what to do with it."""
    found = [name for name in names if _ELSEWHERE.fullmatch(name)]
    variants = [name for name in found if _NAMED.fullmatch(name)]
    parts = [name for name in variants if _SHARD.fullmatch(name)]
    if parts and parts == variants:
        index = next((name for name in names if _INDEX.fullmatch(name)), None)
        if index is not None:
            return f"; it has {index}, the index of a variant: load that variant, and write it with save_pretrained"
        plain = _plain(parts[0])
        return f"; it has {_few(parts)}, shards without their index: put {plain}.index.json beside them"
    variants = [name for name in variants if name not in parts]
    if variants:
        plain = _plain(variants[0])
        return f"; it has {_few(variants)}, a variant: rename it to {plain} in a folder of your own, and export that"
    if found:
        return f"; it has {_few(found)}, of another format: load that and write it with save_pretrained"
    return ""


def _plain(name: str) -> str:
    suffix = name.rpartition(".")[2]
    return f"{'model' if suffix == 'safetensors' else 'pytorch_model'}.{suffix}"


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
