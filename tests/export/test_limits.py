"""Limits of preprocessing: what is refused, what it says, and that memory keeps within what was reserved for it."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image
from support import attacks, awkward
from support.awkward import encode
from typer.testing import CliRunner
from vitriton import preprocessing
from vitriton.cli import app
from vitriton.preprocessing import (
    CenterCrop,
    ConvertRGB,
    ImageError,
    Limits,
    Memory,
    PreprocessSpec,
    Rescale,
    Resize,
    Step,
    decoding,
    headers,
    preprocess,
)
from vitriton_export import ExportError, ExportOptions

PHOTO = attacks.photos()[0]
STEPS: tuple[Step, ...] = (Resize("bicubic", height=32, width=32),)
PATIENCE_S = 30.0
_SLACK = 16 << 20  # pages that the allocator keeps


def spec(*, steps: tuple[Step, ...] = STEPS, **limits: object) -> PreprocessSpec:
    return PreprocessSpec(steps, 32, 32, dataclasses.replace(Limits(), **limits))


def animation(format: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (8, 8), (20 * number, 9, 9)) for number in range(frames)]
    return encode(pictures[0], format, save_all=True, append_images=pictures[1:])


@pytest.mark.parametrize(
    ("data", "limits", "says", "code"),
    [
        (
            PHOTO,
            {"max_bytes": 1000},
            "bytes are over the model's limit of 1000 (max_bytes); send a smaller file",
            "too_large",
        ),
        (PHOTO, {"max_pixels": 1000}, "pixels are over the model's limit of 1000 (max_pixels); scale", "too_large"),
        (
            attacks.png_of_zeros(20_000, 20_000),
            {},
            "400000000 pixels are over the model's limit of 178956970 (max_pixels); scale the image down",
            "too_large",
        ),
        (PHOTO, {"formats": ("PNG", "WEBP")}, "known format (PNG, WEBP), or cut short", "format"),
        (
            animation("GIF", 3),
            {"max_frames": 2},
            "more frames than the model's limit of 2 (max_frames); send only the first",
            "too_large",
        ),
        (
            PHOTO,
            {"max_decode_bytes": 1 << 20},
            "the model's limit of 1048576 (max_decode_bytes); scale the image down",
            "too_large",
        ),
    ],
)
def test_a_refusal_names_its_limit(data, limits, says, code):
    """What was too much, the limit's value, its name in preprocess.json and what to do; no flag of the operator's."""
    with pytest.raises(ImageError) as caught:
        preprocess(data, spec(**limits))
    assert says in str(caught.value)
    assert "--" not in str(caught.value)
    assert caught.value.code == code


def test_limits_are_checked_on_the_header():
    """A file that ends after its header is refused for its size, and not for its end."""
    header = attacks.png_of_zeros(9000, 9000)[:60]
    with pytest.raises(ImageError, match="max_pixels"):
        preprocess(header, spec(max_pixels=80_999_999))
    with pytest.raises(ImageError, match="max_decode_bytes"):
        preprocess(header, spec(max_decode_bytes=500_000_000))
    with pytest.raises(ImageError, match=r"truncated|cannot be decoded"):
        preprocess(header, spec())


def test_limits_are_written_and_read():
    """Every limit comes back from the file; an older file, which has two of them, has the defaults of the others."""
    limits = Limits(max_pixels=1, formats=("PNG",), max_bytes=2, max_frames=3, max_decode_bytes=4)
    written = PreprocessSpec(STEPS, 32, 32, limits).to_json()
    assert PreprocessSpec.from_json(written).limits == limits
    older = json.loads(written) | {"limits": {"max_pixels": 1, "formats": ["PNG"]}}
    assert PreprocessSpec.from_json(json.dumps(older)).limits == Limits(max_pixels=1, formats=("PNG",))
    assert PreprocessSpec.from_json(json.dumps(older | {"limits": {}})).limits == Limits()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_frames_are_counted_where_they_are_limited(format):
    """As many as the limit pass, one more does not; a picture alone is one."""
    data = animation(format, 4)
    assert preprocess(data, spec(max_frames=4)).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="max_frames"):
        preprocess(data, spec(max_frames=3))
    assert preprocess(encode(Image.new("RGB", (9, 9)), format), spec(max_frames=1)).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["frames.gif", "frames.webp", "loop.tiff"])
def test_of_many_frames_the_first_is_used(name):
    """Frames without end, and pages in a circle, cost nothing where nobody limits them."""
    data = attacks.many_frames(1000)[name]
    with Image.open(io.BytesIO(data)) as image:
        first = image.convert("RGB")
    assert (preprocess(data, spec()) == preprocessing.to_pixels(first, spec())).all()
    if name == "loop.tiff":
        assert preprocess(data, spec(max_frames=1)).shape == (32, 32, 3)
    else:
        with pytest.raises(ImageError, match="max_frames"):
            preprocess(data, spec(max_frames=999))


def test_counting_ends():
    """A GIF of more blocks than are looked at counts as over the limit."""
    empty_comments = b"\x21\xfe\0" * (headers._MAX_BLOCKS + 1)
    data = encode(Image.new("P", (8, 8)), "GIF")[:-1] + empty_comments + b";"
    with pytest.raises(ImageError, match="max_frames"):
        preprocess(data, spec(max_frames=1000))


def test_a_tiff_of_two_sizes_is_refused():
    """The one that Pillow passes over must not be the one by which memory is reserved."""
    data = bytearray(encode(Image.new("L", (600, 400)), "TIFF"))
    (start,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    table = data[start + 2 : start + 2 + 12 * entries]
    struct.pack_into("<L", data, 4, len(data))
    decoy = struct.pack("<HHLL", 256, 99, 1, 1)  # a type that does not exist
    data += struct.pack("<H", entries + 1) + decoy + table + bytes(4)
    with pytest.raises(ImageError, match="states two sizes, one of them 600 x 400"):
        preprocess(bytes(data), spec())


def test_a_long_exif_is_looked_through_for_the_orientation():
    """Longer than cameras write it, it turns the picture as a short one does; a list of numbers does not."""
    picture = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    short = encode(picture, "PNG", exif=exif)
    exif[0x010E] = "x" * 100_000
    for data in (short, encode(picture, "PNG", exif=exif), encode(picture, "WEBP", exif=exif)):
        assert preprocessing.decode(data, Limits()).size == (20, 40)
    assert preprocessing.decode(attacks.png_with_exif(100_000), Limits()).size == (160, 120)


_MEASURE = """
import ctypes, json, sys
from pathlib import Path
import vitriton.preprocessing.memory as module
from vitriton.preprocessing import ImageError, PreprocessSpec, preprocess

