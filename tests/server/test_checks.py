"""What is looked at before Triton is started: the installation, the repository, the ports, the options."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from server.tiny_models import add_encoder, add_ensemble, copy_repository, make_full_repository
from vitriton_server import AddressError, InstallationError, InvalidConfiguration, RepositoryError, TritonServer
from vitriton_server._checks import findings
from vitriton_server._config import ServerConfig
from vitriton_server._process.locate import STUB, Host, find_libpython, locate, stub_python
from vitriton_server._process.log import failed_models, is_problem, loaded_model, port_was_taken, refused_options
from vitriton_server._process.ports import reserve
from vitriton_server._process.runtime import command, environment, prepare
from vitriton_server._rollout import repository as repository_checks

pytestmark = pytest.mark.usefixtures("work_folder")


_POOL = "--backend-config=onnxruntime,"


def make_file(path: Path, mode: int = 0o755, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine on which everything is there."""
    wheel = tmp_path / "site-packages" / "pytriton" / "tritonserver"
    make_file(wheel / "bin" / "tritonserver")
    make_file(wheel / "backends" / "python" / "libtriton_python.so")
    make_file(wheel / "python_backend_stubs" / "3.11" / STUB, mode=0o644)
    return Host(
        on_path=None,
        wheel=wheel,
        platform="Linux x86_64",
        glibc=(2, 36),
        python=(3, 11),
        python_bin=make_file(tmp_path / "venv" / "bin" / "python3").parent,
        in_venv=True,
        libpython=make_file(tmp_path / "lib" / "libpython3.11.so.1.0"),
        numpy="1.26.4",
        onnxruntime=True,
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"wheel": None},
            "nvidia-pytriton, which carries one, is not installed; .*`pip install --force-reinstall ./server`",
        ),
        ({"platform": "Linux aarch64"}, "this is Linux aarch64; serve the repository with NVIDIA's Triton image"),
        ({"glibc": (2, 31)}, "needs glibc 2.35 or later (Ubuntu 22.04, Debian 12), and this system has glibc 2.31"),
        ({"glibc": None}, "this system has another C library"),
        ({"python": (3, 14)}, "has no python backend for Python 3.14"),
        ({"libpython": None}, "libpython3.11.so.1.0 was not found"),
        ({"numpy": "2.3.1"}, "numpy 2.3.1 is installed for .*; `pip install 'numpy<2'`"),
        ({"numpy": None}, "numpy is not installed"),
        ({"onnxruntime": False}, "onnxruntime is not installed"),
        ({"python_bin": Path("/nowhere")}, "/nowhere/python3 does not exist"),
    ],
)
def test_what_is_missing_is_named(host: Host, changes: dict[str, object], text: str) -> None:
    """Each missing or unfit part gives its own error, which says what to do."""
    with pytest.raises(InstallationError, match=text.replace("(", r"\(").replace(")", r"\)")):
        locate(dataclasses.replace(host, **changes))  # type: ignore[arg-type]


def test_what_a_doctor_is_told(host: Host) -> None:
    """The Triton that would run; or, as the one problem, what is missing for it."""
    found = {finding.name: finding for finding in findings(host)}
    assert host.wheel is not None
    assert found["Triton"] == ("Triton", str(host.wheel / "bin" / "tritonserver"), None)
    assert found["libpython"].value == str(host.libpython)
    found = {finding.name: finding for finding in findings(dataclasses.replace(host, numpy="2.3.1"))}
    assert [name for name, finding in found.items() if finding.problem] == ["Triton"]
    assert "vitriton serve cannot start: numpy 2.3.1 is installed" in (found["Triton"].problem or "")
    assert found["python of the steps"].value.endswith("numpy 2.3.1")


def test_a_tritonserver_that_may_not_run(host: Host) -> None:
    """The error gives the command that repairs it."""
    assert host.wheel is not None
    (host.wheel / "bin" / "tritonserver").chmod(0o644)
    with pytest.raises(InstallationError, match="is not executable; `chmod"):
        locate(host)


