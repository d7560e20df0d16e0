"""transformers' pipeline("image-feature-extraction"), with the model on a server: same parameters, same results.

What it follows, of transformers 5: `pipeline` (pipelines/__init__.py), `Pipeline` (pipelines/base.py),
`PipelineIterator` (pipelines/pt_utils.py), `ImageFeatureExtractionPipeline` (pipelines/image_feature_extraction.py) and
`load_image` (image_utils.py).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._options import check_seconds
from vitriton._pipeline import checks
from vitriton._pipeline.inputs import FeatureIterator, is_single, items_of, readable
from vitriton._pipeline.served import Access, ServedModel, find

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client

DEFAULT_MODEL = "google/vit-base-patch16-224"  # the reference's own

_LOG = logging.getLogger("vitriton")

_END: Any = object()


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
    """The drop-in for transformers' function of this name, with a model that a Triton server serves.

    Everything but `url`, `client_options` and `allow_served_pooling` is a parameter of transformers'. What
    has no bearing on a model that is loaded already (where it runs, how it is loaded, tokenizers) is accepted; what
    contradicts it is an error. docs/pipeline.md goes through them one by one.

    Args:
        task: "image-feature-extraction", or None.
        model: the name of an export, or the hub id that one was made of; None is the reference's default.
        config: None, or the id of what was exported, as also for the other parts of a model.
        tokenizer: without effect, as in the reference: images have none.
        feature_extractor: as image_processor.
        image_processor: None, an id, or a PIL image processor with the settings that the model was exported with.
        video_processor: without effect, as in the reference.
        processor: as image_processor, which it may hold.
        revision: None, or the commit that was exported (from 7 digits).
        use_fast: without effect: it is about tokenizers.
        token: of the Hugging Face hub: without effect, and never sent to the server, whose own token is in
            client_options.
        device: without effect: the export and the server say where the model runs.
        device_map: as device.
        dtype: "auto", None, or what the served model computes in. With float16, tensors are float16.
        trust_remote_code: without effect.
        model_kwargs: what says how to load weights is without effect; what changes the model is an error.
        pipeline_class: None, or transformers' ImageFeatureExtractionPipeline.
        url: the server's address, as `Client` takes it.
        client_options: further arguments of `Client`: tls, token, headers, timeout_s (of each request), options, ...
        allow_served_pooling: take the served embedding for pool=True, also where it is not the model's pooler_output.
        pool: for every call: the pooled output in place of all tokens.
        return_tensors: for every call: torch tensors (True or "pt") in place of lists.
        timeout: for every call: for fetching one URL, in seconds; None is the client's `url_timeout_s`.
        image_processor_kwargs: settings that the model was exported with.
        batch_size: without effect: the server makes batches of what is waiting.
        num_workers: without effect: images are read ahead by the client's `read_threads`.
        torch_dtype: as dtype.
        framework: None or "pt".
        binary_output: kept, and without effect, as in the reference.
        args_parser: without effect, as in the reference.
        tokenize_kwargs: without effect, as in the reference.
        code_revision: None.
        local_files_only: without effect.

    Returns:
        What is called with images, as transformers' is.

    Raises:
        PipelineMismatch: (a ContractMismatch and a ValueError) a parameter contradicts the served model.
        ModelNotFound: the server does not have the model.
        VitritonError: the server does not answer; as `Client.embed`.
        ValueError, TypeError: a parameter cannot be used.
        ImportError: tensors are wanted, and torch is not installed.
    """
    checks.check_task(task)
    checks.check_framework(framework)
    checks.check_pipeline_class(pipeline_class)
    checks.check_batching(batch_size, num_workers)
    defaults = Call().changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
    access = Access(url, client_options)
    served = find(_given_model(task, model), access)
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
        access,
        defaults,
        dtype=checks.result_dtype(dtype, torch_dtype, model_kwargs),
        allow_served_pooling=allow_served_pooling,
        binary_output=binary_output,
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call of a pipeline is to do.

    Attributes:
        pool: the pooled output in place of all tokens.
        return_tensors: torch tensors in place of lists.
        timeout: for fetching one URL, in seconds; None is the client's.
    """

    pool: bool = False
    return_tensors: bool = False
    timeout: float | None = None

    def changed(self, *, pool: bool | None, return_tensors: bool | str | None, timeout: float | None) -> Call:
        """The same with what is given; None is not given.

        Raises:
            TypeError, ValueError: it cannot be used.
            ImportError: tensors are wanted, and torch is not installed.
        """
        if not isinstance(pool, (bool, type(None))):
            raise TypeError(f"pool is {pool!r}; it must be True or False")
        if return_tensors not in (None, True, False, "pt"):
            raise ValueError(
                f"return_tensors is {return_tensors!r}; tensors are torch's, as in the reference: give True or 'pt'; "
                "vitriton.Client.embed returns numpy arrays"
            )
        if timeout is not None:
            check_seconds("timeout", timeout)
        if return_tensors:
            _import_torch()
        return Call(
            pool=self.pool if pool is None else pool,
            return_tensors=self.return_tensors if return_tensors is None else bool(return_tensors),
            timeout=self.timeout if timeout is None else timeout,
        )


