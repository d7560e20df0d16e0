"""A part of content, as messages (vLLM) and Cohere's inputs have it."""

from __future__ import annotations

from typing import Any

from vitriton_api._dialects.images import of_image
from vitriton_api._dialects.request import Input, Rules
from vitriton_api._errors import Fault

FUSED = "one input is one image or one text: the models here have a vector for each, and none for both together"


def of_part(part: Any, where: str, rules: Rules) -> Input | Fault:
    """Reads `{"type": "text", "text": …}` or `{"type": "image_url", "image_url": {"url": …}}`."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Input(where, "text", part["text"])
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            return of_image(url, where, rules)
    wanted = '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}'
    return Fault(where, f"it must be {wanted}")
