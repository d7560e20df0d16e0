"""The page of `vitriton search serve` in a browser: what it finds, by mouse, by keyboard, and for everybody."""

from __future__ import annotations

import base64
import re
import struct
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest

SECONDS = 60_000  # milliseconds, as Playwright counts
TOKEN = "a-token-of-more-than-24-characters"
DESK, PHONE = (1440, 900), (390, 844)
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture
def visit(browser, pages):
    """Opens a page; a request that leaves it, an error of a script, or a breach of its policy fails the test.

    Playwright waits by evaluating texts in the page, which the policy forbids. So it is off, but for `has_policy`.
    """
    faults: list[str] = []
    contexts = []

    def open_page(name: str = "photos", fragment: str = "", size=DESK, scheme: str = "light", *, has_policy=False):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, bypass_csp=not has_policy
        )
        contexts.append(context)
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        page.on("request", lambda each: None if is_inside(each.url, pages[name]) else faults.append(each.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(pages[name] + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def is_inside(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:", "about:"))


def results(page) -> list[str]:
    """The names of the results, once they are there."""
    page.wait_for_function(
        "document.querySelectorAll('#results li').length > 0 && !document.querySelector('[aria-busy]')"
    )
    return page.locator("#results .name").all_inner_texts()


def said(page, text: str) -> str:
    """The status, once it has a text."""
    page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)
    return page.locator("#status").inner_text()


def bring(page, event: str, path: Path) -> None:
    """Drops or pastes a file, as a browser does."""
    page.evaluate(
        """([event, name, data]) => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const brought = new DataTransfer();
          brought.items.add(new File([bytes], name, { type: "image/jpeg" }));
          const init = { bubbles: true, cancelable: true };
          document.body.dispatchEvent(event === "paste"
            ? new ClipboardEvent("paste", { ...init, clipboardData: brought })
            : new DragEvent(event, { ...init, dataTransfer: brought }));
        }""",
        [event, path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def id_of(pages, name: str) -> str:
    return f"{pages['folder']}/{'odd' if '<' in name else 'photos'}/{name}"


def like(pages, name: str, **more: str) -> str:
    """The address of a search for more like a file."""
    given = {"id": id_of(pages, name), **more}
    return "#/search?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in given.items())


# What is found


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_that_is_brought_finds_its_twin(visit, event):
    page = visit()
    said(page, "Nothing has been searched for")
    bring(page, "dragover", PHOTOS / "cat.jpg")
    assert page.locator("#drop").is_visible()
    bring(page, "drop" if event == "drop" else "paste", PHOTOS / "cat.jpg")
    assert set(results(page)[:2]) == {"cat.jpg", "cat-mirrored.jpg"}
    assert re.search(r"embedding [\d.]+ ms, search [\d.]+ ms", page.locator("#status").inner_text())
    assert "cat.jpg" in page.locator("#query-text").inner_text()


def test_a_chosen_picture_finds_its_twin(visit):
    page = visit()
    page.set_input_files("#file", PHOTOS / "coffee.jpg")
    assert set(results(page)[:2]) == {"coffee.jpg", "coffee-mirrored.jpg"}
    page.set_input_files("#file", PHOTOS / "rocket.jpg")
    page.wait_for_function("document.querySelector('#results .name').textContent.includes('rocket')")
    page.go_back()  # the first picture is still known
    page.wait_for_function("document.querySelector('#results .name').textContent.includes('coffee')")
    page.reload()
    page.wait_for_selector("#alert:not([hidden])")
    assert "drop it once more" in page.locator("#alert").inner_text()


def test_a_text_finds_rows_where_the_model_has_a_tower_for_it(visit):
    page = visit("texts")
    page.fill("#text", "a photo of a cat")
    page.press("#text", "Enter")
    assert len(results(page)) == 19
    assert page.evaluate("location.hash") == "#/search?text=a+photo+of+a+cat"
    page.reload()
    assert len(results(page)) == 19
    assert page.input_value("#text") == "a photo of a cat"


def test_the_field_says_that_the_model_has_no_texts(visit):
    page = visit()
    page.wait_for_function("document.getElementById('text').disabled")
    assert "no text tower" in page.locator("#text-note").inner_text()
    page.click("#submit")
    assert "picture" in page.locator("#alert").inner_text()


def test_a_result_leads_to_more_like_it(visit, pages):
    page = visit("photos", like(pages, "cat.jpg"))
    assert results(page)[0] == "cat-mirrored.jpg"
    page.click("#results li:first-child .picture")
    page.wait_for_function("document.querySelector('#results .name').textContent === 'cat.jpg'")
    assert page.evaluate("decodeURIComponent(location.hash)").endswith("cat-mirrored.jpg")
    page.go_back()
    page.wait_for_function("document.querySelector('#results .name').textContent === 'cat-mirrored.jpg'")


def test_a_condition_stays_with_what_follows(visit, pages):
    page = visit("photos", like(pages, "cat.jpg"))
    results(page)
    page.fill("#where", "source like '%mirrored%'")
    page.press("#where", "Enter")
    page.wait_for_function("document.querySelectorAll('#results li').length === 8")
    page.click("#results li:nth-child(2) .picture")
    page.wait_for_function("!document.querySelector('[aria-busy]') && document.activeElement.id === 'title'")
    assert all("mirrored" in name for name in results(page))
    assert page.input_value("#where") == "source like '%mirrored%'"


def test_a_wrong_condition_is_told_at_its_field(visit, pages):
    page = visit("photos", like(pages, "cat.jpg", where="nope > 1"))
    page.wait_for_selector("#where[aria-invalid=true]")
    assert "nope is no column" in page.locator("#where-note").inner_text()
    page.fill("#where", "width > 1000000")
    page.press("#where", "Enter")
    said(page, "No row meets the condition")
    assert page.locator("#where[aria-invalid]").count() == 0


def test_duplicates_are_in_groups(visit):
    page = visit("photos", "#/duplicates?threshold=0.9")
    assert "groups of duplicates" in said(page, "duplicates")
    groups = [part.locator(".name").all_inner_texts() for part in page.locator("#groups ol").all()]
    assert sorted(["cat.jpg", "cat-mirrored.jpg"]) in [sorted(group) for group in groups]
    assert page.locator("#bars tr").count() >= 10
    page.fill("#threshold", "1")
    page.press("#threshold", "Enter")
    page.wait_for_function("location.hash.includes('threshold=1')")


def test_more_results_keep_the_place(visit, pages):
    page = visit("large", "#/search?id=" + quote("/nowhere/7.jpg", safe=""))
    assert len(results(page)) == 48
    page.click("#more")
    page.wait_for_function("document.querySelectorAll('#results li').length === 96")
    page.wait_for_function("document.activeElement === document.querySelectorAll('#results .picture')[48]")


def test_what_cannot_be_shown_says_why(visit, pages):
    """These files do not exist."""
    page = visit("large", "#/search?id=" + quote("/nowhere/7.jpg", safe=""))
    page.wait_for_selector(".absent")
    assert "the file is gone" in page.locator(".absent").first.inner_text()


def test_an_unknown_row_is_told(visit):
    page = visit("photos", "#/search?id=nothing")
    page.wait_for_selector("#alert:not([hidden])")
    assert "no row with the id nothing" in page.locator("#alert").inner_text()


def test_a_picture_that_is_none_is_told(visit, tmp_path):
    page = visit()
    (tmp_path / "text.jpg").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.jpg")
    page.wait_for_selector("#alert:not([hidden])")
    assert "this cannot be searched for: no image of a known format" in page.locator("#alert").inner_text()


def test_a_bomb_is_refused_in_words(visit, tmp_path):
    """A PNG of 400 million pixels, which Triton's first step does not decode."""
    side = 20_000
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side)))
        + chunk(b"IEND", b"")
    )
    page = visit()
    page.set_input_files("#file", tmp_path / "bomb.png")
    page.wait_for_selector("#alert:not([hidden])")
    assert "pixels are over the model's limit" in page.locator("#alert").inner_text()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def test_a_huge_picture_is_not_even_sent(visit, tmp_path):
    page = visit()
    said(page, "Nothing")
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    page.set_input_files("#file", tmp_path / "huge.jpg")
    page.wait_for_selector("#alert:not([hidden])")
    assert "up to 32 MiB" in page.locator("#alert").inner_text()
    assert not any("query" in url for url in sent)


def test_names_that_are_html_are_texts(visit, pages):
    """The fixture fails if one of them is taken for a picture or a script."""
    page = visit("texts", like(pages, "rocket.jpg"))
    names = results(page)
    assert "<img src=taken onerror=alert(1)>.jpg" in names
    assert "a \"b\" & 'c' 日本 🦜.jpg" in names
    assert "script>alert(1)<.jpg" in " ".join(names)
    page.goto(pages["texts"] + like(pages, "<img src=taken onerror=alert(1)>.jpg"))
    page.wait_for_function("document.getElementById('query-text').textContent.includes('<img src=taken')")


def test_the_policy_stops_nothing_of_the_page(visit, pages):
    """The page works with its Content-Security-Policy, which nothing of it breaks."""
    page = visit("photos", has_policy=True)
    page.set_input_files("#file", PHOTOS / "cat.jpg")
    page.locator("#results li").nth(15).wait_for()
    page.locator("#query-picture").wait_for()
    page.click("#results li:nth-child(3) .picture")
    page.locator("#results li").nth(14).wait_for()
    page.click("nav a[data-view=duplicates]")
    page.locator("#groups li").first.wait_for()
    page.click("nav a[data-view=map]")
    page.get_by_text("rows, by the two principal components").wait_for()
    page.click("#zoom-in")
    page.locator("#map").click()


# Films, and pictures elsewhere


def test_frames_are_shown_and_lead_to_their_film(visit, pages):
    """It plays from the time of the frame on, with the page's policy."""
    page = visit("films", "#/search?id=" + quote(f"{pages['folder']}/film.mp4#t=4", safe=""), has_policy=True)
    page.locator("#results .name").first.wait_for()
    assert "film.mp4 at 0:04" in page.locator("#query-text").inner_text()
    details = page.locator("#results li", has_text="film.mp4").first
    assert re.fullmatch(r"at 0:\d\d, of \d+ from 0:00 to 0:\d\d", details.locator(".more").inner_text())
    for picture in details.locator("img").all():
        picture.scroll_into_view_if_needed()
        until(lambda picture=picture: picture.evaluate("each => each.complete && each.naturalWidth") == 320)
    name = details.locator("a.name")
    start_s = float(name.get_attribute("href").partition("#t=")[2])
    with page.context.expect_page() as opened:
        name.click()
    video = opened.value.locator("video")
    video.wait_for()
    until(lambda: video.evaluate("each => each.readyState >= 2 && each.currentTime") >= start_s)
    assert video.evaluate("each => each.currentTime") < start_s + 10


def test_a_picture_at_a_url_is_named(visit, pages):
    """It is not loaded, which the fixture would notice, and its name is a link."""
    page = visit("films", "#/search?id=" + quote(f"{pages['folder']}/film.mp4#t=0", safe=""))
    results(page)
    tile = page.locator("#results li", has=page.locator("[title='https://example.com/pictures/cat.jpg']"))
    assert "at a URL, from which this page loads nothing" in tile.locator(".absent").inner_text()
    assert tile.locator("a.name").get_attribute("href") == "https://example.com/pictures/cat.jpg"
    assert tile.locator("a.name").get_attribute("rel") == "noopener noreferrer"


def until(is_done) -> None:
    """Waits without evaluating texts in the page, which its policy forbids."""
    deadline = time.monotonic() + SECONDS / 1000
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The map


def test_the_map_is_drawn_and_moves(visit):
    page = visit("large", "#/map")
    assert "100,000 rows" in said(page, "rows, by the two principal components")
    painted = """() => {
      const canvas = document.getElementById("map");
      const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
      return data.reduce((count, each) => count + (each !== 0), 0);
    }"""
    page.wait_for_function(f"({painted})() > 5000")
    whole = page.evaluate(painted)
    page.click("#zoom-in")
    page.wait_for_function("location.hash.includes('1.6')")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.wheel(0, -600)
    page.wait_for_function("!location.hash.endsWith('1.6')")
    assert page.evaluate(painted) != whole
    shared = page.evaluate("location.hash")
    page.reload()
    said(page, "rows, by")
    page.wait_for_timeout(400)
    assert page.evaluate("location.hash") == shared


def test_the_map_is_colored_by_groups(visit):
    """The address has the column and the group, and a group is seen alone."""
    page = visit("large", "#/map")
    said(page, "rows, by")
    colors = """() => {
      const canvas = document.getElementById("map");
      const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
      return new Set(data.filter((each) => each >>> 24 > 100).map((each) => each & 0xffffff)).size;
    }"""
    page.select_option("#by", "cluster")
    page.wait_for_selector("#legend button")
    assert page.locator("#legend button").count() == 8
    assert "all others" in page.locator("#legend .others").inner_text()
    counts = [int(text.replace(",", "")) for text in page.locator("#legend .count").all_inner_texts()]
    assert sum(counts) == 100_000
    assert counts[:8] == sorted(counts[:8], reverse=True)
    page.wait_for_function(f"({colors})() >= 9")
    page.locator("#legend button").nth(2).press("Enter")
    page.wait_for_selector("#legend [aria-pressed=true]")
    assert re.search(r"by=cluster&group=\d+", page.evaluate("location.hash"))
    page.reload()
    page.wait_for_selector("#legend [aria-pressed=true]")
    page.locator("#legend [aria-pressed=true]").press("Enter")
    page.wait_for_function("!location.hash.includes('group=')")
    page.select_option("#by", "")
    page.wait_for_selector("#legend", state="hidden")


def test_the_point_that_is_looked_at_tells_its_group(visit):
    page = visit("photos", "#/map?by=label")
    said(page, "rows, by")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert re.search(r"Nearest to the cross: (\w+?)(-mirrored)?\.jpg, label \1", said(page, "Nearest to the cross: "))
    assert "label: " in page.locator("#spot .more").inner_text()


def test_a_point_of_the_map_opens_by_keyboard(visit):
    page = visit("photos", "#/map")
    said(page, "rows, by")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "map":
            break
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert "Nearest to the cross" in said(page, "Nearest to the cross: ")
    assert page.locator("#spot img").count() == 1
    page.keyboard.press("Enter")
    assert len(results(page)) == 15


def test_few_points_are_shown_as_pictures(visit):
    page = visit("photos", "#/map")
    with page.expect_response("**/api/thumbnail**"):
        said(page, "rows, by")


# For everybody


def test_all_of_it_by_keyboard(visit):
    page = visit("texts")
    said(page, "Nothing")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("coffee")
    page.keyboard.press("Enter")
    first = results(page)
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "picture":
            break
    page.keyboard.press("ArrowRight")
    place = "[...document.querySelectorAll('#results .picture')].indexOf(document.activeElement)"
    assert page.evaluate(place) == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate(place) > 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.includes('id=') && !document.querySelector('[aria-busy]')")
    page.wait_for_function("document.activeElement.id === 'title'")
    assert first[1] in page.locator("#query-text").inner_text()
    assert first[1] not in results(page)


VIEWS = ("#/search", "like", "#/duplicates?threshold=0.9", "#/map", "#/map?by=label&group=cat", "wrong")


def open_view(visit, pages, view: str, *arguments):
    fragments = {"like": like(pages, "cat.jpg"), "wrong": like(pages, "cat.jpg", where="nope > 1")}
    page = visit("photos", fragments.get(view, view), *arguments)
    page.wait_for_function(
        "document.getElementById('fact-rows').textContent === '16' && !document.querySelector('[aria-busy]')"
    )
    page.wait_for_timeout(500)
    return page


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")], ids=["phone", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_accessible(visit, pages, view, size, scheme):
    """axe-core finds nothing, in either palette, and nothing scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe  # where the browser is

    page = open_view(visit, pages, view, size, scheme)
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"], len(fault["nodes"])) for fault in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_login_is_accessible(visit):
    from axe_playwright_python.sync_playwright import Axe

    page = visit("locked")
    page.wait_for_selector("#login[open]")
    assert [fault["id"] for fault in Axe().run(page).response["violations"]] == []


def test_nothing_moves_once_it_is_shown(visit, pages):
    """Pictures have their places before they are there."""
    page = visit("photos", "#/search")
    said(page, "Nothing")
    page.evaluate(
        """() => {
          window.moved = 0;
          new PerformanceObserver((list) => list.getEntries().forEach((each) => { window.moved += each.value; }))
            .observe({ type: "layout-shift" });
        }"""
    )
    page.evaluate("hash => { location.hash = hash; }", like(pages, "cat.jpg"))
    places = (
        "[...document.querySelectorAll('#results li')].map((each) => each.offsetTop + ' ' + each.offsetHeight).join()"
    )
    results(page)
    before = page.evaluate(places)
    page.wait_for_function(
        "[...document.querySelectorAll('#results img')].filter((each) => each.complete).length >= 12"
    )
    page.wait_for_timeout(300)
    assert page.evaluate(places) == before
    assert page.evaluate("window.moved") < 0.1  # what web.dev calls good


def test_every_picture_has_a_text(visit, pages):
    page = visit("photos", like(pages, "cat.jpg"))
    results(page)
    assert all(page.locator("#results img").evaluate_all("all => all.map((each) => each.alt)"))


# The token


def test_the_token_is_asked_for(visit):
    page = visit("locked")
    page.wait_for_selector("#login[open]")
    page.fill("#token", "wrong")
    page.press("#token", "Enter")
    page.wait_for_function("document.getElementById('login-note').textContent.includes('not the token')")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_function("document.getElementById('fact-rows').textContent === '16'")
    page.reload()  # the cookie is enough
    page.wait_for_function("document.getElementById('fact-rows').textContent === '16'")
    assert page.evaluate("document.cookie") == ""  # scripts do not see it


def test_a_link_has_the_token(visit):
    page = visit("locked", f"#token={TOKEN}")
    page.wait_for_function("document.getElementById('fact-rows').textContent === '16'")
    assert TOKEN not in page.evaluate("location.href")
