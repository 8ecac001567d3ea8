"""recipes/benchmark.py and vidtune.benchmarks on tiny videos: what is measured, never how fast it is."""

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
from vidtune.benchmarks import pipelines, timing
from vidtune.benchmarks.videos import choose_videos, draw_video, paths, prepared_videos, repeat_video
from vidtune.data.clips import ClipFormat, EvaluationClips, TrainingClips
from vidtune.data.decoding import open_video
from vidtune.errors import InputError
from vidtune.options import BenchmarkArguments

COMMANDS = ["input", "views", "epoch", "step", "workers", "memory", "long", "predict", "sizes"]

CLIP = ClipFormat(4, 32, "dense", pipelines.FPS)

TINY = {"num_videos": 4, "rounds": 2, "num_frames": 4, "image_size": 32, "batch_size": 2, "num_proc": 2}


@pytest.fixture
def recipe():
    """The recipe, its model and its long videos made small."""
    recipe = load_recipe("benchmark")
    recipe.SMALL_MODEL = {name: value for name, value in TINY_VIDEOMAE.items() if not name.startswith("decoder")}
    recipe.WARM_UP_CLIPS, recipe.CLIPS_A_ROUND, recipe.LONG_SECONDS, recipe.STEPS_A_ROUND = 4, 2, 70, 2
    return recipe


def new_model():
    """A tiny model, the same at each call, with mean and standard deviation of its input."""
    from vidtune.benchmarks.training import small_model

    overrides = {name: value for name, value in TINY_VIDEOMAE.items() if not name.startswith("decoder")}
    return small_model(overrides, ["blue", "red"], 4, 32, seed=0)


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


def test_each_pipeline_gives_one_clip_of_each_file(dataset, prepared, tmp_path):
    source = choose_videos(str(dataset), 4, seed=0)
    rows = prepared_videos(source, str(prepared), tmp_path, num_proc=1, decoder="auto")
    assert rows["video_id"] == source["video_id"]
    views = EvaluationClips(source, CLIP, temporal_views=2, spatial_crops=3)
    for clips, shape in (
        (pipelines.notebook_clips(source, CLIP, 0, 1), (3, 4, 32, 32)),
        (pipelines.own_clips(TrainingClips(source, CLIP), 1), (4, 3, 32, 32)),
        (pipelines.own_clips(TrainingClips(rows, CLIP), 1), (4, 3, 32, 32)),
        (pipelines.own_views(views, 1), (6, 4, 3, 32, 32)),
        (pipelines.copied_clips(TrainingClips(source, CLIP), 1), (4, 3, 32, 32)),
    ):
        clips = list(clips)
        assert sorted(row for row, _ in clips) == [0, 1, 2, 3]
        assert all(pixels.shape == shape for _, pixels in clips)
    assert list(pipelines.decoded_videos(paths(source), 1)) == [(row, None) for row in range(4)]


def test_the_notebook_is_given_each_file_with_its_label(dataset):
    source = choose_videos(str(dataset), 8, seed=0)
    names = source.features["label"].names
    samples = list(pipelines.notebook_dataset(source, 4, 32))
    assert len(samples) == 8
    for sample in samples:
        path = Path(source[sample["video_index"]]["video"]["path"])
        assert sample["video_name"] == path.name
        assert names[sample["label"]] == path.parent.name


def test_videos_are_spread_evenly_and_the_seed_decides(dataset):
    def chosen(count, seed):
        return choose_videos(str(dataset), count, seed)["video_id"]

    everything = chosen(100, 0)
    assert len(everything) == 8
    choices = [[everything.index(video_id) for video_id in chosen(3, seed)] for seed in range(10)]
    assert all({right - left for left, right in pairwise(choice)} <= {2, 3} for choice in choices)
    assert len(set(map(tuple, choices))) > 1
    assert chosen(3, 4) == chosen(3, 4)


@pytest.mark.parametrize("command", ["input", "workers"])
def test_a_video_that_can_t_be_read_ends_it_by_name(recipe, dataset, tmp_path, command):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "red" / "0002.mp4").write_text("no video")
    argv = words(dataset=copy, prepared=copy, output_dir=tmp_path / "out", **TINY | {"num_videos": 8})
    message = refused(recipe.main, [command, *argv])
    assert message.startswith(f"dataset: {copy / 'red' / '0002.mp4'}: FFmpeg cannot decode it")
    assert not (tmp_path / "out").exists()


