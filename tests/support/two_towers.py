"""Small random checkpoints of models with an image and a text tower, with an image processor and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from support import architectures, text_architectures

_SENTENCES = ["a photo of a cat", "the quick brown fox jumps over the lazy dog", "a cup of coffee on a table"]
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": text_architectures.POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_FIXED = _TEXT | {"max_position_embeddings": 24, "projection_size": 32}  # all texts have this length
SETTINGS: dict[str, dict[str, Any]] = {
    "altclip": _TEXT | {"project_dim": 24},
    "siglip": _FIXED,
    "siglip2": _FIXED,
}


def write(model_type: str, folder: Path, *, seed: int = architectures.SEED) -> Path:
    """Writes a checkpoint of seeded random weights; another seed gives other weights of the text tower alone."""
    small, tokenizer = architectures.SMALL[model_type], text_architectures.tokenizer(_SENTENCES)
    text = SETTINGS.get(model_type, _TEXT) | {"vocab_size": len(tokenizer) + 8}
    config = AutoConfig.for_model(model_type, **small.config | {"text_config": text})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(architectures.SEED)
        model = AutoModel.from_config(config)
        architectures.enliven(model, small.size or 32)
        torch.manual_seed(seed)
        architectures.enliven(model.text_model, small.size or 32)
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-1.5)
    model.save_pretrained(folder)
    architectures.write_processor(model_type, small, folder)
    tokenizer.model_max_length = text["max_position_embeddings"] - (0 if "projection_size" in text else 8)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())  # save_pretrained leaves out what is usual
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "right"}))
    return folder


def write_clip(folder: Path) -> Path:
    """Writes seeded random weights of the shape of openai/clip-vit-base-patch32, which are 605 MB.

    As there, <|endoftext|> has the highest id, ends each text, and pads it; an `eos_token_id` of 2 makes the model take
    the vector at the first token with the highest id. The tokenizer has that one's rules, and bytes for words.
    """
    config = CLIPConfig(text_config={"bos_token_id": 0, "eos_token_id": 2})  # all else is its default
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(architectures.SEED)
        model = CLIPModel(config)
        architectures.enliven(model, config.vision_config.image_size)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)  # a factor of 100
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: index for index, word in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    last = config.text_config.vocab_size - 1
    tokenizer = CLIPTokenizer(vocab=words | {"<|startoftext|>": last - 1, "<|endoftext|>": last}, model_max_length=77)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder
