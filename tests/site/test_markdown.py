"""The site shows the pages as a code host does, though the two read Markdown by different rules."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
# The reference of a package is made from its sources.
READ = {source: page for source, page in pages.sources().items() if ":::" not in (ROOT / source).read_text()}


@pytest.mark.parametrize("source", READ)
def test_lists_and_tables_are_the_same(site, source):
    """As many list items, rows and blocks of code: one that is not indented enough would become text."""
    host = MarkdownIt("commonmark").enable("table").render((ROOT / source).read_text())
    built = (site / READ[source]).with_suffix(".html").read_text()
    article = re.search(r"<article.*?</article>", built, re.DOTALL)[0]
    for element in ("li", "tr", "pre", "h2", "h3"):
        ours, theirs = (len(re.findall(rf"<{element}[ >]", text)) for text in (article, host))
        assert ours == theirs, f"<{element}>: {ours} on the site, {theirs} on a code host"