def test_a_file_of_which_a_pipeline_gives_no_clip_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    assert list(pipelines.decoded_videos([str(tmp_path / "text.mp4")], 0)) == []
    message = refused(timing.timed, "decoder", lambda number: iter([(1, None)]), ["a.mp4", "b.mp4", "c.mp4"], 0)
    assert message == "dataset: a.mp4: decoder can't read it (2 in all); leave it out"


def test_a_prepared_dataset_of_other_videos_is_refused(dataset, tmp_path):
    other = write_folder_dataset(tmp_path / "other", ("blue", "green"), 4)
    videos = choose_videos(str(dataset), 8, seed=0)
    message = refused(prepared_videos, videos, str(other), tmp_path, num_proc=1, decoder="auto")
    assert message == f"prepared: {other}: lacks red/0000.mp4 (4 in all); prepare the same dataset"


def test_spans_of_files_are_refused_which_the_notebook_would_read_whole(dataset):
    table = dataset.parent / "videos.csv"
    rows = [f"{path},{path.parent.name},0,0.5" for path in sorted(dataset.rglob("*.mp4"))]
    table.write_text("\n".join(["video,label,start_seconds,end_seconds", *rows]))
    assert "reads whole files only" in refused(choose_videos, str(table), 4, seed=0)


@pytest.mark.slow
def test_epoch_gives_both_trainers_the_same_clips_to_train_on(recipe, dataset, prepared, tmp_path):
    argv = words(dataset=dataset, prepared=prepared, output_dir=tmp_path, **TINY | {"rounds": 1})
    report = recipe.main(["epoch", *argv])
    assert report["clips"] == {"notebook": 4, "source": 4, "prepared": 4}
    assert set(report["output"].values()) == {"(4, 3, 32, 32)"}
    assert len(report["files"]) == 4
    check_speeds(report, [("source", "notebook"), ("prepared", "notebook")])


def test_both_trainers_start_from_one_model_with_the_same_arguments(dataset, tmp_path):
    from vidtune.benchmarks import training

    videos = choose_videos(str(dataset), 4, seed=0)
    given = training.training_fields(str(tmp_path), steps=2, batch_size=2, seed=0)
    trainers = [
        training.notebook_trainer(videos, new_model(), given),
        training.own_trainer(TrainingClips(videos, CLIP), new_model(), given, num_workers=2),
    ]
    weights = [trainer.model.state_dict() for trainer in trainers]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert given["max_steps"] == 2
    for name, value in given.items():
        assert getattr(trainers[0].args, name) == getattr(trainers[1].args, name), name
        assert name in ("output_dir", "report_to") or getattr(trainers[0].args, name) == value, name
    assert trainers[1].args.dataloader_num_workers == 2
    assert trainers[0].args.dataloader_num_workers == 0  # as the guide leaves it


def test_the_bare_loop_and_both_trainers_take_the_same_steps(tmp_path):
    from vidtune.benchmarks import steps
    from vidtune.benchmarks.training import training_fields
    from vidtune.training.settings import training_arguments

    fields = training_fields(str(tmp_path), 6, batch_size=2, seed=0) | {"use_cpu": True, "weight_decay": 0.05}
    batches = steps.ready_batches(6, (2, 4, 3, 32, 32), 2, seed=0, device=torch.device("cpu"))
    trained = []
    for take_steps in (steps.bare_steps, steps.own_steps, steps.stock_steps):
        new = new_model()
        before = {name: value.clone() for name, value in new[0].state_dict().items()}
        measured = take_steps(new, training_arguments(fields | {"learning_rate": 0.01}), batches)
        assert measured["ms"] > 0 and measured["cpu_ms"] > 0
        trained.append(new[0].state_dict())
        assert all(not torch.equal(before[name], value) for name, value in trained[-1].items())
    for weights in trained[1:]:
        assert all(torch.allclose(weights[name], value, atol=1e-6) for name, value in trained[0].items())