def test_the_wheel_is_used_when_path_has_none(host: Host) -> None:
    """Its stub gets its run bit, the venv comes first on PATH, and the onnxruntime backend is put beside it."""
    installation = locate(host)
    runtime = prepare(installation)
    variables = environment(installation, 3, {"PATH": "/bin", "LD_LIBRARY_PATH": "/old"})
    assert (runtime.backends / "python" / STUB).stat().st_mode & 0o100
    assert (runtime.backends / "onnxruntime" / "model.py").is_file()
    assert variables["PATH"].split(":") == [str(host.python_bin), "/bin"]
    assert variables["LD_LIBRARY_PATH"].endswith(f"{host.libpython.parent}:/old")  # type: ignore[union-attr]
    assert variables["VITRITON_CPU_CORES"] == "3"
    assert variables["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert environment(installation, 3, {"MALLOC_MMAP_THRESHOLD_": "9"})["MALLOC_MMAP_THRESHOLD_"] == "9"


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("stub", [b"..libpython3.11.so.1.0..", b"..libpython3.12.so.1.0.."])
def test_a_tritonserver_on_path_comes_first(host: Host, tmp_path: Path, native: bool, stub: bytes) -> None:
    """With its own backends and libraries; this Python serves only where its stub is linked to the same version."""
    image = tmp_path / "opt"
    make_file(image / "backends" / "python" / STUB, content=stub)
    if native:
        make_file(image / "backends" / "onnxruntime" / "libtriton_onnxruntime.so")
    found = make_file(image / "bin" / "tritonserver")
    installation = locate(dataclasses.replace(host, on_path=found, wheel=None, numpy="2.3"))
    assert (installation.executable, installation.library_folders) == (found, ())
    assert installation.python_bin == (host.python_bin if b"3.11" in stub else None)
    backend = prepare(installation).backends / "onnxruntime"
    assert (backend / "libtriton_onnxruntime.so").exists() is native
    assert (backend / "model.py").exists() is not native


@pytest.mark.parametrize(("native", "quota"), [(True, True), (True, False), (False, True)])
def test_one_pool_of_threads_for_the_native_backend(
    host: Host, python_repository: Path, native: bool, quota: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a quota, which it does not know; our own backend reads the launcher's variable, and gets no setting."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8 if quota else 3)))
    installation = dataclasses.replace(locate(host), native_onnxruntime=native)
    config = ServerConfig(repository=python_repository, triton_arguments=[f"{_POOL}enable-global-threadpool=0"])
    line = command(config, reserve(config), installation, prepare(installation), 3)
    given = [option.removeprefix(_POOL) for option in line if option.startswith(_POOL)]
    pool = ["enable-global-threadpool=1", "intra_op_thread_count=3", "inter_op_thread_count=3"]
    own = pool if native and quota else []
    assert given == [*own, "enable-global-threadpool=0"]  # of two equal keys, Triton takes the last


def test_a_tritonserver_on_path_without_backends(host: Host, tmp_path: Path) -> None:
    """The error says where they were looked for."""
    lone = make_file(tmp_path / "elsewhere" / "tritonserver")
    with pytest.raises(InstallationError, match="not its backends"):
        locate(dataclasses.replace(host, on_path=lone))


@pytest.mark.usefixtures("subprocesses")
def test_this_machine_can_serve() -> None:
    """The environment of these tests has all that is needed, and its stub names its Python."""
    host = Host.detect()
    installation = locate(host)
    assert installation.stub is None or stub_python(installation.stub) == host.python
    assert host.numpy == np.__version__


def test_where_libpython_is_looked_for(tmp_path: Path) -> None:
    """The Python's own folders come first, then what the dynamic linker knows; the exact name comes first."""
    near, far = tmp_path / "near", tmp_path / "far"
    listed = make_file(far / "libpython3.11.so.1.0")
    ldconfig = f"1 libs found\n\tlibpython3.11.so.1.0 (libc6,x86-64) => {listed}\n"
    names = ["libpython3.11.so.1.0"]
    assert find_libpython(names, [near], "") is None
    assert find_libpython(names, [near], ldconfig) == listed
    own = make_file(near / "libpython3.11.so.1.0")
    assert find_libpython(names, [near], ldconfig) == own


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A repository as the export leaves it."""
    return make_full_repository(tmp_path / "repository")


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    """Missing, a file, and empty are told apart."""
    (tmp_path / "empty").mkdir()
    for path, text in (
        (tmp_path / "missing", "does not exist"),
        (make_file(tmp_path / "file"), "is a file; name a folder"),
        (tmp_path / "empty", "holds no models"),
    ):
        with pytest.raises(RepositoryError, match=text):
            repository_checks.check(path)


@pytest.mark.parametrize("inside", ["tiny_pooled", "tiny_pooled/1"])
def test_the_folder_of_a_single_model(exported: Path, inside: str) -> None:
    """The error names the folder above, whether a model's own folder was given or a version's."""
    text = rf"{inside} belongs to one model, tiny_pooled; name the folder of all models: {exported}$"
    with pytest.raises(RepositoryError, match=text):
        repository_checks.check(exported / inside)


def test_a_repository_that_is_watched_may_be_empty(tmp_path: Path) -> None:
    """Exports will come; but the folder must be there."""
    (tmp_path / "empty").mkdir()
    assert repository_checks.check(tmp_path / "empty", may_be_empty=True) == []
    with pytest.raises(RepositoryError, match="does not exist"):
        repository_checks.check(tmp_path / "missing", may_be_empty=True)


@pytest.mark.parametrize("option", ["--model-control-mode=explicit", "--repository-poll-secs=9"])
def test_watching_decides_how_triton_takes_models(option: str) -> None:
    """What would undo that is refused; without watching it is Triton's own business."""
    with pytest.raises(InvalidConfiguration, match="does not go together with --watch"):
        TritonServer("r", watch_repository=True, triton_arguments=[option])
    TritonServer("r", triton_arguments=[option])


def test_a_leftover_folder(exported: Path) -> None:
    """Triton would take it for a model and refuse everything; plain files do no harm."""
    (exported / "README.md").write_text("hello")
    assert "tiny_pooled" in repository_checks.check(exported)
    (exported / ".tmp-123").mkdir()
    with pytest.raises(RepositoryError, match=r"holds \.tmp-123, which is not a model .* remove it"):
        repository_checks.check(exported)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    """Nobody is told to remove what is in it."""
    for name in ("photos", "a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(RepositoryError, match=r"is not a model repository: .* \(a, b, c, …\); name the folder that"):
        repository_checks.check(tmp_path)


def test_an_export_without_weights(exported: Path, tmp_path: Path) -> None:
    """The error gives the model's name and the command that fills it in."""
    bare = copy_repository(exported, tmp_path / "bare")
    (bare / "tiny_pooled_encoder" / "1" / "model.onnx").unlink()
    what = rf"{bare} has exports that are not complete .*: tiny_pooled: tiny_pooled_encoder/1/model.onnx is missing; "
    copied = "if the repository was copied here, copy the folder again; else "
    text = rf"{what}{copied}run `vitriton export MODEL --name tiny --repository {bare}` .*--skip-broken"
    with pytest.raises(RepositoryError, match=text):
        TritonServer(bare).start()


def test_an_export_that_did_not_finish(exported: Path) -> None:
    """Weights beside an ensemble that still has the placeholder are no finished export."""
    add_encoder(exported, "other_unpooled_encoder")
    add_ensemble(exported, "other_unpooled", encoder="other_unpooled_encoder", fingerprint="not-exported")
    add_ensemble(exported, "other_pooled", encoder="other_pooled_encoder", fingerprint="not-exported")
    text = r"changed: other: it has no weights yet, or its export did not finish; run `vitriton export MODEL "
    with pytest.raises(RepositoryError, match=text):  # one line for both outputs
        repository_checks.check(exported)


def test_an_export_that_nobody_has_made_yet(exported: Path, tmp_path: Path) -> None:
    """Beside complete exports it is left out, as in a checkout; alone, or beside broken ones, it is an error."""
    assert not repository_checks.has_unfilled_export(exported)
    add_ensemble(exported, "other_unpooled", encoder="other_unpooled_encoder", fingerprint="not-exported")
    assert repository_checks.has_unfilled_export(exported)
    alone = copy_repository(exported, tmp_path / "alone")
    shutil.rmtree(alone / "tiny_pooled")
    assert not repository_checks.has_unfilled_export(alone)
    (exported / "tiny_pooled_encoder" / "1" / "model.onnx").unlink()
    assert not repository_checks.has_unfilled_export(exported)
    assert not repository_checks.has_unfilled_export(tmp_path / "not there")


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_a_taken_port(service: str, python_repository: Path) -> None:
    """The error names the port, the service and the option, whoever shares the port with whatever option."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} .* is taken; .* --{service}-port"):
            TritonServer(python_repository, **{f"{service}_port": port}).start()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "text"),
    [("203.0.113.7", "is not an address of this machine"), ("no.such.host.invalid", "unknown name")],
)
def test_a_host_that_cannot_be_bound(host: str, text: str) -> None:
    """An address of another machine and an unknown name are told apart."""
    with pytest.raises(InvalidConfiguration, match=text):
        reserve(ServerConfig(host=host))


@pytest.mark.parametrize(
    ("host", "bound", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::1", "::1", "[::1]"),
        ("::", "::", "[::1]"),
    ],
)
def test_what_a_host_binds(host: str, bound: str, reached: str) -> None:
    """A wildcard is reached through loopback, and three free ports differ."""
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    endpoints = reserve(ServerConfig(host=host))
    assert endpoints.ip == bound
    assert endpoints.address(endpoints.grpc_port) == f"{reached}:{endpoints.grpc_port}"
    assert len({endpoints.http_port, endpoints.grpc_port, endpoints.metrics_port}) == 3


def test_raw_options_come_last(host: Host, python_repository: Path) -> None:
    """Tritonserver takes the last of two equal options, so a person's own wins."""
    config = ServerConfig(repository=python_repository, triton_arguments=["--log-verbose=1"])
    installation = locate(host)
    line = command(config, reserve(config), installation, prepare(installation), 2)
    assert line[0] == str(installation.executable)
    assert line[-1] == "--log-verbose=1"
    assert f"--model-repository={python_repository.resolve()}" in line


def test_onnx_runtime_reports_to_nobody(host: Host) -> None:
    """Its telemetry, which newer releases have, is off; who wants it says so."""
    installation = locate(host)
    assert environment(installation, 2, {})["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment(installation, 2, {"ORT_DISABLE_TELEMETRY": "0"})["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"grpc_port": -1}, "grpc_port is -1"),
        ({"http_port": 8001, "grpc_port": 8001}, "must differ"),
        ({"ready_timeout_s": 0}, "ready_timeout_s is 0"),
        ({"exit_timeout_s": -1}, "exit_timeout_s is -1"),
        ({"host": ""}, "host is ''"),
        ({"triton_arguments": ["--grpc-use-ssl=true"]}, "use a proxy in front of the server for TLS"),
        ({"triton_arguments": ["--"]}, "is not an option"),
    ],
)
def test_options_that_cannot_be(settings: dict[str, object], text: str) -> None:
    """They are refused when the server is made, before anything is started."""
    with pytest.raises(InvalidConfiguration, match=text):
        TritonServer(**settings)  # type: ignore[arg-type]


