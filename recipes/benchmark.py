"""Measure the input pipeline, training and prediction, each on a machine that does nothing else.

One thread each, from videos of your own to clips: the public notebook's pipeline, ours from the source files, ours
from a prepared dataset, the decoder alone, a copy of the finished clip; and from videos to all views of an evaluation:

    python recipes/benchmark.py input --dataset my_videos --prepared my_prepared_videos
    python recipes/benchmark.py views --dataset my_videos --num_videos 300

An epoch of training under the Trainer as the notebook has it, and under ours; steps of training on batches that are
ready, by a bare loop of PyTorch, by our Trainer and by the one of transformers (no dataset needed):

    python recipes/benchmark.py epoch --dataset my_videos --prepared my_prepared_videos
    python recipes/benchmark.py step --rounds 40

Data-loader workers, one against several; the resident memory of a worker over 10,000 clips; clips of a video of an
hour against clips of one of ten seconds (drawn on the spot, no dataset needed):

    python recipes/benchmark.py workers --dataset my_videos --num_proc 2
    python recipes/benchmark.py memory --dataset my_videos --num_clips 10000
    python recipes/benchmark.py long

Prediction: decoding alone, the model alone, and both together, as recipes/predict.py does it:

    python recipes/benchmark.py predict --dataset my_videos --num_videos 300

What a step of the models of recipes/configs/kinetics400 computes and keeps in memory, counted and not measured:

    python recipes/benchmark.py sizes

All else is measured in a process of its own, in turns: once unrecorded, to warm up, then `rounds` times, of which
the median counts. Without `--prepared` the prepared dataset is made first. The notebook is the video-classification
guide of transformers: https://huggingface.co/docs/transformers/tasks/video_classification
"""

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.benchmarks.timing import (
    Task,
    hold_to_one_core,
    in_rounds,
    on_one_thread,
    own_process,
    paired_summary,
    summary,
    timed,
)
from vidtune.card import without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.options import BenchmarkArguments
from vidtune.training.checkpoints import check_writable, is_run, write_text

