"""A prepared dataset: what it holds, that it is whole or not there, and that nothing is done twice."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, Video, load_dataset
from huggingface_hub import DatasetCard

from run_recipe import refused
from video_files import counting_frames, frame_indices, moving_square, write_folder_dataset, write_video
from vidtune.data import preparation, shards
from vidtune.data.decoding import open_video
from vidtune.data.encoding import psnr
from vidtune.data.preparation import prepare_videos
from vidtune.data.shards import write_json
from vidtune.data.sources import load_videos

CLASSES = ("blue", "green")
FILES = {"README.md", "data", "preparation.json"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two classes; 10 videos to train on, 6 to validate on, each of 12 frames."""
    root = tmp_path_factory.mktemp("data") / "colours"
    write_folder_dataset(root, CLASSES, 5, splits=["train"])
    return write_folder_dataset(root, CLASSES, 3, splits=["train", "validation"])


@pytest.fixture(scope="module")
def videos(source):
    return load_videos(str(source))


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory):
    """A prepared dataset and what `prepare_videos` said of it."""
    output_dir = tmp_path_factory.mktemp("prepared") / "colours"
    return output_dir, prepare(videos, output_dir)


def prepare(videos, output_dir, **options):
    return prepare_videos(videos, output_dir, **{"videos_per_shard": 4, "num_proc": 2} | options)


