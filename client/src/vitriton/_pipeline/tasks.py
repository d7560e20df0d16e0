"""The tasks of transformers.pipeline() that a served model can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitriton._repository.names import Tower


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelineTask:
    """A task. `IMAGES` and `TEXTS` are all there are.

    Attributes:
        name: the task's name in transformers.
        tower: the tower of a model that does it, which is also the noun for one input.
        one: the words for one input, for messages.
        class_name: the name of transformers' class of pipelines, and of ours.
        default_model: the hub id of transformers' default model.
        method: the method of `Client` that does the same.
        ignored: the arguments that have no effect in this task, here and in transformers, with their defaults.
    """

    name: str
    tower: Tower
    one: str
    class_name: str
    default_model: str
    method: str
    ignored: Mapping[str, Any]


IMAGES = PipelineTask(
    name="image-feature-extraction",
    tower="image",
    one="an image (a path, a URL, base64 text, a PIL image, ...)",
    class_name="ImageFeatureExtractionPipeline",
    default_model="google/vit-base-patch16-224",
    method="embed",
    ignored={"tokenizer": None, "tokenize_kwargs": None, "truncation": None},
)
TEXTS = PipelineTask(
    name="feature-extraction",
    tower="text",
    one="a text (a str)",
    class_name="FeatureExtractionPipeline",
    default_model="distilbert/distilbert-base-cased",
    method="embed_texts",
    ignored=dict.fromkeys(("feature_extractor", "image_processor", "processor", "image_processor_kwargs", "timeout")),
)
TASKS: Mapping[str, PipelineTask] = {task.name: task for task in (IMAGES, TEXTS)}
