"""Every kind of file that people have is read as FFmpeg reads it, or named with its reason."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_files import busy_frames, ffmpeg_frames, frame_on_screen, write_video
from vidtune.data.decoding import available_decoders, open_video
from vidtune.data.jpeg_video import encode_jpeg_video
from vidtune.errors import VideoError

NUM_FRAMES = 40
VARIABLE = np.cumsum([0.0] + [0.02, 0.05, 0.1] * 13)
CONSTANT = np.arange(NUM_FRAMES) / 25


def x264(parameters="", **options):
    return {"options": {"crf": "23", "x264-params": parameters}, **options}


def x265(parameters, **options):
    quiet = ":log-level=none:pools=1:frame-threads=1"
    return {"codec": "libx265", "options": {"x265-params": parameters + quiet}, **options}


# B-frames that others refer to, four references, a cut in the middle, leading frames that refer to the last group.
PYRAMID = "bframes=4:b-adapt=0:b-pyramid=normal:ref=4:open-gop=1:scenecut=40"
HEVC = "bframes=4:b-adapt=0:b-pyramid=1:ref=4:open-gop=1:keyint=10:min-keyint=5"
HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k", "lossless": "0"}
AV1 = {"codec": "libsvtav1", "size": (64, 64), "options": {"preset": "10", "svtav1-params": "lp=1"}}
MPEG1, MPEG2, MPEG4 = ({"codec": codec, "b_frames": 2} for codec in ("mpeg1video", "mpeg2video", "mpeg4"))

# Kinds whose packets are looked up in an index; each is tried as a long file as well, of which only parts are read.
INDEXED = {
    "pyramid.mp4": x264(PYRAMID, keyframe_every=10),
    "pyramid.mkv": x264(PYRAMID, keyframe_every=10),
    "closed.mov": x264("bframes=4:b-adapt=2:b-pyramid=strict:ref=4", keyframe_every=10),
    "index_first.mp4": x264("bframes=3", container_options={"movflags": "faststart"}),
    "fragments.mp4": x264("bframes=3", container_options={"movflags": "frag_keyframe+empty_moov"}),
    "no_edit_list.mp4": x264("bframes=3", container_options={"use_editlist": "0"}),
    "no_cues.mkv": x264("bframes=3", container_options={"live": "1"}),
    "one_keyframe.mp4": x264("bframes=3:b-pyramid=normal", keyframe_every=300),
    "no_keyframes.mp4": x264("intra-refresh=1:bframes=2:ref=2:keyint=10"),
    "interlaced.mp4": x264("bframes=2:tff=1:ref=4"),
    "10_bit.mp4": x264("bframes=3:b-pyramid=normal", pixel_format="yuv420p10le"),
    "33x47.mkv": x264("bframes=3", pixel_format="yuv444p", size=(33, 47)),
    "2x2.mp4": x264("bframes=3", size=(2, 2)),
    "1x1.mkv": {"codec": "ffv1", "pixel_format": "bgr0", "size": (1, 1)},
    "turned_90.mp4": x264("bframes=3", rotation=90),
    "turned_180.mov": x264("bframes=3", rotation=180),
    "turned_270.mkv": x264("bframes=3", rotation=270),
    "variable.mp4": x264("bframes=4:b-pyramid=normal", times=VARIABLE),
    "starts_below_zero.mp4": x264("bframes=3", times=CONSTANT - 0.5, container_options={"avoid_negative_ts": "0"}),
    "starts_far_on.mp4": x264("bframes=3", times=CONSTANT + 1e5),
    "starts_far_on.mkv": x264("bframes=3", times=CONSTANT + 1e6),
    "hevc.mp4": x265(HEVC),
    "hevc.mkv": x265(HEVC),
    "hevc_10_bit.mp4": x265("bframes=4:temporal-layers=2", pixel_format="yuv420p10le"),
    "vp8.webm": {"codec": "libvpx", "options": HIDDEN},
    "vp9.webm": {"codec": "libvpx-vp9", "options": HIDDEN},
    "av1.mp4": AV1,
    "av1.webm": AV1,
    "mpeg4.mp4": MPEG4,
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj422p"},
    "ffv1.mkv": {"codec": "ffv1", "pixel_format": "yuv422p10le"},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "animation.mov": {"codec": "qtrle", "pixel_format": "rgb24"},
}
OTHERS = {
    "variable.mkv": x264("bframes=4:b-pyramid=normal", times=VARIABLE),
    "variable.ts": x264("bframes=4:b-pyramid=normal", times=VARIABLE),
    "pyramid.ts": x264(PYRAMID, keyframe_every=10),
    "pyramid.avi": x264(PYRAMID, keyframe_every=10),
    "pyramid.flv": x264(PYRAMID, keyframe_every=10),
    "interlaced.ts": x264("bframes=2:tff=1:ref=4"),
    "clock_runs_over.ts": x264(
        "bframes=3", times=CONSTANT + 2**33 / 90000 - 0.7, container_options={"mpegts_copyts": "1"}
    ),
    "hevc.ts": x265(HEVC),
    "mpeg1.mpg": MPEG1,
    "mpeg2.mpg": MPEG2,
    "mpeg2.vob": MPEG2,
    "mpeg2.mkv": MPEG2,
    "mpeg2.mxf": MPEG2,
    "mpeg2_interlaced.ts": {**MPEG2, "options": {"flags": "+ildct+ilme"}},
    "mpeg4.avi": MPEG4,
    "mpeg4.nut": MPEG4,
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "huffyuv.avi": {"codec": "huffyuv", "pixel_format": "rgb24"},
    "raw.avi": {"codec": "rawvideo"},
    "raw.y4m": {"codec": "wrapped_avframe"},
    "gif.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "png.apng": {"codec": "apng", "pixel_format": "rgb24"},
    "wmv2.wmv": {"codec": "wmv2"},
    "msmpeg4.avi": {"codec": "msmpeg4"},
    "h263.3gp": {"codec": "h263", "size": (96, 128)},
    "flv1.flv": {"codec": "flv"},
    "rv20.rm": {"codec": "rv20"},
    "vp8.ivf": {"codec": "libvpx"},
}
# What torchcodec places elsewhere by a fraction of a pixel, or loses frames of.
NOT_FOR_TORCHCODEC = {
    *("interlaced.mp4", "10_bit.mp4", "hevc_10_bit.mp4"),
    *("no_keyframes.mp4", "pyramid.mp4", "pyramid.mkv"),
}


@pytest.fixture(autouse=True)
def quiet_libraries(monkeypatch):
    """An encoder writes its settings on stderr."""
    monkeypatch.setenv("SVT_LOG", "1")


def write_kind(folder: Path, name: str, fps: float = 25) -> Path:
    options = dict({**INDEXED, **OTHERS}[name])
    if "times" in options:
        options["times"] = options["times"] * 25 / fps
    return write_video(folder / name, busy_frames(NUM_FRAMES, *options.pop("size", (48, 64))), fps, **options)


def draw_times(rng: np.random.Generator, duration: float) -> list[float]:
    """A request: ascending, repeated or in any order; before the start and past the end as well."""
    times = rng.uniform(-0.1, 1.1, rng.integers(1, 12)) * duration
    arrange = rng.choice([np.sort, lambda times: np.sort(rng.choice(times, times.size)), lambda times: times])
    return arrange(times).tolist()


def assert_reads_as_ffmpeg(
    path: Path, decoder: str, start: float | None = None, end: float | None = None, requests: int = 10
) -> None:
    """Hold what we read of a file, or of a span of it, to FFmpeg's own frames, to the byte."""
    times, pictures = ffmpeg_frames(path)
    interval = float(np.median(np.diff(times)))
    first, last = start or 0.0, times[-1] + interval if end is None else end
    last_index = len(times) - 1 if end is None else frame_on_screen(times, last - 2e-6)
    rng = np.random.default_rng(0)
    with open_video(path, decoder, start, end) as video:
        if start is end is None:
            assert video.num_frames == len(pictures)
        assert video.duration_seconds == pytest.approx(last - first, abs=1.2 * interval)
        assert (video.height, video.width) == pictures[0].shape[:2]
        for seconds in [*(draw_times(rng, last - first) for _ in range(requests)), [1e9], [-1.0, 1e9, 0.0]]:
            shown = [min(frame_on_screen(times, first + max(0.0, time)), last_index) for time in seconds]
            frames = video.frames_at(seconds)
            assert frames.shape == (len(seconds), 3, video.height, video.width)
            for frame, index in zip(frames.permute(0, 2, 3, 1).numpy(), shown, strict=True):
                np.testing.assert_array_equal(frame, pictures[index])
        inside = [index for index, time in enumerate(times) if first <= time < last]
        for frame, index in zip(video.stream(times[index] - first for index in inside), inside, strict=True):
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), pictures[index])