def status(key):
    return 1024 * int(Path("/proc/self/status").read_text().partition(key + ":")[2].split()[0])

original, reserved, results = module._needed_bytes, [], {}
module._needed_bytes = lambda *arguments: reserved.append(original(*arguments)) or reserved[-1]
spec = PreprocessSpec.from_json(sys.argv[1])
for path in sorted(Path(sys.argv[2]).iterdir()):
    refused, data = "", path.read_bytes()
    reserved.clear()
    ctypes.CDLL(None).malloc_trim(0)  # or what the last one left would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark
    before = status("VmRSS")
    try:
        preprocess(data, spec)
    except ImageError as exc:
        refused = str(exc)
    results[path.name] = [status("VmHWM") - before, sum(reserved), refused]
print(json.dumps(results))
"""


def measured(folder: Path, files: dict[str, bytes], steps: tuple[Step, ...] = STEPS) -> dict[str, tuple[int, int, str]]:
    """Bytes by which a process grows, the bytes that were reserved, and why the image was refused, by file."""
    for name, data in {"0.jpg": PHOTO, **files}.items():  # the first loads the decoders
        (folder / name).write_bytes(data)
    document = PreprocessSpec(steps, 32, 32).to_json()
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, document, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: tuple(values) for name, values in json.loads(done.stdout).items() if name in files}


def _pictures() -> dict[str, bytes]:
    """Each of 4 million pixels, the ways to encode it that need the most memory among them."""
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(io.BytesIO(PHOTO)) as photo:
        rgb = photo.convert("RGB").resize((2000, 2000))
    rgba = rgb.copy()
    rgba.putalpha(rgb.getchannel(0))
    gray = rgb.convert("L")
    return {
        "progressive.jpg": encode(rgb.convert("CMYK"), "JPEG", progressive=True, exif=turned),
        "turned.png": encode(rgba, "PNG", compress_level=1, exif=turned),
        "key.png": encode(rgb, "PNG", compress_level=1, transparency=(1, 2, 3)),
        "gray.gif": encode(gray, "GIF"),
        "floats.tiff": encode(gray.convert("F"), "TIFF", compression="tiff_deflate"),
        "strip.tiff": encode(rgba, "TIFF", compression="tiff_deflate", tiffinfo={278: 2000, 274: 6}),
        "lossy.webp": encode(rgb, "WEBP", method=0, exif=turned),
        "lossless.webp": encode(rgba, "WEBP", method=0, lossless=True, exif=turned),
        "alpha.avif": encode(rgba, "AVIF", speed=10, subsampling="4:4:4", exif=turned),
        "alpha.jp2": encode(rgba, "JPEG2000"),
        "plain.ppm": encode(rgb, "PPM"),
        "plain.bmp": encode(rgb, "BMP"),
        "large.ico": awkward._icon(encode(rgba, "PNG", compress_level=1)),
    }


@pytest.mark.usefixtures("subprocesses")
def test_memory_keeps_within_what_was_reserved(tmp_path):
    """Measured in a process of its own: from the file to the pixels, never more than the header made us expect."""
    wrong = {
        name: f"{grown / 4e6:.1f} bytes a pixel, {reserved / 4e6:.1f} reserved, {refused}"
        for name, (grown, reserved, refused) in measured(tmp_path, _pictures(), (ConvertRGB(), *STEPS)).items()
        if refused or grown > reserved + _SLACK
    }
    assert wrong == {}


@pytest.mark.usefixtures("subprocesses")
def test_memory_of_floats_keeps_within_what_was_reserved(tmp_path):
    """Rescaled before it is resized, the whole image is made of floats."""
    data = encode(Image.new("RGB", (3000, 3000), (9, 99, 199)), "PNG")
    [(grown, reserved, refused)] = measured(tmp_path, {"a.png": data}, (Rescale(1 / 255), *STEPS)).values()
    assert refused == ""
    assert grown < reserved + _SLACK


@pytest.mark.usefixtures("subprocesses")
def test_memory_of_thin_pictures_keeps_within_what_was_reserved(tmp_path):
    """Resizing makes an image between its passes, and coefficients for each row and column."""
    sizes = [(1, 1_000_000), (1_000_000, 1), (300, 30_000), (30_000, 300)]
    files = {f"{width}x{height}.png": attacks.png_of_zeros(width, height) for width, height in sizes}
    found = measured(tmp_path, files)
    assert {name: values for name, values in found.items() if values[2] or values[0] > values[1] + _SLACK} == {}


@pytest.mark.usefixtures("subprocesses")
def test_bombs_cost_no_memory(tmp_path):
    """What each is refused for is known before it is decoded; what Pillow copies of the file itself is not counted."""
    files = {**attacks.bombs(), "exif.png": attacks.png_with_exif(1_000_000)}
    wrong = {
        name: f"{grown / 1e6:.0f} MB, {refused}"
        for name, (grown, _, refused) in measured(tmp_path, files).items()
        if grown > (48 << 20) + 2 * len(files[name]) or bool(refused) == (name == "exif.png")
    }
    assert wrong == {}


def test_images_share_memory():
    """One that needs more than is left waits for the others, and is not overtaken."""
    memory, order = Memory(100), []
    inside, go_on = threading.Event(), threading.Event()

    def take(name: str, needed: int | None, started: threading.Event | None = None) -> None:
        taken = memory.take(needed)
        order.append(name)
        if started:
            started.set()
            assert go_on.wait(PATIENCE_S)
        memory.give_back(taken)

    first = threading.Thread(target=take, args=("first", 60, inside))
    first.start()
    assert inside.wait(PATIENCE_S)
    waiting = []
    for number, (name, needed) in enumerate([("all", None), ("small", 10), ("larger than all", 500)]):
        waiting.append(threading.Thread(target=take, args=(name, needed)))
        waiting[-1].start()
        while len(memory._waiting) <= number and waiting[-1].is_alive():
            pass
    assert order == ["first"]
    go_on.set()
    for thread in [first, *waiting]:
        thread.join(PATIENCE_S)
    assert order == ["first", "all", "small", "larger than all"]
    assert memory._left == 100


def test_out_of_memory_an_image_is_tried_once_more_alone(monkeypatch):
    """It may have been another's fault; if it is its own, it is refused by the limit's name."""
    real, calls = decoding.load, []

    def fails(times: int):
        def load(image):
            calls.append(memory._left)
            if len(calls) <= times:
                raise MemoryError
            return real(image)

        return load

    memory = Memory(1 << 30)
    monkeypatch.setattr(decoding, "load", fails(1))
    assert preprocess(PHOTO, spec(), memory).shape == (32, 32, 3)
    assert 0 < calls[0] < 1 << 30
    assert calls[1] == 0
    calls.clear()
    monkeypatch.setattr(decoding, "load", fails(2))
    with pytest.raises(
        ImageError, match=r"not enough memory to decode it within the model's limit of .*max_decode_bytes"
    ):
        preprocess(PHOTO, spec(), memory)
    assert memory._left == 1 << 30


_STARVE = """
import resource, sys
from pathlib import Path
from vitriton.preprocessing import ImageError, Memory, PreprocessSpec, preprocess

