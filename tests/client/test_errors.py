import pickle
import re
from pathlib import Path
from typing import get_args

import pytest
import vitriton
from vitriton import DeadlineExceeded, InputCode, InputProblem, InvalidImage, ModelNotFound, Unavailable, preprocessing
from vitriton._errors import without_frames

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "guides" / "client.md"
SERVICE = DOCUMENTATION.with_name("service.md")


def test_tree():
    """The public errors are the tree that is drawn in their module."""
    public = [getattr(vitriton, name) for name in vitriton.__all__]
    errors = [one for one in public if isinstance(one, type) and issubclass(one, vitriton.VitritonError)]
    assert {error.__name__: error.__bases__[0].__name__ for error in errors} == {
        "VitritonError": "Exception",
        "ClientError": "VitritonError",
        "InvalidInput": "ClientError",
        "InvalidImage": "InvalidInput",
        "InvalidText": "InvalidInput",
        "TransportError": "ClientError",
        "Unavailable": "TransportError",
        "DeadlineExceeded": "TransportError",
        "ServerError": "ClientError",
        "ServerBusy": "ServerError",
        "ModelNotFound": "ServerError",
        "ModelNotReady": "ServerError",
        "AccessDenied": "ServerError",
        "InferenceFailed": "ServerError",
        "ContractMismatch": "ClientError",
        "PipelineMismatch": "ContractMismatch",
        "ClientClosed": "ClientError",
        "InvalidVideo": "VitritonError",
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
    problems = [InputProblem(3 + number, "cat.heic", "no decoder") for number in range(count)]
    assert str(InvalidImage(problems, total)) == text


def test_text_is_bounded():
    """A thousand bad images make a short text and a full list."""
    error = InvalidImage([InputProblem(number, "x", "y") for number in range(1000)], 1000)
    assert str(error).endswith("; and 995 more")
    assert len(error.errors) == 1000


def test_a_problem_without_a_code():
    """It is made of three things as before, and its code is "other"; an error has the code of its first image."""
    problem = InputProblem(3, "cat.heic", "no decoder")
    assert problem.code == "other"
    assert InvalidImage([(1, "a", "b", "too_large"), problem], 8).code == "too_large"
    assert InvalidImage([(3, "cat.heic", "no decoder")]).errors == (problem,)
    both = InvalidImage([problem, (1, "a", "b", "too_large")], 8)
    assert (both.index, [error.index for error in both.errors]) == (1, [1, 3])


def test_the_codes_of_preprocessing_are_codes_of_the_client():
    """What is found inside Triton has a code that a caller knows, and docs/guides/client.md has a row for each."""
    table = DOCUMENTATION.read_text().partition("| code | problem |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    assert set(get_args(preprocessing.Code)) < set(get_args(InputCode))
    assert tuple(rows) == get_args(InputCode)
    statuses = SERVICE.read_text().partition("| error | HTTP status |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", statuses)) == set(rows)


@pytest.mark.parametrize(
    "error",
    [
        InvalidImage([InputProblem(1, "a", "b", "too_large"), InputProblem(2, "a", "b", "not_fetched")]),
        InvalidImage([InputProblem(1, "a", "b")], 3, address="h", model="m", status="INVALID_ARGUMENT"),
        DeadlineExceeded("late", timeout_s=2.0, address="h", model="m"),
        ModelNotFound("no", available=["a"], address="h", model="m"),
        Unavailable("down", address="h"),
    ],
)
def test_pickle(error):
    """Errors come through multiprocessing and task queues whole."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


def _raised(error):
    try:
        raise error
    except type(error):
        return error


def test_without_frames():
    """What is behind an error loses its frames too, by cause and by context at once, and a circle comes to an end."""
    cause, context, behind, error = (_raised(ValueError(name)) for name in ("cause", "context", "behind", "error"))
    error.__cause__, error.__context__, context.__context__, behind.__context__ = cause, context, behind, error
    assert without_frames(error) is error
    assert all(one.__traceback__ is None for one in (cause, context, behind, error))
    assert (error.__cause__, error.__context__) == (cause, context)


def test_attempts_and_text_of_the_last_one_survive_pickling():
    """What was changed after an error was made is in its copy, whatever its constructor takes."""
    error = InvalidImage([InputProblem(1, "a", "b")], 3)
    error.args, error.attempts = ("said later",), 7
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.attempts, copy.index) == ("said later", 7, 1)
