"""preprocess="client": what is decoded here gives, to the last bit, what the server makes of the same file."""

import io
import shutil
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2
from vitriton import Client, ContractMismatch, InvalidImage, PillowVersionWarning
from vitriton._images.pixels import encode, encoder_contract, read_preprocess
from vitriton._repository.names import encoder_name, ensemble_name, kind_of
from vitriton._served.contract import read_contract
from vitriton._wire.address import parse_address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.grpc import GrpcTransport
from vitriton.preprocessing import parse_errors
from vitriton.testing import CallError, InferRequest
from vitriton_export._parity.corpus import corpus
from vitriton_server import TritonServer

TIMEOUT_S = 120.0


@contextmanager
def connected(server):
    """The client's own way to a server, without the client."""
    transport = GrpcTransport(parse_address(server.grpc_address), ConnectionSettings())
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture(scope="module")
def transport(server):
    """The way to the server with the small models."""
    with connected(server) as transport:
        yield transport


@pytest.fixture
def large_transport(large_server):
    """The way to the server with ViT-B/16 and DINOv2-small."""
    with connected(large_server) as transport:
        yield transport


@pytest.fixture(params=[("dinov2-small-trained", "grpc"), ("tiny-deit", "grpc"), ("tiny-deit", "http")], ids="-".join)
def both(request, server):
    """Two clients of one model: one leaves the pixels to the server, one makes them."""
    model, scheme = request.param
    address = f"{scheme}://{server.grpc_address if scheme == 'grpc' else server.http_address}"
    with (
        Client(address, model=model, timeout_s=TIMEOUT_S) as on_server,
        Client(address, model=model, timeout_s=TIMEOUT_S, preprocess="client") as on_client,
    ):
        yield SimpleNamespace(on_server=on_server, on_client=on_client)


def contracts(transport, model, pool=True):
    """Of an ensemble and of its encoder, as the server has them."""
    ensemble = read_contract(transport.model_config(ensemble_name(model, kind_of(pool)), TIMEOUT_S), kind_of(pool))
    encoder = transport.model_config(encoder_name(ensemble.model), TIMEOUT_S)
    return ensemble, encoder_contract(ensemble, encoder, read_preprocess(ensemble))


def infer(transport, contract, data):
    """The reply's bytes for one image, alone in its request."""
    request = InferRequest(
        model=contract.model,
        input_name=contract.input,
        datatype=contract.datatype,
        item_shape=contract.item_shape,
        images=[data],
        output_name=contract.output,
        timeout_s=TIMEOUT_S,
    )
    return bytes(transport.send(request, TIMEOUT_S).result().data)


@pytest.mark.usefixtures("subprocesses", "torch")
@pytest.mark.parametrize(
    ("model", "way"),
    [
        ("dinov2-small-trained", "transport"),
        pytest.param("vit-base", "large_transport", marks=pytest.mark.long),
        pytest.param("dinov2-small-whole", "large_transport", marks=pytest.mark.long),
        ("tiny-deit", "transport"),
        ("tiny-classifier", "transport"),
    ],
)
def test_the_encoder_gives_for_our_pixels_what_the_ensemble_gives_for_the_file(request, model, way):
    """Bit for bit, for every awkward file: EXIF, CMYK, palettes, 16 bits, animations, one pixel."""
    transport = request.getfixturevalue(way)
    ensemble, encoder = contracts(transport, model)
    spec = read_preprocess(ensemble)
    for name, data in corpus().items():
        assert infer(transport, encoder, encode(spec, data)) == infer(transport, ensemble, data), name


@pytest.mark.parametrize("model", ["tiny-deit", "dinov2-small-trained"])
def test_a_bad_file_has_one_reason(transport, bad, model):
    """What is refused here is what the server refuses, and the texts and codes are the same."""
    ensemble, _ = contracts(transport, model)
    for data in (bad.truncated, bad.empty, bad.text):
        with pytest.raises(CallError) as caught:
            infer(transport, ensemble, data)
        here = encode(read_preprocess(ensemble), data)
        assert parse_errors(caught.value.message) == {0: (here.reason, here.code)}


