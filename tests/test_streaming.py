"""Videos that are read where they lie, in tar and Parquet shards: every one once, in an order that can be resumed."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import gzip
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, Video, load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForVideoClassification

from hub_server import HubServer, hub  # noqa: F401
from run_recipe import TINY, finetune, load_recipe, refused, words
from source_checks import one_line_error
from tar_files import sample, tar_of_folder, write_tar
from video_files import write_folder_dataset
from vidtune.data import parquet_shards
from vidtune.data.clips import (
    PADDING,
    ClipFormat,
    EpochSampler,
    EvaluationClips,
    TrainingClips,
    collate,
    open_row,
    shuffle_near,
    unreadable_videos,
)
from vidtune.data.loading import load_splits
from vidtune.data.sources import load_videos
from vidtune.data.streaming import fingerprint, shard_numbers, shard_video
from vidtune.errors import InputError, RunError, VideoError
from vidtune.training.sampler_state import check_sampler, sampler_state, save_sampler

CLIP = ClipFormat(4, 16)
LABELS = ["cat", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 videos, `cat/0000.mp4` to `dog/0006.mp4`."""
    return write_folder_dataset(tmp_path_factory.mktemp("folder"), LABELS, 7, num_frames=8)


@pytest.fixture(scope="module")
def tars(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos in three shards of 5, 5 and 4, in the same order."""
    root = tmp_path_factory.mktemp("tars")
    for number in range(3):
        tar_of_folder(folder, root / f"train-{number:05}.tar", slice(5 * number, 5 * number + 5))
    return root


@pytest.fixture(scope="module")
def parquets(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos in two Parquet shards, of row groups of 3 videos, in the same order."""
    root = tmp_path_factory.mktemp("parquets")
    for number in range(2):
        part = parquet_rows(sorted(folder.rglob("*.mp4"))[7 * number : 7 * number + 7])
        pq.write_table(part.data.table, root / f"train-{number:05}-of-00002.parquet", row_group_size=3)
    return root


@pytest.fixture(params=["tars", "parquets"])
def stream(request: pytest.FixtureRequest) -> Dataset:
    return load_videos(str(request.getfixturevalue(request.param)), streaming=True)["train"]


def parquet_rows(videos: list[Path], **columns: list[Any]) -> Dataset:
    rows = {
        "video": [{"path": f"{path.parent.name}/{path.name}", "bytes": path.read_bytes()} for path in videos],
        "label": [LABELS.index(path.parent.name) for path in videos],
    }
    types = {name: Value("int64" if isinstance(values[0], int) else "string") for name, values in columns.items()}
    features = Features({"video": Video(), "label": ClassLabel(names=LABELS), **types})
    return Dataset.from_dict(rows | columns, features=features)


def content(row: dict[str, Any]) -> bytes:
    """The bytes of a streamed video."""
    return shard_video(row)


# What the index says


def test_the_rows_of_tar_shards(folder: Path, tars: Path) -> None:
    videos = load_videos(str(tars), streaming=True)
    assert list(videos) == ["train"] and len(videos["train"]) == 14
    assert videos["train"].features == Features(
        {
            "video": Video(decode=False),
            "label": ClassLabel(names=LABELS),
            "video_id": Value("string"),
            "group": Value("string"),
            "start_seconds": Value("float64"),
            "end_seconds": Value("float64"),
            "shard": Value("string"),
            "offset": Value("int64"),
            "size": Value("int64"),
        }
    )
    first = folder / "cat" / "0000.mp4"
    shard = str(tars / "train-00000.tar")
    assert videos["train"][0] == {
        "video": {"bytes": None, "path": f"{shard}/cat/0000.mp4"},
        "label": 0,
        "video_id": "train-00000/cat/0000.mp4",
        "group": "train-00000/cat/0000.mp4",
        "start_seconds": None,
        "end_seconds": None,
        "shard": shard,
        "offset": 512,
        "size": first.stat().st_size,
    }
    assert [content(row) for row in videos["train"]] == [path.read_bytes() for path in sorted(folder.rglob("*.mp4"))]


def test_the_rows_of_parquet_shards(folder: Path, parquets: Path) -> None:
    rows = load_videos(str(parquets), streaming=True)["train"]
    read = load_videos(str(parquets))["train"]
    for name in ("label", "video_id", "group", "start_seconds", "end_seconds"):
        assert rows[name][:] == read[name][:] and rows.features[name] == read.features[name]
    assert [row["video"]["path"] for row in rows] == [row["video"]["path"] for row in read]
    assert rows["row_group"][:] == [0, 0, 0, 1, 1, 1, 2] * 2 and rows["row"][:] == [0, 1, 2, 0, 1, 2, 0] * 2
    assert [content(row) for row in rows] == [row["video"]["bytes"] for row in read]


def test_what_the_members_of_a_video_say(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("./cat/1.mp4", b"video 1"),
            ("./cat/1.cls", b"7\n"),
            *sample("x.y/2", b"video 2", label="cat", group=3, start_seconds=1, end_seconds=2.5, fold=1, other=[1]),
            ("x.y/2.jpg", b"a picture, which nobody asked for"),
            ("3.json", b'{"label": 7, "fold": 0}'),
            ("3.cam.WEBM", b"video 3"),
            ("._3.mp4", b"what macOS adds"),
            ("notes.txt", b"notes"),
        ],
    )
    with one_line_error("1 of 3 videos have no `fold`"):
        load_videos(str(tmp_path), streaming=True)
    members = [("1.mp4", b"video 1"), ("1.json", b'{"label": "x", "fold": 0}')]
    members += sample("2", b"video 2", label=8, group=3, start_seconds=1, end_seconds=2.5, fold=1)
    write_tar(tmp_path / "a.tar", [*members, ("3.webm", b"video 3"), ("3.cls", b"x"), ("3.json", b'{"fold": 0}')])
    rows = load_videos(str(tmp_path), streaming=True)["train"]
    assert rows["video_id"][:] == ["a/1.mp4", "a/2.mp4", "a/3.webm"]
    assert rows.features["label"].names == ["8", "x"] and rows["label"][:] == [1, 0, 1]
    assert rows["group"][:] == ["a/1.mp4", "3", "a/3.webm"] and rows["fold"][:] == [0, 1, 0]
    assert (rows[1]["start_seconds"], rows[1]["end_seconds"]) == (1.0, 2.5)
    assert [content(row) for row in rows] == [b"video 1", b"video 2", b"video 3"]


