"""Makes a short film of the sample photos, for those who have no video at hand: three seconds of each."""

import argparse
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("film", nargs="?", default="film.mp4", help="the file to write (default: %(default)s)")
given = parser.parse_args()
photos = sorted((Path(__file__).parent / "photos").glob("*.jpg"))

with av.open(given.film, "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for photo in photos:
        with Image.open(photo) as opened:
            picture = np.asarray(ImageOps.fit(opened.convert("RGB"), (320, 240)))
        for _ in range(75):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    container.mux(stream.encode(None))
print(f"{given.film}: {3 * len(photos)} seconds")
