"""Haystack, with its own store in memory."""

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore
from vitriton import ContractMismatch, ModelNotFound
from vitriton.integrations.haystack import (
    VitritonDocumentEmbedder,
    VitritonDocumentImageEmbedder,
    VitritonTextEmbedder,
)


def _store(documents):
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(documents)
    return store


def test_images(url, photos, mirrored):
    """By path, and by bytes."""
    embedder = VitritonDocumentImageEmbedder(url, "photos")
    store = _store(embedder.run([Document(meta={"file_path": path}) for path in photos])["documents"])
    for query in (Document(meta={"file_path": mirrored}), Document(blob=ByteStream.from_file_path(mirrored))):
        vector = embedder.run([query])["documents"][0].embedding
        found = InMemoryEmbeddingRetriever(store).run(query_embedding=vector, top_k=1)["documents"]
        assert found[0].meta["file_path"].endswith("cat.jpg")


def test_texts(url, sentences):
    """In a pipeline that was written to YAML."""
    documents = [Document(content=text) for text in sentences]
    store = _store(VitritonDocumentEmbedder(url, "texts").run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", VitritonTextEmbedder(url, "texts"))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": "a resting animal"}})["retriever"]["documents"]
    assert found[0].content == sentences[0]
    written = pipeline.dumps()
    assert "fingerprint: v1-" in written
    read = Pipeline.loads(written, allowed_modules=["vitriton.integrations.haystack"])
    assert read.dumps() == written


def test_prompts(url):
    """Those of the model, where it has some."""
    assert VitritonTextEmbedder(url, "words").run("cat")["embedding"][0] == 1
    documents = VitritonDocumentEmbedder(url, "words").run([Document(content="cat")])["documents"]
    assert documents[0].embedding[0] == 2


@pytest.mark.parametrize("kind", [VitritonTextEmbedder, VitritonDocumentEmbedder, VitritonDocumentImageEmbedder])
def test_the_dictionary_has_the_fingerprint(kind, url):
    """And makes the same component."""
    described = kind(url, "texts").to_dict()
    assert described["init_parameters"]["fingerprint"].startswith("v1-")
    assert kind.from_dict(described).to_dict() == described


def test_another_model_is_refused(url, another, photos):
    """Where the server has moved."""
    described = VitritonDocumentImageEmbedder(url, "photos").to_dict()
    described["init_parameters"]["url"] = another
    moved = VitritonDocumentImageEmbedder.from_dict(described)
    with pytest.raises(ContractMismatch, match="space-2"):
        moved.run([Document(meta={"file_path": photos[0]})])


def test_what_cannot_be_embedded(url):
    """The error names the document, or says what the model embeds."""
    with pytest.raises(ValueError, match="document 7 has no image; give it a blob"):
        VitritonDocumentImageEmbedder(url, "photos").run([Document(id="7", content="a cat")])
    with pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        VitritonTextEmbedder(url, "photos").run("a cat")
