"""The name of an embedding space: equal where vectors may be mixed in one index, different where they may not."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

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


# Entries of a configuration that name things, or matter in training alone.
_NOT_ARCHITECTURE = re.compile(
    r"_name_or_path|architectures|transformers_version|(torch_)?dtype|id2label|label2id|num_labels|problem_type"
    r"|initializer_range|\w*dropout\w*|drop_path_rate"
)


def architecture(config: Any) -> dict[str, Any]:
    """What a transformers configuration says about the computation, beyond the weights' shapes: heads, epsilon, ...

    Only what differs from the class's defaults, so that an entry that a later transformers adds changes nothing.
    """
    defaults = type(config)().to_dict()
    own = {
        key: value
        for key, value in config.to_dict().items()
        if not _NOT_ARCHITECTURE.fullmatch(key) and (key not in defaults or defaults[key] != value)
    }
    return {"model_type": config.model_type, **own}


def fingerprint(
    *,
    weights: str,
    config: Mapping[str, Any],
    spec: PreprocessSpec,
    normalization: Normalization,
    pooling: Pooling,
    l2_normalize: bool,
    precision: Precision,
) -> str:
    """The fingerprint of an export.

    Args:
        weights: from `weights_sha256`.
        config: from `architecture`.
        spec: the preprocessing.
        normalization: the part of it that is in the graph.
        pooling: how the embedding is made.
        l2_normalize: whether it has length 1.
        precision: of the encoder.

    The exporter's version, the graph's layout and the limits on images are left out: they do not move a vector.
    """
    inputs = {
        "weights": weights,
        "config": config,
        "steps": json.loads(spec.to_json())["steps"],
        "image_size": [spec.height, spec.width],
        "normalization": asdict(normalization),
        "pooling": pooling,
        "l2_normalize": l2_normalize,
        "precision": precision,
    }
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), default=str)
    return f"v1-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
