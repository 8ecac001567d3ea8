import numpy as np
import pytest

from vidtune.data.sampling import dense_views, random_dense, random_segments, segment_views


def lists(views):
    return [view.tolist() for view in views]


def test_one_segment_view_takes_the_centres_of_the_parts():
    assert lists(segment_views(8.0, 4, 1)) == [[1.0, 3.0, 5.0, 7.0]]


def test_two_segment_views_take_the_starts_and_the_centres():
    assert lists(segment_views(8.0, 4, 2)) == [[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]]


def test_four_segment_views_divide_each_part_evenly():
    assert lists(segment_views(8.0, 2, 4)) == [[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]


def test_one_dense_view_lies_in_the_middle():
    # 4 frames at 2 a second last 2 s; of 10 s that leaves 8, half of it before the clip.
    assert lists(dense_views(10.0, 4, 2.0, 1)) == [[4.0, 4.5, 5.0, 5.5]]


def test_five_dense_views_spread_their_starts_from_the_first_to_the_last_possible():
    views = dense_views(10.0, 4, 2.0, 5)
    assert [view[0] for view in views] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert views[-1].tolist() == [8.0, 8.5, 9.0, 9.5]


@pytest.mark.parametrize("views", [1, 5])
def test_a_video_shorter_than_a_dense_clip_repeats_its_last_moment(views):
    for times in dense_views(1.0, 4, 2.0, views):
        assert times[:2].tolist() == [0.0, 0.5]
        assert times[2:].tolist() == [0.5, 0.5]


def test_a_random_dense_clip_of_a_short_video_starts_with_it():
    times = random_dense(1.0, 4, 2.0, np.random.default_rng(0))
    assert times.tolist() == [0.0, 0.5, np.nextafter(1.0, 0.0), np.nextafter(1.0, 0.0)]


def test_random_segments_draw_once_in_each_part_and_reach_all_of_it():
    rng = np.random.default_rng(0)
    draws = np.stack([random_segments(8.0, 4, rng) for _ in range(500)])
    parts = draws - [0, 2, 4, 6]
    assert parts.min() >= 0 and parts.max() < 2
    assert np.all(parts.min(0) < 0.05) and np.all(parts.max(0) > 1.95)
    assert np.allclose(parts.mean(0), 1.0, atol=0.1)


def test_random_dense_clips_keep_their_rate_and_reach_every_start():
    rng = np.random.default_rng(0)
    draws = np.stack([random_dense(10.0, 4, 2.0, rng) for _ in range(500)])
    assert np.allclose(np.diff(draws), 0.5)
    assert draws[:, 0].min() >= 0 and draws[:, 0].max() <= 8
    assert draws[:, 0].min() < 0.1 and draws[:, 0].max() > 7.9


@pytest.mark.parametrize("duration", [0.01, 1 / 3, 7.0, 3600.5])
@pytest.mark.parametrize("num_frames", [1, 3, 64])
def test_all_times_are_float64_ascending_and_inside_the_video(duration, num_frames):
    rng = np.random.default_rng(1)
    clips = [random_segments(duration, num_frames, rng), random_dense(duration, num_frames, 7.5, rng)]
    clips += segment_views(duration, num_frames, 3) + dense_views(duration, num_frames, 7.5, 3)
    assert len(clips) == 8
    for times in clips:
        assert times.shape == (num_frames,) and times.dtype == np.float64
        assert np.all(np.diff(times) >= 0) and times[0] >= 0 and times[-1] < duration


def test_the_same_generator_draws_the_same_times():
    for draw in (
        lambda rng: random_segments(5.0, 8, rng),
        lambda rng: random_dense(5.0, 8, 7.5, rng),
    ):
        assert draw(np.random.default_rng(3)).tolist() == draw(np.random.default_rng(3)).tolist()
        assert draw(np.random.default_rng(3)).tolist() != draw(np.random.default_rng(4)).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: random_segments(0.0, 4, rng), "duration: got 0.0"),
        (lambda rng: random_segments(float("nan"), 4, rng), "duration: got nan"),
        (lambda rng: random_segments(1.0, 0, rng), "num_frames: got 0"),
        (lambda rng: random_dense(1.0, 4, 0.0, rng), "fps: got 0.0"),
        (lambda rng: segment_views(-1.0, 4, 1), "duration: got -1.0"),
        (lambda rng: segment_views(1.0, 4, 0), "views: got 0"),
        (lambda rng: dense_views(1.0, 4, float("nan"), 1), "fps: got nan"),
        (lambda rng: dense_views(1.0, 4, 1.0, -2), "views: got -2"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
