"""LlamaIndex, with its index of images and texts."""

import asyncio
from pathlib import Path

import pytest
from llama_index.core.indices.multi_modal import MultiModalVectorStoreIndex
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.schema import ImageNode, TextNode
from vitriton import ContractMismatch, ModelNotFound
from vitriton.integrations.llama_index import VitritonEmbedding


@pytest.fixture
def index(url, photos):
    nodes = [ImageNode(image_path=path, metadata={"name": Path(path).name}) for path in photos]
    return MultiModalVectorStoreIndex(
        nodes,
        embed_model=VitritonEmbedding(url=url, model_name="texts"),
        image_embed_model=VitritonEmbedding(url=url, model_name="photos"),
    )


def test_images(index, mirrored):
    """The nearest neighbor of a mirrored photo is the photo."""
    found = index.as_retriever(image_similarity_top_k=1).image_to_image_retrieve(mirrored)
    assert [one.metadata["name"] for one in found] == ["cat.jpg"]


def test_texts(url, sentences):
    """Also in an event loop."""
    index = VectorStoreIndex(
        [TextNode(text=text) for text in sentences], embed_model=VitritonEmbedding(url=url, model_name="texts")
    )
    retriever = index.as_retriever(similarity_top_k=1)
    assert retriever.retrieve("a resting animal")[0].text == sentences[0]
    assert asyncio.run(retriever.aretrieve("a resting animal"))[0].text == sentences[0]


def test_a_batch_is_one_request(url, photos):
    """Not a request for each image; and images are embedded in an event loop, too."""
    embedding = VitritonEmbedding(url=url, model_name="photos")
    vectors = embedding.get_image_embedding_batch(photos)
    assert embedding._space.client.stats().requests == 1
    assert asyncio.run(embedding.aget_image_embedding_batch(photos)) == vectors
    assert embedding._space.async_client.stats().requests == 1
    assert embedding.get_image_embedding(photos[3]) == pytest.approx(vectors[3], abs=1e-4)


def test_prompts(url):
    """Those of the model, where it has some."""
    embedding = VitritonEmbedding(url=url, model_name="words")
    assert [embedding.get_query_embedding("cat")[0], embedding.get_text_embedding("cat")[0]] == [1, 2]


def test_the_dictionary_has_the_fingerprint(url, another, photos):
    """What it describes embeds with no other model, and embeds again where the server has moved."""
    described = VitritonEmbedding(url=url, model_name="photos").to_dict()
    again = VitritonEmbedding.from_dict(described)
    assert again.to_dict() == described
    assert len(again.get_image_embedding(photos[0])) == 384
    moved = VitritonEmbedding.from_dict({**described, "url": another})
    with pytest.raises(ContractMismatch, match="space-2"):
        moved.get_image_embedding(photos[0])


def test_the_other_modality(url):
    """The error says what the model embeds."""
    with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        VitritonEmbedding(url=url, model_name="photos").get_text_embedding("a cat")