@pytest.mark.parametrize("name", [*INDEXED, *OTHERS])
def test_every_kind_of_file_gives_ffmpegs_frames(tmp_path, name):
    path = write_kind(tmp_path, name)
    assert_reads_as_ffmpeg(path, "auto", requests=30)
    assert_reads_as_ffmpeg(path, "auto", 0.17, 0.93)
    assert_reads_as_ffmpeg(path, "auto", 0.5)


@pytest.mark.parametrize("name", INDEXED)
def test_every_kind_of_long_file_gives_ffmpegs_frames(tmp_path, name):
    path = write_kind(tmp_path, name, fps=0.5)  # 80 s
    assert_reads_as_ffmpeg(path, "auto", requests=30)
    assert_reads_as_ffmpeg(path, "auto", 8.5, 46.5)
    assert_reads_as_ffmpeg(path, "auto", 30.0)


@pytest.mark.skipif("torchcodec" not in available_decoders(), reason="torchcodec finds no FFmpeg")
@pytest.mark.parametrize("name", [name for name in INDEXED if name not in NOT_FOR_TORCHCODEC])
def test_torchcodec_gives_ffmpegs_frames(tmp_path, name):
    path = write_kind(tmp_path, name)
    assert_reads_as_ffmpeg(path, "torchcodec")
    assert_reads_as_ffmpeg(path, "torchcodec", 0.17, 0.93)


