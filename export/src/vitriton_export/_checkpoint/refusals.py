"""Why an architecture of transformers cannot be exported, by its `model_type`."""

from __future__ import annotations

import inspect
from typing import Any

from vitriton_export._checkpoint.text_refusals import text_refusal

# Reason → the model types that it applies to.
_REASONS: dict[str, tuple[str, ...]] = {
    "which takes a clip of frames instead of a single image": (
        "timesformer",
        "videomae",
        "videoprism_vision_model",
        "vivit",
        "xclip",
    ),
    "a detector: its outputs describe single objects, and not the image as a whole": (
        "conditional_detr",
        "d_fine",
        "dab-detr",
        "deformable_detr",
        "deimv2",
        "detr",
        "lw_detr",
        "pp_doclayout_v3",
        "pp_doclayout_v4",
        "rf_detr",
        "rt_detr",
        "rt_detr_v2",
        "table-transformer",
    ),
    "which segments images: its outputs describe masks, and not the image as a whole": (
        "mask2former",
        "maskformer",
        "oneformer",
        "seggpt",
    ),
    "which answers prompts (points, boxes, text) on an image": (
        "edgetam",
        "sam",
        "sam2",
        "sam3",
        "sam3_lite_text",
        "sam3_tracker",
        "sam_hq",
    ),
    "the vision part of a model that answers prompts: its image processor is on torchvision alone": (
        "edgetam_vision_model",
        "sam2_hiera_det_model",
        "sam2_vision_model",
        "sam3_vision_model",
        "sam3_vit_model",
    ),
    "whose image processor gives each image a size of its own, and a batch needs one size": (
        "glpn",
        "pixtral",
    ),
    "the vision part of a model for several crops of an image, as many as its image processor makes": (
        "granite_docling_vision",
        "idefics3_vision",
        "minicpm_ocr_vision",
        "minicpmv4_7_vision",
        "smolvlm_vision",
    ),
    "a backbone: it returns feature maps of several stages, and neither a last_hidden_state nor a pooled output": (
        "hgnet_v2",
        "timm_backbone",
    ),
    "which needs timm and belongs to a model with text and sound": ("gemma3n_vision",),
    "which takes text beside the image": (
        "cohere2_vision",
        "kosmos-2",
        "llama4",
        "mllama",
    ),
    "which reads text in an image: its outputs describe characters or lines, and not the image as a whole": (
        "mgp-str",
        "pp_ocrv5_mobile_rec",
        "pp_ocrv5_server_rec",
        "pp_ocrv6_medium_det",
        "pp_ocrv6_small_det",
        "pp_ocrv6_small_rec",
        "pp_ocrv6_tiny_rec",
    ),
    "which compares two images": (
        "efficientloftr",
        "lightglue",
    ),
    "which returns how to flatten a page, and no features of the image": ("uvdoc",),
    "whose attention needs the package natten, which does not run in ONNX Runtime": ("dinat",),
    "which takes color indices (input_ids) instead of pixels": ("imagegpt",),
    "which estimates depth from crops at several scales, and returns no features of the image": ("depth_pro",),
}
_BY_TYPE = {name: reason for reason, names in _REASONS.items() for name in names}


def refusal(model_type: str) -> str:
    """Says why `model_type` is not exported, as the end of a sentence that names it."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if model_type in _BY_TYPE:
        return _BY_TYPE[model_type]
    if model_type not in MODEL_MAPPING_NAMES:
        return "which AutoModel of transformers does not load; if it is a part of a larger model, export that one"
    parameters = called_with(model_type)
    if "pixel_values" not in parameters:
        return (
            f"which {text_refusal(model_type)}" if "input_ids" in parameters else "which takes neither images nor texts"
        )
    others = [name for name, required in parameters.items() if required and name != "pixel_values"]
    if others:
        return f"which needs {', '.join(others)} beside the pixel values"
    if next(iter(parameters)) != "pixel_values":
        return "which takes images beside other inputs, and none alone"
    return "which is not known to give features of one image"


def called_with(model_type: str) -> dict[str, bool]:
    """Returns the arguments of the base model of `model_type`, in order, and whether each is required."""
    import transformers
    from transformers.models.auto import modeling_auto

    names: Any = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    model_class: Any = getattr(transformers, names if isinstance(names, str) else names[0], None) if names else None
    try:
        forward = model_class.forward
    # no such class, or transformers' placeholder for one that needs another package
    except (AttributeError, ImportError):
        return {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    return {each.name: each.default is each.empty for each in parameters if each.kind not in kinds}
