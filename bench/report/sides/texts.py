"""transformers' pipeline and sentence-transformers on texts, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer, pipeline

from report.rounds.speed import Sample, repeat

Embeddings = npt.NDArray[Any]


class TextPipeline:
    """`transformers.pipeline("feature-extraction")` in float32, and the mean of the tokens of each text.

    Args:
        model: the folder of the checkpoint.
        texts: the texts.
        max_length: the number of tokens at which texts are cut.
    """

    def __init__(self, model: str, texts: Sequence[str], max_length: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
        cut = {"truncation": True, "max_length": max_length}
        self._texts = texts
        # The pipeline returns the rows of the padding, too, and does not say which these are.
        self._tokens = {text: len(tokenizer(text, **cut)["input_ids"]) for text in texts}
        self._pipeline = pipeline(
            "feature-extraction", model=network, tokenizer=tokenizer, device="cpu", tokenize_kwargs=cut
        )

    def embed(self, texts: Sequence[str], batch: int) -> Embeddings:
        """Embeds texts, (N, D) float32."""
        made = self._pipeline(list(texts), batch_size=batch, return_tensors=True)
        rows = [output[0][: self._tokens[text]].mean(0) for text, output in zip(texts, made, strict=True)]
        return torch.stack(rows).numpy()

    def sample(self, batch: int, seconds: float) -> Sample:
        """Measures the speed with this batch size, on all texts."""
        return repeat(lambda: self.embed(self._texts, batch), len(self._texts), seconds)


class SentenceEncoder:
    """`sentence_transformers.SentenceTransformer.encode` in float32, which sorts the texts of a call by length.

    Args:
        model: the folder of the checkpoint.
        texts: the texts.

    Raises:
        ImportError: sentence-transformers is not installed.
    """

    def __init__(self, model: str, texts: Sequence[str]) -> None:
        from sentence_transformers import SentenceTransformer

        self._texts = texts
        self._model = SentenceTransformer(model, device="cpu", local_files_only=True)

    def embed(self, texts: Sequence[str], batch: int) -> Embeddings:
        """Embeds texts, (N, D) float32."""
        return np.asarray(self._model.encode(list(texts), batch_size=batch, show_progress_bar=False))

    def sample(self, batch: int, seconds: float) -> Sample:
        """Measures the speed with this batch size, on all texts."""
        return repeat(lambda: self.embed(self._texts, batch), len(self._texts), seconds)
