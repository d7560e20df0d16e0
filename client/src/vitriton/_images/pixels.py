"""preprocess="client": pixels made in the client, by the server's own module, and sent straight to the encoder.

With the Pillow version that the model was verified with, they equal the server's to the last bit. Pillow settings that
the application changes in its process (`ImageFile.LOAD_TRUNCATED_IMAGES`, `Image.MAX_IMAGE_PIXELS`, plug-ins) apply in
the client, and not in the server.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace

import PIL

from vitriton._errors import Unreadable
from vitriton._repository.names import PIXELS
from vitriton._served.contract import Contract
from vitriton._wire.transport import ModelConfig
from vitriton.preprocessing import ImageError, Memory, PreprocessSpec, preprocess

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_INSTEAD = "or use preprocess='server'"

_lock = threading.Lock()
_warned: set[tuple[str, str]] = set()  # pairs of the model's Pillow version and this process's


class PillowVersionWarning(UserWarning):
    """The model was verified with another version of Pillow than that of this process."""


def read_preprocess(ensemble: Contract) -> PreprocessSpec:
    """Reads the preprocessing of a model.

    Warns:
        PillowVersionWarning: the Pillow versions differ; once in a process for each pair of versions.

    Raises:
        ContractMismatch: the configuration has no preprocessing, or one that this version cannot read.
    """
    text, pillow_version = _parameter(ensemble, "preprocess"), _parameter(ensemble, "pillow_version")
    try:
        spec = PreprocessSpec.from_json(text)
    # the errors of a text that is no JSON, or JSON but no specification
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())
        raise ensemble.mismatch(
            f"has a parameter 'preprocess' that cannot be read here ({type(exc).__name__}: {reason}); update vitriton, "
            f"export the model again, {_INSTEAD}"
        ) from exc
    _warn_of_other_pillow(pillow_version)
    return spec


def encoder_contract(ensemble: Contract, config: ModelConfig, spec: PreprocessSpec) -> Contract:
    """The contract of the encoder behind an ensemble: pixels in, the ensemble's output out.

    The datatype of the output is checked in each reply.

    Args:
        ensemble: the contract of the ensemble.
        config: the configuration of the encoder.
        spec: the preprocessing of the model, from `read_preprocess`.

    Raises:
        ContractMismatch: the model is not the encoder of that ensemble, or takes other pixels.
    """
    pixels, datatype = (spec.height, spec.width, 3), _DATATYPES[spec.dtype.name]
    encoder = replace(
        ensemble,
        model=config.name,
        max_batch_size=config.max_batch_size,
        input=PIXELS,
        datatype=datatype,
        item_shape=pixels,
    )
    given, promised = config.inputs.get(PIXELS), config.outputs.get(ensemble.output)
    fingerprint = config.parameters.get("fingerprint")
    problem = None
    if given is None or given.datatype != datatype or given.shape != pixels:
        problem = f"has no input {PIXELS!r} of type {datatype} and shape {list(pixels)}"
    elif promised is None or promised.shape != ensemble.shape:
        problem = f"has no output {ensemble.output!r} of shape {list(ensemble.shape)}"
    elif config.max_batch_size < 1:
        problem = f"has max_batch_size {config.max_batch_size}, which must be at least 1"
    elif fingerprint != ensemble.fingerprint:
        problem = f"has the fingerprint {fingerprint}, and the ensemble {ensemble.fingerprint}"
    if problem:
        raise encoder.mismatch(
            f"{problem}: it is not the encoder of {ensemble.model}; export the model again, {_INSTEAD}"
        )
    return encoder


def encode(spec: PreprocessSpec, data: bytes, memory: Memory | None = None) -> bytes | Unreadable:
    """Makes the pixels of an encoded image, or returns the reason why there are none.

    The reason is no exception: its frames would keep the picture in memory.

    Args:
        spec: the preprocessing of the model, from `read_preprocess`.
        data: the encoded image.
        memory: the memory shared by images that are processed at the same time.

    Returns:
        The pixels: height × width × 3 values, row by row, RGB, uint8 or little-endian float32; or the server's reason
        and code.
    """
    try:
        return preprocess(data, spec, memory).tobytes()
    except ImageError as exc:
        return Unreadable(*exc.refusal)


def _parameter(ensemble: Contract, name: str) -> str:
    if name not in ensemble.parameters:
        raise ensemble.mismatch(
            f"has no parameter {name!r} in its configuration, so its pixels cannot be made here: it was exported by an "
            f"older `vitriton export`; export it again, {_INSTEAD}"
        )
    return ensemble.parameters[name]


def _warn_of_other_pillow(verified: str) -> None:
    pair = verified, PIL.__version__
    with _lock:
        if verified == PIL.__version__ or pair in _warned:
            return
        # Warn before noting it: where warnings are errors this raises, and nobody has been warned.
        warnings.warn(
            f"the model was exported and verified with Pillow {verified}, and this process has Pillow "
            f"{PIL.__version__}: pixels that are made here (preprocess='client') may differ from the server's in the "
            "last gray level",
            PillowVersionWarning,
            stacklevel=3,
        )
        _warned.add(pair)
