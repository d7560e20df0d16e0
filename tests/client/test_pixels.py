"""Pixels that are made in the client: from the model's own specification, by the server's module."""

import dataclasses
import gc
import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
from PIL import Image
from vitriton import ContractMismatch, PillowVersionWarning
from vitriton._images.pixels import encode, encoder_contract, read_preprocess
from vitriton._repository.names import encoder_name
from vitriton._served.contract import read_contract
from vitriton._wire.transport import ModelConfig, TensorSpec
from vitriton.preprocessing import (
    FORMAT,
    CenterCrop,
    ImageError,
    Limits,
    PreprocessSpec,
    Resize,
    format_errors,
    parse_errors,
    preprocess,
)

SPEC = PreprocessSpec(
    steps=(Resize("bicubic", shortest_edge=10), CenterCrop(6, 8)),
    height=6,
    width=8,
    limits=Limits(max_pixels=5000, formats=("JPEG", "PNG")),
)
PARAMETERS = {"fingerprint": "v1-f", "preprocess": SPEC.to_json(), "pillow_version": PIL.__version__}
EMBEDDING = {"embedding": TensorSpec(datatype="FP32", shape=(4,))}


def ensemble(**parameters):
    """The contract of a pooled model; a parameter that is None is left out."""
    given = {name: value for name, value in (PARAMETERS | parameters).items() if value is not None}
    image = {"image": TensorSpec(datatype="BYTES", shape=(1,))}
    config = ModelConfig(name="m_pooled", max_batch_size=8, inputs=image, outputs=EMBEDDING, parameters=given)
    return read_contract(config, "pooled")


def encoder(**changes):
    """The configuration of its encoder."""
    config = ModelConfig(
        name="m_pooled_encoder",
        max_batch_size=8,
        inputs={"pixels": TensorSpec(datatype="UINT8", shape=(6, 8, 3))},
        outputs=EMBEDDING,
        parameters={"fingerprint": "v1-f"},
    )
    return dataclasses.replace(config, **changes)


def file(format="PNG", size=(40, 30), **options):
    """An encoded picture, different in each pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def test_pixels_are_those_of_the_module():
    """H × W × 3 bytes, row by row, EXIF rotation applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (file(), file("JPEG", exif=exif)):
        pixels = encode(read_preprocess(ensemble()), data)
        assert len(pixels) == 6 * 8 * 3
        assert np.array_equal(np.frombuffer(pixels, np.uint8).reshape(6, 8, 3), preprocess(data, SPEC))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty (0 bytes)"),
        (b"this is a text file\n", "or cut short in its header; it looks like text; send"),
        (file("BMP"), "no image of a known format (JPEG, PNG), or cut short"),
        (file("JPEG")[:-400], "truncated"),
        (
            file(size=(100, 80)),
            "100 x 80 pixels are over the model's limit of 5000 (max_pixels); scale the image down",
        ),
        (file(size=(1, 3000)), "would be resized to 10 x 30000"),
    ],
)
def test_a_bad_image_has_the_server_s_reason(data, says):
    """The limits are the model's, and the text is what the server sends for the same image."""
    refused = encode(read_preprocess(ensemble()), data)
    assert says in refused.reason
    with pytest.raises(ImageError) as caught:
        preprocess(data, SPEC)
    assert parse_errors(format_errors({0: caught.value.refusal}, 1)) == {0: (refused.reason, refused.code)}


def pictures():
    # by type(): isinstance asks the object, and some of torch's answer with a warning
    return sum(issubclass(type(item), Image.Image) for item in gc.get_objects())


def test_a_bad_image_leaves_nothing_in_memory():
    """What was decoded of it is gone when the reason is there, not when the garbage collector comes by."""
    truncated = file("JPEG")[:-400]
    gc.collect()
    gc.disable()
    try:
        before = pictures()
        encode(SPEC, truncated)
        assert pictures() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["preprocess", "pillow_version"])
def test_an_older_export_says_what_to_do(name):
    """A configuration without the parameters is no reason to guess."""
    with pytest.raises(ContractMismatch) as caught:
        read_preprocess(ensemble(**{name: None}))
    assert str(caught.value) == (
        f"model m has no parameter '{name}' in its configuration, so its pixels cannot be made here: it was "
        "exported by an older `vitriton export`; export it again, or use preprocess='server'"
    )
    assert caught.value.model == "m_pooled"


