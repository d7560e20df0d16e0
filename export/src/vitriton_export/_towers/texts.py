"""The text tower: from a checkpoint of a language model to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from vitriton._repository.names import ATTENTION_MASK, INPUT_IDS, Kind

from vitriton_export._checkpoint import text_checkpoint as _checkpoint
from vitriton_export._checkpoint.loading import not_finite
from vitriton_export._checkpoint.text_checkpoint import TextCheckpoint
from vitriton_export._errors import ExportError, OptionError, explained
from vitriton_export._graph.text_encoder import TextEncoder, embed
from vitriton_export._options import ExportOptions
from vitriton_export._parity import gates as _gates
from vitriton_export._parity import texts as _texts
from vitriton_export._parity.gates import Gate
from vitriton_export._repository import fingerprint as _fingerprint
from vitriton_export._repository.deployment import Deployment
from vitriton_export._repository.fingerprint import ExportedSpace
from vitriton_export._repository.first_step import TokenizeStep
from vitriton_export._towers.plan import DTYPES, ExportPlan

_EXAMPLE_LENGTH = 9


@dataclass(frozen=True, kw_only=True)
class TextPlan(ExportPlan):
    """The plan of a text tower.

    Attributes:
        checkpoint: the loaded checkpoint.
        poolings: the poolings that make the embedding.
        dimensions: the number of leading dimensions to keep; None: all.
        step: the first step.
    """

    checkpoint: TextCheckpoint
    poolings: tuple[str, ...]
    dimensions: int | None
    step: TokenizeStep

    def corpus(self) -> Mapping[str, bytes]:
        """See `ExportPlan`."""
        return _texts.corpus()

    def reference(self) -> _texts.TextReference:
        """See `ExportPlan`."""
        return _texts.TextReference(
            self.checkpoint, self.poolings, dimensions=self.dimensions, l2_normalize=self.deployment.l2_normalize
        )

    def gates(self, min_cosine: float | None) -> dict[str, Gate]:
        """See `ExportPlan`."""
        deployment = self.deployment
        return _gates.gates(deployment.precision, min_cosine, output_dtype=deployment.output_dtype, first=INPUT_IDS)

    def runner(self, repository: Path, *, within_limits: bool) -> _texts.TextRunner:
        """See `ExportPlan`."""
        deployment = self.deployment
        return _texts.TextRunner(repository, deployment.name, deployment.shapes, within_limits=within_limits)

    def is_apart(self, data: bytes) -> bool:
        """See `ExportPlan`."""
        return False

    def prepares(self, data: bytes) -> bool:
        """See `ExportPlan`."""
        return 0 < len(data) <= self.step.spec.max_text_bytes

    def encoder(self) -> tuple[nn.Module, Mapping[str, tuple[torch.Tensor, dict[int, str]]]]:
        """See `ExportPlan`."""
        if self.deployment.precision == "fp16":
            self.checkpoint.model.half()
            self.checkpoint.dense.half()
        module = TextEncoder(
            self.checkpoint.model,
            self.poolings,
            self.checkpoint.dense,
            dimensions=self.dimensions,
            l2_normalize=self.deployment.l2_normalize,
            masked=not self.step.spec.fixed_length,
            output_dtype=DTYPES[self.deployment.output_dtype],
        ).eval()
        ids, mask = _example(self.checkpoint)
        axes = {0: "batch", 1: "length"}
        return module, {INPUT_IDS: (ids, axes), ATTENTION_MASK: (mask, axes)}


def plan(options: ExportOptions, checkpoint: TextCheckpoint) -> TextPlan:
    """Plans an export with these options.

    Raises:
        ExportError: the checkpoint cannot be exported, or the options make no sense for the model.
    """
    with explained(f"{checkpoint.source.model_id} cannot be exported as its config.json describes it"):
        return _plan(options, checkpoint)


def _plan(options: ExportOptions, checkpoint: TextCheckpoint) -> TextPlan:
    small = checkpoint.outline
    poolings, reason = _checkpoint.poolings(options, checkpoint)
    l2_normalize = options.l2_normalize or (small.sentence is not None and small.sentence.normalizes)
    ids, mask = _example(checkpoint)
    outputs = _texts.forward(checkpoint, {INPUT_IDS: ids, ATTENTION_MASK: mask})
    with torch.no_grad():
        embedding = embed(outputs, mask, poolings, checkpoint.dense, dimensions=None, l2_normalize=l2_normalize)
    if options.dimensions is not None and options.dimensions > embedding.shape[1]:
        raise OptionError("dimensions", f"is {options.dimensions}, and embeddings have {embedding.shape[1]}")
    if not (torch.isfinite(embedding).all() and torch.isfinite(outputs.last_hidden_state).all()):
        raise ExportError(f"{checkpoint.source.model_id} gives NaN or infinity; {not_finite(checkpoint.model)}")
    step = TokenizeStep(
        spec=small.spec,
        tokenizer=small.tokenizer.backend_tokenizer.to_str(),
        prompts={} if small.sentence is None else small.sentence.prompts,
        default_prompt=None if small.sentence is None else small.sentence.default_prompt,
    )
    kinds = options.kinds("text")
    shapes: dict[Kind, tuple[int, ...]] = {
        "text_pooled": (options.dimensions or embedding.shape[1],),
        "text_unpooled": (-1, outputs.last_hidden_state.shape[2]),
    }
    pooled = "text_pooled" in kinds
    pooling = "+".join(poolings)
    space = ExportedSpace(
        weights=_fingerprint.weights_sha256(_used(checkpoint, poolings if pooled else ())),
        config=_fingerprint.architecture(checkpoint.model.config, small.family, pooler="pooler" in poolings),
        prepared={**step.space, **({"dimensions": options.dimensions} if options.dimensions and pooled else {})},
        pooling=pooling if pooled else None,
        l2_normalize=l2_normalize,
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
        l2_normalize=l2_normalize,
        precision=options.precision,
        output_dtype=options.output_dtype,
        fingerprint=space.fingerprint,
        serving=options.serving,
        verification=options.verification,
    )
    notes = (f"pooling is {pooling}, {reason}",) if reason else ()
    return TextPlan(
        checkpoint=checkpoint,
        space=space,
        poolings=poolings,
        dimensions=options.dimensions,
        step=step,
        deployment=deployment,
        notes=notes,
    )


def _example(checkpoint: TextCheckpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns input_ids and attention_mask of two texts, the second shorter than the first."""
    spec = checkpoint.outline.spec
    tokenized = checkpoint.outline.tokenizer("one two three four five six seven eight nine ten")["input_ids"]
    ids = torch.tensor([(tokenized * _EXAMPLE_LENGTH)[:_EXAMPLE_LENGTH]] * 2)
    mask = torch.ones_like(ids)
    ids[1, -2:], mask[1, -2:] = spec.pad_id, 0
    return ids, mask


def _used(checkpoint: TextCheckpoint, poolings: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Returns the weights that the outputs depend on: without an unused pooler, which may be random."""
    family = checkpoint.outline.family
    unused = () if "pooler" in poolings else family.pooler
    model = {
        name: tensor
        for name, tensor in checkpoint.model.state_dict().items()
        if name not in family.unused and not name.startswith(unused)
    }
    dense = checkpoint.dense.state_dict() if poolings else {}
    return model | {f"dense.{name}": tensor for name, tensor in dense.items()}
