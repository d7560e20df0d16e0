"""Finds a tritonserver that can run here, or says exactly what is missing.

`Host` holds the facts of this machine; `locate` decides from them alone.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitriton._console.diagnosis import how_to_install

from vitriton_server._errors import InstallationError

WHEEL = "nvidia-pytriton"
STUB = "triton_python_backend_stub"
_MIN_GLIBC = (2, 35)  # the wheel's platform tag is manylinux_2_35_x86_64
_INSTALL = f"install this distribution again: {how_to_install('vitriton-server', again=True)}"

# onnxruntime's version is not read: its GPU build is a package with another name.
_LIST_PACKAGES = """
import importlib.metadata, importlib.util
if importlib.util.find_spec("numpy"):
    print("numpy=" + importlib.metadata.version("numpy"))
if importlib.util.find_spec("onnxruntime"):
    print("onnxruntime=found")
"""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The facts of a machine and its Python that decide which Triton runs.

    Attributes:
        on_path: the tritonserver on PATH, or None.
        wheel: the folder `tritonserver` inside the wheel, or None if the wheel is not installed.
        platform: the system and the architecture, for example "Linux x86_64".
        glibc: the version of glibc, or None for another C library.
        python: the (major, minor) version of this Python, which runs the models.
        python_bin: the folder of its `python3`; it comes first on PATH, where the stub looks for it.
        in_venv: whether this Python is in a virtual environment.
        libpython: the shared library of this Python, or None if it has none.
        numpy: the version of numpy that the stub finds, or None.
        onnxruntime: whether the stub finds onnxruntime.
    """

    on_path: Path | None
    wheel: Path | None
    platform: str
    glibc: tuple[int, int] | None
    python: tuple[int, int]
    python_bin: Path
    in_venv: bool
    libpython: Path | None
    numpy: str | None
    onnxruntime: bool

    @classmethod
    def detect(cls) -> Host:
        """Returns the facts of this machine and this Python."""
        found = shutil.which("tritonserver")
        spec = importlib.util.find_spec("pytriton")
        origin = spec.origin if spec is not None else None
        python_bin = Path(sys.executable).parent
        packages = _packages(python_bin / "python3")
        return cls(
            on_path=Path(found) if found else None,
            wheel=Path(origin).parent / "tritonserver" if origin else None,
            platform=f"{platform.system()} {platform.machine()}",
            glibc=_glibc(),
            python=sys.version_info[:2],
            python_bin=python_bin,
            in_venv=sys.prefix != sys.base_prefix,
            libpython=_own_libpython(),
            numpy=packages.get("numpy"),
            onnxruntime="onnxruntime" in packages,
        )


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A tritonserver, with the files and folders that it needs.

    Attributes:
        executable: the path of tritonserver.
        backends: the folder of its backends.
        caches: the folder of its caches, if it would not find it itself.
        stub: the stub to put beside the python backend, or None where it is present.
        library_folders: the folders to put first on LD_LIBRARY_PATH.
        python_bin: the folder to put first on PATH, or None to leave PATH alone.
        native_onnxruntime: whether `backends` has Triton's native onnxruntime backend.
    """

    executable: Path
    backends: Path
    caches: Path | None = None
    stub: Path | None = None
    library_folders: tuple[Path, ...] = ()
    python_bin: Path | None = None
    native_onnxruntime: bool = False


def locate(host: Host) -> Installation:
    """Returns the tritonserver on PATH (as in NVIDIA's image), else the wheel's.

    Raises:
        InstallationError: something is missing or unsuitable; the text says what, and what to do.
    """
    return _from_path(host, host.on_path) if host.on_path is not None else _from_wheel(host)


def stub_python(stub: Path) -> tuple[int, int] | None:
    """Returns the (major, minor) Python that a stub is linked to, by the names in the file; None without one."""
    try:
        match = re.search(rb"libpython(\d+)\.(\d+)[m.]", stub.read_bytes())
    except OSError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def find_libpython(names: Iterable[str], folders: Iterable[Path], ldconfig: str) -> Path | None:
    """Finds the shared library of a Python.

    Args:
        names: the file names, the best first, such as libpython3.11.so.1.0.
        folders: the folders to search first.
        ldconfig: the output of `ldconfig -p`; its paths come last.
    """
    names, folders = list(names), list(folders)
    listed = [Path(line.rpartition("=> ")[2].strip()) for line in ldconfig.splitlines() if "=> " in line]
    candidates = [folder / name for folder in folders for name in names]
    candidates += [path for name in names for path in listed if path.name == name]
    return next((path for path in candidates if path.is_file()), None)


def _from_path(host: Host, found: Path) -> Installation:
    executable = found.resolve()
    backends = executable.parent.parent / "backends"
    if not backends.is_dir():
        raise InstallationError(
            f"tritonserver was found on PATH ({found}), but not its backends (looked in {backends}); put the "
            "tritonserver of a whole installation on PATH, or none to use the wheel's"
        )
    native = (backends / "onnxruntime" / "libtriton_onnxruntime.so").exists()
    # Its stub is linked to one version of Python; this environment must have the same.
    ours = stub_python(backends / "python" / STUB) == host.python
    if not native and not host.onnxruntime:
        raise InstallationError(
            f"neither {backends} has an onnxruntime backend nor this Python onnxruntime; `pip install onnxruntime`"
        )
    return Installation(
        executable=executable,
        backends=backends,
        native_onnxruntime=native,
        python_bin=host.python_bin if ours and host.in_venv else None,
    )


def _from_wheel(host: Host) -> Installation:
    _check_platform(host)
    if host.wheel is None:
        raise InstallationError(
            f"there is no tritonserver: none on PATH, and the package {WHEEL}, which carries one, is not installed; "
            f"{_INSTALL}"
        )
    executable = host.wheel / "bin" / "tritonserver"
    if not executable.is_file():
        raise InstallationError(f"{WHEEL} is installed, but {executable} is not in it; {_INSTALL}")
    if not os.access(executable, os.X_OK):
        raise InstallationError(f"{executable} is not executable; `chmod +x {executable}`")
    _check_python(host)
    version = ".".join(map(str, host.python))
    stub = host.wheel / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        raise InstallationError(
            f"{WHEEL} has no python backend for Python {version} (looked for {stub}); use Python 3.10, 3.11 or 3.12"
        )
    if host.libpython is None:
        raise InstallationError(
            f"libpython{version}.so.1.0 was not found, and Triton's python backend needs it; this Python was built "
            f"without a shared library: use one that has it (Debian and Ubuntu: `apt install libpython{version}`; "
            "pyenv: `PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install ...`; conda and uv pythons have it)"
        )
    return Installation(
        executable=executable,
        backends=host.wheel / "backends",
        caches=host.wheel / "caches",
        stub=stub,
        library_folders=(host.wheel.parent.parent / "nvidia_pytriton.libs", host.libpython.parent),
        python_bin=host.python_bin,
    )


def _check_platform(host: Host) -> None:
    if host.platform != "Linux x86_64":
        raise InstallationError(
            f"{WHEEL}, which carries tritonserver, exists for Linux on x86_64, and this is {host.platform}; serve "
            "the repository with NVIDIA's Triton image instead"
        )
    if host.glibc is None or host.glibc < _MIN_GLIBC:
        found = f"glibc {host.glibc[0]}.{host.glibc[1]}" if host.glibc else "another C library"
        raise InstallationError(
            f"the tritonserver of {WHEEL} needs glibc 2.35 or later (Ubuntu 22.04, Debian 12), and this system has "
            f"{found}; serve the repository with NVIDIA's Triton image instead"
        )


def _check_python(host: Host) -> None:
    python = host.python_bin / "python3"
    if not python.exists():
        raise InstallationError(
            f"{python} does not exist, and Triton starts its python backend with that name; link it"
        )
    if host.numpy is None:
        raise InstallationError(f"numpy is not installed for {python}; `{python} -m pip install 'numpy<2'`")
    if int(host.numpy.partition(".")[0]) >= 2:
        raise InstallationError(
            f"numpy {host.numpy} is installed for {python}, and with numpy 2 the python backend of this Triton "
            "silently returns empty tensors; `pip install 'numpy<2'`"
        )
    if not host.onnxruntime:
        raise InstallationError(f"onnxruntime is not installed for {python}; `{python} -m pip install onnxruntime`")


def _own_libpython() -> Path | None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # Not LDLIBRARY: in a build without a shared library, that is the static one.
    names = [f"libpython{version}.so.1.0"]
    configured = sysconfig.get_config_var("INSTSONAME")
    if isinstance(configured, str) and ".so" in configured:
        names.insert(0, configured)
    folders = [Path(sys.base_prefix) / "lib", Path(sys.prefix) / "lib"]
    libdir = sysconfig.get_config_var("LIBDIR")
    if isinstance(libdir, str):
        folders.insert(0, Path(libdir))
    found = find_libpython(names, folders, "")
    return found or find_libpython(names, [], _ldconfig())


def _ldconfig() -> str:
    command = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if command is None:
        return ""
    try:
        return subprocess.run([command, "-p"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _glibc() -> tuple[int, int] | None:
    name, version = platform.libc_ver()
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if name == "glibc" and match else None


def _packages(python: Path) -> dict[str, str]:
    """Returns package → version, as the stub finds them: without PYTHONPATH and the user's own packages (-I)."""
    try:
        output = subprocess.run(
            [python, "-I", "-c", _LIST_PACKAGES], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
