"""The names of models, for a shell that completes them. It is shown no error, and waits for no silent server."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from vitriton._console.server import DEFAULT_ADDRESS, ServerOptions
from vitriton._errors import VitritonError
from vitriton._repository.names import read_ensemble_name

_ANSWER_S = 1.0


def served_names(ctx: Any, incomplete: str) -> list[str]:
    """The names of the models of the command's server that begin with a text."""
    from vitriton._served.catalog import read_catalog

    found: list[str] = []
    server = ServerOptions(address=ctx.params.get("url") or DEFAULT_ADDRESS)
    with suppress(VitritonError), closing(server.transport()) as transport:
        found = [model.name for model in read_catalog(transport, _ANSWER_S).models]
    return [name for name in found if name.startswith(incomplete)]


def exported_names(ctx: Any, incomplete: str) -> list[str]:
    """The names of the exports in the command's repository that begin with a text."""
    repository = Path(ctx.params.get("repository") or "model_repository")
    found = {ensemble[0] for folder in repository.glob("*") if (ensemble := read_ensemble_name(folder.name))}
    return sorted(name for name in found if name.startswith(incomplete))
