"""How a served model takes texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """How a model takes texts.

    Attributes:
        max_length: the largest number of tokens of a text that the model uses; the server cuts a longer text.
        max_text_bytes: the largest size of a text in UTF-8, in bytes, with its prompt.
        prompts: the model's prompts: the text that each name puts before a text.
        default_prompt: the name of the prompt for calls that name none; None means no prompt.
    """

    max_length: int
    max_text_bytes: int
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    default_prompt: str | None = None

    def prefix(self, prompt: str | None) -> str:
        """The text that a prompt puts before each text.

        Args:
            prompt: the name of the prompt; None means the default one, and "" none.

        Raises:
            ValueError: the model has no prompt of that name.
        """
        name = self.default_prompt if prompt is None else prompt
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "no prompts"
            raise ValueError(f"prompt is {name!r}, which must be the name of a prompt, and the model has {known}")
        return self.prompts[name]


def read_text_rules(parameters: Mapping[str, str]) -> TextRules:
    """Reads the rules from the parameters in a model's configuration.

    Raises:
        ValueError: they are missing, or this version cannot read them.
    """
    try:
        tokenize = json.loads(parameters["tokenize"])
        prompts = json.loads(parameters.get("prompts", "{}"))
        return TextRules(
            max_length=int(tokenize["max_length"]),
            max_text_bytes=int(tokenize["max_text_bytes"]),
            prompts={str(name): str(prefix) for name, prefix in prompts.items()},
            default_prompt=parameters.get("default_prompt") or None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ValueError(f"its parameters for texts cannot be read here ({type(exc).__name__}: {exc})") from exc
