"""PIL images and arrays arrive as the reference sees them."""

import io

import numpy as np
import pytest
from PIL import Image
from vitriton._images.failure import SourceError
from vitriton._images.lossless import encode_array, encode_pil
from vitriton.preprocessing import Limits, decode


@pytest.fixture(scope="module")
def reference():
    """Transformers' own way from a PIL image to the one that its processors get."""
    from transformers.image_utils import load_image

    return load_image


def noise(mode: str) -> Image.Image:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (7, 11, 4), np.uint8), "RGBA" if mode == "RGBA" else None)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (7, 11), np.uint16))
    return image.convert("RGB").convert(mode) if mode != "RGBA" else image


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_modes(mode, reference):
    """Every mode becomes the RGB that the reference makes of it."""
    image = noise(mode)
    assert np.array_equal(np.asarray(decode(encode_pil(image), Limits())), np.asarray(reference(image)))


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(orientation, reference):
    """A rotated photo is turned upright, once."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise("RGB").save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        assert np.array_equal(np.asarray(decode(encode_pil(image), Limits())), np.asarray(reference(image)))


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_transparent_color(mode, reference):
    """A transparent color travels, because some processors lay it onto white."""
    image = noise(mode)
    image.info["transparency"] = (1, 2, 3) if mode == "RGB" else 0
    wanted, got = reference(image), decode(encode_pil(image), Limits())
    assert np.array_equal(np.asarray(got), np.asarray(wanted))
    assert got.info.get("transparency") == wanted.info.get("transparency")


@pytest.mark.parametrize("step", [1, 2])
def test_arrays(step):
    """An array arrives as it is, contiguous or not."""
    array = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)[::step, ::-step]
    assert np.array_equal(np.asarray(decode(encode_array(array), Limits())), array)


def test_truncated_file():
    """PIL reads a file only when it is used; a broken one is the image's fault."""
    buffer = io.BytesIO()
    noise("RGB").resize((300, 300)).save(buffer, "JPEG")
    with Image.open(io.BytesIO(buffer.getvalue()[:2000])) as image, pytest.raises(SourceError, match="truncated"):
        encode_pil(image)
