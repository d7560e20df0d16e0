"""The pixels: identical to those of transformers' PIL image processors, on every awkward image."""

import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import awkward
from transformers import (
    BeitImageProcessorPil,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    DonutImageProcessorPil,
    DPTImageProcessorPil,
    EfficientNetImageProcessorPil,
    LevitImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    MobileViTImageProcessorPil,
    PoolFormerImageProcessorPil,
    SegformerImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    TextNetImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_transforms import center_crop, get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import load_image
from vitriton import preprocessing
from vitriton.preprocessing import CenterCrop, ImageError, Limits, PreprocessSpec, Resize, to_pixels
from vitriton_export._parity.corpus import EXTREME, corpus
from vitriton_export._processors.float_processor import DINOv3ViTImageProcessor
from vitriton_export._processors.processor import describe
from vitriton_export._processors.reference_pixels import FLOAT_TOLERANCE

PROCESSORS = {
    "vit": ViTImageProcessorPil(),
    "vit-lanczos-portrait": ViTImageProcessorPil(size={"height": 97, "width": 61}, resample=1),
    "deit": DeiTImageProcessorPil(),
    "bit": BitImageProcessorPil(size={"shortest_edge": 256}),
    "bit-longest-edge": BitImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 200}),
    "bit-pads": BitImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 75, "width": 64}),
    "beit": BeitImageProcessorPil(do_center_crop=True, size={"height": 80, "width": 96}, crop_size=64),
    "convnext-crop-percentage": ConvNextImageProcessorPil(size={"shortest_edge": 91}, crop_pct=0.9),
    "convnext-full-size": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "donut": DonutImageProcessorPil(size={"height": 90, "width": 64}, do_align_long_axis=True),
    "dpt-multiple": DPTImageProcessorPil(size={"height": 90, "width": 64}, ensure_multiple_of=32),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 90, "width": 64}, rescale_offset=True),
    "levit": LevitImageProcessorPil(size={"shortest_edge": 61}, crop_size=61),
    "mobilenet-v2": MobileNetV2ImageProcessorPil(size={"shortest_edge": 70}, crop_size=64),
    "mobilevit-flips": MobileViTImageProcessorPil(size={"shortest_edge": 70}, crop_size=64),
    "poolformer": PoolFormerImageProcessorPil(size={"shortest_edge": 60}, crop_size=64, crop_pct=0.95),
    "poolformer-portrait": PoolFormerImageProcessorPil(size={"height": 90, "width": 64}, crop_size=64),
    "segformer": SegformerImageProcessorPil(size={"height": 64, "width": 60}),
    "siglip": SiglipImageProcessorPil(size={"height": 64, "width": 60}),
    "textnet": TextNetImageProcessorPil(size={"shortest_edge": 70}, do_center_crop=True, crop_size=64),
    "bit-nearest-crop-only": BitImageProcessorPil(do_resize=False, crop_size={"height": 101, "width": 64}, resample=0),
}
IMAGES = corpus()


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_identical_to_the_pil_image_processor(name):
    """For every image of the corpus, the spec of a processor gives the very pixels that the processor gives."""
    processor = PROCESSORS[name]
    spec = PreprocessSpec.from_json(describe(processor)[0].to_json())
    off = {"include_top": False} if "efficientnet" in name else {}
    for image, data in IMAGES.items():
        loaded = load_image(Image.open(io.BytesIO(data)))
        try:
            plain = processor(loaded, do_rescale=False, do_normalize=False, return_tensors="np", **off)
        except ValueError:  # an extreme shape that is squeezed to nothing
            with pytest.raises(ImageError, match="would be resized to"):
                preprocessing.preprocess(data, spec)
            continue
        expected = np.moveaxis(plain["pixel_values"][0], 0, -1)
        assert expected.dtype == np.uint8
        assert np.array_equal(preprocessing.preprocess(data, spec), expected), image


def test_patches_are_those_of_the_pil_image_processor():
    """NaFlex: the patches, and how many rows and columns of them each image has, in proportion to it."""
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=40)
    spec = PreprocessSpec.from_json(describe(processor)[0].to_json())
    shapes = set()
    for image, data in IMAGES.items():
        loaded = load_image(Image.open(io.BytesIO(data)))
        plain = processor(loaded, do_rescale=False, do_normalize=False, return_tensors="np")
        pixels = preprocessing.preprocess(data, spec)
        assert pixels.shape == (41, 16, 3)
        assert np.array_equal(pixels[:-1].reshape(40, -1), plain["pixel_values"][0]), image
        shapes.add(tuple(pixels[-1].reshape(-1)[:4].view("<u2")))
        assert tuple(plain["spatial_shapes"][0]) in shapes, image
    assert len(shapes) > 2


