"""LangChain's retriever over stores of `vitriton search`."""

import asyncio
import pickle
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from typer.testing import CliRunner
from vitriton import Client, ContractMismatch
from vitriton.cli import app
from vitriton_search.answers.errors import AnswerError
from vitriton_search.langchain import VitritonRetriever
from vitriton_search.stores import open_store
from vitriton_search.stores.store import StoreNotFound


@pytest.fixture(scope="session")
def index(url, photos, tmp_path_factory):
    """Makes a store of the sample photos by a model, once."""
    made = {}

    def make(model: str) -> str:
        if model not in made:
            store = made[model] = str(tmp_path_factory.mktemp("stores") / f"{model}.lance")
            command = ["search", "index", *photos, "--model", model, "--url", url, "--store", store]
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
        return made[model]

    return make


def names(documents: list[Document]) -> list[str]:
    return [Path(document.page_content).name for document in documents]


def test_images(url, index, mirrored):
    """The document has the path, and what the store knows of the photo."""
    with_images = VitritonRetriever(store=index("photos"), url=url, queries="images", k=3)
    found = with_images.invoke(mirrored)
    assert len(found) == 3
    assert names(found)[0] == "cat.jpg"
    assert found[0].id == found[0].page_content
    assert 0.9 < found[0].metadata["score"] <= 1
    assert found[0].metadata["width"] == 500
    assert "time_s" not in found[0].metadata
    assert asyncio.run(with_images.ainvoke(mirrored)) == found
    assert pickle.loads(pickle.dumps(with_images)).invoke(mirrored) == found
    with_images.close()


def test_texts(url, index):
    """The order is that of the cosines with the text's vector; the retriever is a part of a chain like any other."""
    store = index("clip")
    with Client(url, model="clip") as client:
        vector = client.embed_texts(["a cat on a sofa"])[0]
    with open_store(store) as opened:
        expected = [hit.id for hit in opened.search(vector[None], 4)[0]]
    retriever = VitritonRetriever(store=store, url=url)
    assert [document.id for document in retriever.invoke("a cat on a sofa")] == expected
    prompt = ChatPromptTemplate.from_template("{photos}: {question}")
    chain = {"photos": retriever | names, "question": RunnablePassthrough()} | prompt
    assert chain.invoke("a cat on a sofa").to_string() == (
        f"Human: {[Path(one).name for one in expected]}: a cat on a sofa"
    )


def test_conditions(url, index, mirrored):
    """They are checked when the retriever is made."""
    retriever = VitritonRetriever(store=index("photos"), url=url, queries="images", where="source not like '%cat%'")
    assert "cat.jpg" not in names(retriever.invoke(mirrored))
    with pytest.raises(ValueError, match="color"):
        VitritonRetriever(store=index("photos"), url=url, where="color = 'red'")


def test_what_is_refused(url, another, index, photos, tmp_path):
    """Another model, a model without texts, a store that is not there, and arguments that are wrong."""
    with pytest.raises(ContractMismatch, match="space-2"):
        VitritonRetriever(store=index("photos"), url=another, queries="images").invoke(photos[0])
    with pytest.raises(AnswerError, match="embeds no texts"):
        VitritonRetriever(store=index("photos"), url=url).invoke("a cat")
    with pytest.raises(StoreNotFound):
        VitritonRetriever(store=str(tmp_path / "nowhere.lance"), url=url)
    with pytest.raises(ValueError, match="token_env"):
        VitritonRetriever(store=index("photos"), url=url, token_env="UNSET_TOKEN")
    with pytest.raises(ValueError, match="queries"):
        VitritonRetriever(store=index("photos"), url=url, queries="songs")
