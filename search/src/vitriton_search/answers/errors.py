"""The error of a question that has no answer."""

from __future__ import annotations

from vitriton import VitritonError


class AnswerError(VitritonError):
    """A question cannot be answered: the model embeds no such input, or the store has no such row, or too few."""
