"""Videos that show the same: perceptual hashes, and the pairs of videos whose hashes agree.

A hash holds a video's *look*, the mean of its frames, and of frames evenly spread over it the *motion*, which is the
frame less that mean; both as the lowest frequencies (DCT) of a 32 x 32 grey picture, which compression, scaling and
brightness leave alone (as in pHash: Zauner 2010), each as a direction, in steps of 1/127 of its largest value. By
its look alone any two clips of one fixed camera are copies; their motion tells them apart. pHash keeps the signs only:
too little to tell two drawings of the same scene, or two takes of the same gesture, from copies.

The thresholds come from 300 surveillance clips of 72 recordings, most by fixed cameras, and 26 of them re-encoded
(CRF 30), mirrored, both at half the size, brightened, at half the rate, or cut by 0.3 of some 2 seconds at either end.
Of these 208 copies 193 are found: all but one over-exposed, and most of two clips in which a speck moves at the end of
a corridor. Of the 44,850 pairs of different clips none is: those that look the most alike (0.996) move at 0.53, those
that move the most alike (0.86) are one camera, 40 seconds later. Not found: copies with a border cut off or a large
logo, a short cut out of a long video, and copies of a scene where nothing moves, as its motion is noise. Found though
no copies: takes by a fixed camera of a gesture that a machine repeats to within some 3 % of the picture's width.

Worker processes import this module, which imports NumPy alone.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

THUMBNAIL_SIZE = 64
"""Height and width, pixels, of the pictures that hashes are made from."""

LEAST_LOOK = 0.98
"""Cosine of the looks of two videos that show the same."""

LEAST_MOTION = 0.95
"""Cosine of the motion of two frames that show the same."""

MOST_SHIFT = 0.17
"""How far apart such frames may lie in their videos, as a share of the length: a cut at one end shifts them."""

LEAST_CONTRAST = 2.0
"""Grey levels (standard deviation) below which a look is flat, as of a black video, and there is no hash."""

FRAMES = 32
LEAST_FRAMES = 4
"""Frames hashed of a video; one that has fewer than the least is not compared."""

LOOK, MOTION = 16, 8
"""Frequencies in each direction that are kept."""

# Locality-sensitive hashing by bit sampling (Indyk and Motwani 1998), over the signs of the lowest frequencies: two
# videos are compared where a frame of each agrees in all bits of a table. Two signs in three of two that show the same
# would do, as there are so many frames and tables.
TABLES = 16
SAMPLED_BITS = 40

# Of the videos that agree in a table, each is compared with so many that follow it: a title screen that thousands
# begin with must not make a million pairs.
MOST_NEIGHBOURS = 8

Pair = tuple[int, int, bool]


class Signature(NamedTuple):
    """A hash: directions, of length 1, of the look `(255,)` and of the motion of frames `(N, 63)`."""

    look: Floats
    motion: Floats

    def mirrored(self) -> "Signature":
        """That of the mirrored video: odd horizontal frequencies change their sign."""
        return Signature(self.look * _mirror(LOOK), self.motion * _mirror(MOTION))


@cache
def _frequencies(count: int) -> Floats:
    """The first rows of the orthonormal DCT-II of half a thumbnail's size."""
    size = THUMBNAIL_SIZE // 2
    waves: Floats = np.cos(np.pi / size * np.outer(np.arange(count), np.arange(size) + 0.5)).astype(np.float32)
    waves *= np.sqrt(2 / size)
    return waves


@cache
def _mirror(count: int) -> Floats:
    """The sign that mirroring gives each frequency but the mean."""
    return np.tile(np.where(np.arange(count) % 2, -1, 1), count)[1:].astype(np.float32)


def _spectrum(pictures: Floats, count: int) -> Floats:
    """The lowest frequencies but the mean, `(N, count ** 2 - 1)`, of pictures `(N, H, W)`."""
    rows = _frequencies(count)
    spectrum: Floats = rows @ pictures @ rows.T
    return spectrum.reshape(len(pictures), -1)[:, 1:]


def perceptual_hashes(thumbnails: NDArray[np.uint8], seconds: Sequence[float]) -> list[str]:
    """Hash a video.

    Args:
        thumbnails: Grey frames `(N, 64, 64)`, N >= 1, in order of time and about evenly spread.
        seconds: When each appears, ascending, shape `(N,)`.

    Returns:
        The look, and the motion of at most `FRAMES` frames in order of time, as signed bytes in hexadecimal; nothing
        where the look is flat.
    """
    half = THUMBNAIL_SIZE // 2
    pictures = thumbnails.reshape(-1, half, 2, half, 2).mean((2, 4), dtype=np.float32)
    look = pictures.mean(0)
    if look.std() < LEAST_CONTRAST:
        return []
    times = np.asarray(seconds)
    wanted = times[0] + (np.arange(FRAMES) + 0.5) / FRAMES * (times[-1] - times[0])
    chosen = np.unique(np.abs(times[None] - wanted[:, None]).argmin(1))
    spectra = [*_spectrum(look[None], LOOK), *_spectrum(pictures[chosen] - look, MOTION)]
    return [_quantised(spectrum).tobytes().hex() for spectrum in spectra]