@pytest.mark.parametrize("normalizes", [True, False])
def test_padding_is_done_after_normalizing_and_so_on_floats(normalizes):
    """What is padded with is 0 after normalizing, which no gray level is: the pixels are float32, and identical."""
    processor = ViTImageProcessorPil(
        size={"shortest_edge": 40, "longest_edge": 64},
        do_pad=True,
        pad_size={"height": 64, "width": 70},
        do_normalize=normalizes,
        image_mean=[0.1, 0.2, 0.3],
    )
    described, normalization = describe(processor)
    spec = PreprocessSpec.from_json(described.to_json())
    assert (spec.dtype, normalization.scale) == (np.float32, (1.0, 1.0, 1.0))
    for image, data in IMAGES.items():
        if image in EXTREME:
            continue
        expected = processor(load_image(Image.open(io.BytesIO(data))), return_tensors="np")["pixel_values"][0]
        assert np.array_equal(preprocessing.preprocess(data, spec), np.moveaxis(expected, 0, -1)), image


@pytest.mark.parametrize("resample", [2, 3])
def test_floats_are_resized_as_torch_does(resample):
    """DINOv3 rescales before it resizes: Pillow's filters on floats are torch's antialiased interpolation."""
    processor = DINOv3ViTImageProcessor(size={"height": 48, "width": 40}, resample=resample)
    spec = PreprocessSpec.from_json(describe(processor)[0].to_json())
    for image, data in IMAGES.items():
        loaded = load_image(Image.open(io.BytesIO(data)))
        expected = np.moveaxis(processor([loaded], do_normalize=False, return_tensors="np")["pixel_values"][0], 0, -1)
        pixels = preprocessing.preprocess(data, spec)
        assert pixels.dtype == np.float32
        assert np.abs(pixels - expected).max() < FLOAT_TOLERANCE, image


@pytest.mark.parametrize("height", [1, 9, 40, 41, 55, 1000])
@pytest.mark.parametrize("width", [1, 9, 40, 41, 55, 1000])
def test_sizes_are_those_of_transformers(height, width):
    """The shortest edge is scaled with transformers' own rounding, with and without a longest edge."""
    array = np.zeros((3, height, width), dtype=np.uint8)
    for edge in (1, 39, 40, 41):
        plain = get_resize_output_image_size(array, edge, default_to_square=False, input_data_format="channels_first")
        assert Resize("bilinear", shortest_edge=edge).size(height, width) == plain
        bounded = get_size_with_aspect_ratio((height, width), edge, 60)
        assert Resize("bilinear", shortest_edge=edge, longest_edge=60).size(height, width) == bounded


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 4), (9, 2), (2, 9), (1, 1), (8, 7)])
@pytest.mark.parametrize("crop", [(4, 4), (3, 6), (7, 5), (1, 1)])
def test_crops_and_their_padding_are_those_of_transformers(size, crop):
    """A center crop rounds as transformers does, and pads with black where the image is too small."""
    pixels = np.random.default_rng(0).integers(1, 255, (*size, 3), dtype=np.uint8)
    spec = PreprocessSpec(steps=(CenterCrop(*crop),), height=crop[0], width=crop[1])
    expected = center_crop(pixels, crop, input_data_format="channels_last")
    assert np.array_equal(preprocessing.to_pixels(Image.fromarray(pixels), spec), expected)


@pytest.mark.parametrize(("width", "left"), [(9, 0), (10, 1), (11, 2), (12, 2), (15, 4), (16, 4)])
def test_half_a_pixel_of_a_center_crop_goes_to_the_even_number(width, left):
    """As torchvision's CenterCrop rounds, which timm's models were evaluated with."""
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (8, width, 3))
    spec = PreprocessSpec(steps=(CenterCrop(8, 8, half_even=True),), height=8, width=8)
    assert PreprocessSpec.from_json(spec.to_json()) == spec
    assert to_pixels(Image.fromarray(np.ascontiguousarray(columns)), spec)[0, 0, 0] == left