@pytest.mark.parametrize("name", ["pyramid.mp4", "pyramid.mkv", "pyramid.ts", "mpeg2.mpg", "mpeg4.avi", "gif.gif"])
def test_content_in_memory_is_read_as_a_file_is(tmp_path, name):
    path = write_kind(tmp_path, name)
    seconds = np.random.default_rng(0).uniform(0, 1.6, 8).tolist()
    with open_video(path) as file, open_video(path.read_bytes()) as content:
        assert (content.num_frames, content.duration_seconds) == (file.num_frames, file.duration_seconds)
        assert torch.equal(content.frames_at(seconds), file.frames_at(seconds))


# Truncated


@pytest.mark.parametrize(
    "name",
    [
        *("pyramid.mp4", "index_first.mp4", "fragments.mp4", "pyramid.mkv", "vp9.webm", "mjpeg.avi", "mpeg4.avi"),
        *("pyramid.avi", "pyramid.flv", "pyramid.ts", "mpeg1.mpg", "gif.gif", "wmv2.wmv"),
    ],
)
def test_a_file_that_was_cut_anywhere_gives_the_frames_that_are_there_or_says_why_not(tmp_path, name):
    content = write_kind(tmp_path, name).read_bytes()
    whole_times = ffmpeg_frames(tmp_path / name)[0]
    lost = 3 if name.endswith((".ts", ".mpg")) else 0  # at the end: there, a frame doesn't know that it is cut
    opened = 0
    for cut in np.linspace(0, len(content) - 1, 40).astype(int):
        path = tmp_path / f"cut_{name}"
        path.write_bytes(content[:cut])
        try:
            video = open_video(path)
        except VideoError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            continue
        opened += 1
        times, pictures = ffmpeg_frames(path)
        with video:
            assert len(pictures) <= video.num_frames <= len(pictures) + (lost > 0)
            for index in range(len(pictures) - lost):
                frame = video.frames_at([whole_times[index] + 0.001])[0].permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(frame, pictures[frame_on_screen(times, whole_times[index] + 0.001)])
            try:
                assert video.frames_at([0.0, 1e9]).shape[0] == 2
            except VideoError as error:
                assert lost, error
    assert opened > 10 or name == "pyramid.mp4"  # whose index comes last


@pytest.mark.parametrize("name", ["pyramid.ts", "mpeg2.mpg", "pyramid.mkv", "gif.gif"])
def test_recordings_one_after_the_other_in_a_file_are_read_right_or_named(tmp_path, name):
    first, second = (write_kind(tmp_path / folder, name) for folder in "ab")
    joined = tmp_path / name
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert_read_right_or_named(joined)


