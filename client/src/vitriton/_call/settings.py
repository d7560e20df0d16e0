"""The settings of a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vitriton._options import Options, check_flag, check_time_limit
from vitriton._wire.connection import TLS, Token

Preprocess = Literal["server", "client"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `Client`, which describes them."""

    model: str
    timeout_s: float | None
    options: Options
    tls: TLS | None
    token: Token | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    preprocess: Preprocess
    expect_fingerprint: str | None
    tracing: bool

    def __post_init__(self) -> None:
        """Checks the arguments; `Options` checks its own fields.

        Raises:
            ValueError, TypeError: an argument is invalid; the text names it.
        """
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model is {self.model!r}; give the name that the model was exported under")
        if self.preprocess not in ("server", "client"):
            raise ValueError(f"preprocess is {self.preprocess!r}; it must be 'server' or 'client'")
        check_time_limit("timeout_s", self.timeout_s)
        check_flag("tracing", self.tracing)
        if self.expect_fingerprint is not None and not (
            isinstance(self.expect_fingerprint, str) and self.expect_fingerprint
        ):
            raise ValueError(f"expect_fingerprint is {self.expect_fingerprint!r}; it must be a fingerprint, or None")
        if not isinstance(self.options, Options):
            raise TypeError(f"options has the type {type(self.options).__name__}; it must be vitriton.Options")
