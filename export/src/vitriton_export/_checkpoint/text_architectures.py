"""The architectures that take texts and can be exported: one row for each `model_type` of transformers."""

from __future__ import annotations

from vitriton_export._checkpoint.families import TextFamily

_PLAIN = TextFamily()
_ALONE = TextFamily(pooler=())  # no pooler
_OFFSET = TextFamily(skipped_positions="pad_token_id")  # positions are counted from behind that of the padding
_DECODER = TextFamily(pooler=(), pooling="last")
_SEQ2SEQ = TextFamily(
    pooler=(), note="last_hidden_state is the decoder's, with shifted input, as transformers' pipeline returns it"
)

TEXT_FAMILIES: dict[str, TextFamily] = {
    "albert": _PLAIN,
    "bart": _SEQ2SEQ,
    "bert": _PLAIN,
    "camembert": _OFFSET,
    "data2vec-text": _OFFSET,
    "deberta": _ALONE,
    "deberta-v2": _ALONE,
    "distilbert": _ALONE,
    "electra": _ALONE,
    "ernie": _PLAIN,
    "gemma": _DECODER,
    "gemma2": _DECODER,
    "gpt2": _DECODER,
    "gpt_neox": _DECODER,
    "llama": _DECODER,
    "megatron-bert": _PLAIN,
    "mistral": _DECODER,
    "modernbert": _ALONE,
    "mpnet": _OFFSET,
    "mt5": TextFamily(pooler=(), model="MT5EncoderModel", note="the encoder alone"),
    "nomic_bert": _ALONE,
    "opt": _DECODER,
    "phi3": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "roberta": _OFFSET,
    "roberta-prelayernorm": _OFFSET,
    "squeezebert": _PLAIN,
    "t5": TextFamily(pooler=(), model="T5EncoderModel", note="the encoder alone"),
    "umt5": TextFamily(pooler=(), model="UMT5EncoderModel", note="the encoder alone"),
    "xlm-roberta": _OFFSET,
    "xlm-roberta-xl": _OFFSET,
    "xmod": _OFFSET,
}