def test_videos_of_several_labels_or_none(tmp_path: Path) -> None:
    lists = [["run", "jump"], [], ["jump"]]
    members = [member for key, names in enumerate(lists) for member in sample(str(key), b"x", labels=names)]
    write_tar(tmp_path / "train.tar", members)
    rows = load_videos(str(tmp_path), streaming=True)["train"]
    assert rows.features["labels"] == List(ClassLabel(names=["jump", "run"]))
    assert rows["labels"][:] == [[1, 0], [], [0]]


def test_videos_without_labels_where_none_are_read(tmp_path: Path, folder: Path) -> None:
    write_tar(tmp_path / "train.tar", [("1.mp4", b"x"), ("2.mp4", b"y")])
    rows = load_videos(str(tmp_path), streaming=True, labelled=False)["train"]
    assert rows.features["label"].names == ["unlabelled"] and rows["label"][:] == [0, 0]
    videos = sorted(folder.rglob("*.mp4"))[:2]
    parquet_rows(videos).remove_columns("label").to_parquet(tmp_path / "train.parquet")
    rows = load_videos(str(tmp_path / "*.parquet"), streaming=True, labelled=False)["train"]
    assert [content(row) for row in rows] == [path.read_bytes() for path in videos]


def test_ids_groups_and_folds_of_parquet_shards(folder: Path, tmp_path: Path) -> None:
    videos = [folder / label / f"{number:04}.mp4" for label in LABELS for number in range(2)]
    part = parquet_rows(videos, video_id=list("wxyz"), site=[7, 7, 8, 8], fold=[0, 1, 0, 1])
    part.to_parquet(tmp_path / "train.parquet")
    rows = load_videos(str(tmp_path), group_column="site", streaming=True)["train"]
    assert rows["video_id"][:] == list("wxyz") and rows["group"][:] == list("7788")
    assert rows["fold"][:] == [0, 1, 0, 1]
    with pytest.raises(InputError, match="split_by_group: 'place' is no column of .*train.parquet"):
        load_videos(str(tmp_path), group_column="place", streaming=True)


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train-000.tar", "validation": "validation-000.tar", "test": "test-000.tar"},
        {"train": "train/0.tar", "validation": "val/0.tar", "test": "testing/0.tar"},
        {"train": "data/k400_train_1.tar", "validation": "data/k400_valid_1.tar"},
        {"train": "shard-7.tar"},
    ],
)
@pytest.mark.parametrize("how", ["folder", "glob"])
def test_splits_that_names_tell(tmp_path: Path, names: dict[str, str], how: str) -> None:
    for split, name in names.items():
        write_tar(tmp_path / name, [m for label in "ab" for m in sample(f"{split}-{label}", b"x", label=label)])
    videos = load_videos(str(tmp_path) if how == "folder" else f"{tmp_path}/**/*.tar", streaming=True)
    assert {split: content.__name__ and len(part) for split, part in videos.items()} == dict.fromkeys(names, 2)
    for split, part in videos.items():
        assert all(f"/{split}-" in video_id for video_id in part["video_id"])


def test_shards_are_scanned_once_and_again_when_they_change(tmp_path: Path, folder: Path) -> None:
    tar = tar_of_folder(folder, tmp_path / "train.tar")
    before = load_videos(str(tmp_path), streaming=True)["train"]
    whole, times = tar.read_bytes(), tar.stat()
    tar.write_bytes(b"?" * len(whole))
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = load_videos(str(tmp_path), streaming=True)["train"]
    assert again.data.table == before.data.table
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with one_line_error("train.tar: can't be read as a tar"):
        load_videos(str(tmp_path), streaming=True)


