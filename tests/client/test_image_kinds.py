"""What data sets, web frameworks and tensor libraries hand out as an image, through both clients and the pipeline."""

import asyncio
import io
import re
import subprocess
import sys
from collections import UserDict
from tempfile import SpooledTemporaryFile
from types import SimpleNamespace

import anyio
import numpy as np
import pytest
import torch
from client.both import KINDS, make_client
from client.fakes import FakeTransport
from PIL import Image
from vitriton import AsyncClient, InvalidImage
from vitriton._images.failure import SourceError
from vitriton._images.sources import read_image, source_name
from vitriton._pipeline.image_feature_extraction import is_single
from vitriton._pipeline.inputs import items_of
from vitriton._pipeline.tasks import IMAGES
from vitriton.preprocessing import Limits, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture(params=KINDS)
def sent(request):
    """Embeds, and returns the bytes that went to the server, in order."""

    def embed(images):
        transport = FakeTransport()
        with make_client(request.param)("unused", model="m", transport=transport) as client:
            client.embed(images)
        return [image for request in transport.requests for image in request.images]

    return embed


def reason(sent, image, code):
    """Why an image in a list is refused."""
    with pytest.raises(InvalidImage) as caught:
        sent([image])
    assert "\n" not in str(caught.value)
    assert caught.value.code == code
    return caught.value.errors[0].reason


# Data sets


@pytest.mark.parametrize("make", [dict, UserDict])
def test_undecoded_images_of_data_sets(make, sent, tmp_path):
    """Hugging Face's data sets give bytes, a path, or both, and then the path is often of another machine."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"on disk")
    items = [
        make(bytes=b"first", path=None),
        make(bytes=b"second", path="/elsewhere/a.jpg"),
        make(bytes=None, path=str(path)),
        make(bytes=bytearray(b"fourth")),
        make(path=path),
        make(path="data:,sixth"),
    ]
    assert sent(items) == [b"first", b"second", b"on disk", b"fourth", b"on disk", b"sixth"]
    assert sent(items[0]) == [b"first"]
    assert is_single(items[0])


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"bytes": None, "path": None}, "the dict has neither bytes nor a path"),
        ({"bytes": "text", "path": None}, "'bytes' in the dict has the type str"),
        ({"path": 5}, "'path' in the dict has the type int"),
        ({"path": {"path": "a.jpg"}}, "'path' in the dict has the type dict"),
        (
            {"image": Image.new("RGB", (2, 2)), "label": 1},
            "a dict with the keys image, label is not an image; give the value",
        ),
        ({"path": "a.jpg", "label": 1}, "a dict with the keys path, label is not an image"),
        ({str(n): n for n in range(99)}, "a dict with the keys 0, 1, 2, ... is not an image"),
        ({"\n": 1}, r"a dict with the keys \n is not an image"),
        ({}, "an empty dict is not an image"),
    ],
)
def test_other_dicts(item, says, sent):
    """They say what was found, and what to give."""
    assert says in reason(sent, item, "kind")


@pytest.mark.parametrize("images", [{"a.jpg": b"1", "b.jpg": b"2"}, {}, {"image": b"1"}, UserDict(train=[b"1"])])
def test_a_dict_is_no_list(images, sent):
    """Its keys are not taken for paths."""
    with pytest.raises(TypeError, match=r"images (is|has) .*[dD]ict.*give"):
        sent(images)
    assert not is_single(images)
    with pytest.raises(TypeError, match="give a list"):
        items_of(images, IMAGES)


# Uploads and asynchronous files


@pytest.mark.parametrize("framework", ["starlette.datastructures", "fastapi"])
@pytest.mark.parametrize("max_size", [10, 10**6], ids=["on disk", "in memory"])
def test_uploads(framework, max_size, sent):
    """The file of an UploadFile is read from where it stands, though its own read is a coroutine function."""
    upload = pytest.importorskip(framework).UploadFile
    with SpooledTemporaryFile(max_size=max_size) as file:
        file.write(b"some.an uploaded image")
        file.seek(5)
        given = upload(file=file, filename="cat\n.jpg")
        assert source_name(given) == r"file object cat\n.jpg"
        assert sent(given) == [b"an uploaded image"]
        file.seek(5)
        assert sent([b"a", given]) == [b"a", b"an uploaded image"]
    assert "closed file" in reason(sent, given, "not_readable")


def test_uploads_without_a_read_of_their_own(sent):
    """Aiohttp's form fields have a binary file as `file`, which is read from where it stands."""
    field = pytest.importorskip("aiohttp.web").FileField
    file = io.BytesIO(b"some.an uploaded image")
    file.seek(5)
    given = field("photo", "cat.jpg", file, "image/jpeg", {})
    assert source_name(given) == "file object cat.jpg"
    assert sent(given) == [b"an uploaded image"]
    assert is_single(given)
    file.seek(5)
    assert sent([b"a", given]) == [b"a", b"an uploaded image"]
    text = field("photo", "cat.jpg", io.StringIO("text"), "image/jpeg", {})
    assert "open it in binary mode" in reason(sent, text, "kind")
    assert "is not an image" in reason(sent, SimpleNamespace(file="cat.jpg"), "kind")


