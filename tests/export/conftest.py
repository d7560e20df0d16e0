"""Many tests export one small model, and torch takes seconds for its graph: each worker makes each graph once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

_LARGEST = 1_000_000  # parameters of a model whose graph is kept
_ELSEWHERE = ("_parameters", "_buffers", "_modules", "name_or_path")  # in the hash in another form, or not in the graph


@pytest.fixture(scope="session", autouse=True)
def _kept_graphs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps what `to_onnx` returns. A test that replaces torch's exporter gets nothing that is kept."""
    if request.config.getoption("unit"):
        yield
        return
    import torch
    from vitriton_export._graph import onnx_export

    real, exporter, kept = onnx_export.to_onnx, torch.onnx.export, {}

    def to_onnx(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Any:
        if torch.onnx.export is not exporter or sum(each.numel() for each in module.parameters()) > _LARGEST:
            return real(module, inputs)
        if (key := _digest(module, inputs)) not in kept:
            kept[key] = real(module, inputs)
        return kept[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "to_onnx", to_onnx)
        yield


def _digest(module: Any, inputs: Mapping[str, Any]) -> bytes:
    """A hash of all that decides a graph. An attribute that prints its address makes it another one each time."""
    digest = hashlib.sha256()
    for name, (example, axes) in inputs.items():
        digest.update(f"{name} {example.dtype} {tuple(example.shape)} {axes}\n".encode())
    for name, part in module.named_modules():
        state = {key: value for key, value in vars(part).items() if key not in _ELSEWHERE}
        if (config := state.pop("config", None)) is not None:
            state["config"] = {**config.to_dict(), "_name_or_path": None, "attention": config._attn_implementation}
        digest.update(f"{name} {type(part)} {state}\n".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().numpy().tobytes())
    return digest.digest()
