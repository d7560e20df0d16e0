"""The private folder, the command line and the environment of one run of tritonserver."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitriton_server import _admin
from vitriton_server._config import ServerConfig
from vitriton_server._process.locate import STUB, Installation
from vitriton_server._process.ports import Endpoints

CORES_VARIABLE = "VITRITON_CPU_CORES"  # read by backends/onnxruntime/model.py
_OWN_BACKENDS = Path(__file__).parent.with_name("backends")


@dataclass(frozen=True)
class Runtime:
    """The private folder and the shared memory of one run; `guard.clean_up` removes both.

    Attributes:
        folder: the temporary folder, readable only by this user.
        shm_prefix: the prefix of every region that Triton's python backend makes in /dev/shm.
    """

    folder: Path
    shm_prefix: str

    @property
    def backends(self) -> Path:
        """The backend folder for tritonserver."""
        return self.folder / "backends"

    @property
    def models(self) -> Path:
        """The folder that shows Triton a watched repository."""
        return self.folder / "models"


def prepare(installation: Installation) -> Runtime:
    """Makes the folder: links to the installation's backends, and an onnxruntime backend if it lacks one."""
    runtime = Runtime(Path(tempfile.mkdtemp(prefix="vitriton-serve-")), f"vitriton_{secrets.token_hex(6)}_")
    try:
        runtime.backends.mkdir()
        for source in installation.backends.iterdir():
            if source.name == "python" and installation.stub is not None:
                _copy_python_backend(source, runtime.backends / "python", installation.stub)
            else:
                (runtime.backends / source.name).symlink_to(source)
        if not installation.native_onnxruntime:
            # A copy, because Python writes __pycache__ beside it.
            shutil.copytree(
                _OWN_BACKENDS / "onnxruntime",
                runtime.backends / "onnxruntime",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
    except BaseException:
        shutil.rmtree(runtime.folder, ignore_errors=True)
        raise
    return runtime


def command(
    config: ServerConfig, endpoints: Endpoints, installation: Installation, runtime: Runtime, cores: int
) -> list[str]:
    """Returns the command line of tritonserver."""
    own = {
        "model-repository": runtime.models if config.has_view else config.repository.resolve(),
        "backend-directory": runtime.backends,
        "backend-config": f"python,shm-region-prefix-name={runtime.shm_prefix}",
        "http-address": endpoints.ip,
        "http-port": endpoints.http_port,
        "grpc-address": endpoints.bracketed_ip,
        "grpc-port": endpoints.grpc_port,
        "metrics-address": endpoints.ip,
        "metrics-port": endpoints.metrics_port,
        "exit-timeout-secs": int(config.exit_timeout_s),
    }
    if installation.caches is not None:
        own["cache-directory"] = installation.caches
    if config.watch_repository:
        own["model-control-mode"] = "poll"
        own["repository-poll-secs"] = 1
        own["strict-readiness"] = "false"  # with strict readiness, a server is not ready while it loads another model
    options = [f"--{name}={value}" for name, value in own.items()]
    if installation.native_onnxruntime and cores < len(os.sched_getaffinity(0)):  # under a quota
        options += [f"--backend-config=onnxruntime,{name}={value}" for name, value in _one_pool(cores).items()]
    if config.admin_key is not None:
        options += _admin.arguments(config.admin_key)
    return [str(installation.executable), *options, *config.triton_arguments]


_OWN_PAGES_BYTES = 1 << 20  # larger blocks go back to the system when they are freed


def environment(installation: Installation, cores: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of tritonserver: the launcher's, with the installation's folders first."""
    result = dict(inherited)
    result[CORES_VARIABLE] = str(cores)
    result.setdefault("ORT_DISABLE_TELEMETRY", "1")  # newer releases report to Microsoft by default
    # By default glibc raises this up to 32 MiB once a large block is freed; from then on, requests and images lie in
    # heaps that it seldom gives back, one for every few threads. A value that the user has set is kept.
    result.setdefault("MALLOC_MMAP_THRESHOLD_", str(_OWN_PAGES_BYTES))
    if installation.library_folders:
        _prepend(result, "LD_LIBRARY_PATH", *installation.library_folders)
    if installation.python_bin is not None:
        _prepend(result, "PATH", installation.python_bin)
    return result


def _one_pool(cores: int) -> dict[str, int]:
    """The native backend's settings for one pool of threads; by default, each session has one as large as the host."""
    return {"enable-global-threadpool": 1, "intra_op_thread_count": cores, "inter_op_thread_count": cores}


def _copy_python_backend(source: Path, target: Path, stub: Path) -> None:
    # Triton refuses a library that is a link to outside its backend's folder.
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(stub, target / STUB)
    (target / STUB).chmod(0o700)  # the wheel's stub may have lost its executable bit


def _prepend(variables: dict[str, str], name: str, *folders: Path) -> None:
    parts = [*map(str, folders), variables.get(name, "")]
    variables[name] = os.pathsep.join(part for part in parts if part)
