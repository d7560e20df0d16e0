"""Scaled decoding of JPEGs: the same picture, nearly the same pixels, and nothing else is touched."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    DonutImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)
from vitriton import preprocessing
from vitriton.preprocessing import (
    CenterCrop,
    ConvertRGB,
    ImageError,
    Limits,
    PreprocessSpec,
    Resize,
    ScaledDecoding,
    is_scaled,
    preprocess,
)
from vitriton_export import ExportError, ExportOptions, VerifyOptions, export_model, verify_model
from vitriton_export._parity.corpus import corpus
from vitriton_export._processors.float_processor import DINOv3ViTImageProcessor
from vitriton_export._processors.processor import describe, with_scaled_decoding

PROCESSORS = {
    "to a size": ViTImageProcessorPil(size={"height": 61, "width": 97}),
    "shortest edge and crop": BitImageProcessorPil(size={"shortest_edge": 64}, crop_size=56),
    "patches": Siglip2ImageProcessorPil(patch_size=4, max_num_patches=100),
    "thumbnail": DonutImageProcessorPil(size={"height": 90, "width": 64}, do_align_long_axis=False),
    "convert first": SiglipImageProcessorPil(size={"height": 64, "width": 60}, do_convert_rgb=True),
}
GRAY_LEVELS = 5  # that the pixels of a smooth picture may differ by


def specs(name: str) -> tuple[PreprocessSpec, PreprocessSpec]:
    """Exact and scaled, as read from a repository."""
    exact, _ = describe(PROCESSORS[name])
    scaled = with_scaled_decoding(exact, PROCESSORS[name])
    return exact, PreprocessSpec.from_json(scaled.to_json())


def smooth(width: int, height: int) -> Image.Image:
    """A picture in which a shift by a fraction of a pixel of the result shows, and sharpness does not."""
    with Image.open(io.BytesIO(corpus()["astronaut.jpg"])) as photo:
        return photo.convert("RGB").resize((24, 24)).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", quality=95, subsampling=0, exif=exif, **options)
    return buffer.getvalue()


def distance(left: np.ndarray, right: np.ndarray) -> int:
    assert left.shape == right.shape
    return int(np.abs(left.astype(int) - right.astype(int)).max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", PROCESSORS)
def test_it_is_the_same_picture(name, orientation):
    """Every orientation, of sizes that no scale divides: geometry is that of the exact pixels."""
    exact, scaled = specs(name)
    data = jpeg(smooth(1021, 803), orientation)
    assert is_scaled(data, scaled)
    assert not is_scaled(data, exact)
    assert distance(preprocess(data, scaled), preprocess(data, exact)) <= GRAY_LEVELS


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(mode, progressive):
    """Grayscale and CMYK, baseline and progressive."""
    exact, scaled = specs("to a size")
    data = jpeg(smooth(1000, 800).convert(mode), progressive=progressive)
    assert is_scaled(data, scaled)
    assert distance(preprocess(data, scaled), preprocess(data, exact)) <= GRAY_LEVELS


def test_a_jpeg_of_several_pictures():
    """What phones write (MPO) is decoded as the JPEG that it begins with."""
    exact, scaled = specs("to a size")
    buffer = io.BytesIO()
    smooth(1000, 800).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (200, 200))])
    data = buffer.getvalue()
    assert is_scaled(data, scaled)
    assert distance(preprocess(data, scaled), preprocess(data, exact)) <= GRAY_LEVELS


@pytest.mark.parametrize(
    ("size", "is_smaller"),
    [((1000, 1000), True), ((186, 186), True), ((185, 500), False), ((500, 185), False), ((60, 60), False)],
)
def test_no_fewer_pixels_than_wanted(size, is_smaller):
    """It is decoded at half of its size from 2 × 1.5 times the size that is wanted, in both directions."""
    _, scaled = specs("convert first")
    scaled = replace(scaled, steps=(ScaledDecoding(), Resize("bilinear", height=62, width=62)), width=62)
    data = jpeg(smooth(*size))
    assert is_scaled(data, scaled) is is_smaller


def test_everything_else_is_untouched():
    """The whole corpus of small images, and a large PNG: the very pixels of exact decoding."""
    processor = ViTImageProcessorPil()
    exact, _ = describe(processor)
    scaled = with_scaled_decoding(exact, processor)
    buffer = io.BytesIO()
    smooth(1000, 800).save(buffer, "PNG")
    for name, data in (corpus() | {"large.png": buffer.getvalue()}).items():
        assert not is_scaled(data, scaled), name
        assert np.array_equal(preprocess(data, scaled), preprocess(data, exact)), name


def test_decoded_images_are_untouched():
    """The step is about what is not decoded yet; an image in memory is resized as ever."""
    exact, scaled = specs("to a size")
    image = smooth(1000, 800)
    assert np.array_equal(preprocessing.to_pixels(image, scaled), preprocessing.to_pixels(image, exact))


def test_limits_and_broken_files_are_refused_as_ever():
    """By the size in the header, and with one line."""
    exact, scaled = specs("to a size")
    data = jpeg(smooth(1000, 800))
    for spec in (exact, scaled):
        with pytest.raises(ImageError, match=r"1000 x 800 pixels are over the model's limit of 799999"):
            preprocess(data, replace(spec, limits=Limits(max_pixels=799_999)))
        with pytest.raises(ImageError, match=r"cannot be decoded"):
            preprocess(data[: len(data) // 2], spec)
    limited = replace(specs("shortest edge and crop")[1], limits=Limits(max_pixels=100_000))
    with pytest.raises(ImageError, match=r"1000 x 20 pixels would be resized to 3200 x 64"):
        preprocess(jpeg(smooth(1000, 20)), limited)
    with pytest.raises(ImageError, match=r"20 x 1000 pixels would be resized to 64 x 3200"):
        preprocess(jpeg(smooth(1000, 20), orientation=6), limited)


@pytest.mark.parametrize(
    "steps",
    [
        (ScaledDecoding(2.0),),
        (Resize("bilinear", height=8, width=8), ScaledDecoding(2.0)),
        (ScaledDecoding(2.0), CenterCrop(8, 8), Resize("bilinear", height=8, width=8)),
        (ConvertRGB(), ScaledDecoding(2.0), Resize("bilinear", height=8, width=8)),
    ],
)
def test_a_specification_without_a_resize_after_it(steps):
    """What the image is resized to must be known before it is decoded."""
    with pytest.raises(ValueError, match="scaled_decoding is to be the first step, and a resize the next"):
        PreprocessSpec(steps=steps, height=8, width=8)
    with pytest.raises(ValueError, match=r"reducing_gap is 0\.5; it must be from 1 to 64"):
        ScaledDecoding(0.5)


@pytest.mark.parametrize(
    "processor",
    [
        DonutImageProcessorPil(do_align_long_axis=True),
        DINOv3ViTImageProcessor(),
        BitImageProcessorPil(do_resize=False, crop_size=64),
    ],
)
def test_image_processors_that_do_something_else_first(processor):
    """They are refused by name."""
    spec, _ = describe(processor)
    with pytest.raises(ExportError, match=rf"{type(processor).__name__} does not begin with a resize"):
        with_scaled_decoding(spec, processor)


@pytest.mark.parametrize("resample", [0, 4, 5])
def test_filters_without_antialiasing(resample):
    """Of a picture that is smaller already they would pick other pixels."""
    processor = ViTImageProcessorPil(resample=resample)
    with pytest.raises(ExportError, match=r"ViTImageProcessorPil resizes by .*, which would pick other pixels"):
        with_scaled_decoding(describe(processor)[0], processor)


@pytest.mark.long
def test_an_export_reports_what_it_does(tiny_vit_checkpoint, tmp_path):
    """Stages of their own, another embedding space, and everything else as exact as ever."""
    base = {"model": str(tiny_vit_checkpoint), "outputs": "pooled", "max_batch_size": 8}
    exact = export_model(ExportOptions(**base, repository=tmp_path / "exact"))
    result = export_model(ExportOptions(**base, repository=tmp_path / "scaled", jpeg_decoding="scaled"))
    stages = {stage.stage: stage for stage in result.parity}
    assert stages["pixels"].gate == "identical"
    together = stages["pixels"].images + stages["pixels scaled"].images
    assert together == len(corpus(large=True)) - len(corpus()) + exact.parity[0].images
    assert stages["pixels scaled"].gate == "none: the outputs decide"
    assert stages["pixels scaled"].images == stages["embedding scaled"].images > 5
    assert stages["pixels scaled"].max_abs_error > 0
    assert stages["embedding scaled"].min_cosine < 1
    assert result.deployment.fingerprint != exact.deployment.fingerprint
    assert result.manifest["options"]["jpeg_decoding"] == "scaled"

    report = verify_model(VerifyOptions(repository=tmp_path / "scaled"))
    assert report.passed
    assert {stage.stage for stage in report.stages} == set(stages)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "large.jpg").write_bytes(jpeg(smooth(1000, 800)))
    (photos / "small.jpg").write_bytes(jpeg(smooth(40, 40)))
    report = verify_model(VerifyOptions(repository=tmp_path / "scaled", images=photos))
    assert {stage.stage: stage.images for stage in report.stages if "alone" not in stage.stage} == {
        "pixels": 1,
        "embedding": 1,
        "pixels scaled": 1,
        "embedding scaled": 1,
    }
    assert json.loads(json.dumps(report.to_dict()))["passed"]


def test_a_breach_of_its_gate_installs_nothing(tiny_vit_checkpoint, tmp_path):
    """--min-cosine holds for large JPEGs as well."""
    options = ExportOptions(
        model=str(tiny_vit_checkpoint),
        outputs="pooled",
        repository=tmp_path / "r",
        jpeg_decoding="scaled",
        min_cosine=0.99999999999,
    )
    with pytest.raises(ExportError, match=r"embedding scaled of .* \(set by --min-cosine\)"):
        export_model(options)
    assert not list((tmp_path / "r").glob("*/config.pbtxt"))
