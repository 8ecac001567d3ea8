"""Measure the input pipeline, each on a machine that does nothing else.

One thread each, from videos of your own to clips: the public notebook's pipeline, ours from the source files, ours
from a prepared dataset, the decoder alone, a copy of the finished clip:

    python recipes/benchmark.py input --dataset my_videos --prepared my_prepared_videos

An epoch of training under the Trainer as the notebook has it, and under ours:

    python recipes/benchmark.py epoch --dataset my_videos --prepared my_prepared_videos

Data-loader workers, one against several; the resident memory of a worker over 10,000 clips; clips of a video of an
hour against clips of one of ten seconds (drawn on the spot, no dataset needed):

    python recipes/benchmark.py workers --dataset my_videos --num_proc 2
    python recipes/benchmark.py memory --dataset my_videos --num_clips 10000
    python recipes/benchmark.py long

Everything is measured in a process of its own, in turns: once unrecorded, to warm up, then `rounds` times, of which
the median counts. Without `--prepared` the prepared dataset is made first. The notebook is the video-classification
guide of transformers: https://huggingface.co/docs/transformers/tasks/video_classification
"""

import multiprocessing
import os
import random
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.card import without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.options import BenchmarkArguments
from vidtune.timing import Clips, Task, in_rounds, on_one_thread, own_process, summary, timed
from vidtune.training.checkpoints import is_run, write_text

# The guide's clip: every fourth frame at 30 frames per second. So many frames at this rate span the same time.
FPS = 30 / 4

