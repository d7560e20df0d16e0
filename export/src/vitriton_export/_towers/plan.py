"""What the stages of an export need of a tower: the same for images and texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn

from vitriton_export._checkpoint.checkpoint import Checkpoint
from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._checkpoint.text_checkpoint import TextCheckpoint
from vitriton_export._errors import printable
from vitriton_export._options import OutputDtype
from vitriton_export._parity.compare import Runner
from vitriton_export._parity.gates import Gate
from vitriton_export._repository.deployment import Deployment
from vitriton_export._repository.fingerprint import ExportedSpace

DTYPES: Mapping[OutputDtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ExportPlan(ABC):
    """The decisions about one tower that follow from options and checkpoint, before any work is done.

    Attributes:
        checkpoint: the loaded checkpoint.
        space: what decides the vectors.
        deployment: the deployment: names, shapes, pooling, fingerprint.
        notes: the facts about the choices made that may surprise a user.
    """

    checkpoint: Checkpoint | TextCheckpoint
    space: ExportedSpace
    deployment: Deployment
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> CheckpointSource:
        """The checkpoint's files."""
        return self.checkpoint.source

    @property
    def model(self) -> nn.Module:
        """The transformers model in float32, in evaluation mode."""
        return self.checkpoint.model

    @property
    def head(self) -> Head | None:
        """The head that is not exported, or None."""
        return self.checkpoint.head

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the checkpoint."""
        return tuple(printable(each) for each in self.checkpoint.warnings)

    @property
    def weights(self) -> str:
        """The hash of the weights that the vectors depend on, or those that they are compared with."""
        return self.space.weights

    def in_space(self, space: ExportedSpace, logits: Mapping[str, float]) -> Self:
        """Returns the plan for vectors that are compared with those of another tower.

        Args:
            space: what decides the vectors of both.
            logits: what turns a cosine into a logit (`TwoTowers.logits`).
        """
        deployment = replace(self.deployment, fingerprint=space.fingerprint, logits=logits)
        return replace(self, space=space, deployment=deployment)

    @abstractmethod
    def corpus(self) -> Mapping[str, bytes]:
        """Returns the inputs of the parity gate, by name."""

    @abstractmethod
    def reference(self) -> Runner:
        """Returns transformers as one side of the comparison. It must be run before `encoder` changes the model."""

    @abstractmethod
    def gates(self, min_cosine: float | None) -> dict[str, Gate]:
        """Returns the demands of the parity gate, by stage."""

    @abstractmethod
    def runner(self, repository: Path, *, within_limits: bool) -> Runner:
        """Returns the export in a repository as the other side, with or without its limits on inputs."""

    @abstractmethod
    def is_apart(self, data: bytes) -> bool:
        """Whether an input is not prepared exactly as in the reference, and has gates of its own."""

    @abstractmethod
    def prepares(self, data: bytes) -> bool:
        """Whether an input is within the export's limits, and is prepared exactly as in the reference."""

    @abstractmethod
    def encoder(self) -> tuple[nn.Module, Mapping[str, tuple[torch.Tensor, dict[int, str]]]]:
        """Returns the module that becomes the graph, and its example inputs with the names of their open axes.

        It changes the model.
        """
