"""Videos to measure on: some of a dataset, the same ones prepared, or drawn ones as long as asked for."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Video, concatenate_datasets

from vidtune.data.clips import unreadable_videos
from vidtune.data.preparation import prepare_videos
from vidtune.data.sources import load_videos
from vidtune.errors import InputError

DRAWN_SECONDS = 10


def choose_videos(dataset: str, num_videos: int, seed: int) -> Dataset:
    """Choose videos, evenly spread over all splits of a dataset from a random start.

    Raises:
        InputError: If they are not whole files of one label each, or one can't be read.
    """
    everything = concatenate_datasets(list(load_videos(dataset).values()))
    count = min(num_videos, len(everything))
    start = np.random.default_rng(seed).random()
    videos = everything.select(((np.arange(count) + start) * len(everything) / count).astype(int))
    if "label" not in videos.features:
        raise InputError(f"dataset: {dataset}: the notebook knows one label a video; give such a dataset")
    for video in videos:
        if not video["video"]["path"] or video["start_seconds"] is not None or video["end_seconds"] is not None:
            name = video["video_id"]
            raise InputError(f"dataset: {name}: the notebook reads whole files only; give a folder of videos")
    if failed := unreadable_videos(videos, most=len(videos)):
        raise InputError(f"dataset: {failed[0]['path']}: {failed[0]['reason']} ({len(failed)} in all); leave it out")
    return videos


def prepared_videos(
    videos: Dataset, prepared: str | None, new_folder: Path, num_proc: int | None, decoder: str
) -> Dataset:
    """Give the same videos from the prepared dataset, which is made in a new folder where none was given.

    Raises:
        InputError: If it lacks one of them.
    """
    folder = Path(prepared or new_folder)
    if not prepared:
        prepare_videos(DatasetDict(train=videos), folder, num_proc=num_proc, decoder=decoder)
    try:
        found = concatenate_datasets(list(load_videos(str(folder)).values()))
    except InputError as error:
        raise InputError(f"prepared: {str(error).removeprefix('dataset: ')}") from None
    rows = {video_id: row for row, video_id in enumerate(found["video_id"])}
    missing = [video_id for video_id in videos["video_id"] if video_id not in rows]
    if missing:
        raise InputError(f"prepared: {folder}: lacks {missing[0]} ({len(missing)} in all); prepare the same dataset")
    return found.select([rows[video_id] for video_id in videos["video_id"]])


def paths(videos: Dataset) -> list[str]:
    """The files of rows."""
    return [video["path"] for video in videos["video"]]


def one_video(path: Path, times: int) -> Dataset:
    """A dataset of one file, as often as given; each of its rows gets another random clip."""
    features = Features({"video": Video(decode=False), "label": ClassLabel(names=["drawn"])})
    return Dataset.from_dict({"video": [str(path)] * times, "label": [0] * times}, features=features)


def draw_video(path: Path) -> Path:
    """Draw a video of DRAWN_SECONDS: 320 x 240, 30 frames per second, B-frames, one keyframe."""
    import av

    frames = 30 * DRAWN_SECONDS
    blocks = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = frames, 2
        for number in range(frames):
            pixels = np.roll(picture, (number, 2 * number), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat_video(drawn: Path, path: Path, seconds: int) -> Path:
    """Write the packets of a video of DRAWN_SECONDS again and again, up to so many seconds; nothing is encoded."""
    import av

    with av.open(str(drawn)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for start in range(0, seconds, DRAWN_SECONDS):
            for packet in packets:
                shift = round(start / packet.time_base)
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
                target.mux(copy)
    return path
