"""Photos in, embeddings out, through a real Triton: the numbers of transformers' own pipeline."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, pipeline
from vitriton import Client

TOLERANCE = 1e-4
LARGE = ("vit-base", "dinov2-small-whole")


@pytest.fixture(scope="module")
def images(files):
    """The files as the pipeline may be given them too: opened, not yet decoded."""
    return [Image.open(io.BytesIO(path.read_bytes())) for path in files]


@pytest.fixture(
    scope="module",
    params=[
        "dinov2-small-trained",
        "tiny-deit",
        "tiny-classifier",
        *(pytest.param(name, marks=pytest.mark.long) for name in LARGE),
    ],
)
def served(request, images):
    """A served model, its manifest, the reference for it, and the reference's tokens (N, T, D) of all images."""
    size = "large_" if request.param in LARGE else ""
    server, repository, models = (request.getfixturevalue(size + name) for name in ("server", "repository", "models"))
    checkpoint = models[request.param]
    manifest = json.loads((repository / f"{request.param}_pooled/1/manifest.json").read_text())
    reference = pipeline(
        "image-feature-extraction",
        model=str(checkpoint),
        image_processor=AutoImageProcessor.from_pretrained(checkpoint, backend="pil"),
    )
    tokens = np.concatenate(reference(images, return_tensors=True))
    with Client(server.grpc_address, model=request.param) as client:
        yield SimpleNamespace(name=request.param, manifest=manifest, client=client, reference=reference, tokens=tokens)


def test_unpooled_equals_the_pipeline(served, files):
    """`pool=False` gives the pipeline's tokens, for photos and for every awkward file."""
    actual = served.client.embed(files, pool=False)
    assert actual.dtype == np.float32
    assert actual.shape == served.tokens.shape
    for path, ours, theirs in zip(files, actual, served.tokens, strict=True):
        assert np.abs(ours - theirs).max() <= TOLERANCE, path.name


def test_pooled_equals_the_same_pooling_in_torch(served, files, images):
    """`pool=True` gives the trained pooler where there is one, and CLS where there is none."""
    if served.name == "tiny-classifier":
        expected = served.tokens[:, 0]
    else:
        expected = np.concatenate(served.reference(images, pool=True, return_tensors=True))
    actual = served.client.embed(files)
    assert actual.dtype == np.float32
    for path, ours, theirs in zip(files, actual, expected, strict=True):
        assert np.abs(ours - theirs).max() <= TOLERANCE, path.name


def test_paths_bytes_and_pictures_give_one_answer(served, files):
    """However an image is handed over, its embedding is the same, alone and in a batch."""
    photo = next(path for path in files if path.name == "coffee.jpg")
    opened = Image.open(io.BytesIO(photo.read_bytes()))
    together = served.client.embed([photo, str(photo), photo.read_bytes(), opened, np.asarray(opened)])
    assert np.abs(together - together[0]).max() <= 1e-6
    assert np.abs(served.client.embed(photo) - together[0]).max() <= 1e-5


def test_the_fingerprint_is_the_manifest_s(served):
    """What the client reads from the server is what the export wrote down."""
    assert served.client.describe().fingerprint == served.manifest["fingerprint"]