def test_asynchronous_files(sent, tmp_path):
    """They say that they are to be awaited, alone as well, where AsyncClient could take their lines for images."""
    (tmp_path / "a.jpg").write_bytes(b"one\ntwo\n")

    class Stream:  # whose read is no coroutine function, but returns what is to be awaited
        def read(self, size):
            return asyncio.sleep(0)

    async def main():
        async with await anyio.open_file(tmp_path / "a.jpg", "rb") as file:
            for image in (file, Stream(), asyncio.StreamReader()):
                assert "await it and give the bytes" in await asyncio.to_thread(reason, sent, image, "kind")
            async with AsyncClient("", model="m", transport=FakeTransport()) as client:
                with pytest.raises(InvalidImage, match=r"image 0 of 1.*await it and give the bytes"):
                    await client.embed(file)

    asyncio.run(main())


# Tensors and arrays


def to_tensor(array):
    return torch.tensor(np.array(array))


class Foreign:
    """A tensor of another library, as numpy's protocol for these wants it."""

    def __init__(self, array):
        self._array = array
        self.ndim, self.shape, self.dtype = array.ndim, array.shape, f"<dtype: '{array.dtype}'>"

    def __array__(self, dtype=None, copy=None):
        return self._array

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return map(type(self), self._array)


class Exchanged:
    """A tensor of a library that has the standard exchange (DLPack) alone, and names its types its own way."""

    def __init__(self, array):
        # a copy, since numpy exports no array that is read-only
        self._array = np.array(array)
        self.ndim, self.shape, self.dtype = array.ndim, array.shape, f"some.core.{array.dtype}"

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return map(type(self), self._array)


LIBRARIES = {"numpy": np.asarray, "torch": to_tensor, "foreign": Foreign, "dlpack": Exchanged}


@pytest.fixture(params=LIBRARIES)
def made(request):
    return LIBRARIES[request.param]


def pixels(encoded):
    return np.asarray(decode(encoded, Limits()))


def test_colors_first_or_last(made, sent):
    """One axis of 3 is the colors; the pixels are the same. Alone, in a list, as a view."""
    first = PIXELS.transpose(2, 0, 1)
    for array in (PIXELS, first, PIXELS[:, ::-1][:, ::-1], np.ascontiguousarray(first)):
        for images in (made(array), [made(array)]):
            (got,) = sent(images)
            assert np.array_equal(pixels(got), PIXELS)
    assert is_single(made(PIXELS))


def test_batches(made, sent):
    """Four axes are a list of images."""
    batch = np.stack([PIXELS, PIXELS[::-1]])
    for images in (batch, batch.transpose(0, 3, 1, 2)):
        got = sent(made(images))
        assert np.array_equal(np.stack([*map(pixels, got)]), batch)
        assert not is_single(made(images))
        assert len(list(items_of(made(images), IMAGES)())) == 2


def test_an_encoded_file_as_an_array(made, sent):
    """One axis of bytes is a file, as OpenCV's imencode and torchvision's read_file give it."""
    data = made(np.frombuffer(b"an encoded file", np.uint8))
    assert sent(data) == sent([data]) == [b"an encoded file"]