@pytest.mark.parametrize("name", ["pyramid.ts", "mpeg2_interlaced.ts", "mpeg2.mpg", "hevc.ts"])
def test_a_recording_that_begins_amid_a_group_of_pictures_is_read_right_or_named(tmp_path, name):
    path = write_kind(tmp_path, name)
    path.write_bytes(path.read_bytes()[path.stat().st_size // 3 :])
    assert_read_right_or_named(path)


@pytest.mark.parametrize("name", ["pyramid.ts", "mpeg2.mpg", "pyramid.mkv", "pyramid.mp4", "mpeg4.avi", "gif.gif"])
def test_what_stands_behind_a_video_does_no_harm(tmp_path, name):
    path = write_kind(tmp_path, name)
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(5000))
    assert_reads_as_ffmpeg(path, "auto")


@pytest.mark.parametrize("name", ["size.ts", "size.mpg", "size.gif"])
def test_a_picture_that_changes_its_size_is_an_error_or_scaled(tmp_path, name):
    codec = {"ts": "libx264", "mpg": "mpeg2video", "gif": "gif"}[name.partition(".")[2]]
    parts = [
        write_video(
            tmp_path / f"{height}{name}",
            busy_frames(10, height, 64),
            codec=codec,
            **({"pixel_format": "rgb8"} if codec == "gif" else {}),
        )
        for height in (48, 96)
    ]
    path = tmp_path / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    try:
        with open_video(path) as video:
            assert video.frames_at([0.0, 0.2, 1e9]).shape == (3, 3, video.height, video.width)
    except VideoError as error:
        assert str(error).startswith(f"{path}: ")


def write_packed(path: Path) -> Path:
    """Write an AVI as DivX did: a B-frame in one packet with the frame it refers to, then one without a picture."""
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 64, 48, "yuv420p", Fraction(25)
    encoder.time_base, encoder.gop_size, encoder.max_b_frames = Fraction(1, 25), 12, 1
    encoder.options = {"b": "2000000", "b_strategy": "0"}
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in busy_frames(41)]
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, encoder.time_base
    pictures = [bytes(packet) for frame in [*frames, None] for packet in encoder.encode(frame)]
    start, no_picture = b"\0\0\1\xb6", b"\0\0\1\xb6\x50\x5f"
    packets: list[bytes] = []
    for picture in pictures:
        if picture[picture.index(start) + 4] >> 6 == 2:  # a B-frame
            packets[-1:] = [packets[-1] + picture, no_picture]
        else:
            packets.append(picture)
    head, group, rest = packets[0].partition(b"\0\0\1\xb3")
    packets[0] = head + b"\0\0\1\xb2DivX503b1393p" + group + rest
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.open()
        for index, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), content is packets[0]
            packet.pts = packet.dts = index
            container.mux(packet)
    return path


def test_packed_b_frames_are_read(tmp_path):
    path = write_packed(tmp_path / "packed.avi")
    assert len(ffmpeg_frames(path)[1]) == 41
    assert_reads_as_ffmpeg(path, "auto", requests=30)


def test_a_prepared_video_that_was_cut_anywhere_is_named_or_lacks_no_frame(tmp_path):
    pictures = [torch.from_numpy(picture).permute(2, 0, 1) for picture in busy_frames(10)]
    content = encode_jpeg_video(pictures, Fraction(25))
    times = [index / 25 for index in range(10)]
    with open_video(content) as video:
        frames = video.frames_at(times)
    path = tmp_path / "prepared.mp4"
    read = []
    for cut in np.linspace(0, len(content) - 1, 100).astype(int):
        path.write_bytes(content[:cut])
        try:
            with open_video(path) as video:
                assert torch.equal(video.frames_at(times), frames)
            read.append(cut)
        except VideoError as error:
            assert str(error).startswith(f"{path}: ")
    assert min(read) > 0.95 * len(content)  # all but what comes behind the index


def test_frames_without_a_time_are_named(tmp_path):
    # Matroska keeps no times below zero, where it isn't told to move them.
    options = x264("bframes=3", times=CONSTANT - 0.5, container_options={"avoid_negative_ts": "disabled"})
    path = write_video(tmp_path / "below_zero.mkv", busy_frames(NUM_FRAMES), 25, **options)
    with pytest.raises(VideoError, match=r"below_zero\.mkv: 13 of its 40 frames have no time"):
        open_video(path)


