"""Every public name of the five packages, with the module that it comes from. A change here is a change for users."""

import importlib
import inspect

import pytest

pytestmark = pytest.mark.usefixtures("torch")  # `vitriton_export.export_model` brings it

PUBLIC = {
    "vitriton": {
        "vitriton._async_client": "AsyncClient",
        "vitriton._call.plan": "DType OnError",
        "vitriton._call.results": "Result",
        "vitriton._call.service": "WaitFor",
        "vitriton._call.settings": "Preprocess",
        "vitriton._call.stats": "Stats",
        "vitriton._client": "Client",
        "vitriton._embed": "embed",
        "vitriton._errors": """
            AccessDenied ClientClosed ClientError ContractMismatch DeadlineExceeded InferenceFailed InputCode
            InputProblem InvalidImage InvalidInput InvalidText InvalidVideo ModelNotFound ModelNotReady PipelineMismatch
            ServerBusy ServerError TransportError Unavailable VitritonError
        """,
        "vitriton._images.pixels": "PillowVersionWarning",
        "vitriton._images.sources": "ImageLike",
        "vitriton._options": "Options",
        "vitriton._pipeline.pipeline": "pipeline",
        "vitriton._served.catalog": "list_models",
        "vitriton._served.model": "ModelInfo ModelOutput",
        "vitriton._served.texts": "TextRules",
        "vitriton._version": "__version__",
        "vitriton._wire.connection": "TLS Token",
        "vitriton._wire.transport": "Transport",
    },
    "vitriton.testing": {
        "vitriton.testing": "FakePending FakeTransport busy invalid_images invalid_texts model_died unavailable",
        "vitriton._wire.transport": "CallError Code InferReply InferRequest",
    },
    "vitriton.video": {
        "vitriton._video.frame": "Frame",
        "vitriton._video.source": "VideoLike",
        "vitriton.video": "frames",
    },
    "vitriton_export": {
        "vitriton._version": "__version__",
        "vitriton_export._errors": "ExportError HubError ParityError",
        "vitriton_export._export": "ExportResult TowerResult export_model",
        "vitriton_export._options": "DEFAULT_MODEL ExportOptions",
        "vitriton_export._verify.report": "TowerReport VerifyOptions VerifyReport verify_model",
    },
    "vitriton_server": {
        "vitriton._version": "__version__",
        "vitriton_server._config": "WatchPolicy",
        "vitriton_server._errors": """
            AddressError InstallationError InvalidConfiguration LauncherError ModelLoadError NotReadyInTime
            RepositoryError ServerDied ServerStopped WrongOutputs
        """,
        "vitriton_server._process.cores": "usable_cores",
        "vitriton_server._server": "TritonServer",
    },
    "vitriton_bench": {"vitriton._version": "__version__"},
    "vitriton_api": {"vitriton._version": "__version__"},
    "vitriton_search": {"vitriton._version": "__version__"},
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    """`__all__` has these names in order, and each is what the module that defines it has."""
    module = importlib.import_module(package)
    origins = {name: origin for origin, names in PUBLIC[package].items() for name in names.split()}
    assert sorted(module.__all__) == sorted(origins)
    for name, origin in origins.items():
        assert getattr(module, name) is getattr(importlib.import_module(origin), name), name


@pytest.mark.parametrize(
    "package", [package for package in PUBLIC if package not in ("vitriton.testing", "vitriton.video")]
)
def test_nothing_else_looks_public(package):
    """What a package shows beside `__all__` are its modules, private names, and what typing and annotations leave."""
    module = importlib.import_module(package)
    left = {"TYPE_CHECKING", "Any", "annotations"}
    shown = {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert shown - left <= set(module.__all__)


@pytest.mark.parametrize(
    "package", [package for package in PUBLIC if package not in ("vitriton_bench", "vitriton_api", "vitriton_search")]
)
def test_public_names_have_a_docstring(package):
    """Each class and function says what it is for."""
    module = importlib.import_module(package)
    public = [(name, getattr(module, name)) for name in module.__all__]
    assert [
        name for name, value in public if inspect.isroutine(value) or inspect.isclass(value) if not value.__doc__
    ] == []