# What is read


def test_streamed_clips_are_those_of_the_files(folder: Path, stream: Dataset) -> None:
    files = load_videos(str(folder))["train"]
    for make in (
        lambda videos: TrainingClips(videos, CLIP, seed=3, color_jitter=0.3),
        lambda videos: EvaluationClips(videos, CLIP, temporal_views=2),
    ):
        for row in range(len(files)):
            index = (1, row) if "seed" in vars(make(files)) else row
            one, other = make(files)[index], make(stream)[index]
            assert torch.equal(one["pixel_values"], other["pixel_values"]) and one["labels"] == other["labels"]


def test_a_span_of_a_streamed_video(tmp_path: Path, folder: Path) -> None:
    video = (folder / "cat" / "0000.mp4").read_bytes()
    members = [*sample("a", video, label="x", start_seconds=0.25, end_seconds=0.5), *sample("b", video, label="y")]
    rows = load_videos(str(write_tar(tmp_path / "train.tar", members)), streaming=True)["train"]
    with open_row(rows[0]) as part, open_row(rows[1]) as whole:
        assert (part.duration_seconds, round(whole.duration_seconds, 3)) == (0.25, 0.667)
        assert torch.equal(part.frames_at([0.0]), whole.frames_at([0.25]))


def test_few_row_groups_are_kept(parquets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_shards, "_row_groups", {})
    rows = load_videos(str(parquets), streaming=True)["train"]
    size = max(len(content(row)) for row in rows)
    monkeypatch.setattr(parquet_shards, "KEPT_BYTES", 8 * size)
    for row in [0, 3, 1, 6, 2, 10, 12]:
        assert content(rows[row])
        assert sum(kept.nbytes for kept in parquet_shards._row_groups.values()) <= 8 * size
    assert len(parquet_shards._row_groups) < 5 and list(parquet_shards._row_groups)[-1][1] == rows[12]["row_group"]
    monkeypatch.setattr(parquet_shards, "KEPT_BYTES", 1)
    assert content(rows[0]) and len(parquet_shards._row_groups) == 1


def test_a_video_that_cannot_be_decoded_is_a_failed_one_as_in_a_folder(tmp_path: Path, folder: Path) -> None:
    good = (folder / "cat" / "0000.mp4").read_bytes()
    members = [
        *sample("good", good, label="x"),
        *sample("bad", b"no video", label="y"),
        ("c.mp4", b""),
        ("c.cls", b"x"),
    ]
    rows = load_videos(str(write_tar(tmp_path / "train.tar", members)), streaming=True)["train"]
    assert [TrainingClips(rows, CLIP)[0, row]["failed"] for row in range(3)] == [False, True, True]
    failed = unreadable_videos(rows)
    assert [problem["path"] for problem in failed] == [f"{tmp_path}/train.tar/{key}.mp4" for key in ("bad", "c")]
    with pytest.raises(VideoError, match="a video of 8 bytes"):
        open_row(rows[1])


def test_a_shard_that_goes_away_ends_the_run(tmp_path: Path, tars: Path, parquets: Path) -> None:
    for source, ending in ((tars, "tar"), (parquets, "parquet")):
        root = Path(shutil.copytree(source, tmp_path / ending))
        rows = load_videos(str(root), streaming=True)["train"]
        shard = Path(rows[0]["shard"])
        shard.write_bytes(shard.read_bytes()[:1000])
        with pytest.raises(RunError, match=f"dataset: {shard}: .*(changed during the run|mend that, and resume)"):
            TrainingClips(rows, CLIP)[0, 0]
        shard.unlink()
        with pytest.raises(RunError, match=f"dataset: {shard}: can't be read any more"):
            TrainingClips(rows, CLIP)[0, 0]


# Order


def test_shards_are_shuffled_and_then_what_lies_near() -> None:
    shards = np.repeat(np.arange(20), 50)
    first = shuffle_near(np.arange(1000), shards, 100, np.random.default_rng(0))
    other = shuffle_near(np.arange(1000), shards, 100, np.random.default_rng(1))
    assert sorted(first.tolist()) == sorted(other.tolist()) == list(range(1000))
    assert not np.array_equal(first, other)
    order_of_shards = list(
        dict.fromkeys(shards[np.sort(first[start : start + 100])[0]] for start in range(0, 1000, 100))
    )
    assert order_of_shards != sorted(order_of_shards)
    for start in range(0, 1000, 100):
        window = first[start : start + 100]
        assert len(set(shards[window].tolist())) == 2  # two shards of 50, and all of them
        assert not np.array_equal(window, np.sort(window))
    # Shards of a few videos, and a buffer larger than the dataset
    assert sorted(shuffle_near(np.arange(7), np.array([0, 1, 1, 2, 3, 3, 3]), 100, np.random.default_rng(0))) == [
        *range(7)
    ]
    # A buffer of one keeps the order in each shard
    in_order = shuffle_near(np.arange(1000), shards, 1, np.random.default_rng(0))
    assert all(np.array_equal(part, np.sort(part)) for part in np.split(in_order, 20))


