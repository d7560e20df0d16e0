"""Triton python model: texts → input_ids, attention_mask, token_counts.

It follows `tokenize.json`, with the tokenizer in `tokenizer.json`. It needs only numpy and tokenizers.
"""

from __future__ import annotations  # annotations are not evaluated: some names exist only in typings/

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

# Triton appends this folder to the path; at the front, no installed module can shadow it.
sys.path.insert(0, str(Path(__file__).parent))

from vitriton_refusals import Refusal, format_errors
from vitriton_tokenizing import TOKENIZER, TextError, TextTokenizer, TokenizeSpec, Tokens, pad

Array = NDArray[Any]
Tokenized = Sequence["Tokens | TextError"]


def _share_cores(config: dict[str, Any]) -> None:
    """Gives the threads of tokenizers, which start at the first text, this process's part of the cores.

    `vitriton serve` sets the variable VITRITON_CPU_CORES, and also reads the cgroup's quota.
    """
    cores = int(os.environ.get("VITRITON_CPU_CORES") or len(os.sched_getaffinity(0)))
    instances = max(1, sum(int(group.get("count", 1)) for group in config.get("instance_group", ())))
    os.environ.setdefault("RAYON_NUM_THREADS", str(math.ceil(cores / instances)))


class TritonPythonModel:
    """The step of an export that tokenizes texts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer, and uses it once.

        Raises:
            OSError, ValueError: a file beside this one is missing or damaged; Triton reports the text as the reason.
        """
        _share_cores(json.loads(args["model_config"]))
        folder = Path(__file__).parent
        spec = TokenizeSpec.from_json((folder / "tokenize.json").read_text())
        self._tokenizer = TextTokenizer(spec, (folder / TOKENIZER).read_text(encoding="utf-8"))
        self._tokenizer.tokenize([b"ready"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Tokenizes the texts of all requests together, and answers each separately: a bad text fails its own alone."""
        texts = [_texts(request) for request in requests]
        tokens = iter(self._tokenizer.tokenize([text for part in texts for text in part]))
        return [self._answer([next(tokens) for _ in part]) for part in texts]

    def _answer(self, tokenized: Tokenized) -> pb_utils.InferenceResponse:
        try:
            return self._respond(tokenized)
        except Exception as exc:  # whatever it is (out of memory, say), the other requests of the batch continue
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"tokenizing failed: {exc!r}"))

    def _respond(self, tokenized: Tokenized) -> pb_utils.InferenceResponse:
        errors = {index: each for index, each in enumerate(tokenized) if isinstance(each, TextError)}
        if errors:
            refusals = {index: Refusal(str(error), error.code) for index, error in errors.items()}
            text = format_errors(refusals, len(tokenized), "texts")
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        tokens = [each for each in tokenized if isinstance(each, Tokens)]
        ids, mask = pad(tokens, self._tokenizer.spec)
        counts = np.array([(len(each.ids), each.whole) for each in tokens], np.int32)
        tensors: dict[str, Array] = {"input_ids": ids, "attention_mask": mask, "token_counts": counts}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])


def _texts(request: pb_utils.InferenceRequest) -> list[bytes]:
    return list(pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1))
