"""Windows over a long video, their labels merged, and the picture of it."""

import gc
import math

import numpy as np
import pytest
import torch
from PIL import Image

from video_files import busy_frames, counting_frames, frame_indices, write_video
from vidtune.data.clips import ClipFormat, evaluation_views
from vidtune.data.decoding import available_decoders, open_video
from vidtune.evaluation.timeline import Segment, merge_windows, plot_timeline, window_views, windows

LABELS = ["run", "walk"]


@pytest.mark.parametrize(
    ("duration", "window", "stride", "expected"),
    [
        (5, 2, 1, [(0, 2), (1, 3), (2, 4), (3, 5)]),
        (5, 2, 2, [(0, 2), (2, 4), (3, 5)]),  # the last one ends with the video
        (4.5, 2, 1, [(0, 2), (1, 3), (2, 4), (2.5, 4.5)]),
        (2, 2, 1, [(0, 2)]),
        (1.5, 2, 1, [(0, 1.5)]),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),  # no fourth one for a rounding error
    ],
)
def test_windows_cover_a_video(duration, window, stride, expected):
    assert np.allclose(windows(duration, window, stride), expected)


@pytest.mark.parametrize("numbers", [(0, 2, 1), (5, 0, 1), (5, 2, -1), (math.nan, 2, 1)])
def test_windows_of_no_length_are_refused(numbers):
    with pytest.raises(ValueError, match="give more than 0"):
        windows(*numbers)


def test_neighbours_of_one_label_are_merged_and_part_in_the_middle_between_centres():
    spans = [(0, 2), (1, 3), (2, 4), (3, 5)]
    probabilities = [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.8, 0.2]]
    assert merge_windows(spans, probabilities, LABELS) == [
        Segment(0, 2.5, "run", pytest.approx(0.8)),  # between the centres 2 and 3
        Segment(2.5, 3.5, "walk", pytest.approx(0.6)),
        Segment(3.5, 5, "run", pytest.approx(0.8)),
    ]
    assert merge_windows([(0, 1.5)], [[0.2, 0.8]], LABELS) == [Segment(0, 1.5, "walk", pytest.approx(0.8))]


def test_of_several_labels_each_has_segments_of_its_own_and_none_has_none():
    spans = [(0, 2), (2, 4), (4, 6)]
    found = merge_windows(spans, [[0.9, 0.6], [0.7, 0.2], [0.1, 0.1]], LABELS, multi_label=True)
    assert found == [Segment(0, 4, "run", pytest.approx(0.8)), Segment(0, 2, "walk", pytest.approx(0.6))]


@pytest.mark.parametrize("decoder", available_decoders())
@pytest.mark.parametrize(
    "clip", [ClipFormat(4, 32), ClipFormat(4, 32, "dense", fps=5.0), ClipFormat(4, 32, "dense", 1.0)]
)
def test_a_window_is_seen_as_the_span_it_is(tmp_path, clip, decoder):
    path = write_video(tmp_path / "busy.mp4", busy_frames(50), 10, b_frames=2)
    with open_video(path, decoder) as video:
        spans = windows(video.duration_seconds, 1.5, 0.5)
        found = list(window_views(video, clip, spans, spatial_crops=3))
    assert len(found) == len(spans) == 8
    for (start, end), views in zip(spans, found, strict=True):
        with open_video(path, decoder, start, end) as span:
            assert torch.equal(views, evaluation_views(span, clip, spatial_crops=3))


def test_windows_take_the_frames_that_stand_in_them(tmp_path):
    path = write_video(tmp_path / "counting.mp4", counting_frames(40), 10)
    with open_video(path) as video:
        found = list(window_views(video, ClipFormat(4, 32), [(0, 2), (1, 3), (2, 4)]))
    # Quarters of 2 s, at 10 frames per second: their middles are frames 2, 7, 12 and 17
    assert [frame_indices(views[0], 40) for views in found] == [[2, 7, 12, 17], [12, 17, 22, 27], [22, 27, 32, 37]]


def test_an_hour_takes_no_more_memory_than_its_windows(tmp_path):
    path = write_video(tmp_path / "hour.mp4", np.broadcast_to(busy_frames(20, 32, 32), (20, 32, 32, 3)), 1 / 180)
    alive, start = 0, sum(isinstance(item, torch.Tensor) for item in gc.get_objects())
    with open_video(path) as video:
        assert video.duration_seconds == pytest.approx(3600)
        spans = windows(video.duration_seconds, 20, 10)
        for index, views in enumerate(window_views(video, ClipFormat(4, 32), spans)):
            assert views.shape == (1, 4, 3, 32, 32)
            if index % 60 == 0:
                alive = max(alive, sum(isinstance(item, torch.Tensor) for item in gc.get_objects()) - start)
    assert index == len(spans) - 1 == 358
    assert alive < 40


def test_a_timeline_is_drawn_whatever_the_labels_are(tmp_path):
    labels = ["$x", "_hidden", "=sum", "跑", *map(str, range(20))]
    spans = windows(30, 2, 1)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(labels)), len(spans)).tolist()
    segments = merge_windows(spans, probabilities, labels)
    plot_timeline(tmp_path / "line.png", "a $video_$.mp4", spans, probabilities, labels, segments)
    assert [path.name for path in tmp_path.iterdir()] == ["line.png"]
    with Image.open(tmp_path / "line.png") as picture:
        assert picture.size == (1200, 480)