def test_the_parameter_changes_no_number(both, files):
    """Files, one by one: the same vectors to the last bit; tokens of a few as well."""
    for path in files:
        assert np.array_equal(both.on_client.embed(path), both.on_server.embed(path)), path.name
    for path in files[:3]:
        assert np.array_equal(both.on_client.embed(path, pool=False), both.on_server.embed(path, pool=False)), path.name


def test_pictures_and_arrays_are_the_same_too(both, files):
    """PIL images in each mode that the files have, and arrays."""
    for path in files:
        opened = Image.open(io.BytesIO(path.read_bytes()))
        assert np.array_equal(both.on_client.embed(opened), both.on_server.embed(opened)), path.name
    array = np.random.default_rng(0).integers(0, 256, (37, 91, 3), np.uint8)
    assert np.array_equal(both.on_client.embed(array), both.on_server.embed(array))


def test_a_batch_is_the_same_within_rounding(both, files):
    """In one call with all files, in input order."""
    difference = np.abs(both.on_client.embed(files) - both.on_server.embed(files))
    assert difference.max() <= 1e-5


def test_bad_images_are_named_alike(both, bad):
    """Index, source and reason do not depend on where an image was found to be bad."""
    images = [bad.good, bad.truncated, bad.good, bad.empty, bad.text]
    found = []
    for client in (both.on_server, both.on_client):
        results = client.embed(images, on_error="return")
        found.append([(result.index, str(result.error)) for result in results if result.error is not None])
        with pytest.raises(InvalidImage):
            client.embed(images)
    assert [index for index, _ in found[0]] == [1, 3, 4]
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def elsewhere(subprocesses, tmp_path_factory, repository):
    """A server with an export that was verified with another Pillow, and one of an older exporter."""
    folder = tmp_path_factory.mktemp("elsewhere") / "repository"
    for source in repository.glob("tiny-*"):
        shutil.copytree(source, folder / source.name)
        path = folder / source.name / "config.pbtxt"
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        if source.name.startswith("tiny-classifier"):
            for key in ("preprocess", "pillow_version"):
                config.parameters.pop(key, None)
        elif "pillow_version" in config.parameters:
            config.parameters["pillow_version"].string_value = "0.0.7"
        path.write_text(text_format.MessageToString(config))
    with TritonServer(folder) as running:
        yield running


def test_the_server_s_step_says_that_its_pillow_is_another(elsewhere):
    """One line in Triton's log when the model is loaded; nothing where the version is the verified one, or unknown."""
    lines = [line for line in elsewhere.log_tail(1000) if "runs Pillow" in line]
    assert len(lines) == 1
    text = (
        f"tiny-deit_preprocess: exported and verified with Pillow 0.0.7, runs Pillow {PIL.__version__}: pixels may "
        "differ in the last gray level"
    )
    assert text in lines[0]


def test_the_client_says_that_its_pillow_is_another(elsewhere, files):
    """A warning, once, and the vectors all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with Client(elsewhere.grpc_address, model="tiny-deit", preprocess="client") as client:
                assert client.embed(files[:2]).shape == (2, 32)
    assert [item.category for item in caught] == [PillowVersionWarning]
    assert "verified with Pillow 0.0.7" in str(caught[0].message)


def test_an_older_export_is_served_and_cannot_be_preprocessed_here(elsewhere, files):
    """It goes on working as it did; preprocess='client' says what to do."""
    with Client(elsewhere.grpc_address, model="tiny-classifier") as client:
        assert client.embed(files[0]).shape == (1, 32)
    with (
        Client(elsewhere.grpc_address, model="tiny-classifier", preprocess="client") as client,
        pytest.raises(ContractMismatch, match="export it again, or use preprocess='server'"),
    ):
        client.embed(files[0])
