"""recipes/benchmark.py on tiny videos: what is measured, never how fast it is."""

import json
import os
import re
import shlex
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
import torch

from conftest import TINY_VIDEOMAE
from run_recipe import load_recipe, refused, words
from video_files import write_folder_dataset
from vidtune.arguments import parse
from vidtune.data.decoding import open_video
from vidtune.errors import InputError
from vidtune.options import BenchmarkArguments

TINY = {"num_videos": 4, "rounds": 2, "num_frames": 4, "image_size": 32, "batch_size": 2, "num_proc": 2}


@pytest.fixture
def recipe():
    """The recipe, its model and its long videos made small."""
    recipe = load_recipe("benchmark")
    recipe.SMALL_MODEL = {name: value for name, value in TINY_VIDEOMAE.items() if not name.startswith("decoder")}
    recipe.WARM_UP_CLIPS, recipe.CLIPS_A_ROUND, recipe.LONG_SECONDS = 4, 2, 70
    return recipe


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two classes of four videos."""
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 4, height=40, width=48)


@pytest.fixture(scope="module")
def prepared(dataset, tmp_path_factory):
    """The same, prepared."""
    from vidtune.data.preparation import prepare_videos
    from vidtune.data.sources import load_videos

    folder = tmp_path_factory.mktemp("prepared") / "colours"
    prepare_videos(load_videos(str(dataset)), folder, num_proc=1)
    return folder


def read_report(output_dir):
    return json.loads((output_dir / "report.json").read_text())


def check_speeds(report, pairs):
    """What every report of speeds must fulfil: every round counted, ratios of the medians."""
    for name, rounds in report["rounds"].items():
        assert len(rounds) == report["config"]["rounds"] <= 2
        assert all(speed > 0 for speed in rounds)
        assert report["clips_per_second"][name] == pytest.approx(sum(rounds) / len(rounds))
        assert report["peak_memory_mb"][name] > 50
    speeds = report["clips_per_second"]
    expected = {f"{first} / {second}": pytest.approx(speeds[first] / speeds[second]) for first, second in pairs}
    assert {name: report["ratios"][name] for name in expected} == expected


@pytest.mark.slow
def test_input_measures_five_pipelines_on_the_same_files(recipe, dataset, tmp_path):
    argv = words(dataset=dataset, output_dir=tmp_path / "out", **TINY)
    report = recipe.main(["input", *argv])
    assert report == read_report(tmp_path / "out") | {"command": report["command"], "config": report["config"]}
    assert shlex.split(report["command"])[:3] == ["python", "recipes/benchmark.py", "input"]
    assert list(report["rounds"]) == ["notebook", "source", "prepared", "decoder", "copy"]
    check_speeds(report, [("source", "notebook"), ("prepared", "notebook"), ("source", "decoder")])
    files = sorted(str(path) for path in dataset.rglob("*.mp4"))
    assert report["files"] in (files[0::2], files[1::2])
    uint8 = "uint8 (4, 3, 32, 32)"
    assert report["output"] == {
        "notebook": "float32 (3, 4, 32, 32)",
        "source": uint8,
        "prepared": uint8,
        "decoder": None,
        "copy": uint8,
    }
    assert report["environment"]["packages"]["pytorchvideo"]


def options_of(dataset, **others):
    argv = words(dataset=dataset, **TINY | others)
    return parse(argv, "", {"benchmark": BenchmarkArguments}, training=False).benchmark


def test_each_pipeline_gives_one_clip_of_each_file(recipe, dataset, prepared, tmp_path):
    options = options_of(dataset, prepared=prepared)
    source = recipe.choose_videos(options)
    rows = recipe.prepare(source, options, tmp_path)
    assert rows["video_id"] == source["video_id"]
    clip = recipe.clip_format(options)
    for clips, shape in (
        (recipe.notebook_clips(source, clip, 0, 1), (3, 4, 32, 32)),
        (recipe.own_clips(source, clip, options, 1), (4, 3, 32, 32)),
        (recipe.own_clips(rows, clip, options, 1), (4, 3, 32, 32)),
        (recipe.copied_clips(source, clip, options, 1), (4, 3, 32, 32)),
    ):
        clips = list(clips)
        assert sorted(row for row, _ in clips) == [0, 1, 2, 3]
        assert all(pixels.shape == shape for _, pixels in clips)
    assert list(recipe.decoded_videos(source, 1)) == [(row, None) for row in range(4)]


def test_the_notebook_is_given_each_file_with_its_label(recipe, dataset):
    source = recipe.choose_videos(options_of(dataset, num_videos=8))
    names = source.features["label"].names
    samples = list(recipe.notebook_dataset(source, 4, 32))
    assert len(samples) == 8
    for sample in samples:
        path = Path(source[sample["video_index"]]["video"]["path"])
        assert sample["video_name"] == path.name
        assert names[sample["label"]] == path.parent.name


def test_videos_are_spread_evenly_and_the_seed_decides(recipe, dataset):
    def chosen(count, seed):
        return recipe.choose_videos(options_of(dataset, num_videos=count, seed=seed))["video_id"]

    everything = chosen(100, 0)
    assert len(everything) == 8
    choices = [[everything.index(video_id) for video_id in chosen(3, seed)] for seed in range(10)]
    assert all({right - left for left, right in pairwise(choice)} <= {2, 3} for choice in choices)
    assert len(set(map(tuple, choices))) > 1
    assert chosen(3, 4) == chosen(3, 4)


@pytest.mark.parametrize(("command", "first"), [("input", "notebook"), ("workers", "source_1")])
def test_a_video_that_can_t_be_read_ends_it_by_name(recipe, dataset, tmp_path, command, first):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "red" / "0002.mp4").write_text("no video")
    argv = words(dataset=copy, prepared=copy, output_dir=tmp_path / "out", **TINY | {"num_videos": 8})
    message = refused(recipe.main, [command, *argv])
    assert message == f"dataset: {copy / 'red' / '0002.mp4'}: {first} can't read it (1 in all); leave it out"
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_file_of_which_a_pipeline_gives_no_clip_is_named(recipe, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    videos = {"video": [{"path": str(tmp_path / "text.mp4")}]}
    assert list(recipe.decoded_videos(videos, 0)) == []
    message = refused(recipe.timed, "decoder", lambda number: iter([(1, None)]), ["a.mp4", "b.mp4", "c.mp4"], 0)
    assert message == "dataset: a.mp4: decoder can't read it (2 in all); leave it out"


def test_a_prepared_dataset_of_other_videos_is_refused(recipe, dataset, tmp_path):
    other = write_folder_dataset(tmp_path / "other", ("blue", "green"), 4)
    options = options_of(dataset, prepared=other, num_videos=8)
    message = refused(recipe.prepare, recipe.choose_videos(options), options, tmp_path)
    assert message == f"prepared: {other}: lacks red/0000.mp4 (4 in all); prepare the same dataset"


def test_spans_of_files_are_refused_which_the_notebook_would_read_whole(recipe, dataset, tmp_path):
    table = tmp_path / "videos.csv"
    rows = [f"{path},{path.parent.name},0,0.5" for path in sorted(dataset.rglob("*.mp4"))]
    table.write_text("\n".join(["video,label,start_seconds,end_seconds", *rows]))
    assert "reads whole files only" in refused(recipe.choose_videos, options_of(table))


@pytest.mark.slow
def test_epoch_gives_both_trainers_the_same_clips_to_train_on(recipe, dataset, prepared, tmp_path):
    argv = words(dataset=dataset, prepared=prepared, output_dir=tmp_path, **TINY | {"rounds": 1})
    report = recipe.main(["epoch", *argv])
    assert report["clips"] == {"notebook": 4, "source": 4, "prepared": 4}
    assert set(report["output"].values()) == {"(4, 3, 32, 32)"}
    assert len(report["files"]) == 4
    check_speeds(report, [("source", "notebook"), ("prepared", "notebook")])


def test_both_trainers_start_from_one_model_with_the_same_arguments(recipe, dataset, tmp_path):
    options = options_of(dataset)
    videos = recipe.choose_videos(options)
    trainers = [make(videos, options, str(tmp_path)) for make in (recipe.notebook_trainer, recipe.own_trainer)]
    weights = [trainer.model.state_dict() for trainer in trainers]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    given = recipe.training_fields(videos, options, str(tmp_path))
    assert given["max_steps"] == 2
    for name, value in given.items():
        assert getattr(trainers[0].args, name) == getattr(trainers[1].args, name), name
        assert name in ("output_dir", "report_to") or getattr(trainers[0].args, name) == value, name
    assert trainers[1].args.dataloader_num_workers == 2
    assert trainers[0].args.dataloader_num_workers == 0  # as the guide leaves it


def test_epoch_needs_a_full_batch(recipe, dataset, tmp_path):
    argv = words(dataset=dataset, prepared=dataset, output_dir=tmp_path, **TINY | {"batch_size": 5})
    assert refused(recipe.main, ["epoch", *argv]) == "num_videos: 4 don't fill one batch; give at least 5"


def test_workers_compares_one_worker_with_several(recipe, dataset, prepared, tmp_path):
    report = recipe.main(["workers", *words(dataset=dataset, prepared=prepared, output_dir=tmp_path, **TINY)])
    assert list(report["rounds"]) == ["source_1", "source_2", "prepared_1", "prepared_2"]
    assert set(report["output"].values()) == {"uint8 (4, 3, 32, 32)"}
    check_speeds(report, [("source_2", "source_1"), ("prepared_2", "prepared_1")])


def test_workers_needs_several_to_compare(recipe, tmp_path):
    assert refused(recipe.main, ["workers", *words(output_dir=tmp_path, num_proc=1)]).startswith("num_proc: got 1")


def test_loaded_clips_are_those_of_as_many_epochs_each_with_its_row(recipe, dataset):
    options = options_of(dataset, num_videos=3)
    videos = recipe.choose_videos(options)
    clip = recipe.clip_format(options)
    loaded = list(recipe.loaded_clips(videos, clip, options, 2, number=1))
    assert [row for row, _ in loaded] == [0, 1, 2] * recipe.EPOCHS_A_ROUND
    own = recipe.own_dataset(videos, clip, options)
    for index, (row, pixels) in enumerate(loaded):
        assert torch.equal(pixels, own[recipe.EPOCHS_A_ROUND + index // 3, row]["pixel_values"])


def test_memory_is_that_of_a_worker_at_each_tenth(recipe, dataset, prepared, tmp_path):
    argv = words(dataset=dataset, prepared=prepared, output_dir=tmp_path, num_clips=20, **TINY)
    report = recipe.main(["memory", *argv])
    assert report["clips"] == 20
    for name in ("source", "prepared"):
        resident = report["resident_mb"][name]
        assert len(resident) == 11
        assert min(resident) > 50
        assert len(report["own_mb"][name]) == 11
        assert all(0 < own < all_ for own, all_ in zip(report["own_mb"][name], resident, strict=True))
        assert report["ratios"][f"{name}: end / start"] == pytest.approx(resident[-1] / resident[0])
        assert report["ratios"][f"{name}: most / start"] == pytest.approx(max(resident) / resident[0])


@pytest.mark.slow
def test_long_compares_a_long_video_with_a_short_one(recipe, tmp_path):
    report = recipe.main(["long", *words(output_dir=tmp_path, rounds=2, num_frames=4, image_size=32)])
    cases = [f"{container}_{sampling}" for container in ("mp4", "mkv") for sampling in ("dense", "segments")]
    check_speeds(report, [(f"{case}_short", f"{case}_long") for case in cases])
    assert len(report["rounds"]) == 8
    memory = report["peak_memory_mb"]
    for case in cases:
        ratio = report["memory_ratios"][f"memory: {case}_long / {case}_short"]
        assert ratio == pytest.approx(memory[f"{case}_long"] / memory[f"{case}_short"])
    assert report["seconds_of_video"] == {"short": 10, "long": 70}


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_long_video_repeats_a_short_one_with_a_keyframe_every_ten_seconds(recipe, container, tmp_path):
    drawn = recipe.draw_video(tmp_path / "drawn.mp4")
    path = recipe.repeat_video(drawn, tmp_path / f"long.{container}", 30)
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    seconds = [frame.pts * frame.time_base for frame in frames]
    assert len(frames) == 900
    assert all(abs(second - Fraction(index, 30)) < 0.001 for index, second in enumerate(seconds))
    assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 300, 600]
    assert any(frame.pict_type == av.video.frame.PictureType.B for frame in frames)
    with open_video(drawn) as short, open_video(path) as long:
        assert short.duration_seconds == pytest.approx(10, abs=0.01)
        assert long.duration_seconds == pytest.approx(30, abs=0.01)
        first, again = short.frames_at([5.01]), long.frames_at([5.01, 15.01, 25.01])
        assert all(torch.equal(first[0], frame) for frame in again)


def test_a_task_has_a_process_of_its_own(recipe):
    def where(number):
        return {"number": number, "process": os.getpid()}

    with recipe.own_process(where) as run, recipe.own_process(where) as run_other:
        results = [run(1), run_other(2), run(3)]
    assert [result["number"] for result in results] == [1, 2, 3]
    assert results[0]["process"] == results[2]["process"] != results[1]["process"]
    assert os.getpid() not in [result["process"] for result in results]
    assert all(result["peak_memory_mb"] > 10 for result in results)


def test_one_thread_is_one_thread_of_one_core(recipe):
    def clips(number):
        assert torch.get_num_threads() == 1
        assert not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1
        return iter([(number, torch.zeros(2, 3))])

    with recipe.own_process(lambda number: recipe.on_one_thread("x", clips, ["x.mp4"], number)) as run:
        assert run(0)["output"] == "float32 (2, 3)"


def test_what_a_task_raises_is_raised_here(recipe):
    def wrong(number):
        raise InputError("dataset: x.mp4: is wrong; mend it")

    with recipe.own_process(wrong) as run:
        assert refused(run, 0) == "dataset: x.mp4: is wrong; mend it"
    with recipe.own_process(lambda number: 1 / 0) as run, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(0)
    with recipe.own_process(lambda number: os._exit(3)) as run, pytest.raises(RuntimeError, match="exit code 3"):
        run(0)


def test_rounds_go_in_turns_and_the_first_is_not_kept(recipe, tmp_path):
    log = tmp_path / "log"

    def task(name):
        def run(number):
            with log.open("a") as file:
                file.write(f"{name}{number} ")
            return {"number": number}

        return run

    results = recipe.in_rounds({"a": task("a"), "b": task("b")}, rounds=2)
    assert log.read_text() == "a0 b0 a1 b1 a2 b2 "
    assert {name: [result["number"] for result in kept] for name, kept in results.items()} == {
        "a": [1, 2],
        "b": [1, 2],
    }


def test_the_summary_takes_medians_over_the_rounds(recipe):
    def results(*speeds):
        return [{"clips_per_second": s, "peak_memory_mb": 100 + s, "output": "x"} for s in speeds]

    summary = recipe.summary({"a": results(1.0, 9.0, 2.0), "b": results(4.0, 8.0, 5.0)}, [("b", "a")])
    assert summary["clips_per_second"] == {"a": 2.0, "b": 5.0}
    assert summary["ratios"] == {"b / a": 2.5}
    assert summary["peak_memory_mb"] == {"a": 109.0, "b": 108.0}


@pytest.mark.parametrize("argv", [[], ["speed"], ["--dataset", "x"]])
def test_the_first_word_says_what_to_measure(recipe, argv):
    assert "begin with what to measure: input, epoch, workers, memory, long" in refused(recipe.main, argv)


def test_the_folder_of_a_training_run_is_left_alone(recipe, tmp_path):
    (tmp_path / "config.yaml").write_text("{dataset: demo, config_overrides: {}, hub_model_id: null}")
    assert "holds a training run" in refused(recipe.main, ["long", "--output_dir", str(tmp_path)])


def test_the_commands_of_the_docstring_are_accepted(recipe):
    commands = re.findall(r"^    python recipes/benchmark.py (\w+)(.*)$", recipe.__doc__, re.MULTILINE)
    assert [command for command, _ in commands] == ["input", "epoch", "workers", "memory", "long"]
    for _, options in commands:
        parse(shlex.split(options), "", {"benchmark": BenchmarkArguments}, training=False)
