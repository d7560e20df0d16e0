"""What the stages of an export need of a tower: the same for images and texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._parity.compare import Runner
from vitriton_export._parity.gates import Gate
from vitriton_export._repository.deployment import Deployment


class ExportPlan(Protocol):
    """The decisions that follow from options and checkpoint, before any work is done."""

    @property
    def source(self) -> CheckpointSource:
        """The checkpoint's files."""

    @property
    def model(self) -> nn.Module:
        """The transformers model in float32, in evaluation mode."""

    @property
    def head(self) -> Head | None:
        """The head that is not exported, or None."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the checkpoint."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The facts about the choices made that may surprise a user."""

    @property
    def weights(self) -> str:
        """The hash of the weights that the outputs depend on."""

    @property
    def deployment(self) -> Deployment:
        """The deployment: names, shapes, pooling, fingerprint."""

    def corpus(self) -> Mapping[str, bytes]:
        """Returns the inputs of the parity gate, by name."""

    def reference(self) -> Runner:
        """Returns transformers as one side of the comparison. It must be run before `encoder` changes the model."""

    def gates(self, min_cosine: float | None) -> dict[str, Gate]:
        """Returns the demands of the parity gate, by stage."""

    def runner(self, repository: Path, *, within_limits: bool) -> Runner:
        """Returns the export in a repository as the other side, with or without its limits on inputs."""

    def is_apart(self, data: bytes) -> bool:
        """Whether an input is not prepared exactly as in the reference, and has gates of its own."""

    def encoder(self) -> tuple[nn.Module, Mapping[str, tuple[torch.Tensor, dict[int, str]]]]:
        """Returns the module that becomes the graph, and its example inputs with the names of their open axes."""
