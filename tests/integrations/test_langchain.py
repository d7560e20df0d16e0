"""LangChain, with its own store in memory and with langchain-chroma."""

import asyncio
import pickle

import pytest
from langchain_chroma import Chroma
from langchain_core.vectorstores import InMemoryVectorStore
from vitriton import Client, ContractMismatch, ModelNotFound
from vitriton.integrations.langchain import VitritonEmbeddings


def test_images(url, another, photos, mirrored, tmp_path):
    """The collection's metadata has the fingerprint, with which it is opened again."""
    embeddings = VitritonEmbeddings(url, "photos")
    stored = Chroma(
        "photos",
        embedding_function=embeddings,
        persist_directory=str(tmp_path),
        collection_metadata={"fingerprint": embeddings.fingerprint},
    )
    stored.add_images(photos, metadatas=[{"path": path} for path in photos])
    fingerprint = stored._collection.metadata["fingerprint"]
    again = VitritonEmbeddings(url, "photos", fingerprint=fingerprint)
    opened = Chroma("photos", embedding_function=again, persist_directory=str(tmp_path))
    assert opened.similarity_search_by_image(mirrored, k=1)[0].metadata["path"].endswith("cat.jpg")
    wrong = VitritonEmbeddings(another, "photos", fingerprint=fingerprint)
    with pytest.raises(ContractMismatch, match=f"space-2, and {fingerprint} was expected"):
        Chroma("photos", embedding_function=wrong, persist_directory=str(tmp_path)).similarity_search_by_image(mirrored)


def test_texts(url, sentences):
    """Also in an event loop."""
    store = InMemoryVectorStore(VitritonEmbeddings(url, "texts"))
    store.add_texts(sentences)
    assert store.similarity_search("a resting animal", k=1)[0].page_content == sentences[0]
    assert asyncio.run(store.asimilarity_search("a resting animal", k=1))[0].page_content == sentences[0]
    with pytest.raises(ContractMismatch, match="another was expected"):
        InMemoryVectorStore(VitritonEmbeddings(url, "texts", fingerprint="another")).add_texts(sentences)


def test_the_vectors_are_the_clients(url, photos):
    """Of images and texts, one by one and together; also of the adapter that another process gets."""
    with Client(url, model="both") as client:
        images, texts = client.embed(photos).tolist(), client.embed_texts(["one", "two"]).tolist()
    for one in (VitritonEmbeddings(url, "both"), pickle.loads(pickle.dumps(VitritonEmbeddings(url, "both")))):
        assert one.embed_image(photos) == images
        assert asyncio.run(one.aembed_image(photos)) == images
        with Client(url, model="both") as client:
            assert one.embed_query("one") == client.embed_texts("one", prompt="query")[0].tolist()
            assert one.embed_documents(["one"]) == client.embed_texts("one", prompt="passage").tolist()
        assert len(texts) == 2
        assert asyncio.run(one.aembed_documents(["one"])) == one.embed_documents(["one"])
        assert asyncio.run(one.aembed_query("one")) == one.embed_query("one")


def test_the_other_modality(url, photos):
    """The error says what the model embeds."""
    with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        VitritonEmbeddings(url, "photos").embed_query("a cat")
    with pytest.raises(ModelNotFound, match="has no images; it embeds texts"):
        VitritonEmbeddings(url, "texts").embed_image(photos)
