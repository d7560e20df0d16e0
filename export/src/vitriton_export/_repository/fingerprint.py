"""The name of an embedding space: equal where vectors may be mixed in one index, different where they may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._checkpoint.families import Family
from vitriton_export._options import Pooling, Precision
from vitriton_export._processors.normalization import Normalization


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of the float32 weights: names, shapes and values, whatever file and dtype they were stored in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def architecture(config: Any, family: Family, *, pooler: bool) -> dict[str, Any]:
    """What a transformers configuration says about the computation and the weights do not: heads, epsilon, ...

    The values that apply, whether the file states them or they are the class's defaults.

    Args:
        config: of the model.
        family: says which entries count.
        pooler: whether the embedding is the pooler's.
    """
    return {"model_type": config.model_type, **family.computes(config, pooler=pooler)}


def fingerprint(
    *,
    weights: str,
    config: Mapping[str, Any],
    spec: PreprocessSpec,
    normalization: Normalization,
    pooling: Pooling | None,
    l2_normalize: bool,
    precision: Precision,
) -> str:
    """The fingerprint of an export.

    Args:
        weights: from `weights_sha256`.
        config: from `architecture`.
        spec: the preprocessing.
        normalization: the part of it that is in the graph.
        pooling: how the embedding is made; None where there is none, only tokens.
        l2_normalize: whether the embedding has length 1; tokens are as they are.
        precision: of the encoder.

    The exporter's version, the graph's layout and the limits on images are left out: they do not move a vector.
    """
    inputs = {
        "weights": weights,
        "config": config,
        "steps": json.loads(spec.to_json())["steps"],
        "image_size": [spec.height, spec.width],
        "normalization": asdict(normalization),
        "precision": precision,
    }
    if pooling is not None:
        inputs |= {"pooling": pooling, "l2_normalize": l2_normalize}
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return f"v1-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
