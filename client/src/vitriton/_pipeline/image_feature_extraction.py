"""transformers' pipeline("image-feature-extraction"), with the model on a server.

What it follows in transformers 5 is `ImageFeatureExtractionPipeline` (pipelines/image_feature_extraction.py) and
`load_image` (image_utils.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vitriton._images.sources import as_images
from vitriton._keywords import suggests_keywords
from vitriton._pipeline import checks, tasks
from vitriton._pipeline.base import ServedPipeline
from vitriton._pipeline.inputs import readable
from vitriton._pipeline.parameters import CallParameters

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client


class ImageFeatureExtractionPipeline(ServedPipeline):
    """The pipeline for images."""

    _task = tasks.IMAGES

    @suggests_keywords
    def __call__(
        self,
        inputs: Any,
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        pool: bool | None = None,
        return_tensors: bool | str | None = None,
        timeout: float | None = None,
        image_processor_kwargs: Mapping[str, Any] | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Embeds images.

        Args:
            inputs: an image; a list of images; an iterator (a generator) over images; or a data set, which has
                `__getitem__` and `__len__`, or can be iterated over again. An image is a path, an http(s) URL, a
                `data:` URI or base64 text, a PIL image, or anything else that `Client.embed` takes.
            num_workers: an ignored argument.
            batch_size: an ignored argument.
            pool: whether to return the pooled output instead of all tokens; None means the pipeline's own setting.
            return_tensors: whether to return torch tensors (True or "pt") instead of lists; None means the pipeline's
                own setting.
            timeout: the time limit for fetching one URL, in seconds; None means the pipeline's own setting.
            image_processor_kwargs: the settings of the image processor, which must be those of the export.
            tokenize_kwargs: an ignored argument.

        Returns:
            For one image, a nested list of floats or a tensor on the CPU: (1, T, D), or (1, C, h, w) for convolutional
            models, or with pool=True (1, D). For a list, a list of these. For an iterator or a data set, an iterator
            over these in input order, which reads ahead within bounds; [] for an iterator without images.

        Raises:
            InvalidImage: an image cannot be used; the text has its index. The caller can continue with the iterator.
            PipelineMismatch: the served embedding is not what pool=True means, or a setting contradicts the model.
            VitritonError: the server failed; see `Client.embed`.
            TypeError: inputs is none of these.
            ClientClosed: the pipeline is closed, or was made before a fork.
        """
        self._client._core.check_usable()
        checks.check_batching(batch_size, num_workers)
        checks.check_processor_kwargs(self.model, image_processor_kwargs)
        parameters = self._defaults.changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
        return self._answers(inputs, parameters)

    def _is_single(self, inputs: Any) -> bool:
        return is_single(inputs)

    def _embed(self, client: Client, given: Any, parameters: CallParameters) -> list[Result]:
        return client.embed([readable(given)], pool=parameters.pool, on_error="return")

    def _stream(
        self, client: Client, items: Iterable[Any], parameters: CallParameters
    ) -> Generator[Result, None, None]:
        return client.stream(map(readable, items), pool=parameters.pool, on_error="return")


def is_single(inputs: Any) -> bool:
    """Whether the inputs are one image."""
    try:
        return as_images(inputs)[0] is not inputs  # as_images makes a list of a single image
    except TypeError:  # a data set without __iter__
        return False