def test_rows_that_are_drawn_by_weight_lie_near_each_other_as_well() -> None:
    shards = np.repeat(np.arange(10), 10)
    weights = [1.0] * 50 + [0.0] * 50
    sampler = EpochSampler(100, 0, weights, shards=shards, shuffle_buffer=20)
    indices = list(sampler)
    assert len(indices) == 100 and {index[1] for index in indices} <= set(range(50))
    counts = Counter(row for _, row, *_ in indices)
    repeats = [(row, repeat) for _, row, repeat in (index for index in indices if len(index) == 3)]
    assert set(repeats) == {(row, n) for row, count in counts.items() for n in range(1, count)}
    for start in range(0, 100, 20):
        assert len({shards[index[1]] for index in indices[start : start + 20]}) <= 4


def sampler_of(videos: Dataset, epoch: int = 0, processes: int = 1, batch_size: int = 2) -> EpochSampler:
    """The order of a stream as VideoTrainer makes it, with a small buffer."""
    multiple = 1 if processes == 1 else processes * batch_size
    shards = shard_numbers(videos)
    sampler = EpochSampler(len(videos), 3, multiple_of=multiple, shards=shards, shuffle_buffer=4)
    sampler.epoch = epoch
    return sampler


def batches(
    videos: Dataset, epoch: int = 0, process: int = 0, processes: int = 1, workers: int = 0, size: int = 2
) -> Any:
    """What one of several processes gets from accelerate, as from the Trainer."""
    loader = DataLoader(
        TrainingClips(videos, CLIP, seed=3),
        batch_size=size,
        sampler=sampler_of(videos, epoch, processes, size),
        collate_fn=collate,
        num_workers=workers,
    )
    return prepare_data_loader(
        loader, num_processes=processes, process_index=process, put_on_device=False, use_seedable_sampler=True
    )


@pytest.mark.slow
def test_two_processes_of_three_workers_read_each_video_once(stream: Dataset) -> None:
    whole = {}
    for epoch in (0, 1):
        alone = [(batch["rows"], batch["pixel_values"]) for batch in batches(stream, epoch, size=4)]
        whole[epoch] = [row for rows, _ in alone for row in rows.tolist()]
        assert sorted(whole[epoch]) == list(range(14))
        halves = [list(batches(stream, epoch, process, 2, 3)) for process in range(2)]
        assert len(halves[0]) == len(halves[1]) == 4
        seen = [row for half in halves for batch in half for row in batch["rows"][batch["labels"] >= 0].tolist()]
        assert sorted(seen) == list(range(14))  # 14 are no multiple of 4
        for (rows, pixels), one, other in zip(alone, *halves, strict=True):
            counted = [batch["labels"] >= 0 for batch in (one, other)]
            assert rows.tolist() == [*one["rows"][counted[0]].tolist(), *other["rows"][counted[1]].tolist()]
            both = torch.cat([one["pixel_values"][counted[0]], other["pixel_values"][counted[1]]])
            assert torch.equal(pixels, both)
    assert whole[0] != whole[1]


def test_an_epoch_goes_on_where_it_was_interrupted(stream: Dataset) -> None:
    whole = list(batches(stream, epoch=1))
    rest = list(skip_first_batches(batches(stream, epoch=1, workers=1), 4))
    assert [batch["rows"].tolist() for batch in rest] == [batch["rows"].tolist() for batch in whole[4:]]
    assert all(
        torch.equal(one["pixel_values"], other["pixel_values"]) for one, other in zip(rest, whole[4:], strict=True)
    )


def test_the_fingerprint_tells_videos_and_places(tars: Path, tmp_path: Path) -> None:
    rows = load_videos(str(tars), streaming=True)["train"]
    moved = load_videos(str(shutil.copytree(tars, tmp_path / "moved")), streaming=True)["train"]
    assert fingerprint(rows) == fingerprint(moved) != fingerprint(rows.select(range(13)))
    assert shard_numbers(rows).tolist() == [0] * 5 + [1] * 5 + [2] * 4
    assert shard_numbers(rows.select([13, 0, 12])).tolist() == [0, 1, 0]


# Recipes


