"""Near-duplicates: copies are found however they were made, and what only resembles them is not."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from video_files import Frames, busy_frames, counting_frames, write_video
from vidtune.data import duplicates
from vidtune.data.duplicates import near_duplicates, perceptual_hashes, show_the_same, signature
from vidtune.data.probe import probe_file

NUM_FRAMES = 40


def texture(seed: int, height: int = 96, width: int = 128) -> Frames:
    """A still picture `(H, W, 3)`: blocks of random brightness."""
    blocks = np.random.default_rng(seed).integers(20, 200, (height // 8, width // 8, 1))
    return blocks.repeat(8, 0).repeat(8, 1).repeat(3, 2).astype(np.uint8)


def scene(background: int, walk: int, num_frames: int = NUM_FRAMES) -> Frames:
    """Frames `(T, H, W, 3)` of a fixed camera: something wanders over a background, each as a seed decides."""
    frames = np.repeat(texture(background)[None], num_frames, 0)
    turns = np.random.default_rng(1000 + walk).uniform(0, 2 * np.pi, 4)
    for index, frame in enumerate(frames):
        phase = 2 * np.pi * index / num_frames
        top = int(38 + 19 * np.sin(phase + turns[0]) + 19 * np.sin(2 * phase + turns[1]))
        left = int(54 + 27 * np.sin(phase + turns[2]) + 27 * np.sin(3 * phase + turns[3]))
        frame[max(0, top) : top + 20, max(0, left) : left + 20] = 240
    return frames


def hashes_of(folder: Path, frames: Frames, fps: float | Fraction = 20, **options) -> list[str]:
    path = write_video(folder / f"{len(list(folder.iterdir()))}.mp4", frames, fps, **options)
    return probe_file(str(path))[0]["hashes"]


COPIES = {
    "re-encoded": lambda frames: (frames, {"options": {"crf": "30", "qp": "-1"}}),
    "half the size": lambda frames: (frames[:, ::2, ::2], {}),
    "other proportions": lambda frames: (frames[:, ::2], {}),
    "brighter": lambda frames: ((frames * 0.8 + 40).astype(np.uint8), {}),
    "half the rate": lambda frames: (frames[::2], {"fps": 10}),
    "faster": lambda frames: (frames, {"fps": 30}),
    "cut at the start": lambda frames: (frames[5:], {}),
    "cut at the end": lambda frames: (frames[:-5], {}),
    "another codec": lambda frames: (frames, {"codec": "mpeg4", "options": {"b": "300000"}}),
    "turned by the player": lambda frames: (np.rot90(frames, -1, (1, 2)), {"rotation": 90}),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_found(tmp_path, how, mirrored):
    frames = scene(0, 0)
    changed, options = COPIES[how](frames[:, :, ::-1] if mirrored else frames)
    hashes = [hashes_of(tmp_path, frames), hashes_of(tmp_path, scene(1, 1)), hashes_of(tmp_path, changed, **options)]
    assert near_duplicates(hashes) == [(0, 2, mirrored)]


def test_what_only_resembles_a_video_is_none(tmp_path):
    frames = scene(0, 0)
    others = {
        "one camera, another time": scene(0, 1),
        "another place": scene(1, 0),
        "backwards": frames[::-1],
        "upside down": frames[:, ::-1],
        "the negative": 255 - frames,
        "another third": scene(0, 0, 120)[:NUM_FRAMES],
    }
    hashes = [hashes_of(tmp_path, video) for video in [frames, *others.values()]]
    assert near_duplicates(hashes) == []


def test_videos_of_one_fixed_camera_are_none_of_each_other(tmp_path):
    assert near_duplicates([hashes_of(tmp_path, scene(0, walk)) for walk in range(20)]) == []


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((NUM_FRAMES, 64, 64, 3), np.uint8),
        np.full((NUM_FRAMES, 64, 64, 3), (0, 130, 0), np.uint8),
        counting_frames(NUM_FRAMES, 64, 64),
        scene(0, 0, 3),
    ],
    ids=["black", "green", "flat, of changing brightness", "three frames"],
)
def test_what_has_nothing_to_go_by_is_like_nothing(tmp_path, frames):
    assert near_duplicates([hashes_of(tmp_path, frames) for _ in range(2)]) == []


def test_a_shared_title_makes_no_copies(tmp_path):
    title = np.repeat(texture(7)[None], 15, 0)
    videos = [np.concatenate([title, scene(seed, seed)]) for seed in range(6)]
    assert near_duplicates([hashes_of(tmp_path, video) for video in videos]) == []


def thumbnails(seed: int, num_frames: int = 40) -> np.ndarray:
    """Grey pictures `(T, 64, 64)` of a texture that scrolls and is cut now and then."""
    return busy_frames(num_frames, 64, 64, seed).mean(-1).astype(np.uint8)


def test_a_hash_is_of_signed_bytes_and_of_frames_spread_over_the_time():
    frames = np.zeros((100, 64, 64), np.uint8)
    frames[:, :, 32:] = 200  # odd frequencies only, the first of them the largest
    frames[50:, :32] = 100
    hashes = perceptual_hashes(frames, np.arange(100) / 10)
    assert [len(text) for text in hashes] == [2 * 255] + [2 * 63] * 32
    look = np.frombuffer(bytes.fromhex(hashes[0]), np.int8)
    assert look[0] == -127  # from left to right it gets brighter, and a cosine falls
    first, last = (np.frombuffer(bytes.fromhex(text), np.int8) for text in (hashes[1], hashes[-1]))
    assert (first == -last).all() and np.abs(first).max() == 127
    assert len(perceptual_hashes(frames[:7], np.arange(7) / 10)) == 1 + 7


def test_the_hash_of_the_mirrored_video_follows_from_the_hash():
    frames = thumbnails(0)
    expected = signature(perceptual_hashes(frames[:, :, ::-1], np.arange(40)))
    mirrored = signature(perceptual_hashes(frames, np.arange(40))).mirrored()
    np.testing.assert_allclose(mirrored.look, expected.look, atol=1e-3)
    np.testing.assert_allclose(mirrored.motion, expected.motion, atol=1e-3)


def test_comparing_few_pairs_finds_what_comparing_all_does():
    rng = np.random.default_rng(0)
    videos = [thumbnails(seed) for seed in range(120)]
    copies = [(source + rng.normal(0, 12, source.shape)).clip(0, 255).astype(np.uint8) for source in videos[:40]]
    hashes = [perceptual_hashes(video, np.arange(40)) for video in [*videos, *copies]]
    signatures = [signature(text) for text in hashes]
    every = [
        (first, second, mirrored)
        for first, second in itertools.combinations(range(len(hashes)), 2)
        for mirrored in (False, True)
        if show_the_same(signatures[first], signatures[second].mirrored() if mirrored else signatures[second])
    ]
    assert every == [(place, 120 + place, False) for place in range(40)]
    assert near_duplicates(hashes) == every
    assert len(duplicates._candidates(signatures)) < 200  # of 2 x 12,720 pairs


def test_of_many_copies_enough_pairs_are_listed_to_connect_them():
    hashes = [perceptual_hashes(thumbnails(0), np.arange(40))] * 200
    pairs = near_duplicates(hashes)
    connected = {0}
    for first, second, _ in pairs:
        connected |= {second} if first in connected else set()
    assert connected == set(range(200))
    assert len(pairs) <= 200 * duplicates.MOST_NEIGHBOURS


def test_of_no_videos_there_are_no_pairs():
    assert near_duplicates([]) == near_duplicates([[]]) == near_duplicates([[], []]) == []
