"""The model of texts of the tests' repository, in place of a tokenizer and a network. Runs inside Triton.

Its tokens are words. The embedding of a text is its number (the first word), its tokens, and its size in bytes; a row
of the hidden state is the place of a token and the length of its word, and -1 pads it.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from vitriton_refusals import Refusal, format_errors

MAX_LENGTH = 8


class TritonPythonModel:
    def initialize(self, args):
        self.pooled = args["model_name"].endswith("_text_pooled")
        self.outputs = {output["name"] for output in json.loads(args["model_config"])["output"]}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        texts = [text.decode() for text in pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[:, 0]]
        empty = {index: Refusal("has no tokens", "empty") for index, text in enumerate(texts) if not text.split()}
        if empty:
            text = format_errors(empty, len(texts), "texts")
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        counts = np.array([(min(len(text.split()), MAX_LENGTH), len(text.split())) for text in texts], np.int32)
        name, rows = ("embedding", pooled(texts)) if self.pooled else ("last_hidden_state", unpooled(texts, counts))
        tensors = {name: rows.astype(np.float32), "token_counts": counts}
        assert set(tensors) == self.outputs
        return pb_utils.InferenceResponse([pb_utils.Tensor(*each) for each in tensors.items()])


def pooled(texts):
    """(B, 3)."""
    return np.array([(number(text), len(text.split()), len(text.encode())) for text in texts])


def unpooled(texts, counts):
    """(B, T, 2), T being the number of tokens of the longest text."""
    rows = np.full((len(texts), counts[:, 0].max(), 2), -1.0)
    for row, text in zip(rows, texts, strict=True):
        for place, word in enumerate(text.split()[:MAX_LENGTH]):
            row[place] = place, len(word)
    return rows


def number(text):
    first = text.split()[0]
    return float(first) if first.isdigit() else -1.0
