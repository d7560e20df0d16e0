"""The name of an embedding space: equal where vectors may be mixed in one index, different where they may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._options import Pooling, Precision
from vitriton_export._processor import Normalization

# In the committed repository, which has no weights yet.
NOT_EXPORTED = "not-exported"


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of the float32 weights: names, shapes and values, whatever file and dtype they were stored in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(
    *,
    weights: str,
    spec: PreprocessSpec,
    normalization: Normalization,
    pooling: Pooling,
    l2_normalize: bool,
    precision: Precision,
) -> str:
    """The fingerprint of an export.

    The exporter's version, the graph's layout and the limits on images are left out: they do not move a vector.
    """
    inputs = {
        "weights": weights,
        "steps": json.loads(spec.to_json())["steps"],
        "image_size": [spec.height, spec.width],
        "normalization": asdict(normalization),
        "pooling": pooling,
        "l2_normalize": l2_normalize,
        "precision": precision,
    }
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return f"v1-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
