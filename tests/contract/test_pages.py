"""The documentation holds together: links on a code host and on the site, and pages that are made from code."""

import ast
import collections
import functools
import importlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
import reference
import which_model
from markdown_it import MarkdownIt
from markdown_it.token import Token
from support import monitoring
from support.promql import asked

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "api",
    "bench",
    "client",
    "deploy",
    "docker",
    "docs",
    "examples",
    "export",
    "model_repository",
    "ray",
    "search",
    "server",
    "tests",
)
DISTRIBUTIONS = ("client", "export", "server", "bench", "api", "search", "ray")
TEXTS = (".example", ".json", ".md", ".py", ".sh", ".toml", ".yml")
OF_PROMETHEUS = {"up", "ALERTS"}  # it makes them itself
# A page that a comment, an error or a README names; Triton's repository has pages of such names too
_NAMED = re.compile(r"(?<![\w./-])docs/(?!protocol/|user_guide/)([\w/-]+\.md)(#[\w-]+)?")
_TITLED = re.compile(r'"([^"]+)" in the documentation')
_ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
_PARSER = MarkdownIt("commonmark").enable("table")


def files(*suffixes: str) -> list[Path]:
    """The repository's files with one of these suffixes."""
    beside = [path for path in ROOT.iterdir() if path.is_file()]
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "secrets" not in path.parts]
    return sorted(path for path in beside + inside if path.suffix in suffixes and path.is_file())


@functools.cache
def parsed(path: Path) -> list[Token]:
    """The tokens of a page."""
    return _PARSER.parse(path.read_text())


def links(path: Path) -> Iterator[str]:
    """The targets of a page's links."""
    for child in itertools.chain.from_iterable(token.children or () for token in parsed(path)):
        if child.type == "link_open":
            yield str(child.attrGet("href"))


def titles(path: Path) -> list[str]:
    """The headings of a page, without their marks."""
    heads = [title.children or [] for head, title in itertools.pairwise(parsed(path)) if head.type == "heading_open"]
    return ["".join(child.content for child in title) for title in heads]