def _quantised(values: Floats) -> NDArray[np.int8]:
    steps: NDArray[np.int8] = np.rint(values * (127 / max(1e-3, np.abs(values).max()))).astype(np.int8)
    return steps


def near_duplicates(hashes: Sequence[Sequence[str]]) -> list[Pair]:
    """Find the pairs of videos that show the same, without comparing all.

    Args:
        hashes: Of each video, what `perceptual_hashes` gave.

    Returns:
        First and second video, the first the smaller, and whether one shows the other mirrored; sorted. Of more than
        `MOST_NEIGHBOURS` copies of one video not every pair is listed, but enough to connect them.
    """
    places = [place for place, of_video in enumerate(hashes) if len(of_video) > LEAST_FRAMES]
    signatures = [signature(hashes[place]) for place in places]
    return [
        (places[first], places[second], mirrored)
        for first, second, mirrored in _candidates(signatures)
        if show_the_same(signatures[first], signatures[second].mirrored() if mirrored else signatures[second])
    ]


def signature(hashes: Sequence[str]) -> Signature:
    """Read a hash back."""
    look, *motion = (np.frombuffer(bytes.fromhex(text), np.int8).astype(np.float32) for text in hashes)
    return Signature(_direction(look), _direction(np.stack(motion)))


def _direction(values: Floats) -> Floats:
    direction: Floats = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-3)
    return direction


def show_the_same(first: Signature, second: Signature) -> bool:
    """Whether two videos look the same, and half of each one's frames move as a frame near in time of the other."""
    if first.look @ second.look < LEAST_LOOK:
        return False
    close = (first.motion @ second.motion.T >= LEAST_MOTION) & _in_step(len(first.motion), len(second.motion))
    return bool(close.any(1).mean() >= 0.5 and close.any(0).mean() >= 0.5)


@cache
def _in_step(first: int, second: int) -> NDArray[np.bool_]:
    """Which of so many frames of two videos lie near enough in time."""
    places = [np.linspace(0, 1, count) for count in (first, second)]
    in_step: NDArray[np.bool_] = np.abs(np.subtract.outer(*places)) <= MOST_SHIFT
    return in_step


def _words(signatures: Sequence[Signature]) -> NDArray[np.uint64]:
    """The signs of look and motion of each frame of each video, as two words."""
    low = np.array([row * LOOK + column for row in range(MOTION) for column in range(MOTION)])[1:] - 1
    signs = [
        np.hstack([np.broadcast_to(video.look[low], video.motion.shape), video.motion]) > 0 for video in signatures
    ]
    return np.packbits(np.pad(np.vstack(signs), ((0, 0), (0, 2))), axis=1).view(np.uint64)


def _candidates(signatures: Sequence[Signature]) -> list[Pair]:
    """Pairs worth a comparison: a frame of each falls into one bucket of a table."""
    if not signatures:
        return []
    words = np.concatenate([_words(signatures), _words([video.mirrored() for video in signatures])])
    # A video and its mirrored self stand beside each other: 2 n and 2 n + 1.
    owners = np.repeat(np.arange(len(signatures)), [len(video.motion) for video in signatures]) * 2
    owners = np.concatenate([owners, owners + 1])
    generator = np.random.default_rng(0)
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
    found: list[NDArray[Any]] = []
    for _ in range(TABLES):
        sampled = np.isin(np.arange(128), generator.choice(126, SAMPLED_BITS, replace=False))
        keys = ((words & np.packbits(sampled).view(np.uint64)) * factors).sum(1, dtype=np.uint64)
        order = np.lexsort((owners, keys))
        keys, videos = keys[order], owners[order]
        is_new = np.append(True, (keys[1:] != keys[:-1]) | (videos[1:] != videos[:-1]))
        keys, videos = keys[is_new], videos[is_new]
        for gap in range(1, MOST_NEIGHBOURS + 1):
            together = keys[gap:] == keys[:-gap]
            one, other = videos[:-gap][together], videos[gap:][together]
            useful = (one // 2 != other // 2) & ((one & other & 1) == 0)  # not both mirrored
            one, other = one[useful], other[useful]
            found.append(np.stack([one // 2, other // 2, (one ^ other) & 1], 1))
    return [(int(a), int(b), bool(mirrored)) for a, b, mirrored in np.unique(np.concatenate(found), axis=0)]
