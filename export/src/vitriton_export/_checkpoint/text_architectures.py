"""The architectures that take texts and can be exported: one row for each `model_type` of transformers."""

from __future__ import annotations

from dataclasses import replace

from vitriton_export._checkpoint.families import TextFamily

_PLAIN = TextFamily()
_ALONE = TextFamily(pooler=())  # no pooler
_OFFSET = TextFamily(skipped_positions="pad_token_id")  # positions are counted from behind that of the padding
_DECODER = TextFamily(pooler=(), pooling="last")
_SEQ2SEQ = TextFamily(
    pooler=(), note="last_hidden_state is the decoder's, with shifted input, as transformers' pipeline returns it"
)
_TOWER = TextFamily(pooler=(), pooling="projection", note="the text tower, in one space with images")
_FIXED = replace(_TOWER, fixed_length=True, note=f"{_TOWER.note}; all texts have the length of its training")

TEXT_FAMILIES: dict[str, TextFamily] = {
    "albert": _PLAIN,
    "bart": _SEQ2SEQ,
    "bert": _PLAIN,
    "bert-generation": _ALONE,
    "biogpt": _DECODER,
    "camembert": _OFFSET,
    "clip_text_model": replace(_TOWER, model="CLIPTextModelWithProjection"),
    "codegen": _DECODER,
    "cohere": _DECODER,
    "cohere2": _DECODER,
    "data2vec-text": _OFFSET,
    "deberta": _ALONE,
    "deberta-v2": _ALONE,
    "distilbert": _ALONE,
    "electra": _ALONE,
    "ernie": _PLAIN,
    "ernie4_5": _DECODER,
    "flaubert": _ALONE,
    "gemma": _DECODER,
    "gemma2": _DECODER,
    "gemma3_text": _DECODER,
    "glm": _DECODER,
    "glm4": _DECODER,
    "gpt2": _DECODER,
    "gpt_bigcode": _DECODER,
    "gpt_neo": _DECODER,
    "gpt_neox": _DECODER,
    "gptj": _DECODER,
    "granite": _DECODER,
    "gte": _ALONE,
    "ibert": _OFFSET,
    "llama": _DECODER,
    "luke": _PLAIN,
    "megatron-bert": _PLAIN,
    "metaclip_2_text_model": replace(_TOWER, model="MetaClip2TextModelWithProjection"),
    "ministral": _DECODER,
    "mistral": _DECODER,
    "mobilebert": _PLAIN,
    "modernbert": _ALONE,
    "modernbert-decoder": _DECODER,
    "mpnet": _OFFSET,
    "mpt": _DECODER,
    "mt5": TextFamily(pooler=(), model="MT5EncoderModel", note="the encoder alone"),
    "nemotron": _DECODER,
    "nomic_bert": _ALONE,
    "olmo": _DECODER,
    "olmo2": _DECODER,
    "olmo3": _DECODER,
    "openai-gpt": _DECODER,
    "opt": _DECODER,
    "persimmon": _DECODER,
    "phi": _DECODER,
    "phi3": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "rembert": _PLAIN,
    "roberta": _OFFSET,
    "roberta-prelayernorm": _OFFSET,
    "roformer": _ALONE,
    "siglip2_text_model": replace(_FIXED, model="Siglip2TextModel"),
    "siglip_text_model": replace(_FIXED, model="SiglipTextModel"),
    "squeezebert": _PLAIN,
    "stablelm": _DECODER,
    "starcoder2": _DECODER,
    "t5": TextFamily(pooler=(), model="T5EncoderModel", note="the encoder alone"),
    "umt5": TextFamily(pooler=(), model="UMT5EncoderModel", note="the encoder alone"),
    "xlm": _ALONE,
    "xlm-roberta": _OFFSET,
    "xlm-roberta-xl": _OFFSET,
    "xmod": _OFFSET,
}

# The text towers of models that take images, too; `architectures.FAMILIES` has their image towers.
TEXT_TOWERS: dict[str, TextFamily] = {
    "altclip": replace(_TOWER, skipped_positions="pad_token_id"),
    "chinese_clip": _TOWER,
    "clip": _TOWER,
    "metaclip_2": _TOWER,
    "siglip": _FIXED,
    "siglip2": _FIXED,
}
