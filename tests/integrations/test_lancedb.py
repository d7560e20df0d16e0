"""LanceDB, on disk."""

import json
from pathlib import Path

import lancedb
import pytest
import vitriton.integrations.lancedb  # noqa: F401 - registers the function
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
from PIL import Image
from vitriton import ContractMismatch, ModelNotFound


def _table(folder, function, name="table"):
    class Row(LanceModel):
        source: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    return lancedb.connect(folder).create_table(name, schema=Row)


@pytest.fixture
def create(url):
    """Makes the function for a model."""
    return lambda model, **options: get_registry().get("vitriton").create(**{"url": url, "model": model, **options})


def test_images(create, photos, mirrored, tmp_path):
    """A table that is opened again makes the function of its metadata."""
    _table(tmp_path, create("photos")).add([{"source": path} for path in photos])
    table = lancedb.connect(tmp_path).open_table("table")
    assert table.search(Image.open(mirrored)).limit(1).to_list()[0]["source"].endswith("cat.jpg")
    with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        table.search("a cat").limit(1).to_list()


def test_texts(create, sentences, tmp_path):
    """With the model's prompts, where it has some."""
    _table(tmp_path, create("texts")).add([{"source": text} for text in sentences])
    table = lancedb.connect(tmp_path).open_table("table")
    assert table.search("a resting animal").limit(1).to_list()[0]["source"] == sentences[0]
    function = create("words")
    assert [function.compute_source_embeddings(["cat"])[0][0], function.compute_query_embeddings("cat")[0][0]] == [2, 1]


def test_both(create, photos):
    """Of a model for images and texts, the source is images, and a query may be a text."""
    function = create("both")
    with Image.open(photos[0]) as image:
        width = image.width
    data = Path(photos[0]).read_bytes()
    for source in ([photos[0]], photos[0], data, [data]):
        assert function.compute_source_embeddings(source)[0][3] == width
    assert function.compute_query_embeddings("cat")[0][0] == 1


def test_another_model_is_refused(create, another, photos, tmp_path):
    """The error is the client's own, and comes at once."""
    table = _table(tmp_path, create("photos"))
    stored = json.loads(table.schema.metadata[b"embedding_functions"])[0]["model"]
    moved = get_registry().get("vitriton").create(**{**stored, "url": another})
    with pytest.raises(ContractMismatch, match="space-2"):
        moved.compute_query_embeddings_with_retry("data")
    with pytest.raises(ContractMismatch, match="space-2"):
        moved.compute_source_embeddings_with_retry(photos)
