"""The committed text files of the default model's export: `python -m vitriton_export.placeholder FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import ViTConfig, ViTImageProcessorPil
from vitriton._repository.disk import NOT_EXPORTED

from vitriton_export._options import ExportOptions
from vitriton_export._processors import processor
from vitriton_export._repository import deployment
from vitriton_export._repository.deployment import Deployment
from vitriton_export._repository.first_step import PreprocessStep


def default_deployment() -> Deployment:
    """Returns the deployment of the default model, as far as it follows from the configuration."""
    options, config = ExportOptions(), ViTConfig()
    spec, normalization = processor.describe(ViTImageProcessorPil())
    patch: Any = config.patch_size
    patches = (spec.height // patch) * (spec.width // patch)
    return Deployment(
        name=options.deployed_name,
        step=PreprocessStep(
            spec=spec,
            normalization=normalization,
            pillow_version=NOT_EXPORTED,  # the installed version would make the committed files depend on the machine
        ),
        shapes={"pooled": (config.hidden_size,), "unpooled": (1 + patches, config.hidden_size)},
        max_batch_size=options.max_batch_size,
        model_id=options.model,
        revision=NOT_EXPORTED,
        pooling="cls",  # its checkpoint holds no pooler
        l2_normalize=options.l2_normalize,
        precision=options.precision,
        output_dtype=options.output_dtype,
        fingerprint=NOT_EXPORTED,
    )


if __name__ == "__main__":
    deployment.write(default_deployment(), Path(sys.argv[1]))
