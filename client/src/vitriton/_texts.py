"""What a caller may give as texts, and the bytes of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from vitriton._errors import Unreadable


def as_texts(texts: Any) -> tuple[Iterable[Any], int | None]:
    """The texts to embed and their number (None for an iterator). A single text becomes a list of one.

    Raises:
        TypeError: the object is neither a text nor an iterable.
    """
    if isinstance(texts, str):
        return [texts], 1
    # The keys of a mapping could be taken for texts, and bytes for numbers.
    if isinstance(texts, (bytes, bytearray, memoryview, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts has the type {type(texts).__name__}; give a str, or a list (or any iterable) of them")
    return texts, len(texts) if isinstance(texts, Sized) else None


def encode_text(text: Any, prefix: str, max_bytes: int) -> bytes | Unreadable:
    """The UTF-8 bytes of a text behind its prompt, or the reason why there are none, which never has its content.

    `vitriton embed` gives, in place of a text that it could not read, the reason for that.
    """
    if isinstance(text, Unreadable):
        return text
    if not isinstance(text, str):
        return Unreadable(f"an object of type {type(text).__name__} is not a text; give a str", "kind")
    try:
        data = (prefix + text).encode()
    except UnicodeEncodeError as exc:
        at = exc.start - len(prefix)
        return Unreadable(f"is not Unicode text: half of a surrogate pair at position {at}", "encoding")
    if len(data) > max_bytes:
        return Unreadable(f"{len(data)} bytes are over the model's limit of {max_bytes} (max_text_bytes)", "too_large")
    return data
