"""What `vitriton doctor` is told of this distribution."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vitriton._console.diagnosis import Finding, free_space, without_secrets


def findings() -> Iterator[Finding]:
    """Finds how the Hugging Face hub is reached, and where its files are kept."""
    from huggingface_hub import constants

    yield Finding(
        "hub", "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else without_secrets(constants.ENDPOINT)
    )
    has_token = bool(os.environ.get("HF_TOKEN")) or Path(constants.HF_TOKEN_PATH).exists()
    yield Finding("hub token", "set" if has_token else "not set")
    yield Finding("hub cache", free_space(Path(constants.HF_HUB_CACHE)))
