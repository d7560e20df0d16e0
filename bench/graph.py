"""The gain from each rewrite of the graph, alone and together, in ONNX Runtime on this machine's CPU.

    python bench/graph.py [--layers 12] [--batch 8] [--rounds 9] [--threads N]

The model is a ViT with random weights (12 layers: ViT-B/16), pooled by CLS. The graphs take turns. The program prints
the median speed over the rounds relative to the plain graph, the lowest and highest, and the largest difference of the
embeddings from the plain graph's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from transformers import ViTConfig, ViTModel
from vitriton_export._graph import onnx_export, quantize, rewrites
from vitriton_export._graph.attention import attention
from vitriton_export._graph.encoder import Encoder
from vitriton_export._processors.processor import Normalization


def graphs(layers: int) -> dict[str, ir.Model]:
    """The graphs, by name; the first is the plain one."""
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    model = ViTModel(ViTConfig(num_hidden_layers=layers)).eval()
    encoder = Encoder(model, Normalization(1 / 255, half, half), "cls", prefix_tokens=1, l2_normalize=False).eval()
    inputs = {"pixels": (torch.zeros((2, 224, 224, 3), dtype=torch.uint8), {0: "batch"})}
    exported = {}
    for name, fused in (("plain", False), ("fused attention", True)):
        with attention(model, fused=fused):
            exported[name] = onnx_export.with_output(onnx_export.to_onnx(encoder, inputs), "embedding")
    for name, base in (("slim last block", "plain"), ("both", "fused attention")):
        exported[name] = exported[base].clone()
        rewrites.optimize(exported[name])
    for name, base, per_token in (
        ("int8", "plain", True),
        ("int8 + both", "both", True),
        ("int8-fast", "plain", False),
        ("int8-fast + both", "both", False),
    ):
        exported[name] = exported[base].clone()
        quantize.quantize(exported[name], per_token=per_token)
    return exported


def sessions(models: dict[str, ir.Model], threads: int) -> dict[str, ort.InferenceSession]:
    """A session for each graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    opened = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            path = Path(folder) / "model.onnx"
            ir.save(model, path)
            opened[name] = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    return opened


def main() -> None:
    """Measures, and prints a line for each graph."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    opened = sessions(graphs(arguments.layers), arguments.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.batch, 224, 224, 3), dtype=np.uint8)
    results = {name: session.run(None, {"pixels": pixels})[0] for name, session in opened.items()}
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(arguments.rounds):
        for name, session in opened.items():
            started = time.perf_counter()
            session.run(None, {"pixels": pixels})
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        ratios = [plain / own for plain, own in zip(seconds["plain"], times, strict=True)]
        error = np.abs(results[name] - results["plain"]).max()
        print(
            f"{name:<18} {statistics.median(ratios):5.2f} x  ({min(ratios):.2f} to {max(ratios):.2f})  "
            f"{arguments.batch / statistics.median(times):6.1f} images/s  max abs difference {error:.1g}"
        )


if __name__ == "__main__":
    main()