def test_a_bare_stream_without_times_is_named(tmp_path):
    path = write_video(tmp_path / "bare.h264", busy_frames(12), 25)
    with pytest.raises(VideoError, match=r"bare\.h264: holds no frames with times"):
        open_video(path)


def assert_read_right_or_named(path: Path) -> None:
    try:
        with open_video(path) as video:
            video.frames_at([0.0, video.duration_seconds / 2, 1e9])
    except VideoError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert_reads_as_ffmpeg(path, "auto")


# Several streams, one frame, names


def write_streams(path: Path, streams: list[str | int], container: str | None = None) -> Path:
    """Write a file of several streams: `sound`, a `cover` picture, or a video of so many frames.

    Each video has a size and pictures of its own.
    """
    with av.open(str(path), "w", format=container) as output:
        added = []
        for number, kind in enumerate(streams):
            if kind == "sound":
                stream = output.add_stream("libmp3lame" if container == "mp3" else "aac", rate=16000, layout="mono")
            else:
                stream = output.add_stream("mjpeg" if kind == "cover" else "libx264", rate=25)
                stream.height, stream.width = 48 + 16 * number, 64 + 16 * number
                stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
                stream.codec_context.time_base = Fraction(1, 25)
                if kind == "cover":
                    stream.disposition = av.stream.Disposition.attached_pic
            added.append(stream)
        for number, (kind, stream) in enumerate(zip(streams, added, strict=True)):
            if kind == "sound":
                size = stream.codec_context.frame_size or 1024
                silence = np.zeros((1, size), np.float32)
                frames = [av.AudioFrame.from_ndarray(silence, "fltp", "mono") for _ in range(8)]
                for index, frame in enumerate(frames):
                    frame.sample_rate, frame.pts, frame.time_base = 16000, index * size, Fraction(1, 16000)
            else:
                pictures = busy_frames(1 if kind == "cover" else kind, stream.height, stream.width, seed=number)
                frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
                for index, frame in enumerate(frames):
                    frame.pts, frame.time_base = index, Fraction(1, 25)
            for frame in [*frames, None]:
                output.mux(stream.encode(frame))
    return path


@pytest.mark.parametrize(
    ("name", "streams", "chosen"),
    [
        ("two.mp4", [30, 30], 0),
        ("two.mkv", [30, 30], 0),
        ("short_and_long.mkv", [3, 30], 1),
        ("sound_first.mp4", ["sound", 30], 1),
        ("sound_first.mkv", ["sound", 30], 1),
        ("cover_last.mp4", [30, "cover"], 0),
        ("cover_first.mp4", ["cover", 30], 1),
        ("short_and_cover.mp4", [2, "cover"], 0),
    ],
)
def test_of_several_streams_the_video_that_players_show_is_read(tmp_path, name, streams, chosen):
    path = write_streams(tmp_path / name, streams)
    assert_reads_as_ffmpeg(path, "auto")
    with open_video(path) as video:
        # The container may put a cover last.
        sizes = {(48 + 16 * number, 64 + 16 * number) for number, kind in enumerate(streams) if isinstance(kind, int)}
        assert (video.height, video.width) in sizes
        assert video.num_frames == streams[chosen]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("one.mp4", "libx264"), ("one.mkv", "libx264"), ("one.ts", "libx264"), ("one.avi", "mpeg4")),
        *(("one.mpg", "mpeg2video"), ("one.webm", "libvpx-vp9"), ("one.gif", "gif"), ("one.wmv", "wmv2")),
    ],
)
def test_a_video_of_one_frame_shows_it_at_any_time(tmp_path, name, codec):
    path = write_video(
        tmp_path / name, busy_frames(1), codec=codec, pixel_format="rgb8" if codec == "gif" else "yuv420p"
    )
    picture = ffmpeg_frames(path)[1][0]
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (1, 48, 64)
        assert 0 < video.duration_seconds < 1
        for frame in video.frames_at([0.0, 0.01, 5.0, -1.0]):
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), picture)


