"""Downloads from the Hugging Face hub, with a one-line error for every way in which they fail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vitriton_export._errors import ExportError, HubError, importing, one_line

# The environment variables that the download library reads; it fails on a value that it cannot use.
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def download(model: str, revision: str | None, names: Sequence[str], *, nested: bool = False) -> Path:
    """Downloads the files of a model that have these names; returns their folder in the local cache.

    Args:
        model: the id of the model.
        revision: the branch, tag or commit; None: the main branch.
        names: the names of the files.
        nested: whether the names have folders; else files of the same names in folders are left out.

    With HF_HUB_OFFLINE the hub is not asked, and the cache answers.

    Raises:
        HubError: the hub cannot be reached, or settings of the environment prevent the request.
        ExportError: the hub has no such model or revision, or denies access to it.
    """
    with importing():
        from huggingface_hub import constants, errors, snapshot_download
    at = f" at revision {revision}" if revision else ""
    endpoint, offline = constants.ENDPOINT, constants.is_offline_mode()
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(names),
                # fnmatch's * also matches a slash: copies of the weights in other formats lie in sub-folders
                ignore_patterns=None if nested else ["*/*"],
                local_files_only=offline,  # else a client is made first, and fails on a proxy that is not needed
            )
        )
    except errors.GatedRepoError as exc:
        raise ExportError(f"{model} is gated: accept its terms on its page, then set HF_TOKEN to your token") from exc
    except errors.RepositoryNotFoundError as exc:
        raise ExportError(
            f"{endpoint} has no model {model}, or it is private; check the name, or set HF_TOKEN to a token that "
            "may read it"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise ExportError(f"{model} has no revision {revision}") from exc
    except errors.HFValidationError as exc:
        raise ExportError(f"{model!r} is neither a folder nor a hub id (namespace/name)") from exc
    except errors.LocalEntryNotFoundError as exc:
        reason = _offline() if offline else _unanswered(exc.__cause__ or exc, endpoint)
        raise HubError(f"{model}{at} is not in the local cache and {reason}, or give a checkpoint's folder") from exc
    except (errors.HfHubHTTPError, OSError) as exc:
        status = _status(exc)
        if status in (401, 403):
            raise ExportError(
                f"{endpoint} refuses {model} ({status}); set HF_TOKEN to a token that may read it"
            ) from exc
        raise HubError(f"{model}{at} could not be downloaded from {endpoint}: {_text(exc)}{_advice()}") from exc
    # The library builds its client and its requests from the environment, and passes on whatever that raises.
    except Exception as exc:
        if isinstance(exc, ImportError) and "socks" in str(exc):
            socks = [name for name in _proxies() if os.environ[name].startswith("socks")]
            raise HubError(
                f"{', '.join(socks)} names a SOCKS proxy, and downloads need the package socksio for one: `pip install "
                "socksio`, or unset it"
            ) from exc
        raise HubError(f"{model}{at} could not be requested from {endpoint}: {_text(exc)}{_advice()}") from exc


def file_names(model: str, revision: str) -> list[str]:
    """Returns the names of a model's files on the hub, for an error's text; none where the hub does not answer."""
    try:
        from huggingface_hub import list_repo_files

        return sorted(list_repo_files(model, revision=revision))
    except Exception:  # the error that is being written matters, not this one
        return []


def _offline() -> str:
    """Names the setting that prevents requests to the hub, and says what to do."""
    given = (name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name))
    return f"{next(given, 'HF_HUB_OFFLINE')} is set; unset it to download the model"


def _unanswered(exc: BaseException, endpoint: str) -> str:
    """Says why the hub did not return the list of files, and what to do."""
    status = _status(exc)
    if status == 404:
        return (
            f"{endpoint} answers 404 (not found); check that HF_ENDPOINT is the address of a hub or a mirror, and that "
            "it has the model"
        )
    if status is not None:
        return f"{endpoint} answers {status} ({_text(exc)}); try again later, point HF_ENDPOINT at a mirror"
    return (
        f"{endpoint} cannot be reached ({_text(exc)}); check {_all(['the network', *_proxies()])}, point HF_ENDPOINT "
        "at a mirror"
    )


def _status(exc: BaseException) -> int | None:
    """Returns the HTTP status code of the hub's response; None without a response."""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _all(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _advice() -> str:
    """Says which settings to check: those that are present."""
    given = _proxies() + [name for name in (*_CERTIFICATES, "HF_ENDPOINT", "HF_TOKEN") if os.environ.get(name)]
    return f"; check {_all(given)}, or give a checkpoint's folder" if given else ""


def _proxies() -> list[str]:
    return sorted(name for name in os.environ if name.upper() in _PROXIES and os.environ[name])


def _text(exc: BaseException) -> str:
    """Returns the text of a foreign error, unless it quotes a token or a proxy's password."""
    text = one_line(exc)
    given = [(name.upper(), value) for name, value in os.environ.items()]
    secret = [value for name, value in given if name in _TOKENS and value]
    secret += [value.rpartition("@")[0] for name, value in given if name in _PROXIES and "@" in value]
    # the error may quote the middle of such a value, which reveals as much
    parts = {value[at : at + 6] for value in secret for at in range(max(1, len(value) - 5))}
    return type(exc).__name__ if any(part in text for part in parts) else text
