"""Small random checkpoints of the architectures that take texts, with a tokenizer trained on a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES

POSITIONS = 80  # a multiple of what some architectures want, and more than the longest text
VOCABULARY = 400
_ADDED = 8  # tokens that the tokenizer of an architecture adds by itself

_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
_GROUPED = _ENCODER | {"num_key_value_heads": 1, "head_dim": 16}
_SEQ2SEQ: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": POSITIONS,
}
_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
_T5: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
# what differs from the usual names of settings
SETTINGS: dict[str, dict[str, Any]] = {
    "albert": _ENCODER | {"embedding_size": 16},
    "bart": _SEQ2SEQ,
    "codegen": _GPT | {"n_head": 4, "rotary_dim": 4, "n_ctx": POSITIONS},
    "cohere": _GROUPED,
    "cohere2": _GROUPED,
    "deberta-v2": _ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": POSITIONS},
    "electra": _ENCODER | {"embedding_size": 16},
    "ernie4_5": _GROUPED,
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "gemma": _GROUPED,
    "gemma2": _GROUPED | {"query_pre_attn_scalar": 16, "sliding_window": 16},
    "gemma3_text": _GROUPED | {"query_pre_attn_scalar": 16, "sliding_window": 16},
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": POSITIONS,
        "window_size": 16,
    },
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _GROUPED,
    "llama": _GROUPED,
    "luke": _ENCODER | {"entity_vocab_size": 10, "entity_emb_size": 16},
    "ministral": _GROUPED | {"sliding_window": 16},
    "mistral": _GROUPED | {"sliding_window": 16},
    "mobilebert": _ENCODER | {"embedding_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "modernbert": _ENCODER | {"num_hidden_layers": 4, "local_attention": 8},
    "modernbert-decoder": _ENCODER | {"num_hidden_layers": 4, "local_attention": 8},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": POSITIONS},
    "mt5": _T5,
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _GROUPED | {"sliding_window": 16},
    "openai-gpt": _GPT,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
    "opt": _ENCODER | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "rembert": _ENCODER | {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": _ENCODER | {"embedding_size": 32},
    "squeezebert": _ENCODER | {"embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2},
    "t5": _T5,
    "umt5": _T5,
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "xmod": _ENCODER | {"languages": ["en_XX"], "default_language": "en_XX"},
}


def tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer, with the special tokens of BERT."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        sentences, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS - 8, **names)


def write(model_type: str, folder: Path) -> Path:
    """Writes a small random checkpoint of an architecture."""
    family = TEXT_FAMILIES[model_type]
    made = tokenizer(["the quick brown fox jumps over the lazy dog", "a man rides a bicycle along the river"])
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = CONFIG_MAPPING[model_type](vocab_size=len(made) + _ADDED, **SETTINGS.get(model_type, _ENCODER), **ids)
    torch.manual_seed(0)
    model = AutoModel.from_config(config) if family.model is None else getattr(transformers, family.model)(config)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
