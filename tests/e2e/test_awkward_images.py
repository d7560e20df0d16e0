"""Awkward images through a real Triton: what transformers takes gives its numbers, the rest is refused with a reason.

Where we and the reference differ on purpose, `support.awkward` says so (`reference="takes"`).
"""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import awkward
from transformers import AutoImageProcessor, pipeline
from transformers.image_utils import load_image
from vitriton import Client
from vitriton._wire.address import parse_address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.grpc import GrpcTransport
from vitriton.testing import InferRequest

TOLERANCE = 1e-4
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """The files that are taken, under their own names, which for some are lies."""
    folder = tmp_path_factory.mktemp("taken")
    for name, data in awkward.taken().items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The files that are refused, by path."""
    folder = tmp_path_factory.mktemp("refused")
    for name, file in awkward.refused().items():
        (folder / name).write_bytes(file.data)
    return {folder / name: file for name, file in awkward.refused().items()}


@pytest.fixture(scope="module", params=["tiny-deit", "tiny-dinov2"])
def served(request, small_server, small_models):
    """One of them: clients of both kinds, and the reference."""
    processor = AutoImageProcessor.from_pretrained(small_models[request.param], backend="pil")
    reference = pipeline("image-feature-extraction", model=str(small_models[request.param]), image_processor=processor)
    settings = {"model": request.param, "timeout_s": TIMEOUT_S}
    transport = GrpcTransport(parse_address(small_server.grpc_address), ConnectionSettings())
    with (
        Client(small_server.grpc_address, **settings) as on_server,
        Client(small_server.grpc_address, **settings, preprocess="client") as on_client,
    ):
        yield SimpleNamespace(
            name=request.param,
            on_server=on_server,
            on_client=on_client,
            transport=transport,
            processor=processor,
            reference=reference,
        )
    transport.close()


@pytest.fixture(autouse=True)
def quiet():
    """Pillow warns of what it finds in some of these files, in the reference and in us alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pixels(served, data):
    """Of one file, from the preprocess step in Triton."""
    request = InferRequest(
        model=f"{served.name}_preprocess",
        input_name="image",
        images=[data],
        output_name="pixels",
        timeout_s=TIMEOUT_S,
    )
    reply = served.transport.infer(request, TIMEOUT_S)
    return np.frombuffer(reply.data, np.uint8).reshape(reply.shape)[0]


def expected_pixels(served, path):
    """Of the PIL image processor, which is given the file as the pipeline loads it."""
    image = load_image(str(path))
    plain = served.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return np.moveaxis(plain, 0, -1)


def test_the_corpus_is_what_it_says(taken, refused):
    """All EXIF orientations, every mode that files have, more than 8 bits, animations, and over forty bad files."""
    modes, formats, frames = set(), set(), set()
    for path in taken:
        with Image.open(path) as image:
            modes.add(image.mode)
            formats.add(image.format)
            frames.add(getattr(image, "n_frames", 1))
    wanted = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"}
    assert wanted - modes == set()
    assert {"JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "JPEG2000", "AVIF", "PPM"} - formats == set()
    assert {1, 3} <= frames
    names = {path.name for path in taken}
    assert {f"orientation-{number}.jpg" for number in range(10)} <= names
    assert {"1x1.png", "1x5000.png", "5000x1.png", "interlaced.png", "progressive.jpg"} <= names
    assert len(refused) > 40


def test_it_is_the_same_every_time():
    """Two corpora are equal to the byte."""
    taken, refused = awkward.taken(), awkward.refused()
    awkward.taken.cache_clear()
    awkward.refused.cache_clear()
    assert [name for name, data in awkward.taken().items() if taken[name] != data] == []
    assert [name for name, file in awkward.refused().items() if refused[name] != file] == []


def test_every_pixel_is_the_reference_s(served, taken):
    """The step in Triton gives the PIL image processor's pixels, to the last gray level."""
    different = [
        path.name
        for path in taken
        if not np.array_equal(pixels(served, path.read_bytes()), expected_pixels(served, path))
    ]
    assert different == []


def test_every_token_is_the_pipeline_s(served, taken):
    """The ensemble gives the pipeline's tokens for the same file; no file is refused by either."""
    errors = {}
    for path in taken:
        theirs = served.reference(str(path), return_tensors=True)[0].numpy()
        ours = served.on_server.embed(path, pool=False)[0]
        errors[path.name] = float(np.abs(ours - theirs).max())
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


def test_pixels_made_by_the_client_change_nothing(served, taken):
    """preprocess='client' gives the server's embeddings to the last bit."""
    different = [
        path.name for path in taken if not np.array_equal(served.on_client.embed(path), served.on_server.embed(path))
    ]
    assert different == []


def test_all_of_them_in_one_call(served, taken):
    """Batched with whatever comes along, an image has the embedding that it has alone."""
    alone = np.concatenate([served.on_server.embed(path) for path in taken])
    together = served.on_server.embed(taken)
    assert np.abs(alone - together).max() <= 1e-5


def test_every_bad_file_is_refused_with_its_reason(served, refused):
    """By the server and by preprocess='client' alike, in one line, the same words and the same code."""
    wrong = {}
    for path, file in refused.items():
        reasons = []
        for client in (served.on_server, served.on_client):
            result = client.embed([path], on_error="return")[0]
            reasons.append((result.error.reason, result.error.code) if result.error is not None else ("taken", ""))
        reason, code = reasons[0]
        if reasons[0] != reasons[1] or "\n" in reason or not re.search(file.reason, reason):
            wrong[path.name] = reasons
        if not re.fullmatch(file.code, code) or "--" in reason:
            wrong[path.name] = reasons
    assert wrong == {}


def test_the_reference_fails_on_them_too_but_for_other_formats(served, refused):
    """What it takes and we refuse are the formats that are not accepted, and nothing else."""
    took = set()
    for path in refused:
        try:
            served.reference(str(path), return_tensors=True)
        except Exception:  # whatever it is
            continue
        took.add(path.name)
    assert took == {path.name for path, file in refused.items() if file.reference == "takes"}
    assert all(name.endswith("-file") for name in took)


def test_bad_files_between_good_ones_cost_nobody_else(served, taken, refused):
    """In one call the good ones get their embeddings, and each bad one its own reason."""
    good = taken[:8]
    mixed = [path for pair in zip(good, list(refused)[:8], strict=True) for path in pair]
    results = served.on_server.embed(mixed, on_error="return")
    assert [result.error is None for result in results] == [True, False] * 8
    vectors = np.stack([result.embedding for result in results[::2]])
    assert np.abs(vectors - served.on_server.embed(good)).max() <= 1e-5
