"""The JSON files of a checkpoint, and the leftovers of failed downloads in place of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitriton_export._errors import ExportError

_MAX_BYTES = 64_000_000  # a large vocabulary of labels takes 2 MB
_HEAD = 512
_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml")


def read(path: Path, model_id: str) -> dict[str, Any]:
    """Reads a JSON file as transformers does: UTF-8, one object.

    Args:
        path: the file.
        model_id: the name of the checkpoint in errors.

    Raises:
        ExportError: the file cannot be read, or holds something else.
    """
    document = read_any(path, model_id)
    if not isinstance(document, dict):
        raise ExportError(f"{path.name} of {model_id} is not a JSON object: it must begin with {{")
    return document


def read_any(path: Path, model_id: str) -> Any:
    """Reads a JSON file that may hold something else than an object; see `read`."""
    name = f"{path.name} of {model_id}"
    check_downloaded(path, model_id)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ExportError(f"{name} has {path.stat().st_size} bytes, and the limit for such a file is {_MAX_BYTES}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ExportError(f"{name} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ExportError(f"{name} {json_fault(exc)}") from exc


def json_fault(exc: ValueError | RecursionError) -> str:
    """Says what is wrong with a text that `json` cannot read, as the end of a sentence that names it."""
    if isinstance(exc, RecursionError):
        return "cannot be read: it is nested too deep"
    if type(exc) is ValueError:  # Python's limit on the digits of a number
        return "cannot be read: a number in it is too long"
    return f"is not JSON: {exc}"


def check_downloaded(path: Path, model_id: str) -> None:
    """Checks the beginning of a file for the leftovers of a failed download.

    Raises:
        ExportError: the file is empty, a git-lfs pointer, or a web page.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as exc:
        raise ExportError(f"{path.name} of {model_id} cannot be read: {exc.strerror}") from exc
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_POINTER):
        raise ExportError(
            f"{path.name} of {model_id} is a git-lfs pointer, a text that stands for the file; run `git lfs pull` in "
            f"{path.parent}"
        )
    if start.startswith(_PAGES):
        raise ExportError(
            f"{path.name} of {model_id} is a web page, and not the file; download it again (a page that asks to log in "
            "is often saved in its place)"
        )
    if not start:
        raise ExportError(f"{path.name} of {model_id} is empty; download it again")


def check_regular(path: Path, where: str) -> None:
    """Refuses a path that exists and is not a regular file. A missing path passes.

    Raises:
        ExportError: the path is a broken link, a folder, or a device.
    """
    name = f"{path.name} of {where}"
    if path.is_symlink() and not path.exists():
        raise ExportError(
            f"{name} is a symbolic link to {path.readlink()}, which is not there; copy the folder with `cp -rL`, which "
            "copies the files themselves, or download it again"
        )
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ExportError(f"{name} is {what}, and not a file; put the file in its place")


def has_timm_config(folder: Path) -> bool:
    """Whether config.json alone says how images are prepared, as in timm's models."""
    if (folder / "preprocessor_config.json").is_file():
        return False
    try:
        document = read(folder / "config.json", folder.name)
    except ExportError:
        return False
    return isinstance(document.get("pretrained_cfg"), dict)
