"""Damaged files: whatever their bytes, they are read or named; no crash, no hang, no wrong count.

The files are read in a child process, so that the crash or the hang of a codec is a failure that names the file.
"""

import math
import multiprocessing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from test_bad_videos import write_kind
from video_files import busy_frames
from vidtune.data.decoding import open_video
from vidtune.data.jpeg_video import encode_jpeg_video
from vidtune.errors import VideoError

KINDS = [
    *("pyramid.mp4", "index_first.mp4", "fragments.mp4", "pyramid.mkv", "pyramid.ts", "pyramid.avi", "pyramid.flv"),
    *("starts_below_zero.mp4", "turned_270.mkv", "interlaced.ts", "hevc.mp4", "hevc.mkv", "vp8.webm", "vp9.webm"),
    *("av1.mp4", "mpeg1.mpg", "mpeg2.mpg", "mpeg2.mkv", "mpeg4.avi", "mpeg4.mp4", "mjpeg.avi", "gif.gif", "png.apng"),
    *("ffv1.mkv", "huffyuv.avi", "prores.mov", "animation.mov", "wmv2.wmv", "msmpeg4.avi", "h263.3gp", "flv1.flv"),
]
LONG = ["pyramid.mp4", "pyramid.mkv", "fragments.mp4", "no_cues.mkv"]
NUM_FILES = 200
SECONDS_PER_FILE = 30


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Change, remove, repeat or blank 1 to 64 places, many of them in the first and last bytes; sometimes cut."""
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 2, 4, 16, 64])):
        begin, end = [(0, len(damaged)), (0, 600), (len(damaged) - 1500, len(damaged))][rng.integers(3)]
        place = int(rng.integers(max(0, begin), max(1, min(end, len(damaged)))))
        length = int(rng.integers(1, 200))
        kind = rng.choice(["byte", "bit", "bytes", "blank", "remove", "repeat"], p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
        if kind == "byte":
            damaged[place : place + 1] = [rng.choice([0, 1, 127, 128, 255, rng.integers(256)])]
        elif kind == "bit":
            damaged[place : place + 1] = [damaged[place] ^ 1 << int(rng.integers(8))] if place < len(damaged) else []
        elif kind == "bytes":
            damaged[place : place + 8] = rng.bytes(8)
        elif kind == "blank":
            damaged[place : place + length] = bytes(length)
        elif kind == "remove":
            del damaged[place : place + length]
        else:
            damaged[place:place] = damaged[place : place + length]
    if rng.random() < 0.1:
        del damaged[int(rng.integers(len(damaged) + 1)) :]
    return bytes(damaged)


def read(path: Path, seed: int) -> torch.Tensor | str:
    """Read frames at random times, past the end and one after the other; returns them, or why it can't be done."""
    rng = np.random.default_rng(seed)
    try:
        with open_video(path) as video:
            assert video.num_frames >= 1
            assert 0 < video.duration_seconds < math.inf and 0 < video.fps < math.inf
            times = [*(rng.uniform(-0.1, 1.2, 5) * video.duration_seconds).tolist(), 1e12, 0.0]
            frames = video.frames_at(times)
            assert frames.dtype == torch.uint8 and frames.shape == (7, 3, video.height, video.width)
            assert len(list(video.stream(np.linspace(0, video.duration_seconds, 9)))) == 9
            return frames
    except VideoError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
        return str(error)


def read_damaged(originals, seeds, folder, report):
    """In a child process: damage a file and read it, for each seed; tells what it begins with, and how it ended."""
    torch.set_num_threads(1)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        name = list(originals)[rng.integers(len(originals))]
        path = folder / f"{seed}_{name}"
        path.write_bytes(damage(originals[name], rng))
        report.send(f"seed {seed}, {path}")
        try:
            first, second = read(path, seed), read(path, seed)
            same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
            report.send("named" if isinstance(first, str) else "read" if same else "another result each time")
            path.unlink()
        except Exception as error:
            report.send(repr(error))


def fuzz(folder: Path, seeds: range) -> list[str]:
    """Read as many damaged files as seeds, and return how it ended for each."""
    originals = {name: write_kind(folder, name).read_bytes() for name in KINDS}
    frames = [torch.from_numpy(picture).permute(2, 0, 1) for picture in busy_frames(40)]
    originals["prepared.mp4"] = encode_jpeg_video(frames, Fraction(25))
    originals |= {f"long_{name}": write_kind(folder / "long", name, fps=0.5).read_bytes() for name in LONG}
    results = []
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=read_damaged, args=(originals, seeds, folder, sender))
    child.start()
    sender.close()
    beginning = "before the first file"
    try:
        for _ in seeds:
            for part in ("beginning", "result"):
                if not receiver.poll(SECONDS_PER_FILE):
                    pytest.fail(f"hangs: {beginning}")
                if part == "beginning":
                    beginning = receiver.recv()
                else:
                    results.append(receiver.recv())
                    assert results[-1] in ("read", "named"), f"{beginning}: {results[-1]}"
    except EOFError:
        child.join()
        pytest.fail(f"crashes with exit code {child.exitcode}: {beginning}")
    finally:
        child.kill()
        child.join()
    return results


def test_damaged_files_are_read_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")
    results = fuzz(tmp_path, range(NUM_FILES))
    assert len(results) == NUM_FILES
    # Neither all nor none: the damage is worth trying.
    assert 20 < results.count("read") < NUM_FILES - 20


@pytest.mark.soak
def test_thousands_of_damaged_files_are_read_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")
    assert len(fuzz(tmp_path, range(1000, 21_000))) == 20_000