NAMES = [
    *("a b.mp4", "line\nbreak.mp4", "tab\tand\r\nmore.mp4", "quo'te\".mp4", "per%cent %d %05d.mp4", "co:lon.mp4"),
    *("http:x.mp4", "pipe:0.mp4", "concat:a|b.mp4", "日本 ü é.mp4", "-dash.mp4", "back\\slash.mp4", "a?b#c&d.mp4"),
    *("[x]*{y}.mp4", "$HOME;~.mp4", "no_ending", ".mp4", "wrong.txt", "wrong.jpg", "x" * 251 + ".mp4"),
]
NO_UTF_8 = "\udce9.mp4"


@pytest.mark.parametrize("decoder", available_decoders())
def test_a_file_may_have_any_name(tmp_path, decoder):
    content = write_kind(tmp_path, "closed.mov").read_bytes()
    with open_video(content) as video:
        expected = video.frames_at([0.5])
    for name in NAMES if decoder == "torchcodec" else [*NAMES, NO_UTF_8]:
        path = tmp_path / "names" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with open_video(path, decoder) as video:
            assert torch.equal(video.frames_at([0.5]), expected)
        path.write_bytes(b"not a video")
        with pytest.raises(VideoError) as caught:
            open_video(path, "auto")
        assert str(caught.value).startswith(" ".join(f"{path}: ".splitlines()))
        assert len(str(caught.value).splitlines()) == 1


# No video


def write_picture(path: Path, codec: str, pixel_format: str) -> Path:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, pixel_format, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(busy_frames(1)[0], format="rgb24").reformat(format=pixel_format)
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    return path


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n#EXTINF:1.6,\npyramid.ts\n"
TEXTS = {
    "empty.mp4": "",
    "one_byte.mp4": "x",
    "text.mp4": "this is no video\n" * 100,
    "text.txt": "this is no video\n" * 100,
    "page.html": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "page.mp4": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "subtitles.srt": "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "subtitles.mp4": "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "pointer.mp4": "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n",
    "picture.svg": "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>",
    "network.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.m3u8": PLAYLIST + "#EXT-X-ENDLIST\n",
    "endless_list.m3u8": PLAYLIST,  # a player waits for it to grow
    "list.mp4": "ffconcat version 1.0\nfile pyramid.ts\nfile pyramid.ts\n",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("decoder", available_decoders())
def test_a_text_is_named_with_its_reason(tmp_path, name, decoder):
    write_kind(tmp_path, "pyramid.ts")
    (tmp_path / name).write_text(TEXTS[name])
    assert_named(tmp_path / name, decoder)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mpg", "yuv", "tga", "zip"])
@pytest.mark.parametrize("byte", [b"\0", b"\xff", None])
def test_what_holds_no_data_or_any_is_named_with_its_reason(tmp_path, ending, byte):
    path = tmp_path / f"file.{ending}"
    path.write_bytes(byte * 10_000 if byte else np.random.default_rng(0).bytes(10_000))
    assert_named(path)


@pytest.mark.parametrize("name", ["still.mp4", "still.avi", "still.png", "still%03d.png"])
@pytest.mark.parametrize(("codec", "pixel_format"), [("png", "rgb24"), ("mjpeg", "yuvj420p"), ("bmp", "bgr24")])
def test_a_still_picture_is_named_as_one(tmp_path, name, codec, pixel_format):
    assert "is a still picture" in assert_named(write_picture(tmp_path / name, codec, pixel_format))


@pytest.mark.parametrize(
    ("name", "container"), [("sound.m4a", "mp4"), ("sound.mp3", "mp3"), ("sound.mkv", "matroska")]
)
def test_sound_is_named_as_such_with_and_without_a_cover(tmp_path, name, container):
    assert "no video" in assert_named(write_streams(tmp_path / f"plain_{name}", ["sound"], container))
    if container != "matroska":  # which has no streams for covers
        cover = write_streams(tmp_path / name, ["sound", "cover"], container)
        assert "sound and a cover picture, but no video" in assert_named(cover)


def assert_named(path: Path, decoder: str = "auto") -> str:
    """Opening a file, or reading its first frame, fails with one line that begins with its path; returns the line."""
    with pytest.raises(VideoError) as caught, open_video(path, decoder) as video:
        video.frames_at([0.0])
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    return str(caught.value)
