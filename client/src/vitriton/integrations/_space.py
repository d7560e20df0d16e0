"""What the adapters share: a served model as a configuration can hold it, and the clients that embed with it."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Literal

from vitriton._async_client import AsyncClient
from vitriton._call.results import Floats
from vitriton._client import Client
from vitriton._images.sources import ImageLike
from vitriton._keywords import suggests_keywords
from vitriton._served.model import ModelInfo
from vitriton._wire.connection import TLS

Role = Literal["query", "document"]

# The names of sentence-transformers for the prompts of each role.
_PROMPTS: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


@suggests_keywords
class EmbeddingSpace:
    """A served model and its fingerprint: what a collection of vectors must be queried with. Can be pickled.

    Args:
        url: the server's address; see `vitriton.Client`.
        model: the name that the model was exported under.
        fingerprint: the fingerprint of the collection; None asks the server for the model's.
        token_env: the environment variable that holds the bearer token, which no configuration holds.
        ca_file: the trusted CA certificates, for grpcs:// and https://.
        timeout_s: the longest wait for an answer, in seconds; see `vitriton.Client`.

    Attributes:
        config: the arguments with the fingerprint, as JSON takes them.

    Raises:
        ValueError: an argument is invalid, the environment variable is empty, or the model has no fingerprint.
        ClientError: the server does not tell the fingerprint.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        fingerprint: str | None = None,
        token_env: str | None = None,
        ca_file: str | None = None,
        timeout_s: float | None = 60.0,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "address": url,
            "model": model,
            "timeout_s": timeout_s,
            "tls": None if ca_file is None else TLS(ca_file=ca_file),
            "token": None if token_env is None else partial(_token, token_env),
            "expect_fingerprint": fingerprint,
        }
        if token_env is not None:
            _token(token_env)
        if fingerprint is None:
            with Client(**self._arguments) as client:
                fingerprint = self._arguments["expect_fingerprint"] = client.describe().fingerprint
            if fingerprint is None:
                raise ValueError(f"model {model} has no fingerprint, so its vectors cannot be told from others'")
        self.config: dict[str, Any] = {
            "url": url if isinstance(url, str) else list(url),
            "model": model,
            "fingerprint": fingerprint,
            "token_env": token_env,
            "ca_file": ca_file,
            "timeout_s": timeout_s,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.config), ()

    @cached_property
    def client(self) -> Client:
        """The client that embeds; it refuses a model with another fingerprint, and is closed with this object."""
        client = Client(**self._arguments)
        weakref.finalize(self, client._core.close)
        return client

    @cached_property
    def async_client(self) -> AsyncClient:
        """The same for asyncio."""
        client = AsyncClient(**self._arguments)
        weakref.finalize(self, client._core.close)
        return client

    @cached_property
    def info(self) -> ModelInfo:
        """The model, as the server describes it."""
        return self.client.describe()

    @property
    def dimensions(self) -> int:
        """The length D of a vector."""
        output = self.info.pooled or self.info.text_pooled
        if output is None or output.shape is None:
            raise ValueError(f"model {self.info.name} has no pooled output; export it with --outputs pooled, or both")
        return output.shape[-1]

    def images(self, images: Iterable[ImageLike] | ImageLike) -> Floats:
        """Embeds images, (N, D)."""
        return self.client.embed(images)

    def texts(self, texts: Iterable[str] | str, role: Role) -> Floats:
        """Embeds texts, (N, D), with the model's prompt for their role, if it has one."""
        return self.client.embed_texts(texts, prompt=self._prompt(role))

    async def aimages(self, images: Iterable[ImageLike] | ImageLike) -> Floats:
        """See `images`."""
        return await self.async_client.embed(images)

    async def atexts(self, texts: Iterable[str] | str, role: Role) -> Floats:
        """See `texts`."""
        if "info" not in self.__dict__:
            self.__dict__["info"] = await self.async_client.describe()
        return await self.async_client.embed_texts(texts, prompt=self._prompt(role))

    def _prompt(self, role: Role) -> str | None:
        rules = self.info.texts
        return None if rules is None else next((name for name in _PROMPTS[role] if name in rules.prompts), None)


def _token(variable: str) -> str:
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ValueError(f"token_env is {variable!r}, and the environment variable of that name is empty; set it")
    return token


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Names the extra of the client that installs what an import does not find."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ImportError(f"{exc}; install it with `pip install 'vitriton[{extra}]'`", name=exc.name) from exc
