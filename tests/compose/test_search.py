"""The page of a folder in the compose files: indexed at each start, for those who have the token, and closed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from compose.project import ROOT, Project
from server.processes import wait_until

PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
TOKEN = "a-token-of-more-than-24-characters"
PATIENCE_S = 120.0

pytestmark = pytest.mark.long  # it builds an image with LanceDB


class Served(NamedTuple):
    """The page, and the folder that it shows."""

    project: Project
    folder: Path

    def ask(self, path: str, method: str = "GET", **options: Any) -> httpx.Response:
        """The answer to a request with the token."""
        headers = {"authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
        url = f"http://{self.project.address('search')}{path}"
        return httpx.request(method, url, headers=headers, timeout=60, **options)


@pytest.fixture(scope="module")
def page(small, tmp_path_factory) -> Served:
    """The page of the sample photos and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    for path in PHOTOS[:-1]:
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_text("no photo")
    token = tmp_path_factory.mktemp("secrets") / "token"
    token.write_text(TOKEN)
    for path in (folder, token.parent, token, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    small.env |= {"SEARCH_PHOTOS": str(folder), "SEARCH_TOKEN_FILE": str(token)}
    small.compose("build", "search")
    small.up("search")
    return Served(small, folder)


def test_a_photo_finds_itself(page):
    """The folder was indexed in spite of the file that is no photo, and Triton embeds what is asked for."""
    info = page.ask("/api/info").json()
    assert info["rows"] == len(PHOTOS)  # with the broken file, and without the last photo
    assert info["problem"] is None
    photo = PHOTOS[0].read_bytes()
    answer = page.ask("/api/query?k=1", "POST", content=photo, headers={"content-type": "image/jpeg"})
    (hit,) = answer.json()["hits"]
    assert hit["source"] == f"/photos/{PHOTOS[0].name}"
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert "broken.jpg" in page.project.logs("search")


def test_thumbnails_are_kept_on_the_volume(page):
    """The root of the container cannot be written."""
    thumbnail = page.ask("/api/thumbnail", params={"id": f"/photos/{PHOTOS[0].name}"})
    assert thumbnail.content.startswith(b"\xff\xd8")
    assert page.project.execute("search", "ls", "/data/thumbnails").stdout.endswith(".jpg\n")
    assert "cannot be kept" not in page.project.logs("search")


def test_it_is_for_those_who_have_the_token(page):
    """Which is in a file, and not among the variables of the container."""
    assert page.ask("/api/info", headers={"authorization": "Bearer another"}).status_code == 401
    assert page.ask("/api/info", headers={"authorization": ""}).status_code == 401
    assert page.ask("/api/info", headers={"host": "evil.example"}).status_code == 421
    assert TOKEN not in str(page.project.inspect("search")["Config"])


def test_inside(page):
    """Not root, no capabilities, and nothing to write to but the store's volume and a temporary folder."""
    status = page.project.execute("search", "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"1000"}
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    for folder in ("/", "/photos", "/opt/vitriton", "/run/secrets"):
        assert page.project.execute("search", "touch", f"{folder}/mine", check=False).returncode, folder


def test_a_restart_brings_it_up_to_date(page):
    """A new photo is embedded, and the others are not embedded again. The program ends by itself, with 0."""
    shutil.copy(PHOTOS[-1], page.folder)
    page.project.compose("stop", "search")
    assert page.project.inspect("search")["State"]["ExitCode"] == 0
    page.project.up("search")
    wait_until(lambda: page.ask("/api/info").json()["rows"] == len(PHOTOS) + 1, PATIENCE_S, "the new photo")
    assert "1 image embedded" in page.project.logs("search")
