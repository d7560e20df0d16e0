"""The forms of a vector, against numpy's own arithmetic."""

import base64
import json

import numpy as np
import orjson
import pytest
from vitriton_api._encodings import ENCODINGS, encoded
from vitriton_api._errors import RequestRefused

RANDOM = np.random.default_rng(0)
VECTORS = [
    RANDOM.normal(size=384).astype(np.float32),
    RANDOM.normal(size=1).astype(np.float32),
    RANDOM.normal(size=13).astype(np.float32) * 1e-30,
    np.array([3e38, -3e38, 1.0], np.float32),
    np.array([0.0, -0.0, 1e-45, -1e-45], np.float32),
    np.zeros(9, np.float32),
]


def read(vector: np.ndarray, encoding: str) -> object:
    """As a caller reads it."""
    return json.loads(orjson.dumps(encoded(vector, encoding), option=orjson.OPT_SERIALIZE_NUMPY))


@pytest.mark.parametrize("vector", VECTORS, ids=len)
def test_float_and_base64_are_exact(vector):
    """To the last bit, also the sign of zero and the smallest numbers."""
    bits = vector.view(np.uint32).tolist()
    assert np.array(read(vector, "float")).astype(np.float32).view(np.uint32).tolist() == bits
    assert np.frombuffer(base64.b64decode(read(vector, "base64")), "<u4").tolist() == bits


def test_the_shortest_decimal_form_reads_back():
    """Of a million numbers of every exponent."""
    vector = RANDOM.integers(0, 2**32, 1_000_000, dtype=np.uint32).view(np.float32)
    vector = vector[np.isfinite(vector)]
    again = np.array(read(vector, "float")).astype(np.float32)
    assert (again.view(np.uint32) == vector.view(np.uint32)).all()


@pytest.mark.parametrize("vector", VECTORS, ids=len)
def test_integers(vector):
    """Each vector is scaled by its largest number, which is 127 or -127."""
    largest = max(abs(float(number)) for number in vector)
    by_hand = [round(127 * float(number) / largest) if largest else 0 for number in vector]
    assert read(vector, "int8") == by_hand
    assert read(vector, "uint8") == [number + 128 for number in by_hand]


@pytest.mark.parametrize("vector", VECTORS, ids=len)
def test_bits(vector):
    """sentence-transformers' arithmetic: packbits(x > 0), and 128 less for the signed form."""
    by_hand = np.packbits((vector > 0).reshape(1, -1), axis=1)[0]
    assert read(vector, "ubinary") == by_hand.tolist()
    assert read(vector, "binary") == (by_hand.astype(int) - 128).tolist()


def test_int8_keeps_the_cosine():
    """Of vectors of any length."""
    a, b = RANDOM.normal(size=(2, 768)).astype(np.float32)
    b = a + b * 0.3

    def cosine(x, y):
        x, y = np.asarray(x, float), np.asarray(y, float)
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    assert abs(cosine(a, b) - cosine(read(a, "int8"), read(1000 * b, "int8"))) < 0.002


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_say(encoding, number):
    """Base64 has it; the others are an error, and never a null among numbers."""
    vector = np.array([1, number], np.float32)
    if encoding == "base64":
        assert np.frombuffer(base64.b64decode(read(vector, encoding)), "<f4").tobytes() == vector.tobytes()
        return
    with pytest.raises(RequestRefused, match="NaN or infinity") as refused:
        encoded(vector, encoding)
    assert (refused.value.status, refused.value.code) == (502, "not_finite")
