"""recipes/predict.py, run in this process on tiny videos and tiny models."""

import csv
import io
import json
import multiprocessing
import os
import shutil

import numpy as np
import pandas
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor, set_seed

from conftest import TINY_VIDEOMAE
from run_recipe import exit_code, load_recipe, refused, words
from video_files import busy_frames, write_folder_dataset, write_video
from vidtune.data.clips import evaluation_views
from vidtune.data.decoding import open_video
from vidtune.evaluation import inference
from vidtune.evaluation.classifier import load_predictor
from vidtune.evaluation.inference import batched_logits, predict_videos
from vidtune.evaluation.journal import Journal

LABELS = ["blue", "=red", "green"]


def write_model(folder, seed=0, **fields):
    """A model with weights that tell clips apart, and its processor."""
    set_seed(seed)
    config = VideoMAEConfig(**TINY_VIDEOMAE, id2label=dict(enumerate(LABELS)), initializer_range=0.5, **fields)
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """a/0000.mp4, a/0001.mp4, b/0000.mp4, b/0001.mp4."""
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "videos", ("a", "b"), 2, height=40, width=48)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Five seconds, with a cut every 1.7."""
    return write_video(tmp_path_factory.mktemp("data") / "long.mp4", busy_frames(50), 10)


def predict(model, *inputs, workers=0, **options):
    """Run the recipe; its exit code."""
    argv = ["--model", str(model), *words(num_workers=workers, use_cpu="true", **options)]
    return exit_code("predict", [*argv, "--input", *map(str, inputs)])


def expected(model, path, temporal_views=1, spatial_crops=1, start=None, end=None):
    """Probabilities by label, from the model itself."""
    classifier = load_predictor(str(model))
    with open_video(path, start_seconds=start, end_seconds=end) as video:
        views = evaluation_views(video, classifier.clip, temporal_views, spatial_crops)
    logits = classifier.logits(views)
    probabilities = logits.sigmoid().mean(0) if classifier.multi_label else logits.softmax(-1).mean(0)
    return dict(zip(LABELS, probabilities.tolist(), strict=True))


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What is named


def test_videos_are_found_by_every_kind_of_name(videos, tmp_path, monkeypatch):
    find = load_recipe("predict").find_videos
    first, second, third, fourth = (videos / name for name in ("a/0000.mp4", "a/0001.mp4", "b/0000.mp4", "b/0001.mp4"))
    (tmp_path / "list.txt").write_text(f"{first}\n\n  gone.mp4 \n")
    (tmp_path / "table.csv").write_text(f"label, video\nx,{third}\ny,gone.mp4\n", encoding="utf-8-sig")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{fourth}\n{first}\n"))
    assert find([str(videos / "a")]) == [first, second]
    assert find([str(videos / "*" / "0000.mp4")]) == [first, third]
    assert find([str(videos / "**")]) == [first, second, third, fourth]
    assert find([str(videos / "[b]")]) == [third, fourth]
    assert find([str(tmp_path / "list.txt")]) == [first, tmp_path / "gone.mp4"]
    assert find([str(tmp_path / "table.csv")]) == [third, tmp_path / "gone.mp4"]
    assert find(["-", str(videos)]) == [fourth, first, second, third]  # each once
    monkeypatch.setenv("HOME", str(videos))
    assert find(["~/a/0001.mp4"]) == [second]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.mp4", None, "does not exist"),
        ("*.mp4", None, "matches no video"),
        ("empty.txt", "\n", "names no video"),
        ("list.txt", b"\xff\xfe\x00", "can't be read as text"),
        ("table.csv", "path\nx.mp4\n", "column 'video' is missing (it has path)"),
        ("table.csv", "video,start_seconds\nx.mp4,1\n", "column 'start_seconds': whole files"),
        ("-", "", "standard input: names no video"),
    ],
)
def test_what_names_no_video_is_refused(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    if content is not None and name != "-":
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(load_recipe("predict").find_videos, [name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model: "),
        ({"input": None}, "input: missing"),
        ({"window_seconds": 2}, "stride_seconds: missing"),
        ({"stride_seconds": 2}, "window_seconds: missing"),
        ({"window_seconds": 1, "stride_seconds": 2}, "stride_seconds: 2 is more than window_seconds: 1"),
        ({"window_seconds": 2, "stride_seconds": 1, "temporal_views": 2}, "temporal_views: 2: a window is one clip"),
        ({"sampling": "segments", "fps": 5}, "fps: 5.0 goes with sampling: dense"),
        ({"output": "labels.xlsx"}, "output: labels.xlsx: give a name that ends in .csv, .jsonl, .parquet"),
        ({"output": "folder.csv"}, "output: folder.csv: is a folder"),
        ({"output": "there.csv"}, "output: there.csv: is there, and not to be added to"),
        ({"output": "part.csv"}, "output: part.segments.csv: is there"),
        ({"top_k": 0}, "top_k: got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    for name in ("there.csv", "part.segments.csv"):
        (tmp_path / name).write_text("mine")
    given = {"model": "gone", "input": "gone.mp4"} | options
    line = refused(
        load_recipe("predict").main, words(**{name: value for name, value in given.items() if value is not None})
    )
    assert line.startswith(message)


def test_words_that_look_like_yaml_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "no", "a: b.mp4"):
        message = refused(load_recipe("predict").main, ["--model", "gone", "--input", name])
        assert message.startswith(f"input: {name}: does not exist")


# What is printed


def test_without_an_output_labels_are_printed(model, videos, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    assert predict(model, tmp_path / "bad.mp4", videos / "a", top_k=2) == 1
    printed = capsys.readouterr()
    lines = []
    for path in (videos / "a" / "0000.mp4", videos / "a" / "0001.mp4"):
        best = sorted(expected(model, path).items(), key=lambda pair: -pair[1])[:2]
        lines.append(f"{path}: {', '.join(f'{label} {probability:.3f}' for label, probability in best)}")
    assert printed.out.splitlines() == lines
    assert f"{tmp_path / 'bad.mp4'}: FFmpeg cannot decode it" in printed.err
    assert "failed:    1 of 3 videos" in printed.err
    assert not [path for path in tmp_path.iterdir() if path.name != "bad.mp4"]


# What is written


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_has_a_row_a_video(model, videos, tmp_path, capsys, ending):
    (tmp_path / "bad.mp4").write_text("no video")
    output = tmp_path / "new" / f"labels.{ending}"
    assert predict(model, videos / "b", tmp_path / "bad.mp4", top_k=2, output=output) == 1
    printed = capsys.readouterr()
    assert printed.out == f"written:   {output} (2 videos new, 3 in all)\n"
    assert printed.err.splitlines()[-1].endswith(
        f"--top_k 2 --output {output} --input {videos / 'b'} {tmp_path / 'bad.mp4'}"
    )
    read = {
        "csv": pandas.read_csv,
        "jsonl": lambda path: pandas.read_json(path, lines=True),
        "parquet": pandas.read_parquet,
    }
    table = read[ending](output)
    assert list(table) == ["video", "label", "probability", "label_2", "probability_2", "error"]
    assert table["video"].tolist() == [str(path) for path in (*sorted((videos / "b").iterdir()), tmp_path / "bad.mp4")]
    for index, path in enumerate(sorted((videos / "b").iterdir())):
        best = sorted(expected(model, path).items(), key=lambda pair: -pair[1])[:2]
        found = [table[name][index] for name in ("label", "label_2")]
        assert [label.removeprefix("'") for label in found] == [label for label, _ in best]
        probabilities = [table[name][index] for name in ("probability", "probability_2")]
        assert probabilities == pytest.approx([value for _, value in best], abs=2e-6)
    assert table["error"].isna().tolist() == [True, True, False]
    assert table["error"][2].startswith("FFmpeg cannot decode it")
    assert table["label"].isna().tolist() == [False, False, True]
    assert {path.name for path in output.parent.iterdir()} == {output.name, f".{output.name}.journal"}


def test_rows_do_not_depend_on_workers_and_batches(model, videos, tmp_path):
    names = ("one", "two")
    for name, options in zip(names, ({}, {"workers": 2, "batch_size": 4}), strict=True):
        views = {"temporal_views": 2, "spatial_crops": 3}
        assert predict(model, videos, output=tmp_path / f"{name}.csv", **views, **options) == 0
    one, two = (read_csv(tmp_path / f"{name}.csv") for name in names)
    assert (
        [row["video"] for row in one]
        == [row["video"] for row in two]
        == [str(path) for path in sorted(videos.rglob("*.mp4"))]
    )
    for row, other in zip(one, two, strict=True):
        assert row["label"] == other["label"]
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-6)
        own = expected(model, row["video"], temporal_views=2, spatial_crops=3)
        assert float(row["probability"]) == pytest.approx(max(own.values()), abs=2e-6)


def test_spreadsheets_take_no_cell_for_a_formula(model, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(videos / "a" / "0000.mp4", "=cmd|'x'!A1.mp4")
    for output in ("labels.csv", "labels.jsonl"):
        assert predict(model, "=cmd|'x'!A1.mp4", output=output) == 0
    (row,) = read_csv(tmp_path / "labels.csv")
    assert row["video"] == "'=cmd|'x'!A1.mp4"
    assert "'=red" in row.values()
    row = json.loads((tmp_path / "labels.jsonl").read_text())
    assert row["video"] == "=cmd|'x'!A1.mp4"
    assert "=red" in row.values()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_of_any_bytes_are_written(model, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(videos / "a" / "0000.mp4", os.fsdecode(b"caf\xe9,\n.mp4"))
    for output in ("labels.csv", "labels.parquet"):
        assert predict(model, ".", output=output) == 0
        assert predict(model, ".", output=output) == 0
    assert read_csv(tmp_path / "labels.csv")[0]["video"] == "caf\\xe9,\n.mp4"
    assert pandas.read_parquet("labels.parquet")["video"].tolist() == ["caf\\xe9,\n.mp4"]


def test_a_video_may_have_several_labels(videos, tmp_path):
    model = write_model(tmp_path / "model", problem_type="multi_label_classification")
    path = videos / "a" / "0000.mp4"
    for output in ("labels.csv", "labels.jsonl"):
        assert predict(model, path, output=tmp_path / output) == 0
    own = expected(model, path)
    over = [label for label in LABELS if own[label] > 0.5]
    assert 0 < len(over) < 3
    row = json.loads((tmp_path / "labels.jsonl").read_text())
    assert row["labels"] == over
    assert [row["probability"], row["probability_2"], row["probability_3"]] == pytest.approx(
        sorted(own.values(), reverse=True), abs=2e-6
    )
    assert read_csv(tmp_path / "labels.csv")[0]["labels"].removeprefix("'") == "|".join(over)


# Going on


def test_a_run_that_was_killed_goes_on(model, videos, tmp_path, capsys):
    output, journal = tmp_path / "labels.csv", tmp_path / ".labels.csv.journal"
    assert predict(model, videos, output=output) == 0
    whole, lines = output.read_bytes(), journal.read_bytes().splitlines(keepends=True)
    output.unlink()
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # two videos are done, and the third was being written
    capsys.readouterr()
    assert predict(model, videos, output=output) == 0
    assert "(2 videos new, 4 in all)" in capsys.readouterr().out
    assert output.read_bytes() == whole
    assert predict(model, videos, output=output, workers=2) == 0
    assert "(0 videos new, 4 in all)" in capsys.readouterr().out
    assert output.read_bytes() == whole


def test_what_is_new_or_was_changed_or_failed_is_done(model, videos, tmp_path, capsys):
    folder, output = tmp_path / "videos", tmp_path / "labels.csv"
    shutil.copytree(videos / "a", folder)
    (folder / "0002.mp4").write_text("no video")
    assert predict(model, folder, output=output) == 1
    first = read_csv(output)
    shutil.copy(videos / "b" / "0000.mp4", folder / "0002.mp4")  # mended
    shutil.copy(videos / "b" / "0000.mp4", folder / "0000.mp4")  # changed
    shutil.copy(videos / "b" / "0001.mp4", folder / "0003.mp4")  # new
    capsys.readouterr()
    assert predict(model, folder, output=output) == 0
    assert "(3 videos new, 4 in all)" in capsys.readouterr().out
    rows = read_csv(output)
    assert [row["video"] for row in rows] == [str(folder / f"000{index}.mp4") for index in range(4)]
    assert rows[1] == first[1] and rows[0]["probability"] == rows[2]["probability"] != first[0]["probability"]
    assert predict(model, videos / "b", output=output) == 0  # others are added
    assert len(read_csv(output)) == 6


def test_an_output_of_another_model_or_other_settings_is_kept(model, videos, tmp_path):
    output, path = tmp_path / "labels.csv", videos / "a" / "0000.mp4"
    assert predict(model, path, output=output) == 0
    whole = output.read_bytes()
    other = write_model(tmp_path / "other", seed=1)
    recipe = load_recipe("predict")

    def argv(model, **options):
        return words(model=model, input=path, output=output, num_workers=0, use_cpu="true", **options)

    assert "was made with another top_k 5, not 2; give another file, or --overwrite" in refused(
        recipe.main, argv(model, top_k=2)
    )
    assert "was made with another model; give" in refused(recipe.main, argv(other))
    assert output.read_bytes() == whole
    assert predict(other, path, output=output, overwrite="true") == 0
    assert output.read_bytes() != whole
    with_labels = other / "config.json"
    with_labels.write_text(with_labels.read_text().replace("green", "teal"))
    assert "was made with another list of labels; give" in refused(recipe.main, argv(other))


def test_two_runs_do_not_write_one_output(tmp_path):
    first = Journal(tmp_path / "labels.csv", {})
    assert "another run is writing it" in refused(Journal, tmp_path / "labels.csv", {})
    first.close()
    Journal(tmp_path / "labels.csv", {}).close()
    assert [path.name for path in tmp_path.iterdir()] == [".labels.csv.journal"]
    (tmp_path / ".labels.csv.journal").write_text("{}\n{oops\n")
    assert "is damaged" in refused(Journal, tmp_path / "labels.csv", {})


# Long videos


@pytest.mark.slow
def test_a_long_video_has_a_timeline(model, long_video, videos, tmp_path, capsys):
    output, short = tmp_path / "timeline.csv", videos / "a" / "0000.mp4"
    (tmp_path / "bad.mp4").write_text("no video")
    options = {"window_seconds": 2, "stride_seconds": 1, "top_k": 1}
    assert predict(model, long_video, short, tmp_path / "bad.mp4", output=output, workers=2, **options) == 1
    rows = read_csv(output)
    assert list(rows[0]) == ["video", "start_seconds", "end_seconds", "label", "probability", "error"]
    spans = [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert [(float(row["start_seconds"]), float(row["end_seconds"])) for row in rows[:4]] == spans
    for row, (start, end) in zip(rows[:4], spans, strict=True):
        own = expected(model, long_video, start=start, end=end)
        assert float(row["probability"]) == pytest.approx(max(own.values()), abs=2e-6)
        assert own[row["label"].removeprefix("'")] == max(own.values())
    assert (rows[4]["video"], rows[4]["start_seconds"], rows[4]["end_seconds"]) == (str(short), "0.0", "1.0")
    assert (rows[5]["label"], rows[5]["error"][:6]) == ("", "FFmpeg")
    segments = read_csv(tmp_path / "timeline.segments.csv")
    assert list(segments[0]) == ["video", "start_seconds", "end_seconds", "label", "probability"]
    of_long = [row for row in segments if row["video"] == str(long_video)]
    assert (of_long[0]["start_seconds"], of_long[-1]["end_seconds"]) == ("0.0", "5.0")
    assert [row["end_seconds"] for row in of_long[:-1]] == [row["start_seconds"] for row in of_long[1:]]
    assert [row["video"] for row in segments if row not in of_long] == [str(short)]
    pictures = sorted(path.name for path in (tmp_path / "timeline.pictures").iterdir())
    assert [name.rpartition("-")[0] for name in pictures] == ["0000", "long"]
    again = output.read_bytes(), (tmp_path / "timeline.segments.csv").read_bytes()
    assert predict(model, long_video, short, tmp_path / "bad.mp4", output=output, **options) == 1
    assert (output.read_bytes(), (tmp_path / "timeline.segments.csv").read_bytes()) == again
    capsys.readouterr()
    assert predict(model, long_video, **options) == 0
    printed = [f"{float(row['start_seconds']):g}-{float(row['end_seconds']):g} s" for row in of_long]
    assert all(words in capsys.readouterr().out for words in printed[:1])


# The function underneath


def test_a_batch_holds_the_views_of_several_videos(model):
    classifier = load_predictor(str(model))
    sizes = []
    logits, classifier.logits = classifier.logits, lambda views: sizes.append(len(views)) or logits(views)
    views = torch.randint(0, 256, (13, 4, 3, 32, 32), dtype=torch.uint8)
    parts = list(zip("abcdef", torch.split(views, [1, 1, 2, 0, 7, 2]), strict=True))
    found = dict(batched_logits(classifier, parts, batch_size=4))
    assert sizes == [4, 4, 3, 2]  # seven views are read in two batches
    assert list(found) == list("abcdef")
    assert found["d"].shape == (0, 3)
    assert torch.allclose(torch.cat(list(found.values())), logits(views), atol=1e-5)


def test_a_video_that_breaks_in_the_middle_has_no_scores(model, long_video, tmp_path):
    broken = write_video(tmp_path / "broken.mp4", busy_frames(50), 10)
    content = bytearray(broken.read_bytes())
    content[len(content) // 2 : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - len(content) // 2)
    broken.write_bytes(content)
    paths = [broken, long_video, tmp_path / "gone.mp4"]
    scores = list(
        predict_videos(load_predictor(str(model)), paths, window_seconds=1.0, stride_seconds=0.5, num_workers=2)
    )
    assert [score.path for score in scores] == paths
    assert (scores[0].spans, scores[0].probabilities) == ([], [])
    assert scores[0].error and "broken.mp4" not in scores[0].error
    assert len(scores[1].spans) == 9 and np.allclose(np.sum(scores[1].probabilities, axis=1), 1)
    assert scores[2].error == "there is no such file"


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker would not see the change")
def test_a_worker_that_dies_is_told_in_a_line(model, videos, monkeypatch):
    monkeypatch.setattr(inference, "open_video", lambda *_: os._exit(3))
    paths = sorted(videos.rglob("*.mp4"))
    message = refused(lambda: list(predict_videos(load_predictor(str(model)), paths, num_workers=1)))
    assert message.startswith(f"num_workers: a worker died while it decoded {paths[0]} or a video after it")