def test_step_compares_a_bare_loop_with_both_trainers(recipe, tmp_path):
    report = recipe.main(["step", *words(output_dir=tmp_path, **TINY)])
    assert report["clips"] == [2, 4, 3, 32, 32]
    assert list(report["rounds"]) == list(report["ms"]) == list(report["cpu_ms"]) == ["bare", "trainer", "stock"]
    rounds = report["rounds"]
    expected = sum(own / bare for own, bare in zip(rounds["trainer"], rounds["bare"], strict=True)) / 2
    assert report["ratios"]["trainer / bare"] == pytest.approx(expected)
    assert len(report["ratios"]) == 4
    assert "ms a step" in recipe.table_of(report)[0]


def test_the_clock_times_what_lies_between_warm_up_and_the_last_step(monkeypatch):
    from vidtune.benchmarks import steps

    now = iter([10.0, 14.0])
    monkeypatch.setattr(steps.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(steps.time, "process_time", lambda: 3.0)
    clock = steps.Clock(3 + 20 + 1, torch.device("cpu"))
    for step in range(24):
        clock.step_begins(step)
    assert clock.measured() == {"ms": 200.0, "cpu_ms": 0.0}  # 4 s for 20 steps


def test_views_compares_the_input_of_an_evaluation_with_the_decoder(recipe, dataset, tmp_path):
    report = recipe.main(["views", *words(dataset=dataset, output_dir=tmp_path, **TINY)])
    assert report["output"] == {"views": "uint8 (15, 4, 3, 32, 32)", "decoder": None}
    assert len(report["files"]) == 4
    speeds = report["videos_per_second"]
    assert report["ratios"] == {"views / decoder": pytest.approx(speeds["views"] / speeds["decoder"])}


@pytest.mark.slow
def test_predict_compares_prediction_with_its_halves(recipe, dataset, tmp_path):
    argv = words(dataset=dataset, output_dir=tmp_path, **TINY | {"num_videos": 5, "num_proc": 1})
    report = recipe.main(["predict", *argv])
    assert report["output"] == {
        "decoding": "uint8 (1, 4, 3, 32, 32)",
        "model": "float32 (1, 2)",
        "together": "float32 (2,)",
    }
    speeds = report["videos_per_second"]
    slower = min(speeds["decoding"], speeds["model"])
    assert report["ratios"]["together / the slower one"] == pytest.approx(speeds["together"] / slower)
    assert report["workers"] == 1


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


def test_loaded_clips_are_those_of_as_many_epochs_each_with_its_row(dataset):
    own = TrainingClips(choose_videos(str(dataset), 3, seed=0), CLIP)
    loaded = list(pipelines.loaded_clips(own, batch_size=2, num_workers=2, epochs=4, number=1))
    assert [row for row, _ in loaded] == [0, 1, 2] * 4
    for index, (row, pixels) in enumerate(loaded):
        assert torch.equal(pixels, own[4 + index // 3, row]["pixel_values"])


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
def test_a_long_video_repeats_a_short_one_with_a_keyframe_every_ten_seconds(container, tmp_path):
    drawn = draw_video(tmp_path / "drawn.mp4")
    path = repeat_video(drawn, tmp_path / f"long.{container}", 30)
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


def test_a_task_has_a_process_of_its_own():
    def where(number):
        return {"number": number, "process": os.getpid()}

    with timing.own_process(where) as run, timing.own_process(where) as run_other:
        results = [run(1), run_other(2), run(3)]
    assert [result["number"] for result in results] == [1, 2, 3]
    assert results[0]["process"] == results[2]["process"] != results[1]["process"]
    assert os.getpid() not in [result["process"] for result in results]
    assert all(result["peak_memory_mb"] > 10 for result in results)


def test_one_thread_is_one_thread_of_one_core():
    def clips(number):
        assert torch.get_num_threads() == 1
        assert not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1
        return iter([(number, torch.zeros(2, 3))])

    with timing.own_process(lambda number: timing.on_one_thread("x", clips, ["x.mp4"], number)) as run:
        assert run(0)["output"] == "float32 (2, 3)"


def test_what_a_task_raises_is_raised_here():
    def wrong(number):
        raise InputError("dataset: x.mp4: is wrong; mend it")

    with timing.own_process(wrong) as run:
        assert refused(run, 0) == "dataset: x.mp4: is wrong; mend it"
    with timing.own_process(lambda number: 1 / 0) as run, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(0)
    with timing.own_process(lambda number: os._exit(3)) as run, pytest.raises(RuntimeError, match="exit code 3"):
        run(0)


def test_rounds_go_in_turns_and_the_first_is_not_kept(tmp_path):
    log = tmp_path / "log"

    def task(name):
        def run(number):
            with log.open("a") as file:
                file.write(f"{name}{number} ")
            return {"number": number}

        return run

    results = timing.in_rounds({"a": task("a"), "b": task("b")}, rounds=2)
    assert log.read_text() == "a0 b0 a1 b1 a2 b2 "
    assert {name: [result["number"] for result in kept] for name, kept in results.items()} == {
        "a": [1, 2],
        "b": [1, 2],
    }


def test_the_summary_takes_medians_over_the_rounds():
    def results(*speeds):
        return [{"per_second": s, "peak_memory_mb": 100 + s, "output": "x"} for s in speeds]

    summary = timing.summary({"a": results(1.0, 9.0, 2.0), "b": results(4.0, 8.0, 5.0)}, [("b", "a")])
    assert summary["clips_per_second"] == {"a": 2.0, "b": 5.0}
    assert summary["ratios"] == {"b / a": 2.5}
    assert summary["peak_memory_mb"] == {"a": 109.0, "b": 108.0}


def test_the_paired_summary_takes_medians_of_the_quotients_of_rounds():
    def results(*times):
        return [{"ms": ms, "cpu_ms": 2 * ms, "peak_memory_mb": 100 + ms} for ms in times]

    # A machine that is ten times as slow in one round: 11 / 10 = 1.1, 100 / 100 = 1, 12 / 10 = 1.2
    summary = timing.paired_summary({"a": results(10, 100, 10), "b": results(11, 100, 12)}, [("b", "a")])
    assert summary["ratios"] == {"b / a": 1.1, "b / a, of CPU time": 1.1}
    assert summary["ms"] == {"a": 10, "b": 12} and summary["cpu_ms"] == {"a": 20, "b": 24}
    assert summary["rounds"]["b"] == [11, 100, 12] and summary["peak_memory_mb"]["a"] == 200


@pytest.mark.parametrize("argv", [[], ["speed"], ["--dataset", "x"]])
def test_the_first_word_says_what_to_measure(recipe, argv):
    assert f"begin with what to measure: {', '.join(COMMANDS)}" in refused(recipe.main, argv)


def test_the_folder_of_a_training_run_is_left_alone(recipe, tmp_path):
    (tmp_path / "config.yaml").write_text("{dataset: demo, config_overrides: {}, hub_model_id: null}")
    assert "holds a training run" in refused(recipe.main, ["long", "--output_dir", str(tmp_path)])


def test_the_commands_of_the_docstring_are_accepted(recipe):
    commands = re.findall(r"^    python recipes/benchmark.py (\w+)(.*)$", recipe.__doc__, re.MULTILINE)
    assert [command for command, _ in commands] == list(recipe.COMMANDS) == COMMANDS
    for _, options in commands:
        parse(shlex.split(options), "", {"benchmark": BenchmarkArguments}, training=False)


@pytest.mark.slow
def test_sizes_are_those_of_the_publications_and_of_a_step_that_is_taken(recipe, tmp_path, monkeypatch):
    from vidtune.benchmarks import sizes

    monkeypatch.setattr(sizes, "MODELS", {"x3d_s": sizes.MODELS["x3d_s"]})
    report = recipe.main(["sizes", "--output_dir", str(tmp_path)])
    found = report["sizes"]["x3d_s"]
    assert (found["num_frames"], found["image_size"]) == (13, 160)
    assert found["forward_gflop"] == pytest.approx(2 * 1.96, rel=0.01)  # Feichtenhofer 2020, table 4
    assert 3.7e6 < found["parameters"] < 3.9e6

    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    inputs = 8 + 4 + 4  # of the three, fp32, for each clip
    assert sizes._clip_mb(model, (8,), torch.float32) == pytest.approx(4 * inputs / 1e6)
