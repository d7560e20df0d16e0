"""Chroma, on disk."""

import chromadb
import numpy as np
import pytest
from chromadb.utils.data_loaders import ImageLoader
from vitriton import ContractMismatch, ModelNotFound
from vitriton.integrations.chroma import VitritonEmbeddingFunction


@pytest.fixture
def collection(url, photos, tmp_path):
    """The collection of photos, opened as a later program would: the function is made of the stored configuration."""
    created = chromadb.PersistentClient(str(tmp_path)).create_collection(
        "photos", embedding_function=VitritonEmbeddingFunction(url, "photos"), data_loader=ImageLoader()
    )
    created.add(ids=photos, uris=photos)
    chromadb.api.client.SharedSystemClient.clear_system_cache()
    return chromadb.PersistentClient(str(tmp_path)).get_collection("photos", data_loader=ImageLoader())


def test_images(collection, mirrored):
    """The nearest neighbor of a mirrored photo is the photo."""
    assert collection.query(query_uris=[mirrored], n_results=1)["ids"][0][0].endswith("cat.jpg")
    assert collection.configuration["hnsw"]["space"] == "cosine"
    with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        collection.query(query_texts=["a cat"])


def test_texts(url, sentences):
    """With the model's prompts, where it has some."""
    client = chromadb.EphemeralClient()
    collection = client.create_collection("sentences", embedding_function=VitritonEmbeddingFunction(url, "texts"))
    collection.add(ids=["0", "1", "2"], documents=sentences)
    assert collection.query(query_texts=["a resting animal"], n_results=1)["ids"] == [["0"]]
    function = VitritonEmbeddingFunction(url, "words")
    assert [function(["cat"])[0][0], function.embed_query(["cat"])[0][0]] == [2, 1]


def test_another_model_is_refused(collection, url, another, mirrored):
    """By the fingerprint in the configuration, also if the server has moved."""
    config = collection.configuration["embedding_function"].get_config()
    assert VitritonEmbeddingFunction.build_from_config(config).get_config() == config
    moved = VitritonEmbeddingFunction.build_from_config({**config, "url": another})
    with pytest.raises(ContractMismatch, match="space-2"):
        moved([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ValueError, match="space-2: vectors of the two must not be mixed"):
        collection.modify(
            configuration={"embedding_function": VitritonEmbeddingFunction(another, "photos", fingerprint="space-2")}
        )