def said(path: Path) -> Iterator[str]:
    """The texts in a file's code, descriptions included, each on one line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


@functools.cache
def anchors(path: Path) -> set[str]:
    """The anchors that a code host gives to the headings of a page."""
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles(path)]
    assert len(set(slugs)) == len(slugs), f"{path} has two headings of one name: links cannot tell them apart"
    return set(slugs)


@pytest.mark.parametrize("path", files(".md"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    """A link into the repository, relative or absolute, leads to a file, and its anchor to a heading there."""
    source = path.relative_to(ROOT).as_posix()
    for link in links(path):
        target, _, anchor = link.partition("#")
        place = pages.in_repository(link, source) if target else source
        if place is None:
            continue
        assert (ROOT / place).exists(), link
        assert not anchor or anchor in anchors(ROOT / place), link


@pytest.mark.parametrize("path", files(".md"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_column_has_a_name(path):
    """No cell in the head of a table is empty: a screen reader would say nothing of its column."""
    heads = [cell.content for head, cell in itertools.pairwise(parsed(path)) if head.type == "th_open"]
    assert "" not in heads


@pytest.mark.parametrize("path", files(".md"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_cell_is_the_end_of_a_sentence(path):
    """A cell says what something is or does, and does not begin with "which" or "whose"."""
    cells = [cell.content for start, cell in itertools.pairwise(parsed(path)) if start.type == "td_open"]
    assert [cell for cell in cells if cell.startswith(("which ", "whose ")) and cell[-1] != "?"] == []


def test_pages_that_code_names_exist():
    """A page of docs/ that a comment, an error or a setting names is there, with its anchor."""
    found = [(path, match) for path in files(*TEXTS) for match in _NAMED.finditer(path.read_text())]
    assert len(found) > 20
    for path, match in found:
        page = ROOT / "docs" / match[1]
        assert page.is_file(), f"{path}: {match[0]}"
        assert not match[2] or match[2][1:] in anchors(page) or path.suffix == ".py", f"{path}: {match[0]}"


def test_what_is_installed_names_pages_by_their_titles():
    """Who installed a wheel has no docs/: a text there names a heading, which one page alone has."""
    known = collections.Counter(title for path in (ROOT / "docs").rglob("*.md") for title in titles(path))
    texts = [
        (path, text) for name in DISTRIBUTIONS for path in (ROOT / name / "src").rglob("*.py") for text in said(path)
    ]
    assert [f"{path}: {text}" for path, text in texts if _NAMED.search(text)] == []
    found = [(path, match[1]) for path, text in texts for match in _TITLED.finditer(text)]
    assert len(found) > 5
    assert [f"{path}: {title}" for path, title in found if known[title] != 1] == []


def test_the_navigation_has_every_page_once():
    """No page is lost on the site, and none is named that is not there."""
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == sorted(pages.sources().values())


@pytest.mark.parametrize(
    ("link", "source", "expected"),
    [
        ("docs/guides/client.md#images", "README.md", "guides/client.md#images"),
        ("../../server/README.md", "docs/guides/compose.md", "serve.md"),
        ("../benchmarks.md", "docs/concepts/precision.md", "../benchmarks.md"),
        (f"{pages.REPOSITORY}/docs/guides/client.md", "client/README.md", "../guides/client.md"),
        ("LICENSE", "README.md", f"{pages.REPOSITORY}/LICENSE"),
        ("#try-it", "README.md", "#try-it"),
        ("https://example.com/docs/a.md", "README.md", "https://example.com/docs/a.md"),
    ],
)
def test_links_on_the_site(link, source, expected):
    """A link to a page becomes one between pages; one to another file leads into the repository."""
    assert pages.on_site(link, source) == expected


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_reference_is_what_the_code_says(page):
    """`make reference` would change nothing."""
    assert (ROOT / "docs" / page).read_text() == reference.PAGES[page]()


@pytest.mark.parametrize(
    "package", ["vitriton", "vitriton.testing", "vitriton.video", "vitriton_export", "vitriton_server"]
)
def test_the_reference_has_every_public_name(package):
    """Each public name has an entry, and each entry is a public name."""
    page = ROOT / "docs" / "reference" / f"{package.removeprefix('vitriton.')}.md"
    names = [f"{package}.{name}" for name in importlib.import_module(package).__all__]
    assert sorted(_ENTRY.findall(page.read_text())) == sorted(names)


def test_the_page_of_metrics_is_whole():
    """What alerts and dashboard ask for has a row."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    named = {one.metric for expression in monitoring.expressions().values() for one in asked(expression)}
    assert sorted(name for name in named - OF_PROMETHEUS if f"`{name}`" not in page) == []


def test_the_page_of_files_has_the_entries_of_a_measurement():
    """Each entry of a row of `vitriton bench --json` is explained."""
    page = (ROOT / "docs" / "reference" / "files.md").read_text().partition("## vitriton bench --json")[2]
    (row, *_) = json.loads((ROOT / "bench" / "results" / "report.json").read_text())["sweep"]
    assert sorted(entry for entry in row.keys() - {"precision"} if f"`{entry}`" not in page) == []


def test_the_table_of_models_is_made_from_its_results():
    """Every figure of the page is in the file that bench/which_model.py writes."""
    document = json.loads(which_model.RESULTS.read_text())
    assert which_model.table(document) in which_model.PAGE.read_text()
    (entry, *_) = document["models"]
    entry["images_per_s"] = {"fp32": 12.34, "int8": 23.45}
    table = which_model.table(document | {"machine": {"cpu": "a CPU", "cores": 2}})
    assert "| 12.3 | 23.4 |" in table
    assert "measured on a CPU, 2 cores" in table
    assert "with random weights" in table.replace("\n", " ")
