"""The parameters of one call of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitriton._options import check_seconds
from vitriton._pipeline.checks import check_switch


@dataclass(frozen=True, kw_only=True)
class CallParameters:
    """The parameters of one call of a pipeline.

    Attributes:
        pool: whether to return the pooled output instead of all tokens.
        return_tensors: whether to return torch tensors instead of lists.
        timeout: the time limit for fetching one URL, in seconds; None means the client's.
        tokenizing: the given settings for tokenizing texts, by their names in transformers.
    """

    pool: bool = False
    return_tensors: bool = False
    timeout: float | None = None
    tokenizing: Mapping[str, Any] = field(default_factory=dict)

    def changed(
        self,
        *,
        pool: bool | None,
        return_tensors: bool | str | None,
        timeout: float | None = None,
        tokenizing: Mapping[str, Any] | None = None,
    ) -> CallParameters:
        """A copy with the given arguments; None means not given. Of `tokenizing`, each setting counts alone.

        Raises:
            TypeError, ValueError: an argument is invalid.
            ImportError: return_tensors is set, and torch is not installed.
        """
        check_switch("pool", pool)
        if isinstance(return_tensors, str) and return_tensors != "pt":
            raise ValueError(
                f"return_tensors is {return_tensors!r}; tensors are torch's, as in transformers: give True or 'pt'; "
                "vitriton.Client returns numpy arrays"
            )
        if return_tensors != "pt":
            check_switch("return_tensors", return_tensors)
        if timeout is not None:
            check_seconds("timeout", timeout)
        if return_tensors:
            import_torch()
        return CallParameters(
            pool=self.pool if pool is None else pool,
            return_tensors=self.return_tensors if return_tensors is None else bool(return_tensors),
            timeout=self.timeout if timeout is None else timeout,
            tokenizing={**self.tokenizing, **(tokenizing or {})},
        )


def import_torch() -> Any:
    """The module torch; an ImportError says what to do without it."""
    try:
        import torch
    except ImportError as exc:
        raise ImportError(
            "return_tensors gives torch tensors, and torch is not installed: pip install torch, or leave out "
            "return_tensors for lists, or use vitriton.Client for numpy arrays"
        ) from exc
    return torch
