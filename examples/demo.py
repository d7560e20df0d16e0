"""`make demo`: export a model, serve it, embed the sample photos, index them for a page, and show the results.

The model is google/vit-base-patch16-224 if the Hugging Face hub answers, and otherwise a trained DINOv2-small from the
package index. Everything that it writes goes to out/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import trained_dinov2
import vitriton_export
from PIL import Image, ImageDraw, ImageOps
from rich.console import Console
from vitriton import Client
from vitriton_server import TritonServer

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out"
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
ROUNDS = 4  # how often all photos are embedded for the rate
VITRITON = Path(sys.executable).with_name("vitriton")
STORE = OUT / "photos.lance"
PAGE_S = 60  # for a browser to show the page
CELL = 96  # the side of the picture's thumbnails and squares, in pixels

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Runs the demo; 0 if every mirrored photo found its original."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # there are no options but --help
    started = time.perf_counter()
    result = export()
    name = result.deployment.name
    console.rule(f"serve {result.repository}")
    with TritonServer(result.repository) as server, Client(server.grpc_address, model=name) as client:
        console.print(f"Triton answers on {server.grpc_address} (gRPC) and {server.http_address} (HTTP)")
        console.rule("embed")
        photos = [path.read_bytes() for path in PHOTOS]
        twins = [mirrored(photo) for photo in photos]
        embeddings = client.embed(photos + twins)
        tokens = client.embed(photos[:1], pool=False)
        rate = images_per_second(client, photos)
        index(twins, server.grpc_address, name)
        page = screenshot(server.grpc_address)
    console.print(f"pooled    {embeddings.shape} {embeddings.dtype}")
    console.print(f"unpooled  {tokens.shape} {tokens.dtype}, of one photo")
    console.print(f"rate      {rate:.1f} images/s from JPEG bytes to embedding, on this machine's CPU, pooled")
    similarity = cosine(embeddings)
    show(similarity[: len(photos), : len(photos)])
    found = nearest(similarity, len(photos))
    console.print(f"{found} of {len(photos)} mirrored photos have their original as nearest neighbor")
    picture = OUT / "demo.png"
    draw(similarity[: len(photos), : len(photos)]).save(picture)
    console.print(f"picture   {picture}")
    console.print(f"page      {page}")
    console.print(f"done in {time.perf_counter() - started:.0f} s\n\nNext:")
    console.print(f"  .venv/bin/vitriton serve --repository {result.repository.relative_to(ROOT)}")
    console.print(f"  .venv/bin/python examples/quickstart.py localhost:8001 {name}    # in another terminal")
    serves = f".venv/bin/vitriton search serve --store {STORE.relative_to(ROOT)}"
    console.print(f"  {serves}    # the page: http://127.0.0.1:8090/")
    return 0 if found == len(photos) else 1


def export() -> vitriton_export.ExportResult:
    """Exports the default model, or the trained DINOv2-small without the hub."""
    console.rule("export")
    shutil.rmtree(OUT / "model_repository", ignore_errors=True)  # left by an earlier demo
    try:
        return _export(vitriton_export.DEFAULT_MODEL)
    except vitriton_export.HubError as exc:
        console.print(f"[bold yellow]{exc}")
        console.print(f"[bold yellow]Continuing without the hub: {trained_dinov2.NAME}, from the package index.")
    return _export(str(trained_dinov2.checkpoint(ROOT / ".cache")))


def _export(model: str) -> vitriton_export.ExportResult:
    console.print(f"exporting {model}")
    options = vitriton_export.ExportOptions(model=model, repository=OUT / "model_repository")
    result = vitriton_export.export_model(options, _step)
    for stage in result.parity:
        console.print(f"{stage.stage}: max abs error {stage.max_abs_error:.2g}, gate: {stage.gate}")
    console.print(f"pooling {result.deployment.pooling}, fingerprint {result.deployment.fingerprint}")
    return result


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    started = time.perf_counter()
    with console.status(title):
        yield
    console.print(f"{title:<50} {time.perf_counter() - started:6.1f} s")


def mirrored(photo: bytes) -> bytes:
    """The same photo with left and right exchanged."""
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(photo))).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def index(twins: list[bytes], address: str, model: str) -> None:
    """Makes a store of the photos and their mirrored twins, for the page."""
    folder = OUT / "mirrored"
    shutil.rmtree(folder, ignore_errors=True)  # left by an earlier demo
    folder.mkdir()
    for path, twin in zip(PHOTOS, twins, strict=True):
        (folder / f"{path.stem}-mirrored.jpg").write_bytes(twin)
    shutil.rmtree(STORE, ignore_errors=True)
    given = [PHOTOS[0].parent, folder, "--store", STORE, "--model", model, "--url", address, "--quiet"]
    subprocess.run([VITRITON, "search", "index", *given], check=True)


def screenshot(address: str) -> str:
    """Takes a picture of the page where there is a browser; returns where it is, or how to get one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        return "no picture of it, as there is no Chromium here (on Debian: apt install chromium)"
    picture = OUT / "page.png"
    picture.unlink(missing_ok=True)
    serve = [VITRITON, "search", "serve", "--store", STORE, "--url", address, "--port", "0"]
    serve += ["--thumbnails", OUT / "thumbnails"]
    with tempfile.TemporaryDirectory() as profile, subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as page:
        url = page.stdout.readline().split()[1]
        options = ["--headless", "--hide-scrollbars", "--force-prefers-reduced-motion"]
        options += ["--window-size=1280,900", "--virtual-time-budget=10000"]
        options += [f"--user-data-dir={profile}", f"--screenshot={picture}", *["--no-sandbox"] * (os.geteuid() == 0)]
        like = f"{url}#/search?id={quote(str(PHOTOS[0]), safe='')}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([browser, *options, like], capture_output=True, timeout=PAGE_S, check=False)
        page.terminate()
    return str(picture) if picture.exists() else f"no picture of it, as {browser} took none"


