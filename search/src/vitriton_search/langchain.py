"""LangChain: a retriever over a store, for queries that are texts or images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PrivateAttr
except ModuleNotFoundError as exc:
    raise ImportError(f"{exc}; install it with `pip install 'vitriton-search[langchain]'`", name=exc.name) from exc

from vitriton._console.server import DEFAULT_ADDRESS, Access, ServerOptions

from vitriton_search.answers.query import JOIN_S, Match, Question, ask, nearest
from vitriton_search.options import DEFAULT_STORE
from vitriton_search.stores import open_store
from vitriton_search.stores.where import parse

if TYPE_CHECKING:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun

__all__ = ["VitritonRetriever"]


class VitritonRetriever(BaseRetriever):
    """Finds the rows of a store that are nearest to a text or an image. Can be pickled.

    The `page_content` of a document is the path or URL of an image or a video. Its `metadata` has the `score`, a cosine
    from -1 to 1, and the columns of the row that have a value, as `vitriton search query --json` has them. Frames of
    one video that are near in time are one document, with their `span`.

    Attributes:
        store: the store: a folder for LanceDB, or the URL of another store.
        url: the server's address; see `vitriton.Client`.
        model: the name that the store's model was exported under. None: the name that is in the store.
        queries: what the queries are: texts, which need a model with two towers, or paths and URLs of images.
        k: the most documents for a query.
        where: the condition that rows must meet, such as "width > 1000". None: all rows.
        exact: whether to compare with every row instead of asking the approximate index.
        join_s: the longest time between two frames of a video that are one document, in seconds.
        token_env: the environment variable that holds the bearer token for the server.
        ca_file: the trusted CA certificates, for grpcs:// and https://.
        timeout_s: the longest wait for the vector of a query, in seconds.

    Raises:
        StoreError: there is no store, or it cannot be opened.
        ValueError: an argument is invalid, or `where` is no condition on the columns of the store.
        ContractMismatch: the server has another model than the store; from every query.
        AnswerError: the model embeds no texts, or no images; from every query.
        ClientError: the query cannot be embedded.
    """

    store: str = DEFAULT_STORE
    url: str = DEFAULT_ADDRESS
    model: str | None = None
    queries: Literal["texts", "images"] = "texts"
    k: int = 4
    where: str | None = None
    exact: bool = False
    join_s: float = JOIN_S
    token_env: str | None = None
    ca_file: str | None = None
    timeout_s: float = 60.0

    _store: Any = PrivateAttr()
    _client: Any = PrivateAttr()
    _where: Any = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Opens the store; the server is asked with the first query."""
        super().model_post_init(context)
        access = Access(token_env=self.token_env, ca_file=None if self.ca_file is None else Path(self.ca_file))
        self._store = open_store(self.store)
        try:
            self._where = None if self.where is None else parse(self.where, self._store.columns)
            self._client = ServerOptions(address=self.url, access=access).client(
                model=self.model or self._store.space.model,
                expect_fingerprint=self._store.space.fingerprint,
                timeout_s=self.timeout_s,
            )
        except BaseException:
            self._store.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **{name: getattr(self, name) for name in self.model_fields_set}), ()

    def close(self) -> None:
        """Ends the connections to the store and the server."""
        self._store.close()
        self._client.close()

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        question = Question("text" if self.queries == "texts" else "photo", query)
        vector = ask(question, self._store, self._client)
        answers = nearest(self._store, vector, self.k, self._where, exact=self.exact, join_s=self.join_s)
        return [_document(answer) for answer in answers]


def _document(answer: Match) -> Document:
    row = {name: value for name, value in answer.document().items() if value is not None}
    return Document(id=row.pop("id"), page_content=row["source"], metadata=row)
