"""A certificate authority for tests, made by the `openssl` program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = ("-days", "2")


class Authority:
    """Signs certificates, which lie as PEM files in `folder`.

    Args:
        folder: must exist.
        name: of the authority; several may share a folder.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no program openssl to make certificates with")
        self._folder = folder
        self._name = name
        self.ca_file = folder / f"{name}.pem"
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 takes no authority without it
        self._run("req", "-x509", *_KEY, *files, "-subj", f"/CN={name}", *usage, *_DAYS)

    def issue(self, name: str, *alternatives: str) -> tuple[Path, Path]:
        """A certificate and its key, for names like `DNS:triton.test` and `IP:127.0.0.1`."""
        self._run("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        signer = ("-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key", "-CAcreateserial")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", extensions.name)
        self._run("x509", "-req", *files, *signer, *_DAYS)
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True, timeout=60)
