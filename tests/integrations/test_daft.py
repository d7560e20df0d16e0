"""Daft, with workers in processes of their own."""

from pathlib import Path

import daft
import numpy as np
import pytest
from vitriton import Client
from vitriton.integrations.daft import embedder


def test_columns(url, photos, sentences):
    """The vectors are the client's."""
    for model, method, values in (("photos", "images", photos), ("texts", "texts", sentences)):
        frame = daft.from_pydict({"value": values})
        frame = frame.with_column("vector", getattr(embedder(url, model), method)(daft.col("value")))
        with Client(url, model=model) as client:
            expected = client.embed(photos) if method == "images" else client.embed_texts(sentences)
        assert frame.to_pydict()["value"] == values
        np.testing.assert_allclose(frame.to_pydict()["vector"], expected, atol=1e-4)


def test_the_mirrored_photo(url, photos, mirrored):
    """Its nearest neighbor is the photo; a column may hold bytes."""
    data = [Path(path).read_bytes() for path in [*photos, mirrored]]
    frame = daft.from_pydict({"data": data}).with_column("vector", embedder(url, "photos").images(daft.col("data")))
    vectors = np.array(frame.to_pydict()["vector"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert photos[int((vectors[:-1] @ vectors[-1]).argmax())].endswith("cat.jpg")


def test_another_model_is_refused(url, another, photos):
    """By the worker."""
    with Client(url, model="photos") as client:
        fingerprint = client.describe().fingerprint
    images = embedder(another, "photos", fingerprint=fingerprint).images
    with pytest.raises(Exception, match="space-2"):
        daft.from_pydict({"path": photos}).with_column("vector", images(daft.col("path"))).to_pydict()
