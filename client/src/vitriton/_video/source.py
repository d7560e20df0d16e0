"""The file behind what a caller gives as a video."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

from vitriton._deadline import Deadline
from vitriton._images.failure import SourceError
from vitriton._images.fetch import UrlFetcher
from vitriton._options import Options

VideoLike = Union[str, "os.PathLike[str]", BinaryIO]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class VideoFile(NamedTuple):
    """An open, seekable file.

    Attributes:
        file: the file.
        is_ours: whether it was opened here, and so must be closed.
    """

    file: BinaryIO
    is_ours: bool


def open_source(video: Any, options: Options) -> VideoFile:
    """Opens a path, an http(s) URL, whose content is fetched into memory, or a seekable binary file.

    Raises:
        SourceError: the file cannot be opened, or the URL not be fetched, within the limits of `options`.
        TypeError: the object is none of these.
    """
    if isinstance(video, str) and (scheme := _SCHEME.match(video)):
        if scheme.group().lower() not in ("http://", "https://"):
            raise SourceError(f"{scheme.group()} is not supported; use http:// or https://, or a path", "bad_url")
        fetcher = UrlFetcher(options)
        try:
            return VideoFile(io.BytesIO(fetcher.fetch(video, Deadline.after(None))), is_ours=True)
        finally:
            fetcher.close()
    if isinstance(video, (str, os.PathLike)):
        if options.refuse_paths:
            raise SourceError("it is no http(s) URL, and paths are refused (Options.refuse_paths)", "path_refused")
        return VideoFile(_open_path(Path(video)), is_ours=True)
    if callable(getattr(video, "read", None)) and callable(getattr(video, "seek", None)):
        return VideoFile(video, is_ours=False)
    raise TypeError(f"the video has the type {type(video).__name__}; give a path, a URL or a seekable binary file")


def _open_path(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could block for ever
            raise SourceError("it is not a regular file", "kind")
        if not status.st_size:
            raise SourceError("the file is empty", "empty")
        return path.open("rb")
    except FileNotFoundError as exc:
        raise SourceError("no such file", "not_found") from exc
    except OSError as exc:
        raise SourceError(f"the file cannot be read: {exc.strerror or exc}", "not_readable") from exc
    except ValueError as exc:
        raise SourceError(f"it is not the name of a file: {exc}", "not_found") from exc
