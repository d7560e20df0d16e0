"""The parity gate for texts: its corpus, transformers as the reference, and an export run in this process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from vitriton._repository.names import ATTENTION_MASK, INPUT_IDS, OUTPUT, Kind, ensemble_name, step_names

from vitriton_export._checkpoint.text_checkpoint import TextCheckpoint
from vitriton_export._errors import ExportError, ParityError, one_line
from vitriton_export._graph.text_encoder import embed
from vitriton_export._parity.compare import Array, BatchResult
from vitriton_export._parity.runner import session, step_folder
from vitriton_export.triton.tokenize.vitriton_tokenizing import TOKENIZER

_EMBEDDING, _TOKENS = OUTPUT["text_pooled"], OUTPUT["text_unpooled"]

_COUNTS = (2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)  # words of a text
_PLAIN = {
    "sentence": "A man is riding a bicycle along the river on a sunny afternoon.",
    "question": "Which of the two models is faster, and by how much?",
    "word": "bicycle",
    "German": "Die Straßenbahn fährt über die Brücke; für Fußgänger ist heute gesperrt.",
    "French": "L'été dernier, nous avons mangé une crème brûlée près de l'Hôtel de Ville.",
    "code": "def f(x: int) -> int:\n\treturn x * 2  # twice\n",
    "numbers": "3.14159 1,000,000 2026-11-30 +49 (0)30 1234-5678 1e-6 0x7f",
    "address": "https://example.org/a?b=c&d=%20e#f someone@example.org",
    "upper case": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
}
_AWKWARD = {
    "empty": "",
    "blank": "   ",
    "tabs and line ends": "one\ttwo\r\nthree\nfour\rfive\x0b\x0csix\u2028seven\u2029eight\x85nine",
    "spaces around": "  \n between  two   spaces \t ",
    "emoji": (
        "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 "
        "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd \u2764\ufe0f"
    ),
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 123 abc",
    "Hebrew": "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05b9\u05dc\u05b8\u05dd",
    "Chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\u3002",
    "Japanese": "\u732b\u304c\u30bd\u30d5\u30a1\u3067\u5bdd\u3066\u3044\u308b\u3002\uff76\uff80\uff76\uff85",
    "Korean": "\uace0\uc591\uc774\uac00 \uc18c\ud30c\uc5d0\uc11c \uc7a0\uc744 \uc794\ub2e4. \u1100\u1161\u11a8",
    "Thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "Hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "Turkish": "\u0130stanbul'da \u0131\u011fd\u0131r \u015eI\u015f",
    "combining marks": "cafe\u0301 n\u0303 A\u030a o\u0308\u0304 " + "Z\u0351\u036b\u0343\u036a\u0302\u0349",
    "compatibility forms": "\ufb01ne \u2460 \u00bd \uff21\uff22\uff23 \u1d400 \u212b \u2126",
    "quotes and dashes": "\u201cquoted\u201d \u2018single\u2019 \u2013 \u2014 \u2026 \u00ab\u00bb soft\u00adhyphen",
    "NUL and control characters": "a\x00b\x01c\x7fd\x1be\x9f",
    "invisible": "zero\u200bwidth \ufeffBOM \u2060joiner \u00a0no-break \u3000wide \u202eright to left\u202c",
    "private and unassigned": "\ue000 \U000f0000 \u0378 \ufffd \uffff",
    "rare planes": "\U00010348 \U0001d400 \U00020000 \U0001f9ff",
    "special tokens": "[CLS] [SEP] [MASK] <s> </s> <pad> <mask> <unk> <|endoftext|> <|im_start|> <bos> [UNK]",
    "markup": "<html><body>&amp; &lt;b&gt; <!-- x --></body></html>",
    "one long word": "a" * 3000,
    "one long line of punctuation": "!?.,;:-_" * 200,
    "repeated": "the same words again and again " * 40,
}


def corpus() -> dict[str, bytes]:
    """Returns the gate's texts, in UTF-8 by name; they are always the same."""
    texts = {**_PLAIN, **_AWKWARD, "100 kB": " ".join(_PLAIN.values()) * 200}
    words = _PLAIN["sentence"].split()
    lengths = {f"{count} words": " ".join(words[n % len(words)] for n in range(count)) for count in _COUNTS}
    return {name: text.encode() for name, text in (texts | lengths).items()}