SPEC = PreprocessSpec(steps=(Resize("bilinear", shortest_edge=8), CenterCrop(8, 8)), height=8, width=8)
JPEG = IMAGES["cat.jpg"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty (0 bytes)"),
        (b"this is a text file", "no image of a known format"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:20], "the header of this JPEG is damaged or cut short"),
        (b"\xff\xd8\xff" + bytes(500), "the header of this JPEG is damaged or cut short"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
        (IMAGES["rgba.png"][:-400], "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, reason):
    """A file that cannot be decoded is an ImageError that says why in one line."""
    with pytest.raises(ImageError) as caught:
        preprocessing.preprocess(data, SPEC)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded():
    """The header's size is compared with max_pixels; the pixel data, here missing, are not touched."""
    header = IMAGES["rgba.png"][:60]
    with pytest.raises(ImageError, match=r"375 x 250 pixels are over the model's limit of 90000 \(max_pixels\)"):
        preprocessing.decode(header, Limits(max_pixels=90_000))


def test_a_decompression_bomb_is_refused():
    """A small file of a huge picture is refused on its header, at Pillow's own limit if no lower one is set."""
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    with pytest.raises(ImageError, match="900000000 pixels"):
        preprocessing.decode(bomb.getvalue(), Limits())


def test_a_step_may_not_blow_a_small_file_up():
    """Resizing the shortest edge of an extreme shape would make a huge image: refused by the same limit.

    The reference makes it, if there is memory for it: here we differ.
    """
    strip = io.BytesIO()
    Image.new("L", (60_000, 1)).save(strip, "PNG")
    spec = PreprocessSpec(steps=(Resize("bilinear", shortest_edge=256), CenterCrop(8, 8)), height=8, width=8)
    with pytest.raises(ImageError, match="would be resized to 15360000 x 256"):
        preprocessing.preprocess(strip.getvalue(), spec)


@pytest.mark.parametrize("picture", ["PNG", "BMP"])
def test_an_icon_is_measured_before_it_is_decoded(picture):
    """Pillow decodes an icon as it opens it; what its pictures say of their size is looked at before that."""
    file = io.BytesIO()
    Image.new("RGB", (200, 100)).save(file, "ICO", sizes=[(200, 100)], bitmap_format=picture.lower())
    assert preprocessing.decode(file.getvalue(), Limits()).size == (200, 100)
    with pytest.raises(ImageError, match=r"200 x [12]00 pixels are over the model's limit of 19999 \(max_pixels\)"):
        preprocessing.decode(file.getvalue()[:80], Limits(max_pixels=19_999))


def test_no_bomb_costs_memory():
    """All bombs of the corpus, refused in a process that may not take 64 MB more than it has."""
    script = """
import resource, sys
from pathlib import Path
from vitriton.preprocessing import ImageError, Limits, decode
from PIL import Image
Image.init()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 64_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes(), Limits())
    except ImageError as exc:
        print(path.name, exc)
"""
    bombs = {name: file for name, file in awkward.refused().items() if name.startswith("bomb")}
    with tempfile.TemporaryDirectory() as folder:
        for name, file in bombs.items():
            (Path(folder) / name).write_bytes(file.data)
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    wrong = {name: said.get(name) for name, file in bombs.items() if not re.search(file.reason, said.get(name, ""))}
    assert wrong == {}


def test_formats_can_be_limited():
    """A format that is not listed is not tried at all."""
    spec = PreprocessSpec(SPEC.steps, 8, 8, Limits(formats=("PNG",)))
    with pytest.raises(ImageError, match="known format \\(PNG\\), or"):
        preprocessing.preprocess(JPEG, spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"steps": [{"op": "rotate"}]}, "unknown preprocessing step 'rotate'"),
        ({"steps": [{"op": "resize", "resample": "sharp", "height": 1, "width": 1}]}, "resample is 'sharp'"),
        ({"steps": [{"op": "resize", "resample": "box", "height": 1}]}, "needs height and width, or shortest_edge"),
    ],
)
def test_a_spec_that_cannot_be_followed_is_an_error(change, message):
    """A spec is understood as a whole or refused."""
    text = json.dumps(json.loads(SPEC.to_json()) | change)
    with pytest.raises(ValueError, match=message):
        PreprocessSpec.from_json(text)
