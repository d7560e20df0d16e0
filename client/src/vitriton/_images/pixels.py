"""preprocess="client": pixels made here, by the module that runs in the server, and sent straight to the encoder.

With the Pillow that the model was verified with they are the server's to the last bit. Settings of Pillow that the
application changes for its process (`ImageFile.LOAD_TRUNCATED_IMAGES`, `Image.MAX_IMAGE_PIXELS`, plug-ins) apply here,
as they do not in the server.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace

import PIL

from vitriton._images.failure import Unreadable
from vitriton._repository.names import PIXELS
from vitriton._served.contract import Contract
from vitriton._wire.transport import ModelConfig
from vitriton.preprocessing import ImageError, Memory, PreprocessSpec, preprocess

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_INSTEAD = "or use preprocess='server'"

_lock = threading.Lock()
_warned: set[tuple[str, str]] = set()  # the Pillow of a model, and the one here


class PillowVersionWarning(UserWarning):
    """The Pillow of this process is not the one that a model was verified with."""


def read_preprocess(ensemble: Contract) -> PreprocessSpec:
    """How a model wants its pixels made.

    Warns:
        PillowVersionWarning: once in a process for each pair of versions.

    Raises:
        ContractMismatch: the configuration does not say how, or says it in a way that cannot be read here.
    """
    text, pillow_version = _parameter(ensemble, "preprocess"), _parameter(ensemble, "pillow_version")
    try:
        spec = PreprocessSpec.from_json(text)
    # what a text leads to that is no JSON, or JSON and no specification
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

    Whether the output's type is the ensemble's is seen in each reply.

    Args:
        ensemble: its contract.
        config: of the encoder.
        spec: from `read_preprocess`.

    Raises:
        ContractMismatch: it is not the encoder of that ensemble, or does not take the pixels that are made here.
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
    """The pixels of an encoded image, or why there are none.

    That is no exception, which would keep the picture in memory, in the frames that it passed.

    Args:
        spec: from `read_preprocess`.
        data: the file.
        memory: shared with the images that are encoded at the same time.

    Returns:
        height × width × 3 values, row by row, RGB, uint8 or little-endian float32; or the reason and the code that
        the server gives.
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
        # before it is noted: it raises where warnings are errors, and then nobody has been warned
        warnings.warn(
            f"the model was exported and verified with Pillow {verified}, and this process has Pillow "
            f"{PIL.__version__}: pixels that are made here (preprocess='client') may differ from the server's in the "
            "last grey level",
            PillowVersionWarning,
            stacklevel=3,
        )
        _warned.add(pair)