SMALL_MODEL = {
    "image_size": 112,
    "patch_size": 16,
    "tubelet_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
"""The VideoMAE of `epoch`, 1 million parameters and 196 tokens a clip: so small that two CPU cores train it faster
than most input arrives, as a GPU does larger ones."""

EPOCHS_A_ROUND = 4  # of `workers`: the last batches, of which some workers get none, should weigh little
WARM_UP_CLIPS = 1000  # of `memory`
CLIPS_A_ROUND = 20  # of `long`
SHORT_SECONDS, LONG_SECONDS = 10, 3600  # of the videos of `long`; the short one is what the long one repeats

SECTIONS = {"benchmark": BenchmarkArguments}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and write the report, which is returned."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else ""
    if command not in (*COMMANDS, "--help", "-h"):
        raise InputError(f"command line: got {command!r}; begin with what to measure: {', '.join(COMMANDS)}")
    arguments = parse(argv[command in COMMANDS :], __doc__, SECTIONS, training=False)
    options = arguments.benchmark
    output_dir = Path(options.output_dir or f"outputs/benchmark/{command}")
    if is_run(output_dir):
        raise InputError(f"output_dir: {output_dir}: holds a training run; give another folder")
    output_dir.mkdir(parents=True, exist_ok=True)

    measured = COMMANDS[command](options, output_dir)

    from vidtune.evaluation.report import environment, to_json

    report = {
        "recipe": f"benchmark {command}",
        "command": shlex.join(["python", "recipes/benchmark.py", *argv]),
        "config": arguments.config,
        **measured,
        "environment": environment(decoder="pyav" if options.decoder == "auto" else options.decoder),
        "seconds": time.perf_counter() - started,
    }
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    print_report(report)
    print("written:", output_dir / "report.json")
    return report


# The five commands


def measure_input(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of one thread: the notebook, ours from source and prepared, the decoder, a copy."""
    videos = choose_videos(options)
    prepared, clip = prepare(videos, options, output_dir), clip_format(options)
    starts = {
        "notebook": partial(notebook_clips, videos, clip, options.seed),
        "source": partial(own_clips, videos, clip, options),
        "prepared": partial(own_clips, prepared, clip, options),
        "decoder": partial(decoded_videos, videos),
        "copy": partial(copied_clips, videos, clip, options),
    }
    files = paths(videos)
    tasks = {name: partial(on_one_thread, name, start, files) for name, start in starts.items()}
    results = in_rounds(tasks, options.rounds)
    pairs = [("source", "notebook"), ("prepared", "notebook"), ("source", "decoder"), ("prepared", "decoder")]
    return {"files": files} | summary(results, [*pairs, ("prepared", "source"), ("prepared", "copy")])


def measure_epoch(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of training for one epoch, decoding and all, by the model's own count of clips."""
    videos = choose_videos(options)
    if len(videos) < options.batch_size:
        raise InputError(f"num_videos: {len(videos)} don't fill one batch; give at least {options.batch_size}")
    prepared = prepare(videos, options, output_dir)
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            "notebook": lambda number: timed_epoch(notebook_trainer(videos, options, folder)),
            "source": lambda number: timed_epoch(own_trainer(videos, options, folder)),
            "prepared": lambda number: timed_epoch(own_trainer(prepared, options, folder)),
        }
        results = in_rounds(tasks, options.rounds)
    return {"files": paths(videos), "clips": {name: kept[0]["clips"] for name, kept in results.items()}} | summary(
        results, [("source", "notebook"), ("prepared", "notebook"), ("prepared", "source")]
    )


def measure_workers(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second that arrive from one data-loader worker, and from several."""
    several = workers(options)
    if several == 1:
        raise InputError("num_proc: got 1; give the number of workers to compare one with, 2 or more")
    videos = choose_videos(options)
    prepared, clip = prepare(videos, options, output_dir), clip_format(options)
    files = paths(videos)
    starts = {
        f"{name}_{count}": partial(loaded_clips, rows, clip, options, count)
        for name, rows in (("source", videos), ("prepared", prepared))
        for count in (1, several)
    }
    results = in_rounds({name: partial(timed, name, start, files) for name, start in starts.items()}, options.rounds)
    pairs = [(f"{name}_{several}", f"{name}_1") for name in ("source", "prepared")]
    return {"files": files} | summary(results, pairs)


def measure_memory(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Memory of one data-loader worker, every tenth of the clips from the end of the warm-up on."""
    videos = choose_videos(options)
    prepared, clip = prepare(videos, options, output_dir), clip_format(options)
    report: dict[str, Any] = {"files": paths(videos), "clips": options.num_clips, "resident_mb": {}, "own_mb": {}}
    for name, rows in (("source", videos), ("prepared", prepared)):
        with own_process(partial(worker_memory, rows, clip, options)) as run:
            measured = run(0)
        report["resident_mb"][name], report["own_mb"][name] = measured["resident_mb"], measured["own_mb"]
    resident = report["resident_mb"].items()
    ends = {f"{name}: end / start": values[-1] / values[0] for name, values in resident}
    return report | {"ratios": ends | {f"{name}: most / start": max(values) / values[0] for name, values in resident}}


def measure_long(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of a long video and of a short one, keyframes as far apart as the short one is long."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_video(Path(folder, "drawn.mp4"))
        tasks: dict[str, Task] = {}
        for container in ("mp4", "mkv"):
            for length, seconds in (("short", SHORT_SECONDS), ("long", LONG_SECONDS)):
                rows = one_video(repeat_video(drawn, Path(folder, f"{length}.{container}"), seconds), CLIPS_A_ROUND)
                for sampling in ("dense", "segments"):
                    name = f"{container}_{sampling}_{length}"
                    start = partial(own_clips, rows, clip_format(options, sampling), options)
                    tasks[name] = partial(on_one_thread, name, start, paths(rows))
        results = in_rounds(tasks, options.rounds)
    pairs = [(name, name.replace("short", "long")) for name in tasks if name.endswith("short")]
    report = summary(results, pairs)
    memory = report["peak_memory_mb"]
    return {
        "seconds_of_video": {"short": SHORT_SECONDS, "long": LONG_SECONDS},
        **report,
        "memory_ratios": {f"memory: {long} / {short}": memory[long] / memory[short] for short, long in pairs},
    }


COMMANDS = {
    "input": measure_input,
    "epoch": measure_epoch,
    "workers": measure_workers,
    "memory": measure_memory,
    "long": measure_long,
}


# The videos


def choose_videos(options: BenchmarkArguments) -> Any:
    """Choose videos, evenly spread over all splits of the dataset from a random start.

    Raises:
        InputError: If they are not whole files of one label each.
    """
    import numpy as np
    from datasets import concatenate_datasets

    from vidtune.data.sources import load_videos

    everything = concatenate_datasets(list(load_videos(options.dataset).values()))
    count = min(options.num_videos, len(everything))
    start = np.random.default_rng(options.seed).random()
    videos = everything.select(((np.arange(count) + start) * len(everything) / count).astype(int))
    if "label" not in videos.features:
        raise InputError(f"dataset: {options.dataset}: the notebook knows one label a video; give such a dataset")
    for video in videos:
        if not video["video"]["path"] or video["start_seconds"] is not None or video["end_seconds"] is not None:
            name = video["video_id"]
            raise InputError(f"dataset: {name}: the notebook reads whole files only; give a folder of videos")
    return videos


def prepare(videos: Any, options: BenchmarkArguments, output_dir: Path) -> Any:
    """Give the same videos from the prepared dataset, which is made where none was given.

    Raises:
        InputError: If it lacks one of them.
    """
    from datasets import DatasetDict, concatenate_datasets

    from vidtune.data.preparation import prepare_videos
    from vidtune.data.sources import load_videos

    folder = Path(options.prepared or output_dir / "prepared")
    if not options.prepared:
        prepare_videos(DatasetDict(train=videos), folder, num_proc=options.num_proc, decoder=options.decoder)
    prepared = concatenate_datasets(list(load_videos(str(folder)).values()))
    rows = {video_id: row for row, video_id in enumerate(prepared["video_id"])}
    missing = [video_id for video_id in videos["video_id"] if video_id not in rows]
    if missing:
        raise InputError(f"prepared: {folder}: lacks {missing[0]} ({len(missing)} in all); prepare the same dataset")
    return prepared.select([rows[video_id] for video_id in videos["video_id"]])


def paths(videos: Any) -> list[str]:
    """The files of rows."""
    return [video["path"] for video in videos["video"]]


def clip_format(options: BenchmarkArguments, sampling: str = "dense") -> Any:
    """The clip of all but `epoch`: dense, it has as many frames over the same time as the notebook's."""
    from vidtune.data.clips import ClipFormat

    return ClipFormat(options.num_frames, options.image_size or 224, sampling, FPS)


def workers(options: BenchmarkArguments) -> int:
    """Worker processes: what was asked for, or one a core."""
    return options.num_proc or os.cpu_count() or 1


def one_video(path: Path, times: int) -> Any:
    """A dataset of one file, as often as given; each of its rows gets another random clip."""
    from datasets import ClassLabel, Dataset, Features, Video

    features = Features({"video": Video(decode=False), "label": ClassLabel(names=["drawn"])})
    return Dataset.from_dict({"video": [str(path)] * times, "label": [0] * times}, features=features)


def draw_video(path: Path) -> Path:
    """Draw a video of SHORT_SECONDS: 320 x 240, 30 frames per second, B-frames, one keyframe."""
    import av
    import numpy as np

    frames = 30 * SHORT_SECONDS
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
    """Write the packets of a video of SHORT_SECONDS again and again, up to so many seconds; nothing is encoded."""
    import av

    with av.open(str(drawn)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for start in range(0, seconds, SHORT_SECONDS):
            for packet in packets:
                shift = round(start / packet.time_base)
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
                target.mux(copy)
    return path


# The clips of each pipeline. What comes before the first clip is not part of the time.


def notebook_clips(videos: Any, clip: Any, seed: int, number: int) -> Clips:
    """The clips of the guide's training dataset: float, normalised, `(C, T, H, W)`."""
    import torch

    random.seed(seed + number)
    torch.manual_seed(seed + number)
    dataset = notebook_dataset(videos, clip.num_frames, clip.image_size)
    return ((sample["video_index"], sample["video"]) for sample in dataset)


def own_clips(videos: Any, clip: Any, options: BenchmarkArguments, number: int) -> Clips:
    """Our training clips: uint8 `(T, C, H, W)`, which the trainer normalises."""
    clips = own_dataset(videos, clip, options)
    items = (clips[number, row] for row in range(len(clips)))
    return ((item["row"], item["pixel_values"]) for item in items if not item["failed"])


def decoded_videos(videos: Any, number: int) -> Clips:
    """All frames of each video, decoded by PyAV and dropped as they are."""
    import av

    def count_frames(path: str) -> int:
        try:
            with av.open(f"file:{path}", metadata_errors="replace") as container:
                stream = container.streams.video[0]
                stream.thread_type, stream.thread_count = "NONE", 1
                return sum(1 for _ in container.decode(stream))
        except (av.error.FFmpegError, IndexError):
            return 0  # as the others do, say no more of it here

    return ((row, None) for row, path in enumerate(paths(videos)) if count_frames(path))


def copied_clips(videos: Any, clip: Any, options: BenchmarkArguments, number: int) -> Clips:
    """Copies of one finished clip."""
    finished = own_dataset(videos, clip, options)[number, 0]["pixel_values"]
    return ((row, finished.clone()) for row in range(len(videos)))


def loaded_clips(videos: Any, clip: Any, options: BenchmarkArguments, num_workers: int, number: int) -> Clips:
    """Our training clips as they arrive from a data loader whose workers have started."""
    clips = own_dataset(videos, clip, options)
    order = [(0, index % len(clips)) for index in range(num_workers * options.batch_size)]
    loader = load(clips, order, options.batch_size, num_workers)
    for _ in loader:  # a batch of each worker
        pass
    order[:] = [(EPOCHS_A_ROUND * number + epoch, row) for epoch in range(EPOCHS_A_ROUND) for row in range(len(clips))]
    rows = (row for _, row in tuple(order))
    batches = ((batch["pixel_values"], set(batch["failed_rows"])) for batch in loader)
    arrived = ((next(rows), pixels, failed) for batch, failed in batches for pixels in batch)
    return ((row, pixels) for row, pixels, failed in arrived if row not in failed)


def own_dataset(videos: Any, clip: Any, options: BenchmarkArguments) -> Any:
    """Our training dataset."""
    from vidtune.data.clips import TrainingClips

    return TrainingClips(videos, clip, seed=options.seed, decoder=options.decoder)


def load(clips: Any, order: Sequence[tuple[int, int]], batch_size: int, num_workers: int) -> Any:
    """A data loader over clips in a given order, whose workers stay from one pass to the next."""
    from torch.utils.data import DataLoader

    from vidtune.data.clips import collate

    return DataLoader(
        clips, batch_size, sampler=order, num_workers=num_workers, collate_fn=collate, persistent_workers=True
    )


def notebook_dataset(
    videos: Any, num_frames: int, image_size: int, mean: Any = (0.5,) * 3, std: Any = (0.5,) * 3
) -> Any:
    """The guide's training dataset over our files.

    Source: https://huggingface.co/docs/transformers/tasks/video_classification, "Prepare the datasets for training".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how pytorchvideo uses torch
        from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
        from pytorchvideo.transforms import (
            ApplyTransformToKey,
            Normalize,
            RandomShortSideScale,
            UniformTemporalSubsample,
        )
    from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

    steps = [
        UniformTemporalSubsample(num_frames),
        Lambda(lambda pixels: pixels / 255.0),
        Normalize(mean, std),
        RandomShortSideScale(min_size=256, max_size=320),
        RandomCrop((image_size, image_size)),
        RandomHorizontalFlip(p=0.5),
    ]
    return LabeledVideoDataset(
        [(path, {"label": label}) for path, label in zip(paths(videos), videos["label"], strict=True)],
        make_clip_sampler("random", num_frames / FPS),
        transform=ApplyTransformToKey(key="video", transform=Compose(steps)),
        decode_audio=False,
    )


# Training


def notebook_trainer(videos: Any, options: BenchmarkArguments, folder: str) -> Any:
    """The guide's Trainer: its dataset has no length, so an epoch is so many steps; it is read by the main process."""
    import torch
    from transformers import Trainer, TrainingArguments

    model, mean, std = small_model(videos, options)
    dataset = notebook_dataset(videos, options.num_frames, model.config.image_size, mean, std)

    def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        clips = [sample["video"].transpose(0, 1) for sample in samples]
        return {"pixel_values": torch.stack(clips), "labels": torch.tensor([sample["label"] for sample in samples])}

    args = TrainingArguments(**training_fields(videos, options, folder), remove_unused_columns=False)
    return Trainer(model, args, train_dataset=dataset, data_collator=collate)


def own_trainer(videos: Any, options: BenchmarkArguments, folder: str) -> Any:
    """Our trainer, with as many data-loader workers as `num_proc` says."""
    from vidtune.data.clips import ClipFormat
    from vidtune.training.settings import training_arguments
    from vidtune.training.trainer import VideoTrainer

    model, mean, std = small_model(videos, options)
    given = training_fields(videos, options, folder) | {"dataloader_num_workers": workers(options)}
    return VideoTrainer(
        model,
        training_arguments(given, precision="fp32"),
        image_mean=mean,
        image_std=std,
        label_names=list(model.config.label2id),
        train_dataset=own_dataset(
            videos, ClipFormat(options.num_frames, model.config.image_size, "dense", FPS), options
        ),
    )


def training_fields(videos: Any, options: BenchmarkArguments, folder: str) -> dict[str, Any]:
    """What both trainers are given: the guide's arguments, less evaluating, saving and publishing."""
    return {
        "output_dir": folder,
        "max_steps": len(videos) // options.batch_size,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": 5e-5,
        "warmup_steps": 0.1,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": options.seed,
    }


def small_model(videos: Any, options: BenchmarkArguments) -> tuple[Any, list[float], list[float]]:
    """The same new model at each call, and mean and standard deviation of its input."""
    from transformers import set_seed

    from vidtune.models.auto import load_model, read_config
    from vidtune.models.processors import load_processors, normalisation

    config = read_config(
        None,
        "videomae",
        SMALL_MODEL,
        labels=videos.features["label"].names,
        num_frames=options.num_frames,
        image_size=options.image_size,
    )
    set_seed(options.seed)
    model, _ = load_model(config, None)
    return model, *normalisation(load_processors(None, config)[0])


def timed_epoch(trainer: Any) -> dict[str, Any]:
    """Train, and count the clips that the model was given."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    shapes = []

    def note(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        shapes.append(kwargs["pixel_values"].shape)

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    clips = sum(shape[0] for shape in shapes)
    return {"clips_per_second": clips / seconds, "clips": clips, "output": str(tuple(shapes[0][1:]))}


# Memory


def worker_memory(videos: Any, clip: Any, options: BenchmarkArguments, number: int) -> dict[str, Any]:
    """Memory of a data-loader worker, megabytes, after the warm-up and after each tenth of the clips.

    Returns:
        `resident_mb`, all of it, and `own_mb`, what it shares with no other process.
    """
    import psutil

    clips = own_dataset(videos, clip, options)
    order = [(index // len(clips), index % len(clips)) for index in range(WARM_UP_CLIPS + options.num_clips)]
    marks = [WARM_UP_CLIPS + options.num_clips * tenth // 10 for tenth in range(11)]
    memory: dict[str, Any] = {"resident_mb": [], "own_mb": []}
    seen = 0
    batches = iter(load(clips, order, options.batch_size, num_workers=1))
    (worker,) = multiprocessing.active_children()  # this process has no others
    for batch in batches:
        if batch["failed_rows"]:
            raise InputError(f"dataset: {paths(videos)[batch['failed_rows'][0]]}: can't be decoded; leave it out")
        seen += len(batch["labels"])
        while marks and seen >= marks[0]:
            now = psutil.Process(worker.pid).memory_full_info()
            memory["resident_mb"].append(now.rss / 1e6)
            memory["own_mb"].append(now.uss / 1e6)
            marks.pop(0)
    return memory


# The report


def print_report(report: Mapping[str, Any]) -> None:
    """Print what was measured as a table, and the ratios below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if "resident_mb" in report:
        columns = ["", "MB at the start", "at most", "at the end"]
        rows = [(name, values[0], max(values), values[-1]) for name, values in report["resident_mb"].items()]
    else:
        columns = ["", "clips/s", "slowest", "fastest", "peak MB"]
        medians, peaks = report["clips_per_second"], report["peak_memory_mb"]
        rows = [(name, medians[name], min(all_), max(all_), peaks[name]) for name, all_ in report["rounds"].items()]
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, *values in rows:
        table.add_row(name, *(f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in values))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, ratio in (report["ratios"] | report.get("memory_ratios", {})).items():
        console.print(f"{name}: {ratio:.3g}", markup=False)


if __name__ == "__main__":
    sys.exit(exit_code(main))
