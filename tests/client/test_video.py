"""`vitriton.video.frames`: the right frames of real files, upright and in their colors; and errors for other files."""

import contextlib
import io
import itertools
import os
import struct
import sys
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from support import films
from vitriton import InvalidVideo, Options
from vitriton._video.container import Container
from vitriton._video.reading import Video
from vitriton.video import frames

av = films.av
Disposition = av.stream.Disposition
MILLISECONDS = Fraction(1, 1000)


def numbers(video, **arguments):
    """The numbers that the frames have, which are those that they show."""
    found = []
    for frame in frames(video, **arguments):
        assert (frame.image.dtype, frame.image.ndim, frame.image.shape[2]) == (np.uint8, 3, 3)
        assert films.number_in(frame.image) == frame.number
        found.append(frame.number)
    return found


def read_until_broken(video, **arguments):
    """What is yielded before the error, and the error."""
    found = []
    with pytest.raises(InvalidVideo) as caught:
        found.extend(frames(video, **arguments))
    return found, caught.value


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ten seconds of 25 frames, a key frame each two seconds, and sound."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    films.write(path, 250, audio=True)
    return path


KINDS = {
    "h264.mp4": {},
    "h264.mov": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {"options": {"bf": "3"}},
    "h264.ts": {},
    "h264.flv": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "open-gop.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:bframes=4"}},
    "refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=30"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "b": "500k"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "enable-stat-report=0"}},
    "wmv2.wmv": {"codec": "wmv2", "options": {"b": "1M"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "1M"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"b": "2M", "bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("every_s", [0.2, 1, 3])
def test_every_time_has_its_frame(tmp_path, name, every_s):
    """In each format, the frame of a requested time is the one that is shown then."""
    settings = KINDS[name]
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no {settings['codec']}")
    path = tmp_path / name
    times_s = films.write(path, 180, **settings)
    found = list(frames(path, every_s=every_s))
    assert [films.number_in(frame.image) for frame in found] == films.shown(times_s, every_s, 180 / 25)
    assert [frame.time_s for frame in found] == pytest.approx(
        [times_s[n] for n in films.shown(times_s, every_s, 7.2)], abs=2e-3
    )
    if name != "vp8.webm":  # which has frames that are not shown
        assert [frame.number for frame in found] == films.shown(times_s, every_s, 180 / 25)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate(tmp_path, suffix):
    """Times are those of the file, not those of a rate."""
    random = np.random.default_rng(1)
    ticks = [0, *np.cumsum(random.choice([10, 33, 40, 400, 2600], 119)).tolist()]
    times_s = films.write(tmp_path / f"film.{suffix}", 120, ticks=ticks, tick_s=MILLISECONDS, gop=20)
    for every_s in (0.1, 1, 10):
        expected = films.shown(times_s, every_s, times_s[-1] + 1e-3)
        found = list(frames(tmp_path / f"film.{suffix}", every_s=every_s))
        assert [frame.number for frame in found][: len(expected)] == expected
        assert [films.number_in(frame.image) for frame in found][: len(expected)] == expected
        assert all(abs(frame.time_s - times_s[frame.number]) < 2e-3 for frame in found)


def test_the_default_is_a_second(film):
    """Without arguments, there is a frame for each second."""
    assert numbers(film) == list(range(0, 250, 25))


@pytest.mark.parametrize("name", ["h264.mkv", "h264.ts", "hevc.mp4", "open-gop.mp4", "vp9.webm", "mpeg2.mpg"])
def test_what_is_skipped_changes_nothing(tmp_path, name):
    """Frames that are reached by seeking, and with others left out, equal those that are decoded one after another."""
    film = tmp_path / name
    films.write(film, 250, **KINDS[name])
    with Video(film, Options()) as video:
        whole = {number: frame.image for number, frame in enumerate(video.read(range(250)))}
    for every_s in (0.12, 1, 1.52, 2, 4.4):
        for frame in frames(film, every_s=every_s):
            np.testing.assert_array_equal(frame.image, whole[frame.number])


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    """Between distant frames, there are packets that no decoder sees."""
    films.write(tmp_path / "film.mp4", 1000, gop=25)
    decode, decoded = Container.decode, []

    def counted(self, wanted=None):
        for frame in decode(self, wanted):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(Container, "decode", counted)
    assert numbers(tmp_path / "film.mp4", every_s=10) == [0, 250, 500, 750]
    assert len(decoded) < 100


def test_a_file_that_cannot_be_sought_in(film, monkeypatch):
    """It is decoded from the beginning."""
    monkeypatch.setattr(Container, "seek", lambda self, tick: False)
    assert numbers(film, every_s=3) == [0, 75, 150, 225]


def test_an_index_that_leads_too_far(film, monkeypatch):
    """A file whose index is wrong is decoded from the beginning, too."""
    seek = Container.seek
    monkeypatch.setattr(Container, "seek", lambda self, tick: seek(self, tick + 2 * 12800))
    assert numbers(film, every_s=3) == [0, 75, 150, 225]


@pytest.mark.parametrize(
    ("rotation", "hflip", "vflip"), list(itertools.product([0, 90, 180, -90], [False, True], [False, True]))
)
def test_rotated(tmp_path, rotation, hflip, vflip):
    """A frame is turned as the file says: what shows its number upright was stored turned the other way."""
    upright = [films.picture(number, 128, 128) for number in range(0, 3)]
    turned = [image[:: -1 if vflip else 1, :: -1 if hflip else 1] for image in upright]
    stored = [np.ascontiguousarray(np.rot90(image, -rotation // 90)) for image in turned]
    films.write(tmp_path / "film.mp4", 3, images=stored, size=(128, 128), rotation=(rotation, hflip, vflip))
    assert numbers(tmp_path / "film.mp4", every_s=0.04) == [0, 1, 2]


def test_the_shape_of_a_portrait(tmp_path):
    """Width and height change places with a quarter of a turn."""
    films.write(tmp_path / "film.mp4", 3, rotation=(90, False, False))
    assert [frame.image.shape for frame in frames(tmp_path / "film.mp4")] == [(128, 64, 3)]


def test_pixels_that_are_not_square(tmp_path):
    """The picture is as wide as a viewer sees it."""
    films.write(tmp_path / "film.mkv", 3, aspect=Fraction(3, 2))
    (frame,) = frames(tmp_path / "film.mkv")
    assert (frame.image.shape, films.number_in(frame.image)) == ((64, 192, 3), 0)


COLORS = [(200, 30, 40), (30, 180, 60), (40, 60, 220), (128, 128, 128), (250, 250, 250), (10, 10, 10)]


@pytest.mark.parametrize("range_", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9], ids=["bt709", "bt470bg", "smpte170m", "bt2020"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_colors(tmp_path, pix_fmt, matrix, range_):
    """Matrix and range are those of the file, in 8 and 10 bits."""
    images = [np.full((64, 128, 3), color, np.uint8) for color in COLORS]
    films.write(
        tmp_path / "film.mkv", len(COLORS), images=images, pix_fmt=pix_fmt, color=(matrix, range_), options={"qp": "1"}
    )
    found = np.array([frame.image[32, 64] for frame in frames(tmp_path / "film.mkv", every_s=0.04)], int)
    assert np.abs(found - COLORS).max() <= 4


@pytest.mark.parametrize(("height", "matrix"), [(480, 5), (720, 1)])
def test_colors_of_a_file_that_does_not_tell(tmp_path, height, matrix):
    """The matrix is that of standard definition in small videos, and that of HD in large ones, as in players."""
    size = (height * 4 // 3, height)
    images = [np.full((height, size[0], 3), color, np.uint8) for color in COLORS]
    films.write(tmp_path / "film.mkv", len(COLORS), images=images, size=size, color=(matrix, 1), options={"qp": "1"})
    data = (tmp_path / "film.mkv").read_bytes()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        colors = [frame for packet in container.demux(stream) for frame in packet.decode()]
    assert len(colors) == len(COLORS)
    from av.video.reformatter import VideoReformatter
    from vitriton._video.frame import picture

    for frame, color in zip(colors, COLORS, strict=True):
        frame.colorspace = 2  # not specified
        assert np.abs(picture(frame, None, VideoReformatter())[height // 2, height // 2].astype(int) - color).max() <= 4


@pytest.mark.parametrize(
    "pix_fmt",
    ["gray", "gray10le", "yuv410p", "yuv411p", "yuv422p12le", "yuva420p", "bgr0", "rgb48le", "gbrp", "gbrp16le"],
)
def test_odd_pixel_formats(tmp_path, pix_fmt):
    """They become 8-bit RGB."""
    codec = "ffv1"
    if pix_fmt not in {format.name for format in av.Codec(codec, "w").video_formats}:
        pytest.skip(f"{codec} of this PyAV has no {pix_fmt}")
    films.write(tmp_path / "film.mkv", 30, codec=codec, pix_fmt=pix_fmt)
    assert numbers(tmp_path / "film.mkv", every_s=0.2) == list(range(0, 30, 5))


def test_odd_sizes(tmp_path):
    """Width and height need not be even."""
    films.write(tmp_path / "film.mkv", 3, codec="ffv1", pix_fmt="yuv420p", size=(133, 67))
    (frame,) = frames(tmp_path / "film.mkv")
    assert frame.image.shape == (67, 133, 3)


def test_interlaced(tmp_path):
    """A frame of two fields is told from a whole one."""
    films.write(tmp_path / "woven.mkv", 5, options={"x264-params": "interlaced=1"})
    films.write(tmp_path / "whole.mkv", 5)
    assert [frame.is_interlaced for frame in frames(tmp_path / "woven.mkv")] == [True]
    assert [frame.is_interlaced for frame in frames(tmp_path / "whole.mkv")] == [False]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_cut_short(tmp_path, name):
    """What is there is read; an error tells that it is not all, except where the format cannot show it."""
    options = {"movflags": "faststart"} if name == "film.mp4" else None
    codec = "mpeg4" if name == "film.avi" else "libx264"
    films.write(tmp_path / name, 250, codec=codec, container_options=options)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    if name == "film.ts":
        found = list(frames(tmp_path / name))
    else:
        found, error = read_until_broken(tmp_path / name)
        assert error.code in ("truncated", "corrupt")
        assert "ends too early" in str(error)
        assert str(tmp_path) in error.source
    assert 3 <= len(found) < 10
    assert [films.number_in(frame.image) for frame in found] == [25 * index for index in range(len(found))]


def test_cut_before_its_index(film, tmp_path):
    """An MP4 whose index was at the end, which is gone, has nothing that can be read."""
    (tmp_path / "film.mp4").write_bytes(film.read_bytes()[:20_000])
    found, error = read_until_broken(tmp_path / "film.mp4")
    assert (found, error.code) == ([], "format")
    assert "it is not a video in a format that is read" in str(error)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_hole(tmp_path, name):
    """Frames whose bytes are broken are left out, and told, or shown as the decoder repairs them; others are right."""
    options = {"movflags": "faststart"} if name == "film.mp4" else None  # else the hole would be in the index
    films.write(tmp_path / name, 500, gop=25, container_options=options)
    data = bytearray((tmp_path / name).read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    (tmp_path / name).write_bytes(data)
    found: list = []
    with contextlib.suppress(InvalidVideo):
        found.extend(frames(tmp_path / name))
    right = [frame for frame in found if films.number_in(frame.image) == frame.number]
    assert len(right) >= 8
    assert [frame.number for frame in found] == sorted(frame.number for frame in found)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi", "film.flv", "film.mpg"])
def test_damaged_in_any_way(tmp_path, name):
    """Bytes that are changed, lost or added give frames, or the one error."""
    codec = {"avi": "mpeg4", "mpg": "mpeg2video"}.get(name[-3:], "libx264")
    films.write(tmp_path / name, 60, gop=15, codec=codec)
    random = np.random.default_rng(5)
    for _ in range(50):
        data = bytearray((tmp_path / name).read_bytes())
        start, length = random.integers(len(data)), random.integers(1, 1000)
        data[start : start + length] = [random.bytes(length), b"", random.bytes(1)][random.integers(3)]
        with contextlib.suppress(InvalidVideo):
            found = list(frames(io.BytesIO(data), every_s=0.2))
            assert [frame.number for frame in found] == sorted({frame.number for frame in found})
            assert all(frame.time_s >= 0 for frame in found)


def test_audio(tmp_path):
    """A file with sound alone is told, also if it has a cover."""
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        films.write_sound(container, container.add_stream("aac", rate=48000), 1)
    found, error = read_until_broken(path)
    assert (found, error.code) == ([], "format")
    assert str(error) == f"video {path}: it has no video, only audio"


def test_a_cover_is_no_video(tmp_path):
    """The picture of an album is none."""
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 128, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(films.picture(1), "rgb24")))
        container.mux(cover.encode(None))
        films.write_sound(container, sound, 1)
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    assert read_until_broken(path)[1].reason == "it has no video, only audio"


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("empty.mp4", b"", "empty", "the file is empty"),
        ("text.mp4", b"Dear diary,\n" * 100, "format", "it is not a video in a format that is read"),
        ("zeros.mkv", bytes(5000), "format", "it is not a video in a format that is read"),
        ("header.y4m", b"YUV4MPEG2 W128 H64 F25:1 Ip A0:0 C420\n", "empty", "it has no frame that can be read"),
    ],
)
def test_no_video(tmp_path, name, data, code, says):
    """Files without a frame."""
    (tmp_path / name).write_bytes(data)
    found, error = read_until_broken(tmp_path / name)
    assert (found, error.code) == ([], code)
    assert says in error.reason


def test_no_file(tmp_path):
    """What is no regular file is not opened."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, code in (
        (tmp_path / "pipe.mp4", "kind"),
        (tmp_path, "kind"),
        (tmp_path / "none", "not_found"),
        ("\0", "not_found"),
    ):
        assert read_until_broken(path)[1].code == code
    with pytest.raises(TypeError, match="the video has the type int"):
        list(frames(3))


def test_no_timestamps(tmp_path):
    """A bare stream has no times; they follow from the rate, and frames are counted."""
    films.write(tmp_path / "film.h264", 180)
    found = list(frames(tmp_path / "film.h264", every_s=2))
    assert [frame.number for frame in found] == [films.number_in(frame.image) for frame in found] == [0, 50, 100, 150]
    assert [frame.time_s for frame in found] == [0, 2, 4, 6]


@pytest.mark.parametrize(("suffix", "start"), [("mkv", 7000), ("mp4", 7000), ("ts", 7000), ("mp4", -400)])
def test_times_that_begin_elsewhere(tmp_path, suffix, start):
    """Times count from the beginning of the video, wherever its own begin."""
    path = tmp_path / f"film.{suffix}"
    ticks = [start + 40 * number for number in range(120)]
    films.write(path, 120, ticks=ticks, tick_s=MILLISECONDS, container_options={"avoid_negative_ts": "disabled"})
    found = list(frames(path, every_s=1))
    shown = [films.number_in(frame.image) for frame in found]
    assert shown == [shown[0] + 25 * index for index in range(len(found))]
    assert len(found) >= 4
    assert found[0].time_s == pytest.approx(0, abs=2e-3)


def test_a_video_that_is_too_large(film):
    """Its header is enough to refuse it."""
    limit = Options(max_image_bytes=3 * 128 * 64)
    assert len(list(frames(film, options=limit))) == 10
    found, error = read_until_broken(film, options=Options(max_image_bytes=3 * 128 * 64 - 1))
    assert (found, error.code) == ([], "too_large")
    assert "128 x 64 pixels are over the limit of 8191 (Options.max_image_bytes / 3)" in str(error)


def test_a_hostile_header(tmp_path):
    """A size that no memory holds is refused before anything is decoded."""
    header = b"DKIF" + struct.pack("<HH4sHHIII4x", 0, 32, b"VP80", 65535, 65535, 25, 1, 2)
    frame = struct.pack("<IQ", 10, 0) + b"\x10\x02\x00\x9d\x01\x2a\xff\x3f\xff\x3f"
    (tmp_path / "film.ivf").write_bytes(header + frame * 2)
    found, error = read_until_broken(tmp_path / "film.ivf")
    assert (found, error.code) == ([], "too_large")


def test_a_size_that_grows(tmp_path):
    """The decoder refuses frames that are larger than the header told."""
    films.write(tmp_path / "small.h264", 50)
    films.write(tmp_path / "large.h264", 50, size=(1024, 512))
    both = (tmp_path / "small.h264").read_bytes() + (tmp_path / "large.h264").read_bytes()
    (tmp_path / "film.h264").write_bytes(both)
    found, error = read_until_broken(tmp_path / "film.h264", options=Options(max_image_bytes=100_000))
    assert {frame.image.shape for frame in found} == {(64, 128, 3)}
    assert error.code == "corrupt"
    assert [frame.image.shape for frame in frames(tmp_path / "film.h264")] == [(64, 128, 3)] * 2 + [(512, 1024, 3)] * 2


@pytest.fixture
def website(tmp_path):
    """A folder that is served, and what it was asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}/film.ts\n#EXT-X-ENDLIST\n",
    "local.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" mimeType="video/mp4"><BaseURL>{url}/film.ts</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.smil": '<smil><body><video src="{url}/film.ts"/></body></smil>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_playlists(tmp_path, website, name, suffix):
    """A file that leads to others opens none of them."""
    url, asked = website
    films.write(tmp_path / "film.ts", 50)
    path = tmp_path / (name + suffix)
    path.write_text(PLAYLISTS[name].format(url=url, path=tmp_path / "film.ts"))
    found, error = read_until_broken(path)
    assert (found, error.code, asked) == ([], "format", [])


@pytest.mark.parametrize(
    "url",
    [
        "concat:{path}|{path}",
        "file:{path}",
        "file://{path}",
        "subfile,,start,0,end,0,,:{path}",
        "rtmp://127.0.0.1/x",
        "data:video/mp4;base64,AAAA",
    ],
)
def test_protocols(film, url):
    """Names that FFmpeg would take for more than a path are names of files that are not there, or refused."""
    assert read_until_broken(url.format(path=film))[1].code in ("not_found", "bad_url")


def test_urls(film, tmp_path, website):
    """They are fetched by the rules for images."""
    url, asked = website
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    assert numbers(f"{url}/film.mp4?token=secret", every_s=5) == [0, 125]
    assert len(asked) == 1
    for options, code in (
        (Options(url_max_bytes=1000), "too_large"),
        (Options(refuse_private_addresses=True), "address_refused"),
    ):
        error = read_until_broken(f"{url}/film.mp4?token=secret", options=options)[1]
        assert error.code == code
        assert "secret" not in str(error)
    assert read_until_broken(f"{url}/none.mp4")[1].code == "not_fetched"
    assert read_until_broken(film, options=Options(refuse_paths=True))[1].code == "path_refused"


def test_files(film):
    """An open file is read, and stays open; it is a stream of bytes that can be sought in."""
    with film.open("rb") as file:
        assert numbers(file, every_s=4) == [0, 100, 200]
        assert not file.closed
    assert numbers(io.BytesIO(film.read_bytes()), every_s=9) == [0, 225]
    assert next(frames(str(film))).number == 0


def test_left_early(film):
    """A reader that stops leaves no file open."""
    before = set(Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else set()
    for _ in range(20):
        reader = frames(film)
        next(reader)
        reader.close()
    if before:
        assert len(set(Path("/proc/self/fd").iterdir()) - before) < 5


def test_scenes(tmp_path):
    """The first frame of each scene."""
    random = np.random.default_rng(3)
    scenes = [np.kron(random.integers(0, 256, (8, 16, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(3)]
    images = [scenes[number // 40] for number in range(120)]
    films.write(tmp_path / "film.mp4", 120, images=images, size=(256, 128))
    found = list(frames(tmp_path / "film.mp4", scene=True))
    assert [frame.number for frame in found] == [0, 40, 80]
    assert [frame.time_s for frame in found] == pytest.approx([0, 1.6, 3.2])
    for frame, scene in zip(found, scenes, strict=True):
        assert np.abs(frame.image.astype(int) - scene).mean() < 12


def test_memory_stays_flat(tmp_path):
    """A long film needs no more than a short one, whether its frames are decoded or skipped."""
    films.write(tmp_path / "film.mp4", 1600, size=(320, 176), options={"preset": "ultrafast"}, gop=100)
    for every_s in (0.04, 0.2):
        held = [resident_mib() for _ in frames(tmp_path / "film.mp4", every_s=every_s)]
        half = len(held) // 2
        assert held[-1] - held[half] < 40  # half of all frames have 129 MiB


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_arguments(film):
    """They are checked before the video is opened."""
    for every_s in (0, -1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ValueError, match="every_s is"):
            frames(film, every_s=every_s)
    with pytest.raises(ValueError, match="every_s is 1 and scene is True; give one of the two"):
        frames(film, every_s=1, scene=True)
    with pytest.raises(ValueError, match="scene is 1"):
        frames(film, scene=1)
    with pytest.raises(TypeError, match="every"):
        frames(film, every=1)


def test_without_pyav(film, monkeypatch):
    """The error has the line that installs it."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"install it with `pip install 'vitriton\[video\]'`"):
        next(frames(film))
