"""The head of a fine-tuned checkpoint. It is not exported; the user is told whether it can be applied to embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_WITH_HEAD = re.compile(r"[A-Za-z0-9]+For[A-Z]\w*")  # transformers' names: ViTForImageClassification
_WITH_LABELS = re.compile(r"Classification|Segmentation|Detection")
_NAMED = 3

# The pooling that the head of a class takes, as in the class's `forward` in transformers
TAKES = {
    "ViTForImageClassification": "cls",
    "DeiTForImageClassification": "cls",
    "BeitForImageClassification": "pooler",
    "SwinForImageClassification": "pooler",
    "ConvNextForImageClassification": "pooler",
    "ResNetForImageClassification": "pooler",
    "CLIPForImageClassification": "mean",
    "SiglipForImageClassification": "mean",
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head among the weights of a checkpoint that the exported model does not have.

    Attributes:
        model: the class that the checkpoint was saved from; None if config.json does not name one with a head.
        modules: the names of the head's modules among the weights.
        labels: the number of labels; None if the class does not tell labels apart.
        inputs: the width of the vectors that the head takes; None if its weights do not tell.
    """

    model: str | None
    modules: tuple[str, ...]
    labels: int | None
    inputs: int | None = None

    def note(self, model_id: str, pooling: str | None, dimensions: int | None) -> str:
        """The line for the user.

        Args:
            model_id: the name of the checkpoint.
            pooling: the pooling of the embeddings; None if none are served.
            dimensions: the number of dimensions of an embedding; None if none are served.
        """
        named = ", ".join(self.modules[:_NAMED]) + (", …" if len(self.modules) > _NAMED else "")
        labels = "" if self.labels is None else f", {self.labels} label{'' if self.labels == 1 else 's'}"
        kind = "has a head" if self.model is None else f"is a {self.model}: its head"
        return (
            f"{model_id} {kind} ({named}{labels}){' that' if self.model is None else ''} is not exported; "
            f'{self._fit(pooling, dimensions)} ("Heads" in the documentation)'
        )

    def _fit(self, pooling: str | None, dimensions: int | None) -> str:
        """Says whether the head can be applied to embeddings."""
        takes = TAKES.get(self.model or "")
        if None not in (self.inputs, dimensions) and self.inputs != dimensions:
            return f"it takes {self.inputs} numbers, and embeddings have {dimensions}: it cannot be applied to them"
        if takes is None or pooling is None:
            return "its forward method in transformers says what it takes"
        if takes != pooling:
            return f"to apply it to embeddings, export with --pooling {takes}, which it takes"
        return "the embeddings are the features before it"

    def to_document(self) -> dict[str, Any]:
        """The entry in manifest.json."""
        return {"exported": False, **asdict(self)}


def find(config: Any, model: nn.Module, unread: Mapping[str, Sequence[int]], *, is_tower: bool) -> Head | None:
    """Finds the head among the weights that the model does not have.

    Args:
        config: the whole configuration of the checkpoint.
        model: the loaded model.
        unread: the names and shapes of the weights that were not read, without those of layers; no shape: unknown.
        is_tower: whether the model is a part of the checkpoint's model, so that the other parts are unread, too.
    """
    name = _model(config)
    module_of = _modules(unread, model)
    if not module_of or (is_tower and name is None):
        return None
    labels = getattr(config, "num_labels", None) if name is not None and _WITH_LABELS.search(name) else None
    widths = {unread[weight][1] for weight in module_of if len(unread[weight]) == 2}
    return Head(
        model=name,
        modules=tuple(sorted(set(module_of.values()))),
        labels=labels if isinstance(labels, int) else None,
        inputs=widths.pop() if len(widths) == 1 else None,
    )


def _model(config: Any) -> str | None:
    names = getattr(config, "architectures", None)
    first = names[0] if isinstance(names, list) and names else None
    return first if isinstance(first, str) and _WITH_HEAD.fullmatch(first) else None


def _modules(unread: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Returns the outermost module of each weight that is in no module of the model; others are no head."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    known = {start for name in model.state_dict() for start in _starts(name.removeprefix(prefix))}
    found = {}
    for name in unread:
        *inside, _ = _starts(name.removeprefix(prefix))
        module = next((start for start in inside if start not in known), None)
        if module is not None:
            found[name] = module
    return found


def _starts(name: str) -> Collection[str]:
    """a.b.c → a, a.b, a.b.c."""
    return list(accumulate(name.split("."), "{}.{}".format))