LOG = [
    "I1123 10:28:17.165132 4474 model_lifecycle.cc:839] \"successfully loaded 'good'\"",
    'E1123 10:28:15.761486 4474 server.cc:241] "CudaDriverHelper has not been initialized."',
    "E1123 10:29:16.5 4989 model_lifecycle.cc:642] \"failed to load 'bad' version 1: Internal: LoadError: no \\'x\\'"
    '\\n\\nAt:\\n  /a/model.py(6): initialize\\n"',
    "E1123 10:29:16.5 4989 model_repository_manager.cc:1460] \"Poll failed for model directory 'odd': no backend\"",
    'W1123 10:29:16.6 4989 some.cc:1] "something to know"',
    "+---- a table ----+",
]


def test_what_the_log_tells() -> None:
    """Models loaded, models refused with their reason alone, and the lines that a person should see."""
    assert [loaded_model(line) for line in LOG] == ["good", None, None, None, None, None]
    assert failed_models(LOG) == {"bad": "no 'x'", "odd": "no backend"}
    assert [is_problem(line, has_gpu=False) for line in LOG] == [False, False, True, True, True, False]
    assert is_problem(LOG[1], has_gpu=True)
    taken = "E1 main.cc:257] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:1' already in use \""
    assert port_was_taken([*LOG, taken])
    assert not port_was_taken(LOG)


@pytest.mark.parametrize("name", ["sp ace", "quo'te", "\u00fcn\u00ef"])
def test_a_path_that_the_python_backend_cannot_pass_on_is_refused(tmp_path: Path, name: str) -> None:
    """At once, and not after a model has failed to start for minutes."""
    (tmp_path / name / "model" / "1").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="cannot pass on to its processes"):
        repository_checks.check(tmp_path / name)


def test_options_that_triton_does_not_take():
    """The one that it names, or what it says after its usage; hundreds of lines of usage are none of it."""
    usage = ["Usage: tritonserver [options]", "  --help", "\tPrint usage", ""]
    assert (
        refused_options(["/bin/tritonserver: unrecognized option '--nonsense=1'", *usage]) == "it has no --nonsense=1"
    )
    assert refused_options([*usage, "Invalid option value. Got abc", ""]) == "Invalid option value. Got abc"
    assert refused_options(LOG) is None
