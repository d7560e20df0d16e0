"""Why an architecture of transformers cannot be exported, by its `model_type`; asked for by `vitriton_export._families`."""

from __future__ import annotations

import inspect
from typing import Any

_VIDEO = "which takes a clip of frames and no single image"
_DETECTOR = "a detector: what it returns stands for the objects that it looks for and not for the image"
_SEGMENTS = "which segments: what it returns stands for masks and not for the image"
_PROMPTS = "which answers prompts (points, boxes, text) on an image"
_SIZES = "whose image processor gives each image a size of its own, and a batch needs one size"
_MAPS = "a backbone: it returns feature maps of several stages, and neither a last_hidden_state nor a pooled output"
_TEXT = "which takes text beside the image"
_TIMM = "which needs timm; pip install timm"

# The reason, and whom it holds for.
_REASONS: dict[str, str] = {
    _VIDEO: "timesformer videomae videoprism_vision_model vivit xclip",
    _DETECTOR: "conditional_detr d_fine dab-detr deformable_detr deimv2 detr lw_detr pp_doclayout_v3 pp_doclayout_v4 "
    "rf_detr rt_detr rt_detr_v2 table-transformer",
    _SEGMENTS: "mask2former maskformer oneformer seggpt",
    _PROMPTS: "edgetam sam sam2 sam3 sam3_lite_text sam3_tracker sam_hq",
    _SIZES: "glpn pixtral",
    _MAPS: "hgnet_v2 timm_backbone",
    _TIMM: "gemma3n_vision timm_wrapper",
    _TEXT: "cohere2_vision kosmos-2 llama4 mllama",
    "whose attention needs the package natten, which has no build for current versions of torch": "dinat",
    "which takes colours as numbers of clusters (input_ids) and no pixels": "imagegpt",
    "which returns a map of depth from crops at several scales, and no features of the image": "depth_pro",
}
_BY_TYPE = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def refusal(model_type: str) -> str:
    """Why `model_type` is not exported, as the end of a sentence that has named it."""
    if model_type in _BY_TYPE:
        return _BY_TYPE[model_type]
    parameters = _parameters(model_type)
    if "pixel_values" not in parameters:
        return "which takes no images"
    others = [name for name, required in parameters.items() if required and name != "pixel_values"]
    if others:
        return f"which needs {', '.join(others)} beside the pixel values"
    if next(iter(parameters)) != "pixel_values":
        return "which takes images beside other inputs, and none alone"
    return "which is not known to give features of one image"


def _parameters(model_type: str) -> dict[str, bool]:
    """What the base model of `model_type` is called with, in its order, and whether it has to be."""
    import transformers
    from transformers.models.auto import modeling_auto

    names: Any = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    model_class = getattr(transformers, names if isinstance(names, str) else names[0], None) if names else None
    if not hasattr(model_class, "forward"):
        return {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(model_class.forward).parameters.values())[1:]
    return {each.name: each.default is each.empty for each in parameters if each.kind not in kinds}
