"""The architectures that can be exported: one row for each `model_type` of transformers.

A row holds what the class does not say: which tokens are not patches, where the pooler's weights are, and whether the
model is the vision tower of a larger one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitriton_export._checkpoint.families import TRANSFORMER, Family, lacking
from vitriton_export._errors import ExportError

_CLS = Family(prefix=("cls",))
_REGISTERS = Family(prefix=("cls", "register"), counts={"register": "num_register_tokens"}, pooler_is_cls=True)
_CLS_ALONE = Family(prefix=("cls",), pooler=())  # no pooler
_TOKENS = Family(grid=False)  # the stages of a hierarchy merge the image's patches into other tokens
_MAP = Family(grid=False)  # last_hidden_state is a feature map, (C, h, w)
_MAP_ALONE = Family(grid=False, pooler=())

_CLIP = Family(prefix=("cls",), pooler=("post_layernorm.", "visual_projection."))
_HEAD = Family(pooler=("head.",))  # attention pooling
_BOTH = "its vision tower, and its text tower if there is a tokenizer"
_FLOATS = "its image processor resizes floats, so `pixels` are FP32"
_NAFLEX = Family(
    grid=False,
    pooler=("head.",),
    inputs="patches",
    projection="pooler",
    note="NaFlex: each image keeps its proportions, in at most max_num_patches patches; the tokens after its own are "
    "padding; no --image-size",
)
_SAM = replace(_MAP_ALONE, note="the vision tower, with an image processor of one size; SAM's own is refused")
_TORCHVISION = "with an image processor that has a PIL backend; its own is on torchvision alone, and refused"
_OWN_SIZE = "with an image processor of one size; its own gives each image another, and is refused"


_PART: dict[str, Any] = {"tower": "vision_config", "part": "vision_model", "projection": "get_image_features"}


def _tower(vision: Family, model: str, projection: str = "get_image_features") -> Family:
    return replace(vision, model=model, tower="vision_config", projection=projection, note=_BOTH)


_CLIP_PROJECTED = replace(_CLIP, projection="CLIPVisionModelWithProjection", model="CLIPVisionModel")
_SIGLIP = replace(_HEAD, projection="pooler", model="SiglipVisionModel")

FAMILIES: dict[str, Family] = {
    "aimv2": replace(_HEAD, **_PART, note="its vision tower"),
    "aimv2_vision_model": _HEAD,
    "altclip": replace(_CLIP, **_PART, note=_BOTH),
    "beit": _CLS,
    "bit": _MAP,
    "chinese_clip": _tower(_CLIP, "ChineseCLIPVisionModel"),
    "chinese_clip_vision_model": _CLIP,
    "clip": _tower(_CLIP, "CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "clip_vision_model": _CLIP_PROJECTED,
    "convnext": _MAP,
    "convnextv2": _MAP,
    "cvt": replace(_MAP_ALONE, note="last_hidden_state is the feature map without the class token"),
    "data2vec-vision": _CLS_ALONE,
    "deit": Family(prefix=("cls", "distillation"), computation=TRANSFORMER, pooler_computation=("pooler_act",)),
    "dinov2": Family(prefix=("cls",), computation=(*TRANSFORMER, "use_swiglu_ffn"), pooler_is_cls=True),
    "dinov2_with_registers": _REGISTERS,
    "dinov3_convnext": Family(prefix=("cls",), grid=False, pooler_is_cls=True, note=_FLOATS),
    "dinov3_vit": replace(_REGISTERS, note=_FLOATS),
    "donut-swin": _TOKENS,
    "dpt": _CLS,
    "efficientnet": _MAP,
    "focalnet": _TOKENS,
    "hiera": _TOKENS,
    "ijepa": Family(pooler=()),
    "internvl_vision": _CLS_ALONE,
    "levit": _TOKENS,
    "maskformer-swin": _TOKENS,
    "metaclip_2": _tower(_CLIP, "MetaClip2VisionModel", "MetaClip2VisionModelWithProjection"),
    "mlcd": _CLIP,
    "mlcd_vision_model": _CLIP,
    "mobilenet_v1": _MAP,
    "mobilenet_v2": _MAP,
    "mobilevit": _MAP,
    "mobilevitv2": _MAP,
    "pixio": Family(prefix=("cls",), counts={"cls": "n_cls_tokens"}),
    "poolformer": _MAP_ALONE,
    "pvt": replace(_TOKENS, pooler=()),
    "pvt_v2": _MAP_ALONE,
    "qianfan_ocr_vision": _CLS_ALONE,
    "radio": Family(
        pooler=(), prefix=("summary", "register"), counts={"summary": "num_cls_tokens", "register": "num_registers"}
    ),
    "regnet": _MAP,
    "resnet": _MAP,
    "sam_hq_vision_model": _SAM,
    "sam_vision_model": _SAM,
    "sapiens2": replace(_REGISTERS, note=_TORCHVISION),
    "segformer": _MAP_ALONE,
    "siglip": _tower(_HEAD, "SiglipVisionModel", "pooler"),
    "siglip2": replace(_NAFLEX, model="Siglip2VisionModel", tower="vision_config"),
    "siglip2_vision_model": _NAFLEX,
    "siglip_vision_model": _SIGLIP,
    "swiftformer": _MAP_ALONE,
    "swin": _TOKENS,
    "swin2sr": replace(_MAP_ALONE, note=_OWN_SIZE),
    "swinv2": _TOKENS,
    "textnet": replace(_MAP, note="with do_center_crop; else its image processor gives each image a size of its own"),
    "timm_wrapper": replace(
        _MAP,
        requires=("timm", "torchvision"),
        extra="timm",
        note="with an image processor of transformers, or timm's usual transforms: Resize, then CenterCrop",
    ),
    "tipsv2_vision_model": replace(_REGISTERS, note=_TORCHVISION),
    "vit": Family(prefix=("cls",), computation=TRANSFORMER, pooler_computation=("pooler_act",)),
    "vit_mae": Family(
        prefix=("cls",),
        pooler=(),
        settings={"mask_ratio": 0.0},
        inputs="ordered",
        note="nothing is masked, and patches keep their order; the reference masks three quarters at random",
    ),
    "vit_msn": _CLS_ALONE,
    "vitdet": _MAP_ALONE,
    "yolos": Family(
        prefix=("cls",), suffix=("detection",), counts={"detection": "num_detection_tokens"}, note=_OWN_SIZE
    ),
}


def check_installed(model_type: str, model_id: str) -> None:
    """Checks that the packages an architecture needs beside transformers are installed; its config needs them to load.

    Raises:
        ExportError: one is missing; the text says what to install.
    """
    reason = lacking(FAMILIES[model_type]) if model_type in FAMILIES else None
    if reason is not None:
        raise ExportError(f"{model_id} is of type {model_type}, which {reason}")


def family(config: Any, model_id: str) -> Family:
    """Returns the family of a transformers configuration.

    Raises:
        ExportError: the architecture cannot be exported; the text says why.
    """
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    from vitriton_export._checkpoint.refusals import refusal

    raise ExportError(
        f"{model_id} is of type {config.model_type}, {refusal(config.model_type)}; `vitriton export --list` shows what "
        "can be exported"
    )