@pytest.mark.slow
def test_finetune_on_shards_goes_on_amid_an_epoch_to_the_same_weights(
    tars: Path, folder: Path, tmp_path: Path
) -> None:
    options = {"dataset": tars, "streaming": "true", "shuffle_buffer": 4, "validation_fraction": 0.3}
    options |= {"test_fraction": 0, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no", "mixup": 0.5}
    options |= {"per_device_train_batch_size": 2, "ema_decay": 0.5, "seed": 5}
    report = finetune(**options, output_dir=tmp_path / "run")
    assert report["config"]["streaming"] and report["data"]["train"] == {"videos": 10, "failed": []}
    assert report["metrics"]["validation"]["videos"] == 4
    checkpoint = tmp_path / "run" / "checkpoint-3"
    state = json.loads((checkpoint / "sampler.json").read_text())
    assert {name: state[name] for name in ("epoch", "position", "videos", "shuffle_buffer", "videos_per_step")} == {
        "epoch": 0,
        "position": 6,
        "videos": 10,
        "shuffle_buffer": 4,
        "videos_per_step": 2,
    }
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "run" / "config.yaml", tmp_path / "again")
    resumed = finetune(
        **options, output_dir=tmp_path / "again", resume_from_checkpoint=checkpoint, dataloader_num_workers=1
    )
    losses = [
        [entry["loss"] for entry in run["history"] if "loss" in entry and entry["step"] > 3]
        for run in (report, resumed)
    ]
    assert len(losses[0]) == 7 and losses[0] == losses[1]
    one, other = (AutoModelForVideoClassification.from_pretrained(tmp_path / name) for name in ("run", "again"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(InputError, match="shuffle_buffer: 5: resume_from_checkpoint: .*checkpoint-3: its run has 4"):
        finetune(**options | {"shuffle_buffer": 5}, output_dir=tmp_path / "again", resume_from_checkpoint=checkpoint)


def test_a_checkpoint_of_other_videos_or_another_order_is_not_gone_on_from(tmp_path: Path) -> None:
    same = {"seed": 5, "shuffle_buffer": 4, "videos_per_step": 2}
    state = sampler_state(11, "abc", 8, **same)
    assert (state["epoch"], state["position"]) == (1, 4)  # of 6 steps each
    checkpoint = str(tmp_path)
    check_sampler(checkpoint, None)
    assert "its run is not streaming" in refused(check_sampler, checkpoint, state)
    save_sampler(checkpoint, state)
    check_sampler(checkpoint, sampler_state(11, "abc", 0, **same))
    assert "its run is streaming; set it as there" in refused(check_sampler, checkpoint, None)
    for other, message in (
        (sampler_state(11, "abc", 0, **same | {"seed": 6}), "data_seed, seed: 6: "),
        (sampler_state(11, "abc", 0, **same | {"shuffle_buffer": 1000}), "shuffle_buffer: 1000: "),
        (sampler_state(11, "abd", 0, **same), "trains on 11 other videos, or in other shards"),
        (sampler_state(11, "abc", 0, **same | {"videos_per_step": 4}), "takes 2 videos a step .batch x .* this one 4"),
    ):
        with pytest.raises(InputError, match=message):
            check_sampler(checkpoint, other)


@pytest.mark.slow
def test_the_other_recipes_read_shards_too(tars: Path, parquets: Path, tmp_path: Path) -> None:
    options = {"streaming": "true", "validation_fraction": 0.3, "test_fraction": 0.2}
    finetune(dataset=parquets, output_dir=tmp_path / "run", **options, balanced_sampling="true", num_train_epochs=1)
    common = {"model": tmp_path / "run", "dataset": tars, "use_cpu": "true", **options}
    report = load_recipe("evaluate").main(words(**common, output_dir=tmp_path / "evaluated", split="validation"))
    assert report["metrics"]["validation"]["videos"] + report["metrics"]["validation"]["failed"] == 4
    load_recipe("extract_features").main(words(**common, output_dir=tmp_path / "features", num_workers=0))
    tables = [pq.read_table(path) for path in (tmp_path / "features").rglob("*.parquet")]
    assert sum(map(len, tables)) == 14
    tiny = {name: value for name, value in TINY.items() if name not in ("config_overrides", "num_train_epochs")}
    small = "{num_frames: 4, image_size: 32, patch_size: 16, hidden_size: 16, num_hidden_layers: 1, "
    small += "num_attention_heads: 2, intermediate_size: 32, decoder_hidden_size: 16, decoder_num_hidden_layers: 1, "
    small += "decoder_num_attention_heads: 2, decoder_intermediate_size: 32}"
    options |= {
        "max_steps": 2,
        "config_overrides": small,
        "shuffle_buffer": 3,
        "save_steps": 1,
        "save_strategy": "steps",
    }
    load_recipe("pretrain").main(words(**tiny | options, dataset=tars, output_dir=tmp_path / "pretrained"))
    assert json.loads((tmp_path / "pretrained" / "checkpoint-1" / "sampler.json").read_text())["videos"] == 7


# Prepared datasets


@pytest.mark.slow
def test_a_prepared_dataset_of_tars_is_that_of_parquet_files(tmp_path: Path, folder: Path, capsys: Any) -> None:
    lines = ["video,labels,split,group,fold"]
    for number, labels in enumerate(["run|jump", "run", "jump", "jump"]):
        split = "validation" if number == 3 else "train"
        lines.append(f"{number:04}.mp4,{labels},{split},g{number},{number}")
    (Path(shutil.copytree(folder / "cat", tmp_path / "cat")) / "videos.csv").write_text("\n".join(lines))
    options = {
        "dataset": tmp_path / "cat" / "videos.csv",
        "short_side": 16,
        "videos_per_shard": 2,
        "num_proc": 1,
        "num_frames": 4,
    }
    for container in ("parquet", "webdataset"):
        load_recipe("prepare_data").main(words(**options, container=container, output_dir=tmp_path / container))
    assert "--streaming" in capsys.readouterr().out.splitlines()[-1]
    files = sorted(path.name for path in (tmp_path / "webdataset" / "data").iterdir())
    assert files == ["train-00000-of-00002.tar", "train-00001-of-00002.tar", "validation-00000-of-00001.tar"]
    read = load_videos(str(tmp_path / "parquet"))
    for container in ("parquet", "webdataset"):
        streamed = load_videos(str(tmp_path / container), streaming=True)
        for split, part in read.items():
            rows = streamed[split]
            assert [content(row) for row in rows] == [row["video"]["bytes"] for row in part]
            for name in ("labels", "video_id", "group", "fold", "start_seconds"):
                assert rows[name][:] == part[name][:] and rows.features[name] == part.features[name]
    plain = load_dataset(str(tmp_path / "webdataset"), cache_dir=str(tmp_path / "cache"))
    plain = plain.cast_column("mp4", Video(decode=False))
    assert [row["json"]["labels"] for row in plain["train"]] == [["run", "jump"], ["run"], ["jump"]]
    assert plain["train"][2]["mp4"]["bytes"] == read["train"][2]["video"]["bytes"]
    with pytest.raises(InputError, match="was prepared with container: webdataset, not parquet"):
        load_recipe("prepare_data").main(words(**options, output_dir=tmp_path / "webdataset"))


# The Hub


def folder_files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["tars", "parquets"])
def test_shards_on_the_hub(hub: HubServer, kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(kind)
    hub.add_dataset("tester/shards", folder_files(source), private=True)
    rows = load_videos("tester/shards", streaming=True)["train"]
    here = load_videos(str(source), streaming=True)["train"]
    commit = hub.repos["datasets/tester/shards"].commits[-1].oid
    assert rows[0]["shard"].startswith(f"hf://datasets/tester/shards@{commit}/train-00000")
    assert rows["video_id"][:] == here["video_id"][:] and fingerprint(rows) == fingerprint(here)
    assert [content(row) for row in rows] == [content(row) for row in here]
    assert not list(Path(os.environ["HF_HOME"]).rglob("*.tar")), "nothing is fetched"
    # Each worker has a connection of its own
    clips, local = TrainingClips(rows, CLIP), TrainingClips(here, CLIP)
    loader = DataLoader(clips, batch_size=1, sampler=[(0, row) for row in range(4)], collate_fn=collate, num_workers=2)
    for row, batch in enumerate(loader):
        assert torch.equal(batch["pixel_values"][0], local[0, row]["pixel_values"])


def test_a_streamed_video_is_one_request(hub: HubServer, tars: Path) -> None:
    hub.add_dataset("tester/shards", folder_files(tars))
    rows = load_videos("tester/shards", streaming=True)["train"]
    scanned = hub.count("GET .*/resolve/")
    assert scanned <= 14 + 3, "one a video, which holds its label as well, and one a shard"
    content(rows[0])
    before = len(hub.requests)
    for row in (1, 5, 13):
        content(rows[row])
    assert len(hub.requests) - before == 3
    before = hub.count("GET .*/resolve/")
    load_videos("tester/shards", streaming=True)
    assert hub.count("GET .*/resolve/") == before, "the index is kept"


def test_what_cannot_be_streamed_from_the_hub(hub: HubServer, tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_line_error("tester/none: can't be listed"):
        load_videos("tester/none", streaming=True)
    hub.add_dataset("tester/files", {"train/cat/1.mp4": b"x", "train/dog/1.mp4": b"x"})
    with one_line_error("tester/files: has no .tar and .parquet shards"):
        load_videos("tester/files", streaming=True)
    hub.add_dataset("tester/shards", folder_files(tars))
    rows = load_videos("tester/shards", streaming=True)["train"]
    hub.fail("GET .*/resolve/", 404)
    with pytest.raises(RunError, match="dataset: hf://.*train-00000.tar: can't be read any more"):
        content(rows[0])
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with one_line_error("HF_HUB_OFFLINE is set"):
        load_videos("tester/shards", streaming=True)


# Bad input

VIDEO, GOOD = b"x" * 100, [*sample("a", b"x", label="c"), *sample("b", b"x", label="d")]

BAD_MEMBERS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no label": ([*GOOD, ("c/1.mp4", VIDEO)], "train.tar: c/1.mp4 has no label; write it into the .json or .cls"),
    "null": ([*GOOD, *sample("c", VIDEO, label=None)], "train.tar: c.mp4 has no label"),
    "empty label": ([*GOOD, ("1.mp4", VIDEO), ("1.cls", b" \n")], "train.tar: 1: label is ''; give a name"),
    "fraction": ([*GOOD, *sample("c", VIDEO, label=0.5)], "train.tar: c: label is 0.5; give a name or a whole number"),
    "list": ([*GOOD, *sample("c", VIDEO, label=["a"])], "c: label is ['a']; .* or several under `labels`"),
    "label and labels": ([*GOOD, *sample("c", VIDEO, labels=["c"])], "a.mp4 has no labels, but `label`"),
    "labels twice": ([*sample("c", VIDEO, labels=["a", "a"])], "c: labels is ['a', 'a']; name each label once"),
    "label alone": ([*GOOD, ("c.json", b"{}")], "train.tar: c: has a label and no video"),
    "label of a picture": ([*GOOD, ("c.jpg", b"x"), ("c.cls", b"1")], "train.tar: c: has a label and no video"),
    "no JSON": ([*GOOD, ("c.mp4", VIDEO), ("c.json", b"{label: 1}")], "c: its .json can't be read (Expecting"),
    "deep JSON": ([*GOOD, ("c.mp4", VIDEO), ("c.json", b"[" * 100_000)], "c: its .json can't be read"),
    "no object": ([*GOOD, ("c.mp4", VIDEO), ("c.json", b"3")], 'c: its .json holds no object; write {"label"'),
    "no text": ([*GOOD, ("c.mp4", VIDEO), ("c.cls", b"\xff")], "c: its .cls can't be read ('utf-8'"),
    "large label": ([*GOOD, ("c.mp4", VIDEO), ("c.cls", b"1" * 2_000_000)], "c: its .cls has 2000000 bytes"),
    "twice": ([*GOOD, ("a.mp4", VIDEO)], "train.tar: a: has more than one video"),
    "two endings": ([*GOOD, ("a.avi", VIDEO)], "train.tar: a: has more than one video"),
    "two labels": ([*GOOD, ("a.json", b"{}")], "train.tar: a: has more than one json"),
    "no videos": ([("a.txt", b"x")], "train.tar: holds no videos"),
    "empty": ([], "train.tar: holds no videos"),
    "start": ([*GOOD, *sample("c", VIDEO, label="c", start_seconds="x")], "c: start_seconds is 'x'; give seconds"),
    "end": (
        [*sample("c", VIDEO, label="c", start_seconds=2, end_seconds=1)],
        "c: end_seconds is 1; give a time after",
    ),
    "fold": ([*sample("c", VIDEO, label="c", fold=-1)], "c: fold is -1; give a whole number"),
    "one class": (sample("c", VIDEO, label="c"), "has one class only, 'c'"),
    "name of no letters": ([*GOOD, ("\udcff.mp4", VIDEO)], "train.tar: \ufffd.mp4 has no label"),
    "half a letter": ([*GOOD, *sample("c", VIDEO, label="\ud800")], "c: its .json can't be read ('utf-8'"),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_members_that_cannot_be_trained_on(tmp_path: Path, name: str) -> None:
    members, message = BAD_MEMBERS[name]
    write_tar(tmp_path / "train.tar", members)
    with one_line_error(*message.split(" .* ")):
        load_videos(str(tmp_path), streaming=True)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda tar: b"", "can't be read as a tar (empty file)"),
    "text": (lambda tar: b"no tar at all" * 100, "can't be read as a tar"),
    "compressed": (gzip.compress, "can't be read as a tar"),
    "a header cut": (lambda tar: tar[:300], "can't be read as a tar (truncated header)"),
    "a later header cut": (lambda tar: tar[:2700], "can't be read as a tar (unexpected end of data)"),
    "a video cut": (lambda tar: tar[:600], "can't be read as a tar (unexpected end of data)"),
    "cut between members": (lambda tar: tar[:2048], "can't be read as a tar (its end is missing)"),
    "a header overwritten": (lambda tar: tar[:1024] + b"?" * 512 + tar[1536:], "has no header of a tar at byte 1024"),
    "two joined": (lambda tar: tar + tar, "has no header of a tar at byte 4096"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tars_that_are_broken(tmp_path: Path, name: str) -> None:
    broken, message = BROKEN[name]
    tar = write_tar(tmp_path / "train.tar", GOOD)
    tar.write_bytes(broken(tar.read_bytes()))
    with one_line_error(f"dataset: {tar}: ", message):
        load_videos(str(tmp_path), streaming=True)


def test_members_that_lead_elsewhere_are_no_more_than_bytes(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    tar = tmp_path / "shards" / "train.tar"
    write_tar(tar, [*sample("../../secret", b"inside", label="a"), *sample("/etc/passwd", b"as well", label="b")])
    rows = load_videos(str(tar.parent), streaming=True)["train"]
    assert [content(row) for row in rows] == [b"inside", b"as well"] and secret.read_bytes() == b"secret"
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    assert len(load_videos(str(tar.parent), streaming=True)["train"]) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["secret.mp4", "shards", "train.tar"]


def test_parquet_shards_that_cannot_be_trained_on(tmp_path: Path, folder: Path) -> None:
    file, videos = tmp_path / "train.parquet", sorted(folder.rglob("*.mp4"))[::7]
    file.write_bytes(b"PAR1 but no Parquet")
    with one_line_error(f"dataset: {file}: can't be read ("):
        load_videos(str(tmp_path), streaming=True)
    pq.write_table(pa.table({"video": ["a.mp4"], "label": ["x"]}), file)
    with one_line_error(f"dataset: {file}: has no column of type Video (it has video, label)"):
        load_videos(str(tmp_path), streaming=True)
    parquet_rows(videos).remove_columns("label").to_parquet(file)
    with one_line_error("has no column of labels (it has video)"):
        load_videos(str(tmp_path), streaming=True)
    parquet_rows(videos).select([]).to_parquet(file)
    with one_line_error("holds no videos"):
        load_videos(str(tmp_path), streaming=True)
    part = parquet_rows(videos)
    part.add_column("caption", ["a", "b"]).cast_column("label", Value("string")).to_parquet(file)
    assert load_videos(str(tmp_path), streaming=True)["train"].features["label"].names == ["0", "1"]
    paths = [{"path": str(path), "bytes": None} for path in videos]
    Dataset.from_dict({"video": paths, "label": [0, 1]}, features=part.features).to_parquet(file)
    rows = load_videos(str(tmp_path), streaming=True)["train"]
    with one_line_error(f"dataset: {file}: video 1 of row group 0 is a path"):
        content(rows[1])


def test_what_streaming_does_not_take(tmp_path: Path, folder: Path, tars: Path, parquets: Path) -> None:
    for dataset in (str(folder), str(tmp_path / "no*"), str(tmp_path / "videos.csv")):
        with one_line_error(f"{dataset}: has no .tar and .parquet shards", "leave it out for anything else"):
            load_videos(dataset, streaming=True)
    both = shutil.copytree(tars, tmp_path / "both")
    shutil.copy(next(parquets.iterdir()), both)
    with one_line_error("has both .tar and .parquet shards"):
        load_videos(f"{both}/*", streaming=True)
    odd = shutil.copytree(tars, tmp_path / "odd")
    shutil.copy(odd / "train-00000.tar", odd / "holdout.tar")
    (odd / "README.md").write_text("# Odd videos\n")
    with one_line_error(f"{odd}/holdout.tar: names no split"):
        load_videos(str(odd), streaming=True)
    for options, message in (
        ({"revision": "v1"}, "dataset_revision: v1 goes with a dataset of the Hub"),
        ({"group_column": "site"}, "split_by_group: 'site' goes with Parquet shards"),
    ):
        assert message in refused(load_videos, str(tars), streaming=True, **options)
    assert "dataset_config: x goes with" in refused(load_videos, f"{tars}/*.tar", streaming=True, config="x")
    with one_line_error(f"{tars}: holds tar shards; add --streaming"):
        load_videos(str(tars))
    with one_line_error(f"{tars}/*.tar: is a tar, or names several; add --streaming"):
        load_videos(f"{tars}/*.tar")


def test_options_that_do_not_go_with_streaming(tars: Path) -> None:
    from vidtune.arguments import parse

    sections, prepare = load_recipe("finetune").SECTIONS, load_recipe("prepare_data").SECTIONS
    model = ["--config_name", "videomae", "--streaming", "--dataset", str(tars)]
    for argv, message in (
        (["--config_name", "videomae", "--shuffle_buffer", "5"], "shuffle_buffer: 5 goes with streaming"),
        (
            [*model, "--dataset_format", "folder"],
            "dataset_format: folder: streaming reads tar and Parquet shards only",
        ),
        ([*model, "--split_number", "2"], "split_number: 2: streaming reads"),
        ([*model, "--dataset", "demo"], "streaming: dataset: demo is drawn on this disk"),
        ([*model, "--shuffle_buffer", "0"], "shuffle_buffer: got 0"),
        (
            ["--config_name", "bert", "--streaming", "--task", "text-classification", "--text_column", "title"],
            "streaming: ",
        ),
    ):
        assert message in refused(parse, argv, "A recipe.", sections)
    assert "streaming: a prepared dataset is made of files" in refused(
        parse, ["--streaming", "--dataset", str(tars)], "A recipe.", prepare, training=False
    )


def test_splits_and_groups_are_made_as_of_any_dataset(tars: Path) -> None:
    splits, description = load_splits(str(tars), seed=0, streaming=True, validation_fraction=0.3, test_fraction=0.2)
    assert isinstance(splits, DatasetDict) and {name: len(part) for name, part in splits.items()} == {
        "train": 7,
        "validation": 4,
        "test": 3,
    }
    assert description["splits"]["train"]["groups"] == 7
    ids = [video_id for part in splits.values() for video_id in part["video_id"]]
    assert len(set(ids)) == 14 and PADDING == -1
