"""Makes the pictures of the page for the documentation: `make screenshots`, in the environment of `make test-page`."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright
from support.product import ROOT, served

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 200_000
QUALITY = 80
SETTLED_MS = 1000  # for the pictures to be drawn
# name, (width, height), palette, view
SHOTS = (
    ("search", (1280, 800), "light", "like"),
    ("search-film", (1280, 800), "light", "frames"),
    ("search-map-dark", (1280, 800), "dark", "#/map?at=0,0,1&by=label"),
    ("search-duplicates-phone", (390, 844), "light", "#/duplicates?threshold=0.9"),
)


def main() -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with served(Path(__file__).with_name("serve.py")) as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        views = {
            "like": pages["photos"] + like(f"{pages['folder']}/photos/cat.jpg"),
            "frames": pages["films"] + like(f"{pages['folder']}/photos/rocket.jpg"),
        }
        for name, (width, height), scheme, view in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(views.get(view) or pages["photos"] + view)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(SETTLED_MS)
            take(page, IMAGES / f"{name}.jpg")
            context.close()
        browser.close()


def like(id: str) -> str:
    """The search for more like a row."""
    return "#/search?id=" + quote(id, safe="")


def take(page, path: Path) -> None:
    """Saves what the page shows."""
    page.screenshot(path=path, type="jpeg", quality=QUALITY)
    assert path.stat().st_size < MAX_BYTES, path


if __name__ == "__main__":
    main()
