"""The fingerprint of an embedding space: equal where vectors may share an index, different where they may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitriton_export._checkpoint.families import Architecture
from vitriton_export._options import Precision


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Returns a hash of the float32 weights: names, shapes and values, whatever file and dtype stored them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def architecture(config: Any, family: Architecture, *, pooler: bool) -> dict[str, Any]:
    """Returns what the configuration says about the computation and the weights do not: heads, epsilon, ...

    These are the effective values, whether they are in the file or the class's defaults.

    Args:
        config: the transformers configuration of the model.
        family: the family, which says which entries count.
        pooler: whether the pooler makes the embedding.
    """
    return {"model_type": config.model_type, **family.computes(config, pooler=pooler)}


@dataclass(frozen=True, kw_only=True)
class ExportedSpace:
    """What decides the vectors of an export.

    The exporter's version, the graph's layout and the limits on inputs are left out: they do not change a vector.

    Attributes:
        weights: the hash of the weights, from `weights_sha256`.
        config: the entries of the configuration, from `architecture`.
        prepared: how the inputs of the encoder are made, from `FirstStep.space`.
        pooling: the pooling that makes the embedding; None where there are only tokens.
        l2_normalize: whether embeddings are scaled to length 1; tokens are not.
        precision: the precision of the encoder.
    """

    weights: str
    config: Mapping[str, Any]
    prepared: Mapping[str, Any]
    pooling: str | None
    l2_normalize: bool
    precision: Precision

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the space."""
        inputs = {
            "weights": self.weights,
            "config": self.config,
            **self.prepared,
            "precision": self.precision,
        }
        if self.pooling is not None:
            inputs |= {"pooling": self.pooling, "l2_normalize": self.l2_normalize}
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
        return f"v1-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def joined(image: ExportedSpace, text: ExportedSpace) -> ExportedSpace:
    """Returns the space of two towers whose vectors are compared: what decides the vectors of either decides it."""
    return replace(
        text,
        weights=hashlib.sha256(f"{image.weights} {text.weights}".encode()).hexdigest(),
        config={"image": image.config, "text": text.config},
        prepared={"image": image.prepared, "text": text.prepared},
    )
