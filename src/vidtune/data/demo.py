"""Two small video datasets, drawn on the spot, so that a first run needs no download.

`demo`: a bright object drifts steadily left, right, up or down, or steadily grows or shrinks, while it swings
there and back in the other two of horizontal position, vertical position and size. So positions and sizes
look alike in all classes, and only the order of the frames tells them apart.

`demo-success`: an object is carried to a bin and lands in it, or not: it falls short of the bin or past it,
or is held over the bin and carried back.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from vidtune.errors import InputError

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

VERSION = "v1"
SEEDS = {"demo": 2025, "demo-success": 2026}
CLASSES = {
    "demo": ("grows", "moves_down", "moves_left", "moves_right", "moves_up", "shrinks"),
    "demo-success": ("failure", "success"),
}
VIDEOS_PER_CLASS = {
    "demo": {"train": 80, "validation": 20, "test": 20},
    "demo-success": {"train": 80, "validation": 20, "test": 20},
}

FRAME_RATES = (10, 15, 24, 25, 30)
FRAME_SIZES = ((96, 96), (96, 128), (128, 96), (128, 128), (128, 176), (176, 128))  # (height, width)
DURATION_SECONDS = (1.0, 2.5)

# Levels of red, green and blue, in [0, 255]: of backgrounds and of objects.
DARK = (20, 100)
BRIGHT = (150, 250)

BIN_WIDTH, BIN_HEIGHT = 0.28, 0.25  # in widths and heights of the frame

# How far the there-and-back swing goes, as a share of how far a drift would.
SWING = 0.7

# What each class of `demo` does: (index into (x, y, size), sign of the drift). y points down.
DRIFTS = {
    "moves_left": (0, -1),
    "moves_right": (0, 1),
    "moves_up": (1, -1),
    "moves_down": (1, 1),
    "grows": (2, 1),
    "shrinks": (2, -1),
}


def write_demo(name: str, cache_dir: Path | None = None) -> Path:
    """Write a demo dataset once, as `<split>/<class>/<0000>.mp4`.

    Args:
        name: A key of `CLASSES`.
        cache_dir: Where caches live; by default `$XDG_CACHE_HOME`, else `~/.cache`.

    Returns:
        The folder, `<cache_dir>/vidtune/<name>-<VERSION>`, never half-written: it is renamed into place.

    Raises:
        InputError: If there is no such demo dataset.
    """
    if name not in CLASSES:
        raise InputError(f"name: no demo dataset {name!r}; choose from {', '.join(CLASSES)}")
    cache_dir = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_dir / "vidtune" / f"{name}-{VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        # A folder inside, so that the one renamed has ordinary permissions and not mkdtemp's 0700.
        unfinished = Path(temporary) / folder.name
        _write_videos(name, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same videos
                raise
    return folder


def _write_videos(name: str, folder: Path) -> None:
    videos = [
        (split, label, index)
        for split, count in VIDEOS_PER_CLASS[name].items()
        for label in CLASSES[name]
        for index in range(count)
    ]

    def write(video: tuple[str, str, int]) -> None:
        split, label, index = video
        path = folder / split / label / f"{index:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode_video(path, *draw_video(name, split, label, index))

    # Threads suffice: NumPy and x264 release the interpreter lock for most of the work.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for _ in tqdm(pool.map(write, videos), desc=f"Writing {name}", total=len(videos), unit="video"):
            pass


def draw_video(name: str, split: str, label: str, index: int) -> tuple[Frames, int]:
    """Draw one video; a pure function of its arguments.

    Args:
        name: A key of `CLASSES`.
        split: "train", "validation" or "test".
        label: One of `CLASSES[name]`.
        index: Which video of this split and class, >= 0.

    Returns:
        Frames, uint8 RGB, shape `(num_frames, height, width, 3)`, and frames per second.
    """
    split_index = list(VIDEOS_PER_CLASS[name]).index(split)
    rng = np.random.default_rng([SEEDS[name], split_index, CLASSES[name].index(label), index])
    fps = int(rng.choice(FRAME_RATES))
    num_frames = round(fps * rng.uniform(*DURATION_SECONDS))
    height, width = (int(side) for side in rng.choice(FRAME_SIZES))
    draw = _draw_demo if name == "demo" else _draw_demo_success
    return draw(label, num_frames, height, width, rng), fps


def encode_video(path: Path, frames: Frames, fps: int) -> None:
    """Write frames as an H.264 mp4; the same bytes every time, for one version of PyAV.

    Args:
        path: The file to write.
        frames: uint8 RGB, shape `(num_frames, height, width, 3)`, even height and width.
        fps: Frames per second, > 0.
    """
    # x264's macroblock-tree analysis reads memory that it never set: other bytes, now and then, for the same frames.
    options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def draw_drift(label: str, num_frames: int, rng: Generator) -> Floats:
    """Draw how the object of a `demo` video moves.

    Args:
        label: One of `CLASSES["demo"]`.
        num_frames: Length of the path, >= 2.
        rng: Source of randomness.

    Returns:
        x (points right), y (points down) and log2 of the size, shape `(num_frames, 3)`; each in [-1, 1],
        from the least to the greatest that it takes in any video.
    """
    drifting, sign = DRIFTS[label]
    time = np.linspace(0, 1, num_frames)
    path = np.empty((num_frames, 3), np.float32)
    for column in range(3):
        # Short of the whole range, so that where an object starts says little about where it goes.
        extent = rng.uniform(0.4, 0.5)
        if column == drifting:
            offset = sign * (2 * time - 1)
        else:
            # A triangle wave spends as long at every position as a drift does, and ends where it began.
            extent *= SWING
            offset = 4 * np.abs((time + rng.uniform()) % 1 - 0.5) - 1
        middle = rng.uniform(extent - 1, 1 - extent)
        path[:, column] = middle + extent * offset
    return path


def draw_transfer(label: str, num_frames: int, rng: Generator) -> tuple[Floats, float]:
    """Draw how the object of a `demo-success` video is carried, and where the bin stands.

    Args:
        label: One of `CLASSES["demo-success"]`.
        num_frames: Length of the path, >= 2.
        rng: Source of randomness.

    Returns:
        x of the object and its height over the floor, in widths and heights of the frame, shape
        `(num_frames, 2)`, and the x of the middle of the bin.
    """
    start, bin_x, high = rng.uniform(0.1, 0.2), rng.uniform(0.55, 0.65), rng.uniform(0.5, 0.6)
    ending = "in" if label == "success" else rng.choice(["short", "past", "back"])
    if ending == "back":
        stops = [(start, 0), (start, high), (bin_x, high), (start, high), (start, 0)]
    else:
        beside = BIN_WIDTH / 2 + rng.uniform(0.1, 0.14)
        end = bin_x + {"in": rng.uniform(-0.03, 0.03), "short": -beside, "past": beside}[ending]
        stops = [(start, 0), (start, high), (end, high), (end, 0)]
    # The last quarter of the video, or more, shows the object at rest.
    moves = rng.uniform(0.5, 1.5, len(stops) - 1)
    times = np.concatenate([[0], np.cumsum(moves)]) / moves.sum() * rng.uniform(0.55, 0.75)
    time = np.linspace(0, 1, num_frames)
    path = np.stack([np.interp(time, times, values) for values in zip(*stops, strict=True)], axis=1)
    return path.astype(np.float32), bin_x


def _draw_demo(label: str, num_frames: int, height: int, width: int, rng: Generator) -> Frames:
    path = draw_drift(label, num_frames, rng)
    x, y = width * (0.5 + 0.36 * path[:, 0]), height * (0.5 + 0.36 * path[:, 1])
    radius = 0.17 * min(height, width) * 2 ** path[:, 2]
    background = _draw_background(height, width, rng)
    thing = _Object(rng)
    return np.stack([thing.draw(background, *state) for state in zip(x, y, radius, strict=True)])


def _draw_demo_success(label: str, num_frames: int, height: int, width: int, rng: Generator) -> Frames:
    path, bin_x = draw_transfer(label, num_frames, rng)
    radius = rng.uniform(0.07, 0.09) * min(height, width)
    floor = round(0.88 * height)
    background = _draw_background(height, width, rng)
    background[floor:] *= 0.5
    _draw_bin(background, floor, bin_x, rng)
    x, y = width * path[:, 0], floor - radius - height * path[:, 1]
    thing = _Object(rng)
    return np.stack([thing.draw(background, *state, radius) for state in zip(x, y, strict=True)])


class _Texture:
    """A smooth random texture: a sum of plane waves that blends two colors."""

    def __init__(self, levels: tuple[float, float], wavelength: float, rng: Generator) -> None:
        angle, phase = rng.uniform(0, 2 * np.pi, (2, 4))
        frequency = 2 * np.pi / wavelength * rng.uniform(0.5, 1.5, 4)
        waves = np.stack([frequency * np.cos(angle), frequency * np.sin(angle), phase], axis=1)
        self.waves = waves.astype(np.float32)
        self.colors = rng.uniform(*levels, (2, 3)).astype(np.float32)

    def draw(self, x: Floats, y: Floats) -> Floats:
        """RGB in [0, 255], shape `(height, width, 3)`, at points of the plane, each `(height, width)`."""
        total = sum((np.cos(a * x + b * y + phase) for a, b, phase in self.waves), np.zeros_like(x))
        blend = np.clip(0.5 + 0.35 * total, 0, 1)[..., None]
        colors: Floats = self.colors[0] + blend * (self.colors[1] - self.colors[0])
        return colors


class _Object:
    """A bright thing of a random shape, whose texture moves and grows with it."""

    def __init__(self, rng: Generator) -> None:
        self.texture = _Texture(BRIGHT, 1.2, rng)
        self.power = rng.choice([1.0, 2.0, 8.0])  # |u|^power + |v|^power <= 1: diamond, disc, rounded square

    def draw(self, background: Floats, x: float, y: float, radius: float) -> Frames:
        """A frame, uint8 `(height, width, 3)`: the object over the background; x, y and radius in pixels."""
        height, width = background.shape[:2]
        # Only the box around the object changes.
        rows = slice(max(0, int(y - radius - 2)), min(height, int(y + radius + 3)))
        columns = slice(max(0, int(x - radius - 2)), min(width, int(x + radius + 3)))
        v, u = np.mgrid[rows, columns].astype(np.float32)
        u, v = (u - np.float32(x)) / np.float32(radius), (v - np.float32(y)) / np.float32(radius)
        distance = (np.abs(u) ** self.power + np.abs(v) ** self.power) ** (1 / self.power)
        cover = np.clip((1 - distance) * radius + 0.5, 0, 1)[..., None]  # a soft edge, one pixel wide
        frame = background.copy()
        frame[rows, columns] += cover * (self.texture.draw(u, v) - frame[rows, columns])
        pixels: Frames = np.rint(frame).astype(np.uint8)
        return pixels


def _draw_background(height: int, width: int, rng: Generator) -> Floats:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return _Texture(DARK, 0.5 * min(height, width), rng).draw(x, y)


def _draw_bin(background: Floats, floor: int, bin_x: float, rng: Generator) -> None:
    """Draw an open box onto the background, in place: two walls and a bottom."""
    height, width = background.shape[:2]
    wall = max(2, min(height, width) // 32)
    left, right = round(width * (bin_x - BIN_WIDTH / 2)), round(width * (bin_x + BIN_WIDTH / 2))
    top = round(floor - BIN_HEIGHT * height)
    color = rng.uniform(100, 180, 3)
    background[floor - wall // 2 : floor + wall, left:right] = color
    background[top:floor, left : left + wall] = color
    background[top:floor, right - wall : right] = color