def contents(folder):
    """Every file of a folder, with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(folder, tmp_path, **options):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


# What it holds


def test_its_files(prepared):
    output_dir, _ = prepared
    assert {path.name for path in output_dir.iterdir()} == FILES
    assert sorted(path.name for path in (output_dir / "data").iterdir()) == [
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
        "validation-00000-of-00002.parquet",
        "validation-00001-of-00002.parquet",
    ]


def test_rows_keep_order_and_columns_and_load_with_datasets(prepared, videos, tmp_path):
    loaded = load(prepared[0], tmp_path)
    assert list(loaded) == ["train", "validation"]
    for split, part in loaded.items():
        assert part.features == videos[split].features
        for column in ("label", "video_id", "group", "start_seconds", "end_seconds"):
            assert part[column][:] == videos[split][column][:]
        assert [video["path"] for video in part["video"]] == part["video_id"][:]  # they end in .mp4


def test_pictures_are_those_of_the_source(prepared, videos, tmp_path):
    _, report = prepared
    losses = []
    for split, part in load(prepared[0], tmp_path).items():
        for row, video in enumerate(part["video"]):
            with open_video(video["bytes"]) as stored, open_video(videos[split][row]["video"]["path"]) as source:
                times = [(index + 0.5) / 12 for index in range(12)]
                assert stored.num_frames == 12 and stored.fps == 12
                measured = [round(index) for index in np.linspace(0, 11, 8)]
                pairs = list(zip(stored.frames_at(times), source.frames_at(times), strict=True))
                losses.append([psnr(*pairs[index]) for index in measured])
    assert min(map(np.mean, losses)) > 30
    assert report["psnr"]["mean"] == pytest.approx(np.mean(losses))
    assert report["psnr"]["min"] == pytest.approx(np.min(losses))
    worst = int(np.argmin(np.min(losses, axis=1)))
    paths = [video["path"] for part in videos.values() for video in part["video"]]
    assert report["psnr"]["worst"] == paths[worst]


def test_it_streams(prepared, videos):
    streamed = load_dataset(str(prepared[0]), split="validation", streaming=True)
    assert [row["video_id"] for row in streamed] == videos["validation"]["video_id"][:]


def test_it_is_a_dataset_of_ours_again(prepared, videos):
    again = load_videos(str(prepared[0]))
    for split, part in videos.items():
        for column in ("label", "video_id", "group"):
            assert again[split][column][:] == part[column][:]


def test_a_reader_need_not_take_many_videos_at_once(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 15_000)
    prepare(videos, tmp_path / "out")
    for path in (tmp_path / "out" / "data").iterdir():
        groups = pq.ParquetFile(path).metadata
        sizes = [groups.row_group(index).total_byte_size for index in range(groups.num_row_groups)]
        assert len(sizes) > 1 and max(sizes) < 18_000


def test_the_report_counts(prepared, source):
    output_dir, report = prepared
    assert {split: part["videos"] for split, part in report["splits"].items()} == {"train": 10, "validation": 6}
    assert {split: part["frames"] for split, part in report["splits"].items()} == {"train": 120, "validation": 72}
    assert {split: part["shards"] for split, part in report["splits"].items()} == {"train": 3, "validation": 2}
    assert all(part["failed"] == [] for part in report["splits"].values())
    assert report["source_bytes"] == sum(path.stat().st_size for path in source.rglob("*.mp4"))
    assert report["bytes"] == sum(path.stat().st_size for path in (output_dir / "data").iterdir())
    assert report["encoded"] == 16 and report["seconds"] > 0


def test_the_card_names_splits_task_and_loss(prepared, videos, tmp_path):
    output_dir, report = prepared
    card = DatasetCard.load(output_dir / "README.md")
    assert card.data.task_categories == ["video-classification"]
    assert card.data.license is None
    assert [entry["split"] for entry in card.data.to_dict()["configs"][0]["data_files"]] == ["train", "validation"]
    assert f"PSNR {report['psnr']['mean']:.1f} dB" in card.text
    assert "| train | 10 | 120 |" in card.text
    prepare(videos, tmp_path / "out", license="mit", codec="h264", fps=6, quality=50)
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert "MP4 of H.264" in card.text and "quality 50" in card.text and "constant: 6." in card.text


def test_sources_are_only_read(source, videos, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.rglob("*") if path.is_file()}
    prepare(videos, tmp_path / "out")
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.rglob("*") if path.is_file()}
    assert before == after


def test_spans_are_cut_and_other_endings_become_mp4(tmp_path):
    write_video(tmp_path / "long.mkv", counting_frames(20), fps=10)
    write_video(tmp_path / "b.avi", counting_frames(8), fps=10, codec="mpeg4")
    lines = ["video,label,start_seconds,end_seconds", "long.mkv,a,0.5,1.2", "long.mkv,b,1.2,", "b.avi,b,,"]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    prepare(load_videos(str(tmp_path / "table.csv")), tmp_path / "out")
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert rows["video_id"][:] == ["long.mkv#0.5-1.2", "long.mkv#1.2-", "b.avi"]
    assert [video["path"] for video in rows["video"]] == [f"{name}.mp4" for name in rows["video_id"]]
    assert rows["start_seconds"][:] == rows["end_seconds"][:] == [None, None, None]
    assert rows["group"][:] == ["long.mkv", "long.mkv", "b.avi"]
    with open_video(rows[0]["video"]["bytes"]) as video:
        frames = video.frames_at([(index + 0.5) / 10 for index in range(video.num_frames)])
    assert frame_indices(frames, 20) == [5, 6, 7, 8, 9, 10, 11]


def test_several_labels_folds_and_videos_that_are_bytes(tmp_path):
    content = [write_video(tmp_path / f"{row}.mp4", moving_square(6, seed=row)).read_bytes() for row in range(3)]
    features = {"video": Video(decode=False), "labels": List(ClassLabel(names=["a", "b"])), "fold": Value("int64")}
    features |= {"video_id": Value("string"), "group": Value("string")}
    features |= {"start_seconds": Value("float64"), "end_seconds": Value("float64")}
    columns = {
        "video": [{"path": None, "bytes": data} for data in content],
        "labels": [[0, 1], [], [1]],
        "video_id": ["train/0", "train/1", "train/2"],
        "group": ["x", "y", "y"],
        "fold": [0, 1, 1],
        "start_seconds": [None, None, 0.04],
        "end_seconds": [None, None, 0.12],
    }
    videos = DatasetDict(train=Dataset.from_dict(columns, features=Features(features)))
    report = prepare(videos, tmp_path / "out")
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert rows.features == videos["train"].features
    assert rows["labels"][:] == [[0, 1], [], [1]] and rows["fold"][:] == [0, 1, 1]
    assert [video["path"] for video in rows["video"]] == ["train/0.mp4", "train/1.mp4", "train/2.mp4"]
    assert report["source_bytes"] == sum(map(len, content)) and report["splits"]["train"]["frames"] == 6 + 6 + 2
    columns["video"][1] = {"path": None, "bytes": content[1][:200]}
    broken = DatasetDict(train=Dataset.from_dict(columns, features=Features(features)))
    (failed,) = prepare(broken, tmp_path / "out2", on_error="skip")["splits"]["train"]["failed"]
    assert failed["path"] == "train/1" and failed["reason"].startswith("FFmpeg cannot decode it")


# Failures


@pytest.fixture
def broken(source, tmp_path):
    """The same videos, the eighth of train a text, the last of validation empty."""
    folder = tmp_path / "broken"
    shutil.copytree(source, folder)
    (folder / "train" / "green" / "0002.mp4").write_text("no video")
    (folder / "validation" / "green" / "0002.mp4").write_bytes(b"")
    return load_videos(str(folder))


def test_a_video_that_cant_be_decoded_stops_it_with_one_line(broken, tmp_path):
    message = refused(prepare, broken, tmp_path / "out")
    assert message.startswith(f"dataset: {tmp_path}/broken/train/green/0002.mp4: FFmpeg cannot decode it")
    assert message.endswith("; mend or remove it, or leave such videos out with --on_error skip")
    assert not (tmp_path / "out" / "data").exists()


def test_or_is_left_out_and_listed_and_what_was_done_before_is_kept(broken, tmp_path):
    refused(prepare, broken, tmp_path / "out")
    report = prepare(broken, tmp_path / "out", on_error="skip")
    assert report["encoded"] < 16
    assert report["splits"]["train"]["videos"] == 9 and report["splits"]["validation"]["videos"] == 5
    failed = {
        Path(one["path"]).parts[-3]: one["reason"] for part in report["splits"].values() for one in part["failed"]
    }
    assert failed["train"].startswith("FFmpeg cannot decode it") and failed["validation"] == "the file is empty"
    loaded = load(tmp_path / "out", tmp_path)
    assert "green/0002" not in "".join(loaded["train"]["video_id"])
    prepare(broken, tmp_path / "at_once" / "out", on_error="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once" / "out")


def test_a_shard_all_of_whose_videos_fail(source, tmp_path):
    shutil.copytree(source, tmp_path / "data")
    for path in (tmp_path / "data" / "train" / "blue").iterdir():
        path.write_bytes(b"")  # rows 0 to 4
    report = prepare(load_videos(str(tmp_path / "data")), tmp_path / "out", on_error="skip")
    assert report["splits"]["train"]["videos"] == 5
    assert len(load(tmp_path / "out", tmp_path)["train"]) == 5


def test_a_split_all_of_whose_videos_fail_is_refused(source, tmp_path):
    shutil.copytree(source, tmp_path / "data")
    for path in (tmp_path / "data" / "validation").rglob("*.mp4"):
        path.write_bytes(b"")
    message = refused(prepare, load_videos(str(tmp_path / "data")), tmp_path / "out", on_error="skip")
    assert message.startswith("dataset: no video of validation can be decoded, ")
    assert not (tmp_path / "out" / "data").exists()


# Whole or not there, and nothing twice


def test_a_finished_folder_is_left_alone(prepared, videos):
    output_dir, first = prepared
    before = {path: path.stat().st_mtime_ns for path in (output_dir / "data").iterdir()}
    again = prepare(videos, output_dir)
    assert again["encoded"] == 0
    assert {name: again[name] for name in again if name not in ("encoded", "seconds")} == {
        name: first[name] for name in first if name not in ("encoded", "seconds")
    }
    assert {path: path.stat().st_mtime_ns for path in (output_dir / "data").iterdir()} == before
    assert {path.name for path in output_dir.iterdir()} == FILES


def test_another_preparation_is_refused_or_replaced(source, tmp_path):
    shutil.copytree(source, tmp_path / "data")
    out = tmp_path / "out"
    videos = load_videos(str(tmp_path / "data"))
    prepare(videos, out)
    line = "was prepared from other videos or with other options; give another folder, or --overwrite"
    assert refused(prepare, videos, out, quality=50) == f"output_dir: {out}: {line}"
    assert line in refused(prepare, videos, out, videos_per_shard=5)
    assert line in refused(prepare, DatasetDict(train=videos["train"]), out)
    relabelled = videos["train"].cast_column("label", ClassLabel(names=["azure", "green"]))
    assert line in refused(prepare, DatasetDict(train=relabelled, validation=videos["validation"]), out)
    os.utime(videos["train"][0]["video"]["path"], ns=(1, 1))
    assert line in refused(prepare, videos, out)
    assert prepare(videos, out, quality=50, videos_per_shard=8, overwrite=True)["encoded"] == 16
    prepare(videos, tmp_path / "afresh" / "out", quality=50, videos_per_shard=8)
    assert contents(out) == contents(tmp_path / "afresh" / "out")


@pytest.mark.parametrize("name", ["README.md", "data/x.parquet"])
def test_a_folder_of_something_else_is_refused(videos, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    message = refused(prepare, videos, tmp_path / "out", overwrite=True)
    assert message == f"output_dir: {tmp_path}/out: holds files of something else; give a new or an empty folder"
    assert path.read_text() == "mine"


def test_a_folder_that_cant_be_written_to(videos, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(prepare, videos, tmp_path / "file" / "out")
    assert message.startswith(f"output_dir: {tmp_path}/file/out: can't be written to (Not a directory)")


def test_a_full_disk_names_the_folder_and_keeps_what_is_finished(source, tmp_path):
    shutil.copytree(source, tmp_path / "data")
    # The second shard holds the one large video.
    write_video(tmp_path / "data" / "train" / "green" / "0000.mp4", moving_square(60, 128, 128))
    videos, out = load_videos(str(tmp_path / "data")), tmp_path / "out"
    prepare(videos, tmp_path / "whole" / "out")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "whole" / "out" / "data").iterdir())]
    assert sizes[1] > 2 * sizes[0]
    with_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] + 1000, with_limit[1]))  # of this process, which writes shards
    try:
        message = refused(prepare, videos, out, num_proc=1)  # one after the other
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, with_limit)
    staging = out / preparation.STAGING
    assert message.startswith(f"output_dir: {staging}/data: can't be written to (File too large)")
    first = "train-00000-of-00003.parquet"
    assert [path.name for path in (staging / "data").iterdir()] == [first]
    assert (staging / "data" / first).read_bytes() == (tmp_path / "whole" / "out" / "data" / first).read_bytes()
    prepare(videos, out)
    assert contents(out) == contents(tmp_path / "whole" / "out")


@pytest.mark.parametrize("moment", ["shards", "moved", "clearing"])
def test_it_goes_on_from_the_last_steps(prepared, videos, tmp_path, moment):
    """The states between the last shard and the end, and one of a replacement, that a kill can leave."""
    out = tmp_path / "colours"
    shutil.copytree(prepared[0], out)
    if moment == "clearing":
        (out / "data").rename(out / "gone")
        shutil.rmtree(out / "gone")
    else:
        facts = {"frames": 12, "fps": 12.0, "height": 32, "width": 32}
        record = json.loads((out / "preparation.json").read_text())
        staging = out / preparation.STAGING
        staging.mkdir(parents=True)
        for split, part in videos.items():
            for row in range(len(part)):
                write_json(staging / f"{split}-{row:08}.json", facts | {"psnr": {"mean": 50.0, "min": 50.0}}, staging)
        write_json(out / "preparation.json", {name: record[name] for name in ("format", "fingerprint")}, staging)
        (out / "README.md").unlink()
        if moment == "shards":
            (out / "data").rename(staging / "data")
    report = prepare(videos, out)
    assert report["encoded"] == (16 if moment == "clearing" else 0)
    assert {path.name for path in out.iterdir()} == FILES
    assert contents(out / "data") == contents(prepared[0] / "data")


PROGRAM = """
import sys
from pathlib import Path
from vidtune.data.preparation import prepare_videos
from vidtune.data.sources import load_videos
if __name__ == "__main__":
    prepare_videos(load_videos(sys.argv[1]), Path(sys.argv[2]), videos_per_shard=4, num_proc=2)
