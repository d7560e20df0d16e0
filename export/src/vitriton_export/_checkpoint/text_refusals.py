"""Why an architecture of transformers that takes texts cannot be exported, by its `model_type`."""

from __future__ import annotations

# Reason → the model types that it applies to.
_REASONS: dict[str, tuple[str, ...]] = {
    "reads the places of words on a page beside them": ("bros", "layoutlm", "layoutlmv2", "lilt"),
    "reads the structure of a web page beside its words": ("markuplm",),
    "reads a table beside a question": ("tapas",),
    "takes images beside the text": ("lxmert", "videoprism", "visual_bert"),
    "takes sound, or makes it": (
        "audioflamingo3",
        "clap",
        "clvp",
        "dia",
        "fastspeech2_conformer",
        "fun_asr_nano",
        "glmasr",
        "gradium_phonon_tts",
        "moss_transcribe_diarize",
        "musicgen",
        "musicgen_melody",
        "nemo_speechlm",
        "pocket_tts",
        "qwen2_audio",
        "qwen3_asr",
        "seamless_m4t",
        "seamless_m4t_v2",
        "vibevoice",
        "vits",
        "voxtral",
        "voxtral_realtime",
    ),
    "translates or rewrites text: its decoder's features are made for the next word": (
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "fsmt",
        "led",
        "m2m_100",
        "marian",
        "mbart",
        "mvp",
        "nllb-moe",
        "pegasus",
        "pegasus_x",
        "plbart",
        "prophetnet",
        "switch_transformers",
        "t5gemma",
    ),
    "carries a state from token to token, which a graph of open length does not hold": (
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "mamba",
        "mamba2",
        "olmo_hybrid",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "recurrent_gemma",
        "rwkv",
        "xlstm",
    ),
    "computes a text's features with the padding behind it, so they depend on the other texts of a batch": (
        "convbert",
        "fnet",
        "nystromformer",
        "yoso",
    ),
    "changes its attention with the length of a text, which a graph of open length does not hold": (
        "big_bird",
        "longformer",
        "reformer",
    ),
    "takes characters, and no text of few of them": ("canine",),
    "reads proteins and not texts": ("esm", "esmc"),
    "answers questions, and returns no features of a text": ("dpr", "splinter"),
    "writes text step by step, from noise": ("diffusion_gemma",),
}
_BY_TYPE = {name: reason for reason, names in _REASONS.items() for name in names}


def text_refusal(model_type: str) -> str:
    """Says why `model_type` is not exported, as a predicate of which the model is the subject."""
    return _BY_TYPE.get(model_type, "is not among the text models that are proven to be exported exactly")
