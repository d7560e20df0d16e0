"""Embedding in one line, without a client of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vitriton._call.results import Floats
from vitriton._client import Client
from vitriton._errors import ModelNotFound
from vitriton._images.sources import ImageLike
from vitriton._keywords import suggests_keywords
from vitriton._served.catalog import list_models


@suggests_keywords
def embed(
    images: Iterable[ImageLike] | ImageLike,
    *,
    url: str | Sequence[str] = "localhost:8001",
    model: str | None = None,
    timeout_s: float | None = 60.0,
) -> Floats:
    """Embeds images in one line, for a script or a first look. A program makes one `Client`, and keeps its connections.

    Args:
        images: the images, as `Client.embed` takes them.
        url: the address of the server, as `Client` takes it.
        model: the name of the model; None means the only one on the server that embeds images.
        timeout_s: the longest wait for the server, as of `Client`, in seconds; None means no limit.

    Returns:
        The vectors, (N, D) float32, in input order.

    Raises:
        ModelNotFound: no model is named, and the server has none for images, or several.
        ValueError, TypeError, ClientError: see `Client` and `Client.embed`.
    """
    with Client(url, model=_only_model(url, timeout_s) if model is None else model, timeout_s=timeout_s) as client:
        return client.embed(images)


def _only_model(url: str | Sequence[str], timeout_s: float | None) -> str:
    found = [served for served in list_models(url, timeout_s=timeout_s) if served.is_ready_for("image")]
    if len(found) == 1:
        return found[0].name
    names = [served.name for served in found]
    what = f"several models for images: {', '.join(names)}; name one (model)" if names else "no model for images"
    raise ModelNotFound(f"the server at {url} has {what}", available=names)
