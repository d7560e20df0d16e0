import subprocess
import sys

import pytest

HEAVY = (
    "typer",
    "rich",
    "httpx",
    "PIL",
    "numpy",
    "grpc",
    "tritonclient",
    "torch",
    "onnx",
    "onnxruntime",
    "transformers",
    "av",
)


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize(
    ("code", "brings"),
    [
        ("import vitriton", []),
        ("from vitriton import Client, InvalidImage", ["numpy"]),
        ("from vitriton import Client; Client('localhost:1', model='m')", ["numpy", "grpc", "tritonclient"]),
        ("from vitriton import AsyncClient, Options, Result, pipeline", ["numpy"]),
        ("from vitriton.testing import FakeTransport", ["numpy"]),
        ("from vitriton.video import frames", ["numpy"]),
        ("import vitriton.cli", ["typer"]),
    ],
)
def test_imports_are_light(code, brings):
    """What is not used is not imported."""
    check = f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert set(result.stdout.split()) - {"rich"} <= set(brings)


def test_version():
    """The version is the distribution's."""
    from importlib.metadata import version

    import vitriton

    assert vitriton.__version__ == version("vitriton")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vitriton.nothing
