"""Which moments of a video make a clip: times in seconds, from plain numbers and a random generator."""

import math

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def random_segments(duration: float, num_frames: int, rng: np.random.Generator) -> Times:
    """Draw one moment in each of `num_frames` equal parts of a video.

    Source: Temporal Segment Networks, Wang et al. 2016, section 3.1.

    Args:
        duration: Length of the video, seconds, > 0.
        num_frames: Frames of the clip, >= 1.
        rng: Source of randomness.

    Returns:
        Seconds, shape `(num_frames,)`, ascending, in `[0, duration)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(duration, num_frames)
    return _inside((np.arange(num_frames) + rng.random(num_frames)) / num_frames * duration, duration)


def segment_views(duration: float, num_frames: int, views: int) -> list[Times]:
    """Give the moments of test-time clips that each span the whole video.

    One view takes the centres of the `num_frames` equal parts; two take their starts and their centres
    (VideoMAE's protocol for Something-Something v2); more divide each part evenly.

    Args:
        duration: Length of the video, seconds, > 0.
        num_frames: Frames of a clip, >= 1.
        views: Number of clips, >= 1.

    Returns:
        As many arrays as views: seconds, shape `(num_frames,)`, ascending, in `[0, duration)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(duration, num_frames, views)
    offsets = [0.5] if views == 1 else [view / views for view in range(views)]
    return [_inside((np.arange(num_frames) + offset) / num_frames * duration, duration) for offset in offsets]


def random_dense(duration: float, num_frames: int, fps: float, rng: np.random.Generator) -> Times:
    """Draw the moments of a clip of consecutive frames, its start uniform over the video.

    A video shorter than the clip repeats its last frame.

    Args:
        duration: Length of the video, seconds, > 0.
        num_frames: Frames of the clip, >= 1.
        fps: Frames per second of the clip, > 0; independent of the file's own rate.
        rng: Source of randomness.

    Returns:
        Seconds, shape `(num_frames,)`, ascending, in `[0, duration)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(duration, num_frames, fps=fps)
    start = rng.random() * max(0.0, duration - num_frames / fps)
    return _inside(start + np.arange(num_frames) / fps, duration)


def dense_views(duration: float, num_frames: int, fps: float, views: int) -> list[Times]:
    """Give the moments of test-time clips of consecutive frames, their starts spread evenly.

    The video is read as the list of its moments 0, 1 / fps, 2 / fps, ..., as VideoMAE reads frames 0::4 for
    Kinetics-400, and a clip is a run of that list. One view lies in the middle; of several the first starts with the
    list and the last ends with it. A list shorter than the clip repeats its last moment.

    Source: MCG-NJU/VideoMAE, kinetics.py, mode "test".

    Args:
        duration: Length of the video, seconds, > 0.
        num_frames: Frames of a clip, >= 1.
        fps: Frames per second of a clip, > 0; independent of the file's own rate.
        views: Number of clips, >= 1.

    Returns:
        As many arrays as views: seconds, shape `(num_frames,)`, ascending, in `[0, duration)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(duration, num_frames, views, fps)
    moments = max(1, math.ceil(duration * fps - 1e-6))  # a duration is not exact
    spare = max(0, moments - num_frames)
    starts = [spare // 2] if views == 1 else [int(view * spare / (views - 1)) for view in range(views)]
    return [np.minimum(start + np.arange(num_frames), moments - 1) / fps for start in starts]


def _inside(times: Times, duration: float) -> Times:
    return np.minimum(times, np.nextafter(duration, 0.0))


def _check(duration: float, num_frames: int, views: int = 1, fps: float = 1.0) -> None:
    if not duration > 0:
        raise ValueError(f"duration: got {duration}; give seconds above 0")
    if num_frames < 1:
        raise ValueError(f"num_frames: got {num_frames}; give at least 1")
    if views < 1:
        raise ValueError(f"views: got {views}; give at least 1")
    if not fps > 0:
        raise ValueError(f"fps: got {fps}; give frames per second above 0")