SMALL_MODEL = {
    "image_size": 112,
    "patch_size": 16,
    "tubelet_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
"""The VideoMAE of `epoch` and `step`, 1 million parameters and 196 tokens a clip: so small that two CPU cores train
it faster than most input arrives, as a GPU does larger ones."""

EPOCHS_A_ROUND = 4  # of `workers`: the last batches, of which some workers get none, should weigh little
STEPS_A_ROUND = 20  # of `step`
WARM_UP_CLIPS = 1000  # of `memory`
CLIPS_A_ROUND = 20  # of `long`
LONG_SECONDS = 3600  # of the long videos of `long`, which repeat the short one
TEMPORAL_VIEWS, SPATIAL_CROPS = 5, 3  # of `views`: VideoMAE's protocol for Kinetics-400

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
    check_writable(output_dir)

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
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    print_report(report)
    print("written:", output_dir / "report.json")
    return report


# The commands


def measure_input(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of one thread: the notebook, ours from source and prepared, the decoder, a copy."""
    from vidtune.benchmarks.pipelines import copied_clips, decoded_videos, notebook_clips, own_clips
    from vidtune.benchmarks.videos import paths

    videos, prepared = choose_both(options, output_dir)
    clip, files = clip_format(options), paths(videos)
    source_clips, prepared_clips = training_clips(videos, clip, options), training_clips(prepared, clip, options)
    starts = {
        "notebook": partial(notebook_clips, videos, clip, options.seed),
        "source": partial(own_clips, source_clips),
        "prepared": partial(own_clips, prepared_clips),
        "decoder": partial(decoded_videos, files),
        "copy": partial(copied_clips, source_clips),
    }
    tasks = {name: partial(on_one_thread, name, start, files) for name, start in starts.items()}
    results = in_rounds(tasks, options.rounds)
    pairs = [("source", "notebook"), ("prepared", "notebook"), ("source", "decoder"), ("prepared", "decoder")]
    return {"files": files} | summary(results, [*pairs, ("prepared", "source"), ("prepared", "copy")])


def measure_views(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Videos per second of one thread: all views of an evaluation, and the decoder alone, which decodes all frames."""
    from vidtune.benchmarks.pipelines import decoded_videos, own_views
    from vidtune.benchmarks.videos import choose_videos, paths
    from vidtune.data.clips import EvaluationClips

    videos = choose_videos(options.dataset, options.num_videos, options.seed)
    files = paths(videos)
    views = EvaluationClips(
        videos,
        clip_format(options),
        temporal_views=TEMPORAL_VIEWS,
        spatial_crops=SPATIAL_CROPS,
        decoder=options.decoder,
    )
    starts = {"views": partial(own_views, views), "decoder": partial(decoded_videos, files)}
    tasks = {name: partial(on_one_thread, name, start, files) for name, start in starts.items()}
    return {"files": files} | summary(in_rounds(tasks, options.rounds), [("views", "decoder")], "videos")


def measure_epoch(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of training for one epoch, decoding and all, by the model's own count of clips."""
    from vidtune.benchmarks.training import notebook_trainer, own_trainer, timed_epoch, training_fields
    from vidtune.benchmarks.videos import paths

    videos, prepared = choose_both(options, output_dir, least=options.batch_size)
    clip, count = clip_format(options, size=SMALL_MODEL["image_size"]), workers(options)
    model = new_model(options, videos.features["label"].names)
    with tempfile.TemporaryDirectory() as folder:
        fields = training_fields(folder, len(videos) // options.batch_size, options.batch_size, options.seed)
        source_clips, prepared_clips = training_clips(videos, clip, options), training_clips(prepared, clip, options)
        tasks = {
            "notebook": lambda number: timed_epoch(notebook_trainer(videos, model(), fields)),
            "source": lambda number: timed_epoch(own_trainer(source_clips, model(), fields, count)),
            "prepared": lambda number: timed_epoch(own_trainer(prepared_clips, model(), fields, count)),
        }
        results = in_rounds(tasks, options.rounds)
    return {"files": paths(videos), "clips": {name: kept[0]["clips"] for name, kept in results.items()}} | summary(
        results, [("source", "notebook"), ("prepared", "notebook"), ("prepared", "source")]
    )


def measure_step(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Milliseconds of a step on batches that are ready: a bare loop, our Trainer, and the one of transformers."""
    from vidtune.benchmarks.steps import WARM_UP_STEPS, bare_steps, own_steps, ready_batches, stock_steps
    from vidtune.benchmarks.training import training_fields
    from vidtune.training.settings import training_arguments

    steps = WARM_UP_STEPS + STEPS_A_ROUND + 1
    size, labels = options.image_size or SMALL_MODEL["image_size"], ["first", "second"]
    shape, model = (options.batch_size, options.num_frames, 3, size, size), new_model(options, labels)
    with tempfile.TemporaryDirectory() as folder:
        fields = training_fields(folder, steps, options.batch_size, options.seed) | {"weight_decay": 0.05}

        def run(take_steps: Any, number: int) -> dict[str, float]:
            args = training_arguments(fields)
            if args.device.type == "cpu":
                hold_to_one_core()
            ready = ready_batches(4, shape, len(labels), options.seed + number, args.device)
            return take_steps(model(), args, [ready[step % len(ready)] for step in range(steps)])

        tasks = {"bare": bare_steps, "trainer": own_steps, "stock": stock_steps}
        results = in_rounds({name: partial(run, task) for name, task in tasks.items()}, options.rounds)
    return {"clips": list(shape)} | paired_summary(results, [("trainer", "bare"), ("stock", "bare")])


def measure_workers(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second that arrive from one data-loader worker, and from several."""
    several = workers(options)
    if several == 1:
        raise InputError("num_proc: got 1; give the number of workers to compare one with, 2 or more")

    from vidtune.benchmarks.pipelines import loaded_clips
    from vidtune.benchmarks.videos import paths

    videos, prepared = choose_both(options, output_dir)
    clip, files = clip_format(options), paths(videos)
    starts = {
        f"{name}_{count}": partial(
            loaded_clips, training_clips(rows, clip, options), options.batch_size, count, EPOCHS_A_ROUND
        )
        for name, rows in (("source", videos), ("prepared", prepared))
        for count in (1, several)
    }
    results = in_rounds({name: partial(timed, name, start, files) for name, start in starts.items()}, options.rounds)
    pairs = [(f"{name}_{several}", f"{name}_1") for name in ("source", "prepared")]
    return {"files": files} | summary(results, pairs)


def measure_memory(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Memory of one data-loader worker, every tenth of the clips from the end of the warm-up on."""
    from vidtune.benchmarks.memory import worker_memory
    from vidtune.benchmarks.videos import paths

    videos, prepared = choose_both(options, output_dir)
    report: dict[str, Any] = {"files": paths(videos), "clips": options.num_clips, "resident_mb": {}, "own_mb": {}}
    for name, rows in (("source", videos), ("prepared", prepared)):
        clips = training_clips(rows, clip_format(options), options)
        with own_process(partial(worker_memory, clips, options.batch_size, WARM_UP_CLIPS, options.num_clips)) as run:
            measured = run(0)
        report["resident_mb"][name], report["own_mb"][name] = measured["resident_mb"], measured["own_mb"]
    resident = report["resident_mb"].items()
    ends = {f"{name}: end / start": values[-1] / values[0] for name, values in resident}
    return report | {"ratios": ends | {f"{name}: most / start": max(values) / values[0] for name, values in resident}}


def measure_long(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Clips per second of a long video and of a short one, keyframes as far apart as the short one is long."""
    from vidtune.benchmarks.pipelines import own_clips
    from vidtune.benchmarks.videos import DRAWN_SECONDS, draw_video, one_video, paths, repeat_video

    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_video(Path(folder, "drawn.mp4"))
        tasks: dict[str, Task] = {}
        for container in ("mp4", "mkv"):
            for length, seconds in (("short", DRAWN_SECONDS), ("long", LONG_SECONDS)):
                rows = one_video(repeat_video(drawn, Path(folder, f"{length}.{container}"), seconds), CLIPS_A_ROUND)
                for sampling in ("dense", "segments"):
                    name = f"{container}_{sampling}_{length}"
                    start = partial(own_clips, training_clips(rows, clip_format(options, sampling), options))
                    tasks[name] = partial(on_one_thread, name, start, paths(rows))
        results = in_rounds(tasks, options.rounds)
    pairs = [(name, name.replace("short", "long")) for name in tasks if name.endswith("short")]
    report = summary(results, pairs)
    memory = report["peak_memory_mb"]
    return {
        "seconds_of_video": {"short": DRAWN_SECONDS, "long": LONG_SECONDS},
        **report,
        "memory_ratios": {f"memory: {long} / {short}": memory[long] / memory[short] for short, long in pairs},
    }


def measure_predict(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Videos per second of prediction, and of its two halves alone: where they overlap, the slower sets the pace.

    On a machine without a GPU the model has one core; there are as many workers as there are others.
    """
    import torch

    from vidtune.benchmarks.prediction import decoded_views, make_classifier, model_logits, predictions
    from vidtune.benchmarks.videos import choose_videos, paths

    videos = choose_videos(options.dataset, options.num_videos, options.seed)
    clip, files = clip_format(options), [Path(path) for path in paths(videos)]
    model = new_model(options, videos.features["label"].names, size=clip.image_size)
    count = options.num_proc or max(1, (os.cpu_count() or 1) - 1)

    def classifier() -> Any:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        return make_classifier(model(), clip, device)

    starts = {
        "decoding": partial(decoded_views, files, clip, options.decoder, count),
        "model": partial(model_logits, classifier, files, options.decoder, options.batch_size),
        "together": partial(predictions, classifier, files, options.decoder, options.batch_size, count),
    }
    tasks = {name: partial(timed, name, start, paths(videos)) for name, start in starts.items()}
    report = summary(in_rounds(tasks, options.rounds), [("together", "decoding"), ("together", "model")], "videos")
    report["ratios"] = {"together / the slower one": max(report["ratios"].values())} | report["ratios"]
    return {"files": paths(videos), "workers": count} | report


def measure_sizes(options: BenchmarkArguments, output_dir: Path) -> dict[str, Any]:
    """Parameters, operations and activations of the models of Kinetics-400, of clips as their configs have them."""
    import yaml

    from vidtune.benchmarks.sizes import MODELS, count_sizes

    sizes = {}
    for name in MODELS:
        config = Path(__file__).parent / "configs" / "kinetics400" / f"{name}.yaml"
        clip = yaml.safe_load(config.read_text(encoding="utf-8"))
        shape = {"num_frames": clip["num_frames"], "image_size": clip.get("image_size", 224)}
        sizes[name] = shape | count_sizes(name, **shape)
    return {"sizes": sizes, "ratios": {}}


COMMANDS = {
    "input": measure_input,
    "views": measure_views,
    "epoch": measure_epoch,
    "step": measure_step,
    "workers": measure_workers,
    "memory": measure_memory,
    "long": measure_long,
    "predict": measure_predict,
    "sizes": measure_sizes,
}


# What several commands take from the options


def choose_both(options: BenchmarkArguments, output_dir: Path, least: int = 1) -> tuple[Any, Any]:
    """The videos, as many as fill a batch, and the same ones prepared."""
    from vidtune.benchmarks.videos import choose_videos, prepared_videos

    videos = choose_videos(options.dataset, options.num_videos, options.seed)
    if len(videos) < least:
        raise InputError(f"num_videos: {len(videos)} don't fill one batch; give at least {least}")
    new_folder = output_dir / "prepared"
    return videos, prepared_videos(videos, options.prepared, new_folder, options.num_proc, options.decoder)


def clip_format(options: BenchmarkArguments, sampling: str = "dense", size: int = 224) -> Any:
    """What a clip is, `size` pixels high and wide unless told: dense, it spans the same time as the notebook's."""
    from vidtune.benchmarks.pipelines import FPS
    from vidtune.data.clips import ClipFormat

    return ClipFormat(options.num_frames, options.image_size or size, sampling, FPS)


def training_clips(videos: Any, clip: Any, options: BenchmarkArguments) -> Any:
    """Our training dataset."""
    from vidtune.data.clips import TrainingClips

    return TrainingClips(videos, clip, seed=options.seed, decoder=options.decoder)


def new_model(options: BenchmarkArguments, labels: list[str], size: int | None = None) -> Any:
    """What makes the small model, the same at each call, with mean and standard deviation of its input."""
    from vidtune.benchmarks.training import small_model

    return partial(small_model, SMALL_MODEL, labels, options.num_frames, size or options.image_size, options.seed)


def workers(options: BenchmarkArguments) -> int:
    """Worker processes: what was asked for, or one a core."""
    return options.num_proc or os.cpu_count() or 1


# The report


def print_report(report: Mapping[str, Any]) -> None:
    """Print what was measured as a table, and the ratios below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    columns, rows = table_of(report)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, *values in rows:
        table.add_row(name, *(f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in values))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, ratio in (report["ratios"] | report.get("memory_ratios", {})).items():
        console.print(f"{name}: {ratio:.3g}", markup=False)


def table_of(report: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns of a report's table, and its rows, each of which begins with its name."""
    if "sizes" in report:
        columns = ["", "M parameters", "GFLOP", "MB fp32", "bf16", "checkpointed"]
        found = report["sizes"].items()
        return columns, [
            (name, size["parameters"] / 1e6, size["forward_gflop"], *size["clip_mb"].values()) for name, size in found
        ]
    if "resident_mb" in report:
        columns = ["", "MB at the start", "at most", "at the end"]
        return columns, [(name, all_[0], max(all_), all_[-1]) for name, all_ in report["resident_mb"].items()]
    rounds, peaks = report["rounds"].items(), report["peak_memory_mb"]
    if "ms" in report:
        columns = ["", "ms a step", "fastest", "slowest", "CPU ms", "peak MB"]
        wall, cpu = report["ms"], report["cpu_ms"]
        return columns, [(name, wall[name], min(all_), max(all_), cpu[name], peaks[name]) for name, all_ in rounds]
    unit = "clips" if "clips_per_second" in report else "videos"
    medians = report[f"{unit}_per_second"]
    columns = ["", f"{unit}/s", "slowest", "fastest", "peak MB"]
    return columns, [(name, medians[name], min(all_), max(all_), peaks[name]) for name, all_ in rounds]


if __name__ == "__main__":
    sys.exit(exit_code(main))