spec, memory = PreprocessSpec.from_json(sys.argv[1]), Memory(1 << 40)
large, small = (Path(path).read_bytes() for path in sys.argv[2:])
preprocess(small, spec, memory)
now = 1024 * int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (now + (64 << 20), now + (64 << 20)))
try:
    preprocess(large, spec, memory)
except ImageError as exc:
    print(exc)
print(preprocess(small, spec, memory).shape)
"""


@pytest.mark.usefixtures("subprocesses")
def test_what_the_kernel_refuses_is_a_refused_image(tmp_path):
    """A process that may not grow says so of the image, and goes on with the next."""
    (tmp_path / "large").write_bytes(attacks.png_of_zeros(12_000, 12_000))
    (tmp_path / "small").write_bytes(PHOTO)
    command = [sys.executable, "-c", _STARVE, spec().to_json(), str(tmp_path / "large"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, shape = done.stdout.splitlines()
    assert refused.startswith("there is not enough memory to decode it within the model's limit of 2147483648")
    assert shape == "(32, 32, 3)"


def test_a_crop_is_not_padded_beyond_the_limit():
    """A center crop pads what is smaller; of a thin image that is most of what comes out."""
    with pytest.raises(ImageError, match=r"1000 x 9000 pixels are over the model's limit of 1000000 \(max_pixels"):
        preprocess(attacks.png_of_zeros(1, 9000), spec(steps=(CenterCrop(1000, 1000),), max_pixels=1_000_000))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_image_bytes": 0}, "max_image_bytes is 0; it must be from 1 to 2147483647"),
        ({"max_image_pixels": 200_000_000}, "max_image_pixels is 200000000; it must be from 1 to 178956970"),
        ({"max_image_frames": 0}, "max_image_frames is 0; it must be from 1 to 1000000"),
        ({"max_decode_bytes": 9}, "max_decode_bytes is 9; it must be from 1048576"),
        ({"image_formats": ("PNG", "EPS")}, "image_formats has 'EPS'; choose of AVIF,BMP,"),
        ({"image_formats": ()}, "image_formats is empty; choose of AVIF,BMP,"),
    ],
)
def test_limits_that_cannot_be(options, says):
    """The value, and what it may be."""
    with pytest.raises(ExportError) as caught:
        ExportOptions(**options)
    assert says in str(caught.value)


def test_the_command_takes_limits(tmp_path, tiny_vit_checkpoint):
    """They are in preprocess.json and in the manifest; the gate ran on all formats all the same."""
    flags = "--max-image-bytes 5000 --max-image-pixels 90000 --max-image-frames 7 --image-formats png,ppm"
    target = ["--repository", str(tmp_path), "--name", "limited", "--outputs", "pooled"]
    done = CliRunner().invoke(
        app, ["export", str(tiny_vit_checkpoint), *target, *flags.split(), "--max-decode-bytes", "9000000"]
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "limited_preprocess" / "1" / "preprocess.json").read_text()
    assert PreprocessSpec.from_json(text).limits == Limits(90_000, ("PNG", "PPM"), 5000, 7, 9_000_000)
    manifest = json.loads((tmp_path / "limited_pooled" / "1" / "manifest.json").read_text())
    assert manifest["preprocessing"] == json.loads(text)
    assert manifest["parity"]["stages"][0]["images"] > 20
