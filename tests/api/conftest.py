"""A Triton with small models, and an endpoint in front of it."""

from __future__ import annotations

import pytest
from api.endpoint import Running, running
from client.conftest import write_model
from client.test_texts_server import write_text_model


@pytest.fixture(scope="session")
def triton(subprocesses, tmp_path_factory):
    """`texts` embeds texts, `photos` images, and `both` both."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    for name in ("texts_text_pooled", "both_text_pooled"):
        write_text_model(repository, name)
    for name in ("both_pooled", "photos_pooled"):
        write_model(repository, name, fingerprint="space-1")
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint(triton) -> Running:
    """All of them, over gRPC."""
    with running(triton.grpc_address) as started:
        yield started
