"""Checks of the arguments that name a device. They have no effect here, but a mistake in one is still a mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# The types that torch.device takes, and those that its plug-ins for other hardware add (torch_npu, torch_musa, ...)
_TYPES = (
    *("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa", "xla", "mtia", "meta", "hip", "ipu", "ve", "fpga"),
    *("maia", "lazy", "vulkan", "mkldnn", "opengl", "opencl", "ideep", "privateuseone"),
)
_NAMED = 8  # in messages: those that transformers' pipeline moves a model to
_NAME = re.compile(rf"({'|'.join(_TYPES)})(:(0|[1-9]\d*))?")
_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")  # transformers' integrations/accelerate.py


def check_device(device: Any) -> None:
    """Checks the argument `device` of transformers.pipeline.

    Raises:
        ValueError, TypeError: it names no device.
    """
    if not _is_number(device):
        _check("device", device, f"give the number of a GPU, -1 for the CPU, {_a_name()}")


def check_device_map(device_map: Any, parameter: str = "device_map") -> None:
    """Checks the argument `device_map` of transformers.pipeline, or of its `model_kwargs`.

    Raises:
        ValueError, TypeError: it neither names a device nor says how to spread a model over several.
    """
    plans = ", ".join(map(repr, _PLANS))
    advice = f"give {plans}, a dict of modules and devices, the number of a GPU, {_a_name()}"
    if _is_number(device_map) and device_map < 0:
        raise ValueError(f"{parameter} is {device_map}, which is no device; {advice}")
    is_plan = isinstance(device_map, Mapping) or (isinstance(device_map, str) and device_map in _PLANS)
    if not (is_plan or _is_number(device_map)):
        _check(parameter, device_map, advice)


def _check(parameter: str, value: Any, advice: str) -> None:
    """Refuses everything but None, a device's name and torch.device, for which torch is not imported."""
    is_torch_device = (type(value).__module__, type(value).__name__) == ("torch", "device")
    if value is None or is_torch_device or (isinstance(value, str) and _NAME.fullmatch(value)):
        return
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{parameter} is {value!r}, which is no device; {advice}")


def _a_name() -> str:
    return f"a name such as 'cuda:0' (of {', '.join(_TYPES[:_NAMED])}), or a torch.device"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