def images_per_second(client: Client, photos: list[bytes]) -> float:
    """The rate of embedding the photos a few times."""
    client.embed(photos)
    started = time.perf_counter()
    client.embed(photos * ROUNDS)
    return len(photos) * ROUNDS / (time.perf_counter() - started)


def cosine(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) → (N, N) cosine similarities."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def nearest(similarity: np.ndarray, originals: int) -> int:
    """The number of mirrored photos, the second half of the rows, that are nearest to their own original."""
    others = similarity.copy()
    np.fill_diagonal(others, -1)
    return sum(int(others[originals + index].argmax()) == index for index in range(originals))


def show(similarity: np.ndarray) -> None:
    """Prints the similarity of the photos to one another."""
    names = [path.stem for path in PHOTOS]
    console.print("\ncosine similarity")
    console.print(" " * 10 + "".join(f"{name[:9]:>10}" for name in names))
    for name, row in zip(names, similarity, strict=True):
        console.print(f"{name[:9]:<10}" + "".join(f"{value:>10.2f}" for value in row))
    console.print()


def draw(similarity: np.ndarray) -> Image.Image:
    """A heat map of the similarities with the photos' thumbnails along both edges."""
    thumbnails = [ImageOps.fit(Image.open(path), (CELL, CELL)) for path in PHOTOS]
    side = CELL * (len(PHOTOS) + 1)
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    low, high = float(similarity.min()), float(np.sort(similarity, axis=None)[-len(PHOTOS) - 1])
    for row, thumbnail in enumerate(thumbnails, start=1):
        picture.paste(thumbnail, (0, row * CELL))
        picture.paste(thumbnail, (row * CELL, 0))
        for column, value in enumerate(similarity[row - 1], start=1):
            warmth = float(np.clip((value - low) / max(high - low, 1e-6), 0, 1))
            box = (column * CELL, row * CELL, (column + 1) * CELL - 1, (row + 1) * CELL - 1)
            pen.rectangle(box, fill=(255, int(245 - 165 * warmth), int(220 - 190 * warmth)))
            center = (column * CELL + CELL // 2, row * CELL + CELL // 2)
            pen.text(center, f"{value:.2f}", fill="black", anchor="mm", font_size=CELL // 5)
    return picture


if __name__ == "__main__":
    sys.exit(main())
