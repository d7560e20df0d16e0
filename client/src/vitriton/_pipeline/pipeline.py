"""transformers' pipeline("image-feature-extraction"), with the model on a server: same parameters, same results.

Its reference is transformers 5: `pipeline` (pipelines/__init__.py), `Pipeline` (pipelines/base.py), `PipelineIterator`
(pipelines/pt_utils.py), `ImageFeatureExtractionPipeline` (pipelines/image_feature_extraction.py) and `load_image`
(image_utils.py).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._keywords import suggests_keywords
from vitriton._options import check_time_limit, in_options
from vitriton._pipeline import checks
from vitriton._pipeline.inputs import FeatureIterator, is_single, items_of, readable
from vitriton._pipeline.served import ClientFactory, ServedModel, find

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client

DEFAULT_MODEL = "google/vit-base-patch16-224"  # the reference's own

_LOG = logging.getLogger("vitriton")

_END: Any = object()


def _in_client_options(name: str) -> str | None:
    """What to write for an argument of `Client` that was given to `pipeline` itself; None for any other name."""
    from vitriton._client import Client  # it is imported when a pipeline is made

    if in_options(name):
        return f"client_options={{'options': Options({name}=...)}}"
    return f"client_options={{{name!r}: ...}}" if name in inspect.signature(Client).parameters else None


@partial(suggests_keywords, elsewhere=_in_client_options)
def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    video_processor: Any = None,
    processor: Any = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: Any = None,
    *,
    url: str | Sequence[str] | None = None,
    client_options: Mapping[str, Any] | None = None,
    allow_served_pooling: bool = False,
    pool: bool | None = None,
    return_tensors: bool | str | None = None,
    timeout: float | None = None,
    image_processor_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    torch_dtype: Any = None,
    framework: str | None = None,
    binary_output: bool = False,
    args_parser: Any = None,
    tokenize_kwargs: Mapping[str, Any] | None = None,
    code_revision: str | None = None,
    local_files_only: bool = False,
) -> ImageFeatureExtractionPipeline:
    """A drop-in replacement for transformers' function of this name, with a model on a Triton server.

    All parameters except `url`, `client_options` and `allow_served_pooling` are those of transformers. An argument that
    cannot affect a loaded model (its device, its loading, tokenizers) is ignored; one that contradicts the model is an
    error. "Coming from transformers' pipeline" in the documentation describes each parameter.

    Args:
        task: the task: "image-feature-extraction", or None.
        model: the name of an export, or the hub id of its checkpoint; None means the reference's default.
        config: the id of the exported checkpoint, or None.
        tokenizer: an ignored argument, as in the reference: images need no tokenizer.
        feature_extractor: the image processor, under its old name; see image_processor.
        image_processor: an id, or a PIL image processor with the settings of the export; or None.
        video_processor: an ignored argument, as in the reference.
        processor: the image processor, or a processor that contains it; see image_processor.
        revision: the exported commit, with at least 7 digits; or None.
        use_fast: an ignored argument about tokenizers.
        token: the token of the Hugging Face hub; ignored, and never sent to the server, whose own token goes into
            client_options.
        device: an ignored argument: the export and the server decide where the model runs.
        device_map: an ignored argument; see device.
        dtype: the precision of the served model, "auto" or None. With float16, tensors are float16.
        trust_remote_code: an ignored argument.
        model_kwargs: the arguments for loading weights; ignored, unless one would change the model, which is an error.
        pipeline_class: the class ImageFeatureExtractionPipeline of transformers, or None.
        url: the server's address, in the form that `Client` takes.
        client_options: more arguments of `Client`: tls, token, headers, timeout_s (of each request), options, ...
        allow_served_pooling: whether pool=True may return the served embedding if it is not the model's pooler_output.
        pool: whether calls return the pooled output instead of all tokens.
        return_tensors: whether calls return torch tensors (True or "pt") instead of lists.
        timeout: the time limit for fetching one URL, in seconds; None means the client's `url_timeout_s`.
        image_processor_kwargs: the settings of the image processor, which must be those of the export.
        batch_size: an ignored argument: the server forms the batches.
        num_workers: an ignored argument: the client reads ahead with its `read_threads`.
        torch_dtype: the older name of dtype.
        framework: the framework: "pt" or None.
        binary_output: an ignored argument, kept as an attribute, as in the reference.
        args_parser: an ignored argument, as in the reference.
        tokenize_kwargs: an ignored argument, as in the reference.
        code_revision: the exported commit, or None; see revision.
        local_files_only: an ignored argument.

    Returns:
        The pipeline, to call with images as transformers' own.

    Raises:
        PipelineMismatch: (a ContractMismatch and a ValueError) an argument contradicts the served model.
        ModelNotFound: the server does not have the model.
        VitritonError: the server does not answer; see `Client.embed`.
        ValueError, TypeError: an argument is invalid.
        ImportError: return_tensors is set, and torch is not installed.
    """
    checks.check_task(task)
    checks.check_framework(framework)
    checks.check_pipeline_class(pipeline_class)
    checks.check_batching(batch_size, num_workers)
    defaults = CallParameters().changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
    clients = ClientFactory(url, client_options)
    served = find(_given_model(task, model), clients)
    checks.check_source(served, "config", config)
    checks.check_revision(served, "revision", revision)
    checks.check_revision(served, "code_revision", code_revision)
    checks.check_dtype(served, "dtype", dtype)
    checks.check_dtype(served, "torch_dtype", torch_dtype)
    checks.check_model_kwargs(served, model_kwargs)
    checks.check_processor(served, "image_processor", image_processor)
    checks.check_processor(served, "feature_extractor", feature_extractor)
    checks.check_processor(served, "processor", processor)
    checks.check_processor_kwargs(served, image_processor_kwargs)
    return ImageFeatureExtractionPipeline(
        served,
        clients,
        defaults,
        dtype=checks.result_dtype(dtype, torch_dtype, model_kwargs),
        allow_served_pooling=allow_served_pooling,
        binary_output=binary_output,
    )


@dataclass(frozen=True, kw_only=True)
class CallParameters:
    """The parameters of one call of a pipeline.

    Attributes:
        pool: whether to return the pooled output instead of all tokens.
        return_tensors: whether to return torch tensors instead of lists.
        timeout: the time limit for fetching one URL, in seconds; None means the client's.
    """

    pool: bool = False
    return_tensors: bool = False
    timeout: float | None = None

    def changed(self, *, pool: bool | None, return_tensors: bool | str | None, timeout: float | None) -> CallParameters:
        """A copy with the given arguments; None means not given.

        Raises:
            TypeError, ValueError: an argument is invalid.
            ImportError: return_tensors is set, and torch is not installed.
        """
        if not isinstance(pool, (bool, type(None))):
            raise TypeError(f"pool is {pool!r}; it must be True or False")
        if return_tensors not in (None, True, False, "pt"):
            raise ValueError(
                f"return_tensors is {return_tensors!r}; tensors are torch's, as in the reference: give True or 'pt'; "
                "vitriton.Client.embed returns numpy arrays"
            )
        check_time_limit("timeout", timeout)
        if return_tensors:
            _import_torch()
        return CallParameters(
            pool=self.pool if pool is None else pool,
            return_tensors=self.return_tensors if return_tensors is None else bool(return_tensors),
            timeout=self.timeout if timeout is None else timeout,
        )


@suggests_keywords
class ImageFeatureExtractionPipeline:
    """The pipeline that `vitriton.pipeline` returns. Its calls return what transformers' class of this name returns.

    Safe to share between threads. It is a context manager; an open pipeline closes at the end of the program.

    Attributes:
        task: the task, "image-feature-extraction".
        model: the served model.
        binary_output: the argument of `vitriton.pipeline`.
    """

    def __init__(
        self,
        model: ServedModel,
        clients: ClientFactory,
        defaults: CallParameters,
        *,
        dtype: np.dtype[Any],
        allow_served_pooling: bool,
        binary_output: bool,
    ) -> None:
        self.task = checks.TASK
        self.model = model
        self.binary_output = binary_output
        self._clients = clients
        self._defaults = defaults
        self._dtype = dtype
        self._allow_served_pooling = allow_served_pooling
        self._check_pool(defaults)
        self._client = self._connect(defaults.timeout)

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
        """
        checks.check_batching(batch_size, num_workers)
        checks.check_processor_kwargs(self.model, image_processor_kwargs)
        parameters = self._defaults.changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
        self._check_pool(parameters)
        if isinstance(inputs, (list, tuple)):
            return list(self._iterate(lambda: inputs, parameters, total=len(inputs)))
        if is_single(inputs):
            with self._client_for(parameters) as client:
                return self._converted(client.embed([readable(inputs)], pool=parameters.pool), parameters)
        if isinstance(inputs, Iterator):
            first = next(inputs, _END)
            if first is _END:
                return []
            return self._iterate(lambda: itertools.chain([first], inputs), parameters, restarts=False)
        return self._iterate(items_of(inputs), parameters, total=len(inputs) if isinstance(inputs, Sized) else None)

    def predict(self, X: Any) -> Any:  # noqa: N803 - the reference's own name
        """Calls the pipeline."""
        return self(X)

    def transform(self, X: Any) -> Any:  # noqa: N803 - the reference's own name
        """Calls the pipeline."""
        return self(X)

    def close(self) -> None:
        """Ends running calls and closes the connections. May be called again."""
        self._client.close()
        self._clients.close()

    def __enter__(self) -> ImageFeatureExtractionPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.name!r}, url={self.model.address!r})"

    if not TYPE_CHECKING:  # so that type checkers still report missing attributes

        def __getattr__(self, name: str) -> Any:
            """Refuses the attributes that transformers' pipeline has and this one cannot have."""
            if name.startswith("__"):  # copy and pickle look for these
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} of vitriton has no {name!r}: the model, its device and its image processor are "
                "on a server. It has task, model, binary_output, predict, transform and close, and is called with "
                "images"
            )

    def _check_pool(self, parameters: CallParameters) -> None:
        if parameters.pool and not self._allow_served_pooling:
            checks.check_pool(self.model)

    def _iterate(
        self,
        items: Callable[[], Iterable[Any]],
        parameters: CallParameters,
        *,
        total: int | None = None,
        restarts: bool = True,
    ) -> FeatureIterator:
        return FeatureIterator(
            lambda: self._results(items(), parameters),
            lambda rows: self._converted(rows, parameters),
            total,
            restarts=restarts,
        )

    def _results(self, items: Iterable[Any], parameters: CallParameters) -> Generator[Result, None, None]:
        with self._client_for(parameters) as client:
            results: Any = client.stream(map(readable, items), pool=parameters.pool, on_error="return")
            with contextlib.closing(results):
                yield from results

    def _converted(self, rows: NDArray[Any], parameters: CallParameters) -> Any:
        """The rows, (1, ...), in the form that the reference returns."""
        rows = np.require(rows, self._dtype, ["C", "W"])
        return _import_torch().from_numpy(rows) if parameters.return_tensors else rows.tolist()

    @contextlib.contextmanager
    def _client_for(self, parameters: CallParameters) -> Iterator[Client]:
        """The pipeline's client, or for another URL timeout a new client for this call."""
        if parameters.timeout == self._defaults.timeout:
            yield self._client
            return
        with self._connect(parameters.timeout) as client:
            yield client

    def _connect(self, timeout: float | None) -> Client:
        bounds = {} if timeout is None else {"url_timeout_s": timeout}
        return self._clients.client(self.model.name, fingerprint=self.model.fingerprint, **bounds)


def _given_model(task: str | None, model: Any) -> str:
    if model is not None:
        return checks.model_name(model)
    if task is None:
        raise ValueError("neither task nor model is given; give the model, by the name that it was exported under")
    _LOG.warning("no model is given; using the reference's default, %s", DEFAULT_MODEL)
    return DEFAULT_MODEL


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise ImportError(
            "return_tensors gives torch tensors, and torch is not installed: pip install torch, or leave out "
            "return_tensors for lists, or use vitriton.Client.embed for numpy arrays"
        ) from exc
    return torch
