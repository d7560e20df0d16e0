"""Unknown keyword arguments: every public function and class names the parameter that was meant."""

import importlib
import inspect
import subprocess
import sys
from types import FunctionType

import pytest
from contract.test_exported_members import PUBLIC
from vitriton import AsyncClient, Client, Options, list_models, pipeline
from vitriton._keywords import suggests_keywords
from vitriton._pipeline.pipeline import FeatureExtractionPipeline, ImageFeatureExtractionPipeline
from vitriton.testing import FakeTransport, InferReply, InferRequest

# What the libraries give, and callers do not make. A transport is given requests, and gives replies.
GIVEN = [
    "Result",
    "Stats",
    "ModelInfo",
    "ModelOutput",
    "TextRules",
    "InputProblem",
    "ExportResult",
    "TowerResult",
    "VerifyReport",
    "TowerReport",
    "FakePending",
]
DATA = (InferReply, InferRequest)


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def has_options(function) -> bool:
    return any(one.kind is one.KEYWORD_ONLY for one in inspect.signature(function).parameters.values())


def surface() -> dict[str, FunctionType]:
    """The public functions and constructors, and the calls of the pipelines."""
    found = dict.fromkeys([ImageFeatureExtractionPipeline.__call__, FeatureExtractionPipeline.__call__])
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and not issubclass(thing, Exception) and name not in GIVEN and thing not in DATA:
                found |= {thing.__init__: None} if has_options(thing.__init__) else {}
            elif inspect.isfunction(thing) and parameters(thing):
                found[thing] = None
    return {function.__qualname__: function for function in found if function.__name__ != "usable_cores"}


@pytest.mark.usefixtures("torch")
def test_every_misspelling_is_answered():
    """In the whole public surface, each parameter is found again when its last letter is doubled."""
    functions = surface()
    assert {"Client.__init__", "AsyncClient.__init__", "Options.__init__", "pipeline", "TritonServer.__init__"} <= {
        *functions
    }
    assert {"ExportOptions.__init__", "export_model", "invalid_images", "FakeTransport.__init__"} <= {*functions}
    for name, function in functions.items():
        own = [None] if "self" in inspect.signature(function).parameters else []
        for parameter in parameters(function):
            with pytest.raises(TypeError) as caught:
                function(*own, **{f"{parameter}{parameter[-1]}": None})
            assert str(caught.value).endswith(f"; did you mean {parameter!r}?"), (name, parameter, str(caught.value))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pipeline("image-feature-extraction", model_name="m", url="h"), "'model_name'; did you mean 'model'?"),
        (lambda: Client("h", model_name="m"), "'model_name'; did you mean 'model'?"),
        (lambda: Client("h", model="m", timeout=1), "'timeout'; did you mean 'timeout_s'?"),
        (lambda: Options(timeout_s=1), "'timeout_s'; did you mean 'url_timeout_s'?"),
        (lambda: Client(url="h", model="m"), "'url'; did you mean 'address'?"),
        (lambda: AsyncClient(url="h", model="m"), "'url'; did you mean 'address'?"),
        (lambda: list_models(url="h"), "'url'; did you mean 'address'?"),
        (lambda: pipeline(model="m", address="h"), "'address'; did you mean 'url'?"),
        (lambda: pipeline(model="m", timeout_s=1), "'timeout_s'; did you mean client_options={'timeout_s': ...}?"),
        (
            lambda: pipeline(model="m", max_in_flight=1),
            "'max_in_flight'; did you mean client_options={'options': Options(max_in_flight=...)}?",
        ),
        (
            lambda: Client("h", model="m", max_in_flight=1),
            "'max_in_flight'; did you mean options=Options(max_in_flight=...)?",
        ),
        (lambda: list_models("h", api_key="k"), "'api_key'; it takes address, models, timeout_s, tls, token, headers"),
        (lambda: pipeline(model="m", use_auth_token="hf_x"), "'use_auth_token'; did you mean 'token'?"),
        (lambda: pipeline(model="m", top_k=3), "'top_k'; it takes task, model"),
        (lambda: FakeTransport(dimension=3), "'dimension'; it takes embed, dim"),
    ],
)
def test_what_users_wrote(call, says):
    """Close names, synonyms, and the argument to put it in; where there is none of these, the error lists all names."""
    with pytest.raises(TypeError) as caught:
        call()
    assert says in str(caught.value)
    assert "got an unexpected keyword argument" in str(caught.value)


def test_other_errors_stay_as_they_are():
    """A missing argument, and a TypeError of the function itself, even for an unknown argument of another function."""

    @suggests_keywords
    def outer(*, model=None):
        return Options(**{"max_in_fligth": 1}) if model else len(3)

    with pytest.raises(TypeError, match=r"^object of type 'int' has no len\(\)$"):
        outer()
    with pytest.raises(TypeError, match=r"Options.*'max_in_fligth'; did you mean 'max_in_flight'\?$"):
        outer(model="m")
    with pytest.raises(TypeError, match="missing 1 required"):
        Client(model="m")


def test_functions_stay_what_they_are():
    """Names, documentation and signatures; a client's methods are not wrapped."""
    assert inspect.iscoroutinefunction(AsyncClient.embed)
    assert not hasattr(Client.embed, "__wrapped__")
    assert list(inspect.signature(Client).parameters)[:2] == ["address", "model"]
    assert str(inspect.signature(Options)).startswith("(*, max_in_flight: ")
    assert pipeline.__name__ == "pipeline"
    assert "drop-in replacement" in pipeline.__doc__


@pytest.mark.usefixtures("subprocesses")
def test_the_comparison_of_names_is_imported_when_needed():
    """`import vitriton` stays quick."""
    code = "import sys, vitriton; vitriton.Client; print('difflib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
