"""Lays out the documentation site in one folder, for the site generator: `python docs/pages.py FOLDER`.

A page is a Markdown file in docs/, or one of PAGES, which lie elsewhere in the repository. A page's links are those
that work on a code host: relative to its file, or absolute into the repository. In the folder, a link to another page
leads to that page, and a link to any other file leads into the repository.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/vitriton/vitriton/blob/main"
# The file in the repository → the page of the site.
PAGES = {
    "README.md": "index.md",
    "client/README.md": "start/client.md",
    "server/README.md": "guides/serve.md",
    "bench/README.md": "benchmarks/measuring.md",
    "api/README.md": "start/api.md",
    "model_repository/README.md": "reference/model-repository.md",
    "deploy/helm/vitriton/README.md": "reference/chart.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
_NOT_SHOWN = shutil.ignore_patterns("*.py", "__pycache__", "mkdocs.yml", "requirements.txt")
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def sources() -> dict[str, str]:
    """Returns the site's pages: the file in the repository → the page."""
    inside = sorted((ROOT / "docs").rglob("*.md"))
    return {f"docs/{page}": page for page in (path.relative_to(ROOT / "docs").as_posix() for path in inside)} | PAGES


def lay_out(folder: Path) -> None:
    """Writes the configuration to a folder, and all pages with their pictures to `pages` in it."""
    shown = folder / "pages"
    shutil.rmtree(shown, ignore_errors=True)
    shutil.copytree(ROOT / "docs", shown, ignore=_NOT_SHOWN)
    shutil.copy(ROOT / "docs" / "mkdocs.yml", folder)
    for source, page in sources().items():
        (shown / page).parent.mkdir(exist_ok=True)
        (shown / page).write_text(_with_links_of_the_site(source))


def _with_links_of_the_site(source: str) -> str:
    return _LINK.sub(lambda link: on_site(link[0], source), (ROOT / source).read_text())


def in_repository(link: str, source: str) -> str | None:
    """Returns the path that a link in a file leads to; None: it leads elsewhere, or stays in the file."""
    target = link.partition("#")[0]
    if target.startswith(f"{REPOSITORY}/"):
        return target.removeprefix(f"{REPOSITORY}/")
    if not target or ":" in target:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def on_site(link: str, source: str) -> str:
    """Returns a link of a file in the repository as it is on the file's page."""
    path = in_repository(link, source)
    if path is None:
        return link
    pages = sources()
    page = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    target = (
        f"{REPOSITORY}/{path}" if page is None else posixpath.relpath(page, posixpath.dirname(pages[source]) or ".")
    )
    return target + link[len(link.partition("#")[0]) :]


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
