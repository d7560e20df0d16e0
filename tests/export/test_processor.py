"""Image processors as data: what the spec can express is taken, the rest is refused by name."""

import pytest
from transformers import (
    BeitImageProcessorPil,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    DonutImageProcessorPil,
    DPTImageProcessorPil,
    EfficientNetImageProcessorPil,
    GLPNImageProcessorPil,
    MobileViTImageProcessorPil,
    TextNetImageProcessorPil,
    ViTImageProcessorPil,
    YolosImageProcessorPil,
)
from vitriton.preprocessing import CenterCrop, ConvertRGB, Resize
from vitriton_export import ExportError
from vitriton_export._processors.processor import describe


def test_the_steps_of_a_processor_in_its_order():
    """BiT converts, resizes the shortest edge, crops; rescale and normalize go to the graph."""
    spec, normalization = describe(BitImageProcessorPil(size={"shortest_edge": 256}, image_mean=[0.1, 0.2, 0.3]))
    assert spec.steps == (ConvertRGB(), Resize("bicubic", shortest_edge=256), CenterCrop(224, 224))
    assert (spec.height, spec.width) == (224, 224)
    assert normalization.mean == (0.1, 0.2, 0.3)
    assert normalization.rescale_factor == pytest.approx(1 / 255)


def test_switches_are_obeyed():
    """Without rescale and normalize the pixels go into the model as they are."""
    _, normalization = describe(ViTImageProcessorPil(do_rescale=False, do_normalize=False))
    assert normalization.scale == (1.0, 1.0, 1.0)
    assert all(value == 0 for value in normalization.bias)


def test_rescaling_with_an_offset_and_normalizing_twice():
    """EfficientNet takes 1 away after rescaling, and divides by the deviation once more for its classifier."""
    processor = EfficientNetImageProcessorPil(rescale_factor=1 / 127.5, rescale_offset=True)
    _, normalization = describe(processor)
    assert normalization.bias[0] + 255 * normalization.scale[0] == pytest.approx((255 / 127.5 - 1 - 0.5) / 0.5 / 0.5)


def test_what_a_processor_does_not_look_at_does_not_count():
    """MobileViT does not normalize, whatever do_normalize says."""
    _, normalization = describe(MobileViTImageProcessorPil(do_normalize=True))
    assert normalization.scale == pytest.approx((1 / 255,) * 3)


class Sharpening(ViTImageProcessorPil):
    """Does something before it resizes."""

    def resize(self, *args, **kwargs):
        return super().resize(*args, **kwargs)


def _without(processor, attribute):
    setattr(processor, attribute, None)
    return processor


@pytest.mark.parametrize(
    ("processor", "name", "reason"),
    [
        (Sharpening(), "Sharpening", "has a resize of its own"),
        (YolosImageProcessorPil(), "YolosImageProcessorPil", "of its own"),
        (GLPNImageProcessorPil(), "GLPNImageProcessorPil", "keeps each image's own size"),
        (TextNetImageProcessorPil(), "TextNetImageProcessorPil", "different sizes"),
        (DPTImageProcessorPil(keep_aspect_ratio=True), "DPTImageProcessorPil", "keep_aspect_ratio"),
        (ConvNextImageProcessorPil(size={"height": 9, "width": 9}), "ConvNextImageProcessorPil", "a shortest_edge"),
        (BeitImageProcessorPil(do_pad=True), "BeitImageProcessorPil", "pads"),
        (DonutImageProcessorPil(do_pad=False), "DonutImageProcessorPil", "does not pad"),
        (ViTImageProcessorPil(do_pad=True), "ViTImageProcessorPil", "depend on its neighbors"),
        (ViTImageProcessorPil(do_pad=True, pad_size=200), "ViTImageProcessorPil", "may be larger than that"),
        (ViTImageProcessorPil(size={"max_height": 9, "max_width": 9}), "ViTImageProcessorPil", "resizes to"),
        (BitImageProcessorPil(do_center_crop=False), "BitImageProcessorPil", "different sizes"),
        (ViTImageProcessorPil(do_resize=False), "ViTImageProcessorPil", "different sizes"),
        (ViTImageProcessorPil(image_mean=[0.5]), "ViTImageProcessorPil", "1 values in image_mean"),
        (BitImageProcessorPil(crop_size={"height": 8, "width": 0}), "BitImageProcessorPil", "invalid settings"),
        (ViTImageProcessorPil(image_std=[0.5, 0, 0.5]), "ViTImageProcessorPil", "image_std is (0.5, 0.0, 0.5)"),
        (_without(ViTImageProcessorPil(), "size"), "ViTImageProcessorPil", "invalid settings"),
        (_without(BitImageProcessorPil(), "crop_size"), "BitImageProcessorPil", "invalid settings"),
        (_without(ViTImageProcessorPil(), "resample"), "ViTImageProcessorPil", "resamples with None"),
        (object(), "object", "no PIL backend"),
    ],
)
def test_what_the_spec_cannot_express_is_refused_by_name(processor, name, reason):
    """The error names the processor and what it does."""
    with pytest.raises(ExportError) as caught:
        describe(processor)
    assert name in str(caught.value)
    assert reason in str(caught.value)
