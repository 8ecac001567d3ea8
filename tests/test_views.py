"""Test-time views have the frames and boxes of MCG-NJU/VideoMAE's protocols; its indices are typed here by hand."""

import numpy as np
import pytest
import torch

from video_files import counting_frames, frame_indices, write_video
from vidtune.data.clips import ClipFormat, evaluation_views
from vidtune.data.decoding import open_video
from vidtune.data.transforms import crop_views


@pytest.fixture(scope="module")
def count(tmp_path_factory):
    """Write a video of so many frames, each telling its index."""
    folder = tmp_path_factory.mktemp("count")

    def write(num_frames, fps=30, ending="mp4"):
        path = folder / f"{num_frames}_{fps}.{ending}"
        codec = {"codec": "libvpx-vp9", "options": {"lossless": "1", "cpu-used": "8"}} if ending == "webm" else {}
        return path if path.exists() else write_video(path, counting_frames(num_frames), fps=fps, **codec)

    return write


def indices(path, views, num_frames, clip):
    with open_video(path) as video:
        frames = evaluation_views(video, ClipFormat(4, 32, **clip), temporal_views=views)
    return [frame_indices(view, num_frames) for view in frames]


DENSE = [{"sampling": "dense", "fps": 7.5}, {"sampling": "dense", "frame_stride": 4}]


@pytest.mark.parametrize("clip", DENSE)
def test_five_dense_views_of_every_fourth_frame(count, clip):
    # 50 frames: 0::4 gives 13 of them, 0 to 48; starts int(k * (13 - 4) / 4): 0, 2, 4, 6, 9 of these.
    assert indices(count(50), 5, 50, clip) == [
        [0, 4, 8, 12],
        [8, 12, 16, 20],
        [16, 20, 24, 28],
        [24, 28, 32, 36],
        [36, 40, 44, 48],
    ]


@pytest.mark.parametrize("clip", DENSE)
def test_a_video_shorter_than_a_dense_clip_repeats_the_last_of_every_fourth_frame(count, clip):
    # 11 frames: 0::4 gives 0, 4 and 8; not 10, the last of the video.
    assert indices(count(11), 5, 11, clip) == [[0, 4, 8, 8]] * 5
    assert indices(count(1), 1, 1, clip) == [[0, 0, 0, 0]]


def test_a_dense_view_alone_lies_in_the_middle(count):
    # 13 of 50 frames, of which 9 are left over: it starts with the fifth.
    assert indices(count(50), 1, 50, DENSE[1]) == [[16, 20, 24, 28]]


@pytest.mark.parametrize(("fps", "expected"), [(25, [0, 3, 6, 10]), (12, [0, 1, 3, 4]), (15, [0, 2, 4, 6])])
def test_a_rate_in_seconds_takes_the_frame_on_screen_and_a_stride_every_so_many_th(count, fps, expected):
    # At 7.5 a second: 25 fps has 3.33 frames, 12 fps 1.6 in each step.
    path = count(50, fps)
    assert indices(path, 2, 50, {"sampling": "dense", "fps": 7.5})[0] == expected
    assert indices(path, 2, 50, {"sampling": "dense", "frame_stride": 2})[0] == [0, 2, 4, 6]


@pytest.mark.parametrize("ending", ["mp4", "webm"])  # WebM rounds times to milliseconds
def test_two_segment_views_take_starts_and_centres(count, ending):
    # 50 frames in 4 parts of 12.5: starts int(12.5 x), centres int(6.25 + 12.5 x).
    expected = [[0, 12, 25, 37], [6, 18, 31, 43]]
    assert indices(count(50, 12, ending), 2, 50, {"sampling": "segments"}) == expected


def test_a_video_with_fewer_frames_than_segments_repeats_some(count):
    # 3 frames in 4 parts of 0.75: starts 0, 0.75, 1.5, 2.25, centres 0.375, 1.125, 1.875, 2.625.
    assert indices(count(3), 2, 3, {"sampling": "segments"}) == [[0, 0, 1, 2], [0, 1, 1, 2]]


@pytest.mark.parametrize(
    ("height", "width", "boxes"),
    [
        # Short side 224: 398 wide, so steps of 87 pixels
        (224, 398, [(0, 0), (0, 87), (0, 174)]),
        (398, 224, [(0, 0), (87, 0), (174, 0)]),
        # 299 leaves 75: the middle one begins at int(37.5)
        (224, 299, [(0, 0), (0, 37), (0, 75)]),
        (224, 224, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_three_crops_span_the_long_side(height, width, boxes):
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8))
    crops = crop_views(clip, 224, 3)
    for crop, (top, left) in zip(crops, boxes, strict=True):
        assert torch.equal(crop, clip[..., top : top + 224, left : left + 224])
    assert torch.equal(crop_views(clip, 224, 1)[0], crops[1])


def test_the_crops_of_a_clip_come_first_and_all_from_one_decode(count, monkeypatch):
    with open_video(count(50)) as video:
        calls, decode = [], video.stream
        monkeypatch.setattr(video, "stream", lambda *words: calls.append(words) or decode(*words))
        views = evaluation_views(video, ClipFormat(4, 32, "dense", frame_stride=4), temporal_views=5, spatial_crops=3)
    assert len(calls) == 1 and views.shape == (15, 4, 3, 32, 32)
    assert [frame_indices(view, 50)[0] for view in views[::3]] == [0, 8, 16, 24, 36]
    assert torch.equal(views[0], views[2])  # the picture is a square
