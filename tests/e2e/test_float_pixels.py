"""A model whose image processor works on floats: FP32 pixels between the steps, made in the server or in the client."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import architectures
from transformers.image_utils import load_image
from vitriton import Client
from vitriton_export import ExportOptions, export_model
from vitriton_export._checkpoint.checkpoint import load
from vitriton_export._checkpoint.source import find
from vitriton_export._parity.compare import forward
from vitriton_server import TritonServer

PHOTO = Path(__file__).parents[2] / "examples/photos/coffee.jpg"


@pytest.mark.parametrize("model_type", ["dinov3_vit", pytest.param("siglip2", marks=pytest.mark.long)])
def test_pixels_that_are_no_picture_are_the_same_from_server_and_client(tmp_path, model_type):
    """Floats (DINOv3) and packed patches (NaFlex) travel as pixels do, and the embedding is transformers' own."""
    folder = architectures.write(model_type, tmp_path / "m")
    export_model(ExportOptions(model=str(folder), repository=tmp_path / "r", outputs="pooled"))
    checkpoint = load(find(str(folder), None))
    inputs = checkpoint.image_processor([load_image(Image.open(io.BytesIO(PHOTO.read_bytes())))], return_tensors="pt")
    expected = forward(checkpoint, inputs).pooler_output.numpy()
    with TritonServer(tmp_path / "r") as server:
        for preprocess in ("server", "client"):
            with Client(server.grpc_address, model="m", preprocess=preprocess) as client:
                assert np.abs(client.embed(PHOTO) - expected).max() < 1e-4, preprocess
