import pickle

import pytest
import vitriton
from vitriton import DeadlineExceeded, ImageProblem, InvalidImage, ModelNotReady, Unavailable


def test_tree():
    """The public errors are the tree that is drawn in their module."""
    tree = {name: getattr(vitriton, name).__mro__[1].__name__ for name in vitriton.__all__ if name[0].isupper()}
    assert {
        name: base for name, base in tree.items() if base not in ("object", "tuple", "Exception", "UserWarning")
    } == {
        "InvalidImage": "VitritonError",
        "TransportError": "VitritonError",
        "Unavailable": "TransportError",
        "DeadlineExceeded": "TransportError",
        "ServerError": "VitritonError",
        "ServerBusy": "ServerError",
        "ModelNotReady": "ServerError",
        "InferenceFailed": "ServerError",
        "ContractMismatch": "VitritonError",
        "PipelineMismatch": "ContractMismatch",
    }


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [
        (1, 8, "image 3 of 8 (cat.heic): no decoder"),
        (1, None, "image 3 (cat.heic): no decoder"),
        (2, 8, "2 of 8 images cannot be used: image 3 (cat.heic): no decoder; image 4 (cat.heic): no decoder"),
    ],
)
def test_text(count, total, text):
    """One bad image is named in a sentence, several in a list."""
    problems = [ImageProblem(3 + number, "cat.heic", "no decoder") for number in range(count)]
    assert str(InvalidImage(problems, total)) == text


def test_text_is_bounded():
    """A thousand bad images make a short text and a full list."""
    error = InvalidImage([ImageProblem(number, "x", "y") for number in range(1000)], 1000)
    assert str(error).endswith("; and 995 more")
    assert len(error.errors) == 1000


@pytest.mark.parametrize(
    "error",
    [
        InvalidImage([ImageProblem(1, "a", "b")], 3, address="h", model="m", status="INVALID_ARGUMENT"),
        DeadlineExceeded("late", timeout_s=2.0, address="h", model="m"),
        ModelNotReady("no", available=["a"], address="h", model="m"),
        Unavailable("down", address="h"),
    ],
)
def test_pickle(error):
    """Errors come through multiprocessing and task queues whole."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)
