"""Serves pages for the tests in a browser, from the product's own environment, until its input ends.

It prints one line of JSON: the addresses of the pages, and the folder of the photos. `photos` shows the sample photos
and their mirrored twins, embedded with trained weights; `texts` shows these and files with odd names, embedded with a
small model of two towers; `films` adds frames of a film, and a picture at a URL; `locked` is `photos` with a token;
`large` is a store of 100,000 vectors.
"""

import contextlib
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from search.page_server import PHOTOS, jpeg, photos_and_twins
from search.store_contract import rows
from support import checkpoints, exports, two_towers
from vitriton_search.stores import open_store
from vitriton_search.stores.store import Space
from vitriton_server import TritonServer

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "a-token-of-more-than-24-characters"
LARGE = 100_000
# Shown as they are; a page that took one for HTML would ask for the picture "taken", or run a script
ODD_NAMES = ("<img src=taken onerror=alert(1)>.jpg", "a \"b\" & 'c' 日本 🦜.jpg", "<a><script>alert(1)<.jpg")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vitriton-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        repository = folder / "models"
        exports.export(checkpoints.trained_dinov2_small(), repository, name="photos", outputs="pooled")
        exports.export(two_towers.write("clip", folder / "clip"), repository, name="texts", outputs="pooled")
        photos_and_twins(folder / "photos")
        (folder / "odd").mkdir()
        for number, name in enumerate(ODD_NAMES):
            (folder / "odd" / name).write_bytes(jpeg(PHOTOS / "rocket.jpg", quality=30 + number))
        server = stack.enter_context(TritonServer(repository))
        label(folder / "photos")
        index(folder, server.grpc_address, "photos", "photos", "--columns", "labels.csv")
        index(folder, server.grpc_address, "texts", "photos", "odd")
        fill_films(folder, server.grpc_address)
        fill_large(folder / "large.lance")
        (folder / "token").write_text(TOKEN)
        addresses = {
            "photos": ["photos.lance"],
            "texts": ["texts.lance"],
            "films": ["films.lance"],
            "locked": ["photos.lance", "--token-file", "token"],
            "large": ["large.lance"],
        }
        pages = {
            name: stack.enter_context(page(folder, server.grpc_address, *given)) for name, given in addresses.items()
        }
        print(json.dumps({**pages, "folder": str(folder)}), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def page(folder, address, store, *options):
    """Runs `vitriton search serve` on a free port."""
    program = [Path(sys.executable).with_name("vitriton"), "search", "serve", "--store", store, "--url", address]
    program += ["--port", "0", "--thumbnails", "thumbnails", *options]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("page  http://"), line
            yield line.split()[1]
        finally:
            process.terminate()


def index(folder, address, model, *paths, store=None):
    """Makes a store of folders and files, named after the model unless it has a name of its own."""
    program = [Path(sys.executable).with_name("vitriton"), "search", "index", *paths]
    program += ["--store", f"{store or model}.lance"]
    subprocess.run([*program, "--model", model, "--url", address, "--quiet"], cwd=folder, check=True)


def label(photos):
    """Writes a list of what is on each photo, and whether it is a twin."""
    with (photos.parent / "labels.csv").open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "is_twin"])
        for path in sorted(photos.iterdir()):
            lines.writerow([path, path.stem.removesuffix("-mirrored"), str(path.stem.endswith("-mirrored")).lower()])


def fill_films(folder, address):
    """Makes the store `films.lance` of photos, the frames of a film, two in a second, and a picture at a URL."""
    subprocess.run([sys.executable, EXAMPLES / "film.py", "film.mp4"], cwd=folder, check=True, capture_output=True)
    vitriton = Path(sys.executable).with_name("vitriton")
    frames = ["film.mp4", "--every", "500ms", "--output", "frames.parquet", "--quiet"]
    subprocess.run([vitriton, "embed", *frames, "--model", "photos", "--url", address], cwd=folder, check=True)
    index(folder, address, "photos", "frames.parquet", "photos", store="films")
    with open_store(str(folder / "films.lance")) as store:
        cat = store.rows([f"{folder}/film.mp4#t=0"])["embedding"].to_pylist()
        store.write(rows(["https://example.com/pictures/cat.jpg"], cat, bytes=None, sha256=None))


def fill_large(store):
    """Makes a store of vectors around forty centers."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((40, 32))
    cluster = np.minimum(random.integers(40, size=LARGE), random.integers(40, size=LARGE))  # the first are the largest
    vectors = centers[cluster] + 0.4 * random.standard_normal((LARGE, 32))
    own = {"cluster": pa.int64()}
    with open_store(str(store), Space(model="photos", fingerprint="large", dimensions=32), own) as opened:
        for start in range(0, LARGE, 20_000):
            part = slice(start, start + 20_000)
            ids = [f"/nowhere/{number}.jpg" for number in range(start, start + 20_000)]
            opened.write(rows(ids, vectors[part].astype(np.float32), own, cluster=cluster[part].tolist()))


if __name__ == "__main__":
    main()
