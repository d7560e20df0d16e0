"""A model with an image and a text tower: each adapter embeds both under one name, as the client does."""

import chromadb
import lancedb
import numpy as np
import pytest
import vitriton.integrations.lancedb  # noqa: F401 - registers the function
from haystack import Document
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
from PIL import Image
from vitriton import Client
from vitriton.integrations.chroma import VitritonEmbeddingFunction
from vitriton.integrations.haystack import VitritonDocumentImageEmbedder, VitritonTextEmbedder
from vitriton.integrations.langchain import VitritonEmbeddings
from vitriton.integrations.llama_index import VitritonEmbedding

TEXT = "a photo of a cat"


@pytest.fixture(scope="module")
def nearest(url, photos):
    """The path of the photo that is nearest to the text, and the vectors of both."""
    with Client(url, model="clip") as client:
        images, text = client.embed(photos), client.embed_texts(TEXT)[0]
    images_1, text_1 = images / np.linalg.norm(images, axis=1, keepdims=True), text / np.linalg.norm(text)
    return photos[int((images_1 @ text_1).argmax())], images, text


def test_the_vectors_are_the_clients(url, photos, nearest):
    """Of images and of texts."""
    _, images, text = nearest
    lang, llama = VitritonEmbeddings(url, "clip"), VitritonEmbedding(url=url, model_name="clip")
    documents = VitritonDocumentImageEmbedder(url, "clip").run([Document(meta={"file_path": path}) for path in photos])
    for rows in (
        lang.embed_image(photos),
        llama.get_image_embedding_batch(photos),
        [one.embedding for one in documents["documents"]],
    ):
        np.testing.assert_allclose(rows, images, atol=1e-4)
    for row in (
        lang.embed_query(TEXT),
        llama.get_query_embedding(TEXT),
        VitritonTextEmbedder(url, "clip").run(TEXT)["embedding"],
    ):
        np.testing.assert_allclose(row, text, atol=1e-4)


def test_chroma(url, photos, nearest):
    """A text finds an image."""
    collection = chromadb.EphemeralClient().create_collection(
        "towers", embedding_function=VitritonEmbeddingFunction(url, "clip")
    )
    collection.add(ids=photos, images=[np.asarray(Image.open(path).convert("RGB")) for path in photos])
    assert collection.query(query_texts=[TEXT], n_results=1)["ids"] == [[nearest[0]]]


def test_lancedb(url, photos, nearest, tmp_path):
    """A text finds an image."""
    function = get_registry().get("vitriton").create(url=url, model="clip")

    class Photo(LanceModel):
        path: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(tmp_path).create_table("photos", schema=Photo)
    table.add([{"path": path} for path in photos])
    assert table.search(TEXT).distance_type("cosine").limit(1).to_list()[0]["path"] == nearest[0]