"""


@pytest.mark.slow
def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path):
    """Killed twice: amid the first shard, and amid the third of five."""
    source, out = tmp_path / "data", tmp_path / "killed" / "out"
    write_folder_dataset(source, CLASSES, 5, splits=["train"], num_frames=60, height=192, width=256)
    write_folder_dataset(source, CLASSES, 3, splits=["train", "validation"], num_frames=60, height=192, width=256)
    (tmp_path / "program.py").write_text(PROGRAM)
    kept: dict[Path, int] = {}
    for staged in (2, 9):
        process = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), str(source), str(out)])
        while process.poll() is None and len(encoded_videos(out)) < staged:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        time.sleep(4)  # for its workers, who end with the video at hand
        assert not (out / "data").exists()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was done twice
        kept = {path: path.stat().st_mtime_ns for path in encoded_videos(out)}
    videos = load_videos(str(source))
    shard_times = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert shard_times
    report = prepare(videos, out)
    assert report["encoded"] == 16 - len(kept)
    assert {name: (out / "data" / name).stat().st_mtime_ns for name in shard_times} == shard_times
    prepare(videos, tmp_path / "at_once" / "out")
    assert contents(out) == contents(tmp_path / "at_once" / "out")


def encoded_videos(out):
    """What is known of the videos that were encoded, a file each."""
    try:
        return list((out / preparation.STAGING).glob("*-????????.json"))
    except FileNotFoundError:
        return []
