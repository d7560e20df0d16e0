"""`vitriton.embed`: one line, without a client."""

import numpy as np
import pytest
import vitriton
from client.conftest import write_model


def test_a_named_model(address, files, embeddings):
    """The vectors are those of the client."""
    assert (vitriton.embed(files, url=address, model="tiny") == embeddings).all()
    assert vitriton.embed(files[0], url=[address], model="tiny").shape == (1, 4)


def test_several_models(address, files):
    """The error names them."""
    with pytest.raises(vitriton.ModelNotFound, match=r"several models for images: .*tiny.*; name one") as refused:
        vitriton.embed(files, url=address)
    assert "tiny" in refused.value.available


def test_the_only_model(subprocesses, tmp_path, files, embeddings):
    """It need not be named."""
    from vitriton_server import TritonServer

    write_model(tmp_path / "repository", "alone_pooled")
    with TritonServer(tmp_path / "repository") as server:
        np.testing.assert_array_equal(vitriton.embed(files, url=server.grpc_address), embeddings)
