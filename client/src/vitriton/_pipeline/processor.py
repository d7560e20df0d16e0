"""The comparison of transformers' image processors with a served model's preprocessing, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vitriton._errors import PipelineMismatch
from vitriton._pipeline.served import ServedModel

_GEOMETRY = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_convert_rgb", "do_pad")
_EXPORT = "leave it out, or export the checkpoint with --image-processor-kwargs, under another name"
_SWITCHES = {
    "size": "do_resize",
    "resample": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}
_VALUES = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def check_settings(served: ServedModel, asked: str, settings: Any) -> None:
    """Raises PipelineMismatch unless `settings` preprocess images as the served model does.

    Args:
        served: the served model.
        asked: the origin of the settings, for messages.
        settings: the image processor, or some of its settings by name.
    """
    own = _served_settings(served)
    if not isinstance(settings, dict):
        settings = {name: getattr(settings, name, None) for name in _GEOMETRY + _VALUES}
    for name in settings:
        if name not in _GEOMETRY + _VALUES:
            known = ", ".join(_GEOMETRY + _VALUES)
            raise _mismatch(
                served, f"{asked}: {name} is {settings[name]!r}", f"can be compared in these settings alone: {known}"
            )
    expected = _effect(own, own)
    try:
        wanted = _effect(own | settings, own)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise _mismatch(served, f"{asked}: {settings} are invalid ({exc})", f"has {expected}") from exc
    for name, value in wanted.items():
        switch = _SWITCHES.get(name, name)
        given = (own | settings)[switch]
        if value != expected[name] and bool(given) != bool(own[switch]):
            raise _mismatch(served, f"{asked}: {switch} is {given}", f"was exported with {bool(own[switch])}", _EXPORT)
        if value != expected[name]:
            raise _mismatch(served, f"{asked}: {name} comes to {value}", f"was exported with {expected[name]}", _EXPORT)
    if "rescale_factor" not in own and any(name in settings for name in _VALUES):
        raise _mismatch(served, f"{asked}: it rescales and normalizes", "does not say how it does that")


def _served_settings(served: ServedModel) -> dict[str, Any]:
    """The served model's preprocessing, as settings of an image processor."""
    from vitriton.preprocessing import CenterCrop, ConvertRGB, PreprocessSpec, Resize

    text = served.parameters.get("preprocess")
    if text is None:
        raise _mismatch(served, "an image processor is given", "does not say how it prepares images")
    settings: dict[str, Any] = dict.fromkeys(_GEOMETRY, False)
    for step in PreprocessSpec.from_json(text).steps:
        if isinstance(step, Resize):
            edges = ("height", "width", "shortest_edge", "longest_edge")
            size = {edge: getattr(step, edge) for edge in edges}
            settings |= {"do_resize": True, "size": size, "resample": step.resample}
        elif isinstance(step, CenterCrop):
            settings |= {"do_center_crop": True, "crop_size": {"height": step.height, "width": step.width}}
        elif isinstance(step, ConvertRGB):
            settings["do_convert_rgb"] = True
        else:
            raise _mismatch(
                served, "an image processor is given", f"has a step that it cannot be compared with, {step}"
            )
    normalization = served.parameters.get("normalization")
    if normalization is not None:
        values = json.loads(normalization)
        settings |= {"do_rescale": True, "rescale_factor": values["rescale_factor"]}
        settings |= {"do_normalize": True, "image_mean": values["mean"], "image_std": values["std"]}
    return settings


def _effect(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The effect of settings: those that are switched off do not count."""
    effect: dict[str, Any] = {
        "size": _size(settings["size"], own["size"]) if settings["do_resize"] else None,
        "resample": _resample(settings["resample"]) if settings["do_resize"] else None,
        "crop_size": _size(settings["crop_size"], own["crop_size"]) if settings["do_center_crop"] else None,
        "do_convert_rgb": bool(settings["do_convert_rgb"]),
        "do_pad": bool(settings["do_pad"]),
    }
    if "rescale_factor" in own:
        rescales, normalizes = settings["do_rescale"], settings["do_normalize"]
        effect["rescale_factor"] = round(float(settings["rescale_factor"]), 9) if rescales else 1.0
        effect["image_mean"] = _channels(settings["image_mean"]) if normalizes else (0.0, 0.0, 0.0)
        effect["image_std"] = _channels(settings["image_std"]) if normalizes else (1.0, 1.0, 1.0)
    return effect


def _size(size: Any, own: Any) -> dict[str, int]:
    """A size by its edges. A single number stands for the edges that the served model's processor has."""
    if isinstance(size, int):
        edges = [edge for edge, value in (own or {}).items() if value] or ["height", "width"]
        return dict.fromkeys(edges, size)
    if isinstance(size, (tuple, list)):
        height, width = size
        return {"height": int(height), "width": int(width)}
    return {edge: int(value) for edge, value in dict(size).items() if value is not None}


def _resample(resample: Any) -> str:
    from vitriton.preprocessing import RESAMPLE

    names = {filter.value: name for name, filter in RESAMPLE.items()}
    name = resample if isinstance(resample, str) else names[int(resample)]
    return name.lower()


def _channels(values: Any) -> tuple[float, ...]:
    numbers = [float(values)] * 3 if isinstance(values, (int, float)) else [float(value) for value in values]
    return tuple(round(number, 9) for number in numbers)


def _mismatch(served: ServedModel, asked: str, has: str, remedy: str = "leave it out") -> PipelineMismatch:
    return PipelineMismatch(
        f"{asked}, and {served} {has}; {remedy}",
        address=served.address,
        model=served.name,
    )
