"""A model whose image processor works on floats: FP32 pixels between the steps, made in the server or in the client."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import architectures, exports
from transformers.image_utils import load_image
from typer.testing import CliRunner
from vitriton import Client
from vitriton.cli import app
from vitriton_export._checkpoint.checkpoint import load
from vitriton_export._checkpoint.source import find
from vitriton_export._parity.compare import forward
from vitriton_server import TritonServer

PHOTO = Path(__file__).parents[2] / "examples/photos/coffee.jpg"


@pytest.fixture(scope="module", params=["dinov3_vit", pytest.param("siglip2", marks=pytest.mark.long)])
def served(request, tmp_path_factory):
    """The checkpoint's folder, and a Triton that serves its export `m`."""
    root = tmp_path_factory.mktemp(request.param)
    folder = architectures.write(request.param, root / "m")
    with TritonServer(exports.export(folder, root / "r", outputs="pooled")) as server:
        yield folder, server


def test_pixels_that_are_no_picture_are_the_same_from_server_and_client(served):
    """Floats (DINOv3) and packed patches (NaFlex) travel as pixels do, and the embedding is transformers' own."""
    folder, server = served
    checkpoint = load(find(str(folder), None))
    inputs = checkpoint.image_processor([load_image(Image.open(io.BytesIO(PHOTO.read_bytes())))], return_tensors="pt")
    expected = forward(checkpoint, inputs).pooler_output.numpy()
    for preprocess in ("server", "client"):
        with Client(server.grpc_address, model="m", preprocess=preprocess) as client:
            assert np.abs(client.embed(PHOTO) - expected).max() < 1e-4, preprocess


def test_pixels_that_are_no_picture_are_verified_on_a_server(served):
    """`vitriton verify --url` compares them with the reference as it does those of a repository."""
    folder, server = served
    result = CliRunner().invoke(app, ["verify", "m", "--url", server.grpc_address, "--reference", str(folder)])
    assert result.exit_code == 0, result.output
    assert "pixels" in result.output