class TextReference:
    """transformers: its tokenizer, its model in float32, each text alone, padded only where the model needs it.

    Args:
        checkpoint: the checkpoint with the reference model.
        poolings: the poolings that make the embedding.
        dimensions: the number of leading dimensions to keep; None: all.
        l2_normalize: whether embeddings are scaled to length 1.
    """

    def __init__(
        self, checkpoint: TextCheckpoint, poolings: Sequence[str], *, dimensions: int | None, l2_normalize: bool
    ) -> None:
        self._checkpoint = checkpoint
        self._poolings = poolings
        self._settings: dict[str, Any] = {"dimensions": dimensions, "l2_normalize": l2_normalize}

    def run(self, texts: Sequence[bytes]) -> BatchResult:
        """Computes the token ids and both outputs.

        Raises:
            ParityError: the model fails on the ids of its tokenizer.
        """
        refused: dict[int, str] = {}
        found: list[tuple[Array, Array, Array]] = []
        for position, data in enumerate(texts):
            own_ids = self._tokenize(data)[INPUT_IDS][0].numpy()
            if not len(own_ids):
                refused[position] = "the tokenizer gives no tokens"
                continue
            inputs = self._tokenize(data, padding="max_length" if self._checkpoint.outline.spec.fixed_length else False)
            outputs = forward(self._checkpoint, inputs)
            with torch.no_grad():
                embedding = embed(
                    outputs, inputs[ATTENTION_MASK], self._poolings, self._checkpoint.dense, **self._settings
                )
            found.append((own_ids, embedding[0].numpy(), outputs.last_hidden_state[0, : len(own_ids)].numpy()))
        ids, embeddings, tokens = ([each[place] for each in found] for place in range(3))
        return BatchResult(refused, {INPUT_IDS: ids, _EMBEDDING: embeddings, _TOKENS: tokens})

    def _tokenize(self, data: bytes, padding: str | bool = False) -> Mapping[str, torch.Tensor]:
        small = self._checkpoint.outline
        inputs = small.tokenizer(
            data.decode(),
            truncation=True,
            max_length=small.spec.max_length,
            padding=padding,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: inputs[name].to(torch.int64) for name in (INPUT_IDS, ATTENTION_MASK)}


def forward(checkpoint: TextCheckpoint, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Runs the model: input_ids and attention_mask (B, T) int64 → a transformers output.

    Texts of one length have no mask, as in the model's training.

    Raises:
        ParityError: the model does not accept these ids.
    """
    given = {INPUT_IDS: inputs[INPUT_IDS]} if checkpoint.outline.family.fixed_length else inputs
    try:
        with torch.no_grad():
            return checkpoint.model(**given)
    except (ValueError, RuntimeError, IndexError) as exc:
        shape = " x ".join(map(str, inputs[INPUT_IDS].shape))
        raise ParityError(
            f"{checkpoint.source.model_id} does not take the {shape} token ids of its tokenizer: {one_line(exc)}"
        ) from exc


class TextRunner:
    """Runs the models of a repository as Triton would, without Triton.

    Args:
        repository: the folder of the models.
        name: the name of the export in the repository.
        kinds: the kinds of the ensembles to run.
        within_limits: whether to apply the export's own limit on the size of a text.

    Raises:
        ExportError: a part of the export is missing or cannot be loaded.
    """

    def __init__(self, repository: Path, name: str, kinds: Iterable[Kind], *, within_limits: bool = True) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}
        for kind in kinds:
            ensemble = repository / ensemble_name(name, kind)
            tokenize, encoder = (step_folder(ensemble, step) for step in step_names(name, kind))
            self._sessions[OUTPUT[kind]] = session(encoder / "model.onnx")
        try:
            self._module: Any = _load(tokenize / "vitriton_tokenizing.py")
            spec = self._module.TokenizeSpec.from_json((tokenize / "tokenize.json").read_text())
            if not within_limits:
                spec = replace(spec, max_text_bytes=2**31 - 1)
            self._tokenizer = self._module.TextTokenizer(spec, (tokenize / TOKENIZER).read_text(encoding="utf-8"))
        # tokenizers' errors have no base class of their own
        except Exception as exc:
            raise ExportError(f"the tokenizer in {tokenize} cannot be loaded: {one_line(exc)}") from exc

    def run(self, texts: Sequence[bytes]) -> BatchResult:
        """Computes token ids and outputs; texts that the tokenize step refuses are refused."""
        tokenized = self._tokenizer.tokenize(texts)
        is_error = [isinstance(each, self._module.TextError) for each in tokenized]
        refused = {place: str(each) for place, each in enumerate(tokenized) if is_error[place]}
        tokens = [each for place, each in enumerate(tokenized) if not is_error[place]]
        if not tokens:
            return BatchResult(refused, {})
        ids, mask = self._module.pad(tokens, self._tokenizer.spec)
        values: dict[str, Sequence[Array]] = {INPUT_IDS: [each.ids for each in tokens]}
        for tensor, graph in self._sessions.items():
            (output,) = graph.run([tensor], {INPUT_IDS: ids, ATTENTION_MASK: mask})
            rows: Array = np.asarray(output)
            padded = tensor == _TOKENS
            values[tensor] = [row[: len(each.ids)] if padded else row for row, each in zip(rows, tokens, strict=True)]
        return BatchResult(refused, values)


def _load(path: Path) -> ModuleType:
    """Imports an export's own code."""
    name = "vitriton_exported_tokenizing"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        del sys.modules[name]
    return module