class ImageFeatureExtractionPipeline:
    """What `vitriton.pipeline` returns: called with images, it answers as transformers' class of this name does.

    Safe to share between threads. A context manager; who does not close it leaves that to the end of the program.

    Attributes:
        task: "image-feature-extraction".
        model: what is served.
        binary_output: as it was given.
    """

    def __init__(
        self,
        model: ServedModel,
        access: Access,
        defaults: Call,
        *,
        dtype: np.dtype[Any],
        allow_served_pooling: bool,
        binary_output: bool,
    ) -> None:
        self.task = checks.TASK
        self.model = model
        self.binary_output = binary_output
        self._access = access
        self._defaults = defaults
        self._dtype = dtype
        self._allow_served_pooling = allow_served_pooling
        self._check_pool(defaults)
        self._client = self._connect(defaults.timeout)

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
            inputs: an image; a list of them; an iterator (a generator) of them; or a data set: what has `__getitem__`
                and `__len__`, or can be iterated over again. An image is a path, an http(s) URL, a `data:` URI or
                base64 text, a PIL image, or whatever else `Client.embed` takes.
            num_workers: without effect.
            batch_size: without effect.
            pool: here in place of what the pipeline was made with; so also the next two.
            return_tensors: torch tensors (True or "pt") in place of lists.
            timeout: for fetching one URL, in seconds.
            image_processor_kwargs: settings that the model was exported with.
            tokenize_kwargs: without effect.

        Returns:
            For one image a nested list of floats, or a tensor on the CPU: (1, T, D), or (1, C, h, w) for
            convolutional models, or with pool=True (1, D). For a list a list of these; for an iterator or a data set
            an iterator over these, in the same order, which reads ahead within bounds. An iterator without images
            gives [].

        Raises:
            InvalidImage: an image cannot be used; names it by its index. An iterator can be gone on with after it.
            PipelineMismatch: the served embedding is not what pool=True means, or a setting contradicts the model.
            VitritonError: the server failed; as `Client.embed`.
            TypeError: inputs is none of these.
        """
        checks.check_batching(batch_size, num_workers)
        checks.check_processor_kwargs(self.model, image_processor_kwargs)
        call = self._defaults.changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
        self._check_pool(call)
        if isinstance(inputs, (list, tuple)):
            return list(self._iterate(lambda: inputs, call, total=len(inputs)))
        if is_single(inputs):
            with self._client_for(call) as client:
                return self._converted(client.embed([readable(inputs)], pool=call.pool), call)
        if isinstance(inputs, Iterator):
            first = next(inputs, _END)
            if first is _END:
                return []
            return self._iterate(lambda: itertools.chain([first], inputs), call, restarts=False)
        return self._iterate(items_of(inputs), call, total=len(inputs) if isinstance(inputs, Sized) else None)

    def predict(self, X: Any) -> Any:  # noqa: N803 - the reference's own name
        """As calling it."""
        return self(X)

    def transform(self, X: Any) -> Any:  # noqa: N803 - the reference's own name
        """As calling it."""
        return self(X)

    def close(self) -> None:
        """Ends what is running and closes the connections. May be called again."""
        self._client.close()
        self._access.close()

    def __enter__(self) -> ImageFeatureExtractionPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.name!r}, url={self.model.address!r})"

    if not TYPE_CHECKING:  # a type checker is to go on telling what is missing

        def __getattr__(self, name: str) -> Any:
            """Refuses what transformers' pipeline has and this cannot have."""
            if name.startswith("__"):  # what copy and pickle look for
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} of vitriton has no {name!r}: the model, its device and its image processor are "
                "on a server. It has task, model, binary_output, predict, transform and close, and is called with "
                "images"
            )

    def _check_pool(self, call: Call) -> None:
        if call.pool and not self._allow_served_pooling:
            checks.check_pool(self.model)

    def _iterate(
        self, items: Callable[[], Iterable[Any]], call: Call, *, total: int | None = None, restarts: bool = True
    ) -> FeatureIterator:
        return FeatureIterator(
            lambda: self._results(items(), call), lambda rows: self._converted(rows, call), total, restarts=restarts
        )

    def _results(self, items: Iterable[Any], call: Call) -> Generator[Result, None, None]:
        with self._client_for(call) as client:
            results: Any = client.stream(map(readable, items), pool=call.pool, on_error="return")
            with contextlib.closing(results):
                yield from results

    def _converted(self, rows: NDArray[Any], call: Call) -> Any:
        """(1, ...) as the reference returns it."""
        rows = np.require(rows, self._dtype, ["C", "W"])
        return _import_torch().from_numpy(rows) if call.return_tensors else rows.tolist()

    @contextlib.contextmanager
    def _client_for(self, call: Call) -> Iterator[Client]:
        """The pipeline's client; with another time for URLs one that is made for this call."""
        if call.timeout == self._defaults.timeout:
            yield self._client
            return
        with self._connect(call.timeout) as client:
            yield client

    def _connect(self, timeout: float | None) -> Client:
        bounds = {} if timeout is None else {"url_timeout_s": timeout}
        return self._access.client(self.model.name, fingerprint=self.model.fingerprint, **bounds)


def _given_model(task: str | None, model: Any) -> str:
    if model is not None:
        return checks.model_name(model)
    if task is None:
        raise ValueError("neither task nor model is given; give the model, by the name that it was exported under")
    _LOG.warning("no model is given: the reference's default is taken, %s", DEFAULT_MODEL)
    return DEFAULT_MODEL


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise ImportError(
            "return_tensors gives torch tensors, and torch is not installed: pip install torch, or leave out "
            "return_tensors for lists, or take numpy arrays from vitriton.Client.embed"
        ) from exc
    return torch
