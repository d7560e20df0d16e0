"""Texts → token ids. The one implementation: it runs in the tokenize step and in the export's parity gate.

It follows `tokenize.json`, with the tokenizer in `tokenizer.json`. It needs only numpy and tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

FORMAT = 1
TOKENIZER = "tokenizer.json"
DEFAULT_MAX_TEXT_BYTES = 256 * 1024
_LENGTHS_IN_AN_OCTAVE = 4

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TokenizeSpec:
    """How texts become token ids, besides the tokenizer itself.

    Attributes:
        max_length: the largest number of tokens of a text, with those that the tokenizer adds; the rest is cut off.
        truncation_side: the side on which a longer text is cut.
        pad_id: the id of the padding.
        fixed_length: whether all texts are padded to `max_length`, as in the model's training, and the padding counts.
        max_text_bytes: the largest size of a text, in bytes of UTF-8.
    """

    max_length: int
    truncation_side: str = "right"
    pad_id: int = 0
    fixed_length: bool = False
    max_text_bytes: int = DEFAULT_MAX_TEXT_BYTES

    def to_json(self) -> str:
        """Writes tokenize.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TokenizeSpec:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: the text is something else, or of a newer format.
        """
        document: dict[str, Any] = json.loads(text)
        if document.pop("format") != FORMAT:
            raise ValueError(f"tokenize.json is of another format than {FORMAT}")
        return cls(**document)


class TextError(ValueError):
    """A text that cannot be used.

    Args:
        reason: the reason, as one line without the text itself, which may be confidential.
        code: the kind of reason, for programs.
    """

    def __init__(self, reason: str, code: Literal["encoding", "too_large", "empty"]) -> None:
        super().__init__(reason)
        self.code: Literal["encoding", "too_large", "empty"] = code


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text.

    Attributes:
        ids: the token ids, (T,) int64.
        whole: the number of tokens that the text has without truncation.
    """

    ids: Ids
    whole: int


class TextTokenizer:
    """Tokenizes texts. Safe to share between threads.

    Args:
        spec: the settings.
        tokenizer: the content of tokenizer.json.
    """

    def __init__(self, spec: TokenizeSpec, tokenizer: str) -> None:
        self.spec = spec
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_length, direction=spec.truncation_side)
        self._added = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def tokenize(self, texts: Sequence[bytes]) -> list[Tokens | TextError]:
        """Tokenizes texts in UTF-8, on all cores; each gives tokens or the reason why there are none."""
        decoded = [decode(text, self.spec) for text in texts]
        usable = [text for text in decoded if isinstance(text, str)]
        encodings = iter(self._tokenizer.encode_batch_fast(usable) if usable else ())
        return [text if isinstance(text, TextError) else self._tokens(next(encodings)) for text in decoded]

    def _tokens(self, encoding: Encoding) -> Tokens | TextError:
        ids = np.array(encoding.ids, np.int64)
        if not len(ids):
            return TextError("has no tokens", "empty")
        return Tokens(ids, len(ids) + sum(len(rest.ids) - self._added for rest in encoding.overflowing))


def decode(text: bytes, spec: TokenizeSpec) -> str | TextError:
    """Returns the text in these bytes, or the reason why there is none."""
    if len(text) > spec.max_text_bytes:
        return TextError(f"{len(text)} bytes are over the limit of {spec.max_text_bytes}", "too_large")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as exc:
        return TextError(f"is not UTF-8 (byte {text[exc.start]:#04x} at position {exc.start})", "encoding")


def pad(tokens: Sequence[Tokens], spec: TokenizeSpec) -> tuple[Ids, Ids]:
    """Joins the tokens of texts to input_ids and attention_mask, (B, L) int64, padded on the right."""
    length = spec.max_length if spec.fixed_length else padded_length(max(len(each.ids) for each in tokens))
    length = min(length, spec.max_length)
    ids = np.full((len(tokens), length), spec.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, each in enumerate(tokens):
        ids[row, : len(each.ids)] = each.ids
        mask[row, : len(each.ids)] = 1
    return ids, mask


def padded_length(length: int) -> int:
    """The length to which a request is padded: few different ones, so that requests can share a batch.

    There are four in each octave (16, 20, 24, 28, 32, 40, ...), so less than a fifth of a long text is padding.
    """
    octave = 1 << max(0, length - 1).bit_length()  # the next power of two
    step = max(4, octave // 2 // _LENGTHS_IN_AN_OCTAVE)
    return -(-length // step) * step
