"""The image tower: from a checkpoint of a vision model to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import nn
from vitriton._repository.names import Kind
from vitriton.preprocessing import ImageError, is_scaled, preprocess

from vitriton_export._checkpoint import checkpoint as _checkpoint
from vitriton_export._checkpoint.checkpoint import Checkpoint
from vitriton_export._checkpoint.families import Family
from vitriton_export._checkpoint.loading import not_finite
from vitriton_export._errors import ExportError, explained
from vitriton_export._graph.encoder import Encoder, pool
from vitriton_export._options import ExportOptions, Pooling
from vitriton_export._parity import compare, corpus
from vitriton_export._parity import gates as _gates
from vitriton_export._parity.gates import Gate
from vitriton_export._parity.runner import RepositoryRunner
from vitriton_export._processors.reference_pixels import tolerance
from vitriton_export._repository import fingerprint as _fingerprint
from vitriton_export._repository.deployment import Deployment
from vitriton_export._repository.fingerprint import ExportedSpace
from vitriton_export._repository.first_step import PreprocessStep
from vitriton_export._towers.plan import DTYPES, ExportPlan


@dataclass(frozen=True, kw_only=True)
class ImagePlan(ExportPlan):
    """The plan of an image tower.

    Attributes:
        checkpoint: the loaded checkpoint.
        pooling: the pooling that makes the embedding.
        step: the first step.
    """

    checkpoint: Checkpoint
    pooling: Pooling
    step: PreprocessStep

    def corpus(self) -> Mapping[str, bytes]:
        """See `ExportPlan`."""
        spec = self.step.spec
        return compare.usable(corpus.corpus(large=spec.scales_jpegs), self.checkpoint.spec)

    def reference(self) -> compare.Reference:
        """See `ExportPlan`."""
        return compare.Reference(self.checkpoint, self.pooling, l2_normalize=self.deployment.l2_normalize)

    def gates(self, min_cosine: float | None) -> dict[str, Gate]:
        """See `ExportPlan`."""
        return _gates.gates(
            self.deployment.precision,
            min_cosine,
            output_dtype=self.deployment.output_dtype,
            pixel_tolerance=tolerance(self.checkpoint.image_processor),
            scaled_decoding=self.step.spec.scales_jpegs,
        )

    def runner(self, repository: Path, *, within_limits: bool) -> RepositoryRunner:
        """See `ExportPlan`."""
        deployment = self.deployment
        return RepositoryRunner(repository, deployment.name, deployment.shapes, within_limits=within_limits)

    def is_apart(self, data: bytes) -> bool:
        """See `ExportPlan`."""
        return self.step.spec.scales_jpegs and is_scaled(data, self.step.spec)

    def prepares(self, data: bytes) -> bool:
        """See `ExportPlan`."""
        try:
            preprocess(data, self.step.spec)
        except ImageError:
            return False
        return not self.is_apart(data)

    def encoder(self) -> tuple[nn.Module, Mapping[str, tuple[torch.Tensor, dict[int, str]]]]:
        """See `ExportPlan`."""
        if self.deployment.precision == "fp16":
            self.checkpoint.model.half()
        module = Encoder(
            self.checkpoint.network,
            self.step.normalization,
            self.pooling,
            **self.checkpoint.tokens,
            packed=self.checkpoint.family.inputs == "patches",
            l2_normalize=self.deployment.l2_normalize,
            output_dtype=DTYPES[self.deployment.output_dtype],
        ).eval()
        ((name, output),) = self.step.outputs.items()
        dtype = torch.float32 if self.step.spec.dtype == np.float32 else torch.uint8
        return module, {name: (torch.zeros((2, *output.dims), dtype=dtype), {0: "batch"})}


def plan(options: ExportOptions, checkpoint: Checkpoint) -> ImagePlan:
    """Plans an export with these options.

    Raises:
        ExportError: the checkpoint cannot be exported, or the pooling makes no sense for the model.
    """
    with explained(f"{checkpoint.source.model_id} cannot be exported as its config.json describes it"):
        return _plan(options, checkpoint)


def _plan(options: ExportOptions, checkpoint: Checkpoint) -> ImagePlan:
    spec, normalization = checkpoint.spec, checkpoint.normalization
    blank = [Image.new("RGB", (spec.width, spec.height))]
    outputs = compare.forward(checkpoint, checkpoint.image_processor(blank, return_tensors="pt"))
    pooling = _checkpoint.resolve_pooling(
        options.pooling,
        checkpoint,
        has_pooler=outputs.get("pooler_output") is not None,
        allow_untrained=options.allow_untrained_pooler,
    )
    embedding = pool(outputs, pooling, **checkpoint.tokens, l2_normalize=options.l2_normalize)
    if not (torch.isfinite(embedding).all() and torch.isfinite(outputs.last_hidden_state).all()):
        raise ExportError(
            f"{checkpoint.source.model_id} gives NaN or infinity for a black image; {not_finite(checkpoint.model)}"
        )
    shapes: dict[Kind, tuple[int, ...]] = {
        "pooled": tuple(embedding.shape[1:]),
        "unpooled": tuple(outputs.last_hidden_state.shape[1:]),
    }
    _check_tokens(checkpoint, outputs, spec.height, spec.width)
    kinds = options.kinds("image")
    # tokens alone: the graph makes no embedding
    embeds: Pooling | None = _space(pooling, checkpoint.family) if "pooled" in kinds else None
    step = PreprocessStep(
        spec=replace(spec, limits=options.limits), normalization=normalization, pillow_version=PIL.__version__
    )
    space = ExportedSpace(
        weights=_fingerprint.weights_sha256(_used(checkpoint, embeds)),
        config=_fingerprint.architecture(
            checkpoint.model.config, checkpoint.family, pooler=embeds in ("pooler", "projection")
        ),
        prepared=step.space,
        pooling=embeds,
        l2_normalize=options.l2_normalize,
        precision=options.precision,
    )
    deployment = Deployment(
        name=options.deployed_name,
        step=step,
        shapes={kind: shapes[kind] for kind in kinds},
        max_batch_size=options.max_batch_size,
        model_id=checkpoint.source.model_id,
        revision=checkpoint.source.revision,
        pooling=pooling,
        l2_normalize=options.l2_normalize,
        precision=options.precision,
        output_dtype=options.output_dtype,
        fingerprint=space.fingerprint,
        serving=options.serving,
        verification=options.verification,
    )
    return ImagePlan(checkpoint=checkpoint, space=space, pooling=pooling, step=step, deployment=deployment)


def _space(pooling: Pooling, known: Family) -> Pooling:
    """Returns one name for poolings that make the same vectors."""
    if pooling == "projection" and known.projection == "pooler":
        pooling = "pooler"
    return "cls" if pooling == "pooler" and known.pooler_is_cls else pooling


def _check_tokens(checkpoint: Checkpoint, outputs: Any, height: int, width: int) -> None:
    """Checks the number of tokens before and after the patches: reference and graph pool alike, so the gate cannot."""
    if not checkpoint.family.grid:
        return
    patch: Any = checkpoint.model.config.patch_size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    tokens, patches = outputs.last_hidden_state.shape[1], (height // down) * (width // across)
    others = sum(checkpoint.tokens.values())
    if tokens - patches != others:
        raise ExportError(
            f"{checkpoint.source.model_id} gives {tokens} tokens for {patches} patches, and "
            f"{checkpoint.model.config.model_type} should have {others} more tokens than patches"
        )


def _used(checkpoint: Checkpoint, pooling: Pooling | None) -> dict[str, torch.Tensor]:
    """Returns the weights that the outputs depend on: without an unused pooler, which may be random."""
    unused, pooler = checkpoint.family.unused, checkpoint.family.pooler
    return {
        name: tensor
        for name, tensor in checkpoint.model.state_dict().items()
        if name not in unused and (pooling in ("pooler", "projection") or not name.startswith(pooler))
    }
