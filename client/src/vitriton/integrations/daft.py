"""Daft: functions on columns, which embed in Daft's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitriton.integrations._space import EmbeddingSpace, needs

with needs("daft"):
    import daft
    from daft import DataType, Series

__all__ = ["embedder"]

_VECTOR = DataType.list(DataType.float32())


def embedder(url: str | Sequence[str], model: str, **options: Any) -> Any:
    """Returns an object whose methods `images` and `texts` embed a column: of paths, URLs or bytes, or of texts.

    Each worker makes its own client, and refuses a model with another fingerprint than the one found here.

    Args:
        url: the server's address.
        model: the name that the model was exported under.
        **options: the other arguments of `EmbeddingSpace`: fingerprint, token_env, ca_file, timeout_s.
    """
    return _Columns(**EmbeddingSpace(url, model, **options).config)


@daft.cls
class _Columns:
    def __init__(self, **config: Any) -> None:
        self._space = EmbeddingSpace(**config)

    @daft.method.batch(return_dtype=_VECTOR)
    def images(self, column: Series) -> list[Any]:
        return list(self._space.images(column.to_pylist()))

    @daft.method.batch(return_dtype=_VECTOR)
    def texts(self, column: Series) -> list[Any]:
        return list(self._space.texts(column.to_pylist(), "document"))