def changed(**changes):
    return json.dumps(json.loads(SPEC.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed(format=FORMAT + 1), f"ValueError: preprocessing file has format {FORMAT + 1}; this reads"),
        (changed(steps=[{"op": "solarize"}]), "unknown preprocessing step 'solarize'"),
        (changed(steps=[{"op": "center_crop", "height": 6}]), "width"),
        (changed(steps=3), "TypeError"),
        ("{}", "format None"),
        ("[]", "AttributeError"),
        ("not-exported", "JSONDecodeError"),
        (f'{{"format": {FORMAT}, "steps": []}}', "KeyError: 'height'"),
    ],
)
def test_a_specification_that_cannot_be_read_is_refused(text, says):
    """Of a newer format, with an unknown step, or no specification at all: one line that says what to do."""
    with pytest.raises(ContractMismatch) as caught:
        read_preprocess(ensemble(preprocess=text))
    assert says in str(caught.value)
    assert "update vitriton, export the model again, or use preprocess='server'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_pillow_is_not_warned_of():
    """With the version that the model was verified with the pixels are the server's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_preprocess(ensemble())


def test_another_pillow_is_warned_of_once():
    """Once in a process for each pair of versions, however many clients and threads there are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read_preprocess, [ensemble(pillow_version=f"0.{n % 2}.once") for n in range(64)]))
    assert [item.category for item in caught] == [PillowVersionWarning] * 2
    texts = sorted(str(item.message) for item in caught)
    assert f"verified with Pillow 0.0.once, and this process has Pillow {PIL.__version__}: pixels that" in texts[0]


def test_a_warning_that_is_an_error_is_raised_each_time():
    """An application that turns warnings into errors does not get pixels on the second attempt."""
    for _ in range(2):
        with pytest.raises(PillowVersionWarning, match=r"0\.error"):
            read_preprocess(ensemble(pillow_version="0.error"))


def test_the_encoder_s_contract_is_the_ensemble_s_but_for_the_input():
    """Pixels in, the same output, the encoder's own batch size."""
    contract = encoder_contract(ensemble(), encoder(max_batch_size=4), SPEC)
    assert contract.model == encoder_name("m_pooled") == "m_pooled_encoder"
    assert (contract.input, contract.datatype, contract.item_shape) == ("pixels", "UINT8", (6, 8, 3))
    assert contract.max_batch_size == 4
    assert contract.fingerprint == "v1-f"
    assert (contract.output, contract.shape, contract.dtype) == ("embedding", (4,), np.float32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": {}}, "has no input 'pixels' of type UINT8 and shape [6, 8, 3]"),
        ({"inputs": {"pixels": TensorSpec(datatype="FP32", shape=(6, 8, 3))}}, "has no input 'pixels' of type UINT8"),
        ({"inputs": {"pixels": TensorSpec(datatype="UINT8", shape=(8, 6, 3))}}, "of type UINT8 and shape [6, 8, 3]"),
        ({"outputs": {"tokens": EMBEDDING["embedding"]}}, "has no output 'embedding' of shape [4]"),
        ({"outputs": {"embedding": TensorSpec(datatype="FP32", shape=(5,))}}, "has no output 'embedding' of shape [4]"),
        ({"max_batch_size": 0}, "has max_batch_size 0"),
        ({"parameters": {}}, "has the fingerprint None, and the ensemble v1-f"),
        ({"parameters": {"fingerprint": "v1-g"}}, "has the fingerprint v1-g, and the ensemble v1-f"),
    ],
)
def test_another_encoder_is_refused(changes, says):
    """It must take the pixels that are made here, and give what the ensemble promises."""
    with pytest.raises(ContractMismatch) as caught:
        encoder_contract(ensemble(), encoder(**changes), SPEC)
    assert says in str(caught.value)
    assert "it is not the encoder of m_pooled; export the model again, or use preprocess='server'" in str(caught.value)
    assert caught.value.model == "m_pooled_encoder"