@pytest.mark.parametrize("shape", [(3, 5, 3), (3, 1, 3), (3, 3, 3), (3, 5, 4), (3, 5, 1)])
def test_what_may_be_either(shape, made, sent):
    """It is not guessed which axis is the colors; a PIL image says it."""
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    said = reason(sent, made(array), "shape")
    assert f"shape {shape}" in said
    assert "first axis or the last" in said
    last = re.search(r"fromarray\((array(\[.*\])?)\) if they are the last", said)
    assert Image.fromarray(array[:, :, 0] if last[2] else array).size == shape[1::-1]  # what it advises can be done
    assert Image.fromarray(array.transpose(1, 2, 0)).size == shape[:0:-1]
    assert "transpose(1, 2, 0)" in said


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 7), np.uint8), "shape (5, 7)"),
        (np.zeros((5, 7, 4), np.uint8), "shape (5, 7, 4)"),
        (np.zeros((4, 5, 7), np.uint8), "shape (4, 5, 7)"),
        (np.zeros((1, 5, 7), np.uint8), "shape (1, 5, 7)"),
        (np.zeros((5, 7, 1), np.uint8), "shape (5, 7, 1)"),
        (np.zeros((0, 7, 3), np.uint8), "at least one pixel"),
        (np.zeros((3, 0, 7), np.uint8), "at least one pixel"),
        (np.zeros((2, 5, 7, 3), np.uint8), "shape (2, 5, 7, 3)"),
        (np.zeros((3, 5, 7), np.float32), "float32; it must be uint8"),
        (np.zeros((3, 5, 7), np.int8), "int8; it must be uint8"),
        (np.zeros(5, np.float32), "float32; it must be uint8"),
        (np.array(5, np.uint8), "shape ()"),
    ],
)
def test_other_arrays(array, says, made, sent):
    """They say their shape and type, and what it must be."""
    assert says in reason(sent, made(array), "shape").replace("'>", "")


def test_tensors_that_cannot_be_read_here(sent):
    """One of another device, and one of a type that numpy has not."""
    assert "tensor.cpu()" in reason(sent, torch.zeros(3, 5, 7, dtype=torch.uint8, device="meta"), "not_readable")
    assert "torch.bfloat16; it must be uint8" in reason(sent, torch.zeros(3, 5, 7, dtype=torch.bfloat16), "shape")
    assert "torch.float32; it must be uint8" in reason(sent, torch.zeros(3, 5, 7, requires_grad=True), "shape")
    assert source_name(torch.zeros(3, 5, 7, dtype=torch.uint8)) == "Tensor (3, 5, 7) torch.uint8"


def test_a_large_tensor_is_not_copied():
    """Its size is seen before it is brought here."""

    class Elsewhere:
        ndim, shape, dtype = 3, (10**6, 10**6, 3), "uint8"

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("brought here")

    with pytest.raises(SourceError, match="sent as 3000000000000 bytes, over the limit of 1000"):
        read_image(Elsewhere(), max_bytes=1000, fetch=str.encode)


def test_a_tensor_without_dimensions(made, sent):
    """It is one image, that cannot be used, and no iterable."""
    with pytest.raises(InvalidImage, match=r"shape \(\)"):
        sent(made(np.array(5, np.uint8)))


def test_the_client_imports_no_tensor_library():
    """Whoever has a tensor has imported its library; the client does not."""
    rooms = "vitriton._images.sources, vitriton._images.lossless"
    code = f"import sys, {rooms}; print({{'torch', 'starlette'}} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_one_picture(kind, address, pictures, files, embeddings):
    """A real server gives every form of a picture the same embedding, from `embed` and from `stream`."""
    picture, file = pictures[0], files[0]
    forms = [
        {"bytes": file, "path": None},
        io.BytesIO(file),
        picture,
        picture.transpose(2, 0, 1),
        to_tensor(picture),
        to_tensor(picture.transpose(2, 0, 1)),
        Foreign(picture),
        np.frombuffer(file, np.uint8),
    ]
    with make_client(kind)(address, model="tiny") as client:
        np.testing.assert_allclose(client.embed(forms), np.repeat(embeddings[:1], len(forms), axis=0), rtol=1e-6)
        forms[1].seek(0)
        rows = [result.embedding for result in client.stream(iter(forms))]
        np.testing.assert_allclose(rows, np.repeat(embeddings[:1], len(forms), axis=0), rtol=1e-6)


def test_file_objects_as_before(sent, tmp_path):
    """An ordinary file that has a `file` of its own is read itself."""

    class Wrapped(io.BytesIO):
        file = io.BytesIO(b"inner")

    assert sent(Wrapped(b"outer")) == [b"outer"]
