"""transformers' pipeline("feature-extraction"), with the model on a server.

What it follows in transformers 5 is `FeatureExtractionPipeline` (pipelines/feature_extraction.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vitriton._keywords import suggests_keywords
from vitriton._pipeline import checks, tasks, tokenizing
from vitriton._pipeline.base import ServedPipeline
from vitriton._pipeline.parameters import CallParameters

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client

_NO_PROMPT = ""  # transformers puts nothing before a text, also where the model has a default prompt


class FeatureExtractionPipeline(ServedPipeline):
    """The pipeline for texts."""

    _task = tasks.TEXTS
    _told_of_cuts = False

    @suggests_keywords
    def __call__(
        self,
        inputs: Any,
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        pool: bool | None = None,
        return_tensors: bool | str | None = None,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Embeds texts, each as if it was alone: there is no padding in an answer, whatever batch_size is.

        Args:
            inputs: a text; a list of texts; an iterator (a generator) over texts; or a data set, which has
                `__getitem__` and `__len__`, or can be iterated over again.
            num_workers: an ignored argument.
            batch_size: an ignored argument.
            pool: whether to return the pooled output instead of all tokens; None means the pipeline's own setting.
            return_tensors: whether to return torch tensors (True or "pt") instead of lists; None means the pipeline's
                own setting.
            truncation: whether a text with more tokens than the model takes is cut instead of refused; None means the
                pipeline's own setting.
            tokenize_kwargs: the arguments for the tokenizer, which must say what the export does.

        Returns:
            For one text, a nested list of floats or a tensor on the CPU: (1, T, D), T being the number of tokens of the
            text, or with pool=True (1, D). For a list, a list of these. For an iterator or a data set, an iterator over
            these in input order, which reads ahead within bounds; [] for an iterator without texts.

        Raises:
            InvalidText: a text cannot be used, or has too many tokens; the error has its index, and never its content.
                The caller can continue with the iterator.
            PipelineMismatch: the served embedding is not what pool=True means, or a setting contradicts the model.
            VitritonError: the server failed; see `Client.embed`.
            TypeError: inputs is none of these.
            ValueError: truncation has another value, or is given twice.
            ClientClosed: the pipeline is closed, or was made before a fork.
        """
        self._client._core.check_usable()
        checks.check_batching(batch_size, num_workers)
        settings = tokenizing.given_settings(truncation, tokenize_kwargs)
        parameters = self._defaults.changed(pool=pool, return_tensors=return_tensors, tokenizing=settings)
        tokenizing.check_tokenizing(self.model, parameters.tokenizing)
        return self._answers(inputs, parameters)

    def _is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, str)

    def _embed(self, client: Client, given: Any, parameters: CallParameters) -> list[Result]:
        return client.embed_texts(given, pool=parameters.pool, prompt=_NO_PROMPT, on_error="return")

    def _stream(
        self, client: Client, items: Iterable[Any], parameters: CallParameters
    ) -> Generator[Result, None, None]:
        return client.stream_texts(items, pool=parameters.pool, prompt=_NO_PROMPT, on_error="return")

    def _error(self, result: Result, parameters: CallParameters) -> Exception | None:
        if result.truncated and not tokenizing.cuts(parameters.tokenizing):
            return tokenizing.too_long(self.model, result.index, result.whole_tokens)
        if result.truncated and not self._told_of_cuts:
            self._told_of_cuts = True
            tokenizing.tell_of_cuts(self.model)
        return result.error
