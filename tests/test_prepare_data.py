"""recipes/prepare_data.py, run in this process on tiny videos."""

# ruff: noqa: F811
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from hub_server import hub  # noqa: F401
from run_recipe import exit_code, finetune, words
from video_files import moving_square, write_video
from vidtune.data.sources import load_videos

CLASSES = ("blue", "green", "red")
FILES = {"README.md", "config.yaml", "data", "inspection.json", "preparation.json", "report.json"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three classes, six videos each, not split; no two alike."""
    root = tmp_path_factory.mktemp("data") / "colours"
    for number, name in enumerate(CLASSES):
        for index in range(6):
            frames = moving_square(20, 48, 64, seed=number * 6 + index)
            frames[..., number] //= 2
            write_video(root / name / f"{index}.mp4", frames, fps=10)
    return root


@pytest.fixture(scope="module")
def prepared(dataset, tmp_path_factory):
    """A prepared dataset."""
    output_dir = tmp_path_factory.mktemp("prepared") / "colours"
    assert prepare(dataset=dataset, output_dir=output_dir) == 0
    return output_dir


def prepare(**options):
    """Run the recipe; its exit code."""
    return exit_code("prepare_data", words(**{"num_proc": 2, "videos_per_shard": 4} | options))


def read(output_dir, name="report"):
    return json.loads((output_dir / f"{name}.json").read_text())


def stored(output_dir):
    """The files of the dataset itself."""
    return {path.name: path.read_bytes() for path in output_dir.glob("data/*")}


# What a run leaves


def test_a_run_leaves_a_dataset_and_what_was_found(prepared):
    assert {path.name for path in prepared.iterdir()} == FILES
    report = read(prepared)
    assert report["recipe"] == "prepare_data"
    assert report["config"]["short_side"] == 256 and "overwrite" not in report["config"]
    assert report["inspection"] | {"seconds": 0} == {
        "videos": 18,
        "findings": {},
        "near_duplicates": 0,
        "looked_at": 18,
        "seconds": 0,
    }
    assert {name: part["videos"] for name, part in report["split"]["splits"].items()} == {
        "train": 12,
        "validation": 3,
        "test": 3,
    }
    assert all(
        part["labels"] == dict.fromkeys(CLASSES, part["videos"] // 3) for part in report["split"]["splits"].values()
    )
    assert {name: part["videos"] for name, part in report["prepared"]["splits"].items()} == {
        "train": 12,
        "validation": 3,
        "test": 3,
    }
    assert report["prepared"]["psnr"]["mean"] > 25
    assert report["left_out"] == []
    assert all(speed > 0 for speed in report["throughput"].values())
    assert report["environment"]["packages"]["av"]
    assert len(read(prepared, "inspection")["files"]) == 18


def test_it_says_what_to_do_next_and_that_works(prepared, dataset, tmp_path, capsys):
    assert prepare(dataset=dataset, output_dir=prepared) == 0
    out = capsys.readouterr().out
    assert re.search(r"train +12 +12 +4 +4 +4", out)
    assert " MB of sources; PSNR " in out and "(all of it was there before)" in out
    command = re.search(r"train: +accelerate launch .* recipes/finetune.py (.*)", out)[1]
    assert command.startswith(f"--dataset {prepared} --model_name_or_path ")
    report = finetune(dataset=prepared, output_dir=tmp_path / "run", num_train_epochs=1)
    assert {split: part["videos"] for split, part in report["data"].items()} == {
        "train": 12,
        "validation": 3,
        "test": 3,
    }
    assert all(part["failed"] == [] for part in report["data"].values())


def test_a_second_run_does_nothing(prepared, dataset):
    before = {path: path.stat().st_mtime_ns for path in prepared.glob("data/*")}
    report = (prepared / "report.json").read_text()
    assert prepare(dataset=dataset, output_dir=prepared) == 0
    assert {path: path.stat().st_mtime_ns for path in prepared.glob("data/*")} == before
    assert (prepared / "report.json").read_text() == report


def test_its_config_prepares_the_same_again(prepared, tmp_path):
    assert prepare(config=prepared / "config.yaml", output_dir=tmp_path / "again" / "colours") == 0
    assert stored(tmp_path / "again" / "colours") == stored(prepared)


# Inspect


def test_inspect_only_stores_nothing_and_spares_the_work_after_it(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(dataset=dataset, output_dir=out, inspect_only="true") == 0
    assert {path.name for path in out.iterdir()} == {"config.yaml", "inspection.json", "report.json"}
    assert "prepared" not in read(out) and read(out)["inspection"]["looked_at"] == 18
    assert "train:" not in capsys.readouterr().out.replace("train: accelerate", "")
    assert prepare(dataset=dataset, output_dir=out, short_side=32) == 0
    assert read(out)["inspection"]["looked_at"] == 0
    assert {path.name for path in out.iterdir()} == FILES


def test_an_interrupted_inspection_goes_on_where_it_was(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    out = tmp_path / "out"
    assert prepare(dataset=tmp_path / "data", output_dir=out, inspect_only="true") == 0
    inspection = read(out, "inspection")
    # What a kill leaves: the lines of what was done, the last one cut.
    (out / "inspection.json").unlink()
    (out / ".unfinished").mkdir()
    lines = [json.dumps(file) for file in inspection["files"][:11]]
    (out / ".unfinished" / "inspection.jsonl").write_text("\n".join(lines)[:-40])
    # And one of them was changed since.
    os.utime(tmp_path / "data" / "blue" / "0.mp4", ns=(1, 1))
    assert prepare(dataset=tmp_path / "data", output_dir=out, inspect_only="true") == 0
    assert read(out)["inspection"]["looked_at"] == 18 - 10 + 1
    again = read(out, "inspection")
    without_source = [[{**file, "source": None} for file in one["files"]] for one in (inspection, again)]
    assert without_source[0] == without_source[1]
    assert not (out / ".unfinished").exists()


@pytest.fixture
def flawed(dataset, tmp_path):
    """The same with one empty video, one text, and a video that is there twice under one label."""
    folder = tmp_path / "flawed"
    shutil.copytree(dataset, folder)
    (folder / "red" / "0.mp4").write_bytes(b"")
    (folder / "green" / "3.mp4").write_text("no video")
    shutil.copy(folder / "blue" / "1.mp4", folder / "blue" / "copy.mp4")
    return folder


def test_findings_end_with_exit_code_1(flawed, tmp_path):
    out = tmp_path / "out"
    assert prepare(dataset=flawed, output_dir=out, inspect_only="true") == 1
    found = {(Path(finding["path"]).name, finding["kind"]) for finding in read(out, "inspection")["findings"]}
    assert found == {("0.mp4", "empty"), ("3.mp4", "not_a_video"), ("copy.mp4", "duplicate")}
    assert read(out)["inspection"]["findings"] == {"empty": 1, "not_a_video": 1, "duplicate": 1}


def test_videos_that_cant_be_decoded_stop_it_after_the_inspection(flawed, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(dataset=flawed, output_dir=out) == 1
    assert not (out / "data").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"prepare_data.py: dataset: {flawed}/green/3.mp4: FFmpeg can't open it")
    assert line.endswith("(and 1 more); mend or remove it, or leave such videos out with --on_error skip")
    # With the one option more, it goes on from there.
    assert prepare(dataset=flawed, output_dir=out, on_error="skip") == 1
    report = read(out)
    assert report["inspection"]["looked_at"] == 2  # what failed is tried again
    assert sorted(Path(one["path"]).name for one in report["left_out"]) == ["0.mp4", "3.mp4"]
    assert sum(part["videos"] for part in report["prepared"]["splits"].values()) == 17


def test_the_same_video_twice_stays_in_one_split(flawed, tmp_path):
    assert prepare(dataset=flawed, output_dir=tmp_path / "out", on_error="skip") == 1
    rows = [
        (row["video_id"], row["group"], split)
        for split, part in load_videos(str(tmp_path / "out")).items()
        for row in part.select_columns(["video_id", "group"])
    ]
    twins = {(group, split) for video_id, group, split in rows if video_id in ("blue/1.mp4", "blue/copy.mp4")}
    assert len(twins) == 1 and len(rows) == 17


# Split


def test_a_split_that_leaks_is_refused_or_allowed(dataset, tmp_path, capsys):
    for split in ("train", "validation"):
        shutil.copytree(dataset, tmp_path / "data" / split)
    out = tmp_path / "out"
    assert prepare(dataset=tmp_path / "data", output_dir=out) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "blue/0.mp4 in train and " in line and "--allow_leakage" in line
    assert (out / "inspection.json").exists() and not (out / "data").exists()
    assert prepare(dataset=tmp_path / "data", output_dir=out, allow_leakage="true") == 1
    assert {name: part["videos"] for name, part in read(out)["prepared"]["splits"].items()} == {
        "train": 18,
        "validation": 18,
    }


def test_folds(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(dataset=dataset, output_dir=out, folds=3, group_pattern=r"(\w+/\d)") == 0
    assert " --fold 0 " in capsys.readouterr().out
    report = read(out)
    assert {name: part["videos"] for name, part in report["split"]["splits"].items()} == {
        "fold 0": 6,
        "fold 1": 6,
        "fold 2": 6,
    }
    rows = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert list(rows) == ["train"] and sorted(rows["train"]["fold"]) == [0] * 6 + [1] * 6 + [2] * 6
    assert rows["train"]["group"][0] == "blue/0"
    # Prepared once more, it keeps its folds; one of them can be made the test.
    assert prepare(dataset=out, output_dir=tmp_path / "again") == 0
    again = load_videos(str(tmp_path / "again"))
    assert again["train"]["fold"][:] == rows["train"]["fold"][:]
    assert prepare(dataset=out, output_dir=tmp_path / "fold", fold=1) == 0
    assert read(tmp_path / "fold")["prepared"]["splits"]["test"]["videos"] == 6


# Folders and options


def test_a_folder_prepared_otherwise_is_refused_before_the_work(prepared, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    config = yaml.safe_load((out / "config.yaml").read_text()) | {"output_dir": str(out)}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    for option, value in (("quality", 50), ("seed", 7), ("dataset", "elsewhere")):
        assert prepare(**{"dataset": dataset, "output_dir": out, option: value}) == 2
        line = capsys.readouterr().err.strip()
        assert (
            f"was prepared with {option}: {config[option]}, not {value}; give another folder, or --overwrite" in line
        )
    assert prepare(dataset=dataset, output_dir=out, inspect_only="true") == 2
    assert "holds a prepared dataset; give --inspect_only another folder" in capsys.readouterr().err
    assert stored(out) == stored(prepared)
    assert prepare(dataset=dataset, output_dir=out, quality=50, overwrite="true") == 0
    assert read(out)["config"]["quality"] == 50 and stored(out) != stored(prepared)


def test_a_folder_of_something_else_is_refused(dataset, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert prepare(dataset=dataset, output_dir=tmp_path, overwrite="true") == 2
    assert f"output_dir: {tmp_path}: holds notes.txt, of something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [("codec", "av1", "codec"), ("quality", "101", "quality"), ("short_side", "0", "short_side"), ("fps", "0", "fps")],
)
def test_bad_options(dataset, tmp_path, capsys, option, value, line):
    assert prepare(**{"dataset": dataset, "output_dir": tmp_path / "out", option: value}) == 2
    assert capsys.readouterr().err.startswith(f"prepare_data.py: {line}: ")
    assert not (tmp_path / "out").exists()


# Publish


def test_it_is_published_in_one_commit_and_loads_from_there(hub, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {"dataset": dataset, "output_dir": tmp_path / "out", "push_to_hub": "true"}
    assert prepare(**options, hub_dataset_id="colours", hub_license="cc-by-4.0") == 0
    _, commit = hub.repos["datasets/tester/colours"].commits
    assert "README.md" in commit.files and "data/test-00000-of-00001.parquet" in commit.files
    assert {name for name in commit.files if "/" not in name} == {"README.md", "report.json"}
    assert "license: cc-by-4.0" in commit.files["README.md"].data.decode()
    assert str(tmp_path) not in commit.files["report.json"].data.decode()
    loaded = load_videos("tester/colours")
    assert {split: len(part) for split, part in loaded.items()} == {"train": 12, "validation": 3, "test": 3}


def test_without_the_right_to_publish_nothing_is_begun(hub, dataset, tmp_path, capsys):
    options = {"dataset": dataset, "output_dir": tmp_path / "out", "push_to_hub": "true"}
    assert prepare(**options, hub_dataset_id="google/colours") == 2
    assert "hub_dataset_id: cannot publish 'google/colours' (403" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert prepare(**options) == 2
    assert "hub_dataset_id: missing" in capsys.readouterr().err
