"""Torch takes seconds for the graph of a small model, and many tests export the same one: each graph is made once.

It is kept in `.cache/graphs`, for all workers, for the processes that tests start, and for the next run. What decides a
graph is its key: the module with its weights, the inputs, the code of exporter and client, and the versions of the
libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import trained_dinov2
from filelock import FileLock

from support import exports
from support.checkpoints import CACHE

FOLDER = CACHE / "graphs"
_PATHS = [str(Path(__file__).parents[1]), str(Path(trained_dinov2.__file__).parent)]
IMPORT = f"import sys; sys.path[:0] = {_PATHS}; from support import graphs"  # in a process of its own
MAIN = f"{IMPORT}; graphs.main()"
_LARGEST = 25_000_000  # parameters of a model whose graph is kept: those of all-MiniLM-L6-v2, and not of ViT-B/16
_ELSEWHERE = ("_parameters", "_buffers", "_modules", "name_or_path")  # in the hash in another form, or not in the graph
_ADDRESS = re.compile(r"(?<=<)(function [\w.]+) at 0x[0-9a-f]+")  # not that of a function in <locals>


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keeps what `to_onnx` returns. A test that replaces torch's exporter gets nothing that is kept."""
    import onnx_ir as ir
    import torch
    from vitriton_export._graph import onnx_export

    real, exporter = onnx_export.to_onnx, torch.onnx.export

    def to_onnx(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Any:
        if torch.onnx.export is not exporter or sum(each.numel() for each in module.parameters()) > _LARGEST:
            return real(module, inputs)
        made = FOLDER / f"{_key(module, inputs)}.onnx"
        made.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(made.with_suffix(".lock")):
            if not made.is_file():
                exports.tidy(FOLDER)
                staging = made.with_suffix(f".{os.getpid()}")
                ir.save(real(module, inputs), staging)
                staging.rename(made)
            os.utime(made)
            return ir.load(made)

    with mock.patch.object(onnx_export, "to_onnx", to_onnx):
        yield


def main() -> None:
    """The command `vitriton`, which takes the graphs that are kept."""
    from vitriton import cli

    with kept():
        cli.main()


def _key(module: Any, inputs: Mapping[str, Any]) -> str:
    """A hash of all that decides a graph. A function made by a call makes it another one in each process."""
    digest = hashlib.sha256(exports.makers())
    for name, (example, axes) in inputs.items():
        digest.update(f"{name} {example.dtype} {tuple(example.shape)} {axes}\n".encode())
    for name, part in module.named_modules():
        state = {key: value for key, value in vars(part).items() if key not in _ELSEWHERE}
        if (config := state.pop("config", None)) is not None:
            state["config"] = {**config.to_dict(), "_name_or_path": None, "attention": config._attn_implementation}
        said = _ADDRESS.sub(r"\1", f"{name} {type(part)} {_in_order(state)}\n")
        digest.update(said.encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().numpy().tobytes())
    return digest.hexdigest()[:32]


def _in_order(value: Any) -> Any:
    """The order of a set's strings is another one in each process."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return {key: _in_order(each) for key, each in value.items()}
    return value
