"""Datasets of the Hub, local copies of them, and prepared datasets."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import json
import os
import socket
import time
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, Video
from huggingface_hub import constants

from hub_server import Blob, Commit, HubServer, hub  # noqa: F401
from source_checks import assert_rows, one_line_error, split_and_label
from video_files import counting_frames, frame_indices, write_video
from vidtune.data import hub_dataset
from vidtune.data.clips import open_row
from vidtune.data.rows import to_dataset
from vidtune.data.sources import load_videos
from vidtune.errors import InputError


def num_frames(videos: DatasetDict) -> dict[str, int]:
    """Decode every video: brightness tells which one it is."""
    found = {}
    for part in videos.values():
        for row in part:
            with open_row(row, "pyav") as video:
                found[row["video_id"]] = frame_indices(video.frames_at([0.0]), 8)[0]
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Real videos by path, each of one grey by which it is known: 0, 1, 2, ..."""
    folder = tmp_path_factory.mktemp("clips")
    names = ["train/cat/a.mp4", "train/cat/b.mp4", "train/dog/a.mp4", "test/cat/a.mp4", "test/dog/a.mp4"]
    frames = counting_frames(8)
    for index, name in enumerate(names):
        write_video(folder / name, frames[[index] * 3])
    return {name: (folder / name).read_bytes() for name in names}


def as_dataset(clips: dict[str, bytes], split: str, label: Any = None, video: str = "video") -> Dataset:
    rows = [name.split("/") for name in clips if name.startswith(split)]
    names = [name for _, name, _ in rows]
    columns = {
        video: [{"path": "/".join(row[1:]), "bytes": clips["/".join(row)]} for row in rows],
        "label": [["cat", "dog"].index(name) for name in names] if isinstance(label, ClassLabel) else names,
    }
    features = Features({video: Video(), "label": label or Value("string")})
    return Dataset.from_dict(columns, features=features)


def parquet(part: Dataset) -> bytes:
    sink = pyarrow.BufferOutputStream()
    part.to_parquet(sink)
    return sink.getvalue().to_pybytes()


def parquet_files(clips: dict[str, bytes], **kwargs: Any) -> dict[str, bytes]:
    return {
        f"data/{split}-00000-of-00001.parquet": parquet(as_dataset(clips, split, **kwargs))
        for split in ("train", "test")
    }


def test_a_folder_of_videos_on_the_hub(hub: HubServer, clips: dict[str, bytes]) -> None:
    hub.add_dataset("tester/clips", {**clips, "README.md": b"# Clips\n"})
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert split_and_label(videos) == {
        "train/0": ("train", "cat"),
        "train/1": ("train", "cat"),
        "train/2": ("train", "dog"),
        "test/0": ("test", "cat"),
        "test/1": ("test", "dog"),
    }
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}


@pytest.mark.parametrize("label", [ClassLabel(names=["cat", "dog"]), ClassLabel(names=["cat", "dog", "bird"]), None])
def test_a_parquet_with_videos_on_the_hub(hub: HubServer, clips: dict[str, bytes], label: ClassLabel | None) -> None:
    hub.add_dataset("tester/clips", parquet_files(clips, label=label, video="clip"))
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])  # a class without videos is none
    assert {video_id: label for video_id, (_, label) in split_and_label(videos).items()} == {
        "train/0": "cat",
        "train/1": "cat",
        "train/2": "dog",
        "test/0": "cat",
        "test/1": "dog",
    }
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}
    assert videos["train"][0]["video"]["bytes"] == clips["train/cat/a.mp4"]


def test_a_dataset_pushed_by_the_library_itself(hub: HubServer, clips: dict[str, bytes]) -> None:
    classes = ClassLabel(names=["cat", "dog"])
    DatasetDict({split: as_dataset(clips, split, label=classes) for split in ("train", "test")}).push_to_hub(
        "tester/clips"
    )
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert num_frames(videos) == {"train/0": 0, "train/1": 1, "train/2": 2, "test/0": 3, "test/1": 4}


def test_groups_and_spans_of_a_dataset_on_the_hub(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train")
    part = part.add_column("group", [7, 0, None]).add_column("start_seconds", [1, None, 2])
    part = part.add_column("video_id", ["x", "x", "x"]).add_column("caption", ["a", "b", "c"])
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    videos = load_videos("tester/clips")
    assert_rows(videos, ["cat", "dog"])
    assert list(videos["train"]["group"]) == ["7", "0", "train/2"]
    assert list(videos["train"]["start_seconds"]) == [1.0, None, 2.0]


def test_bytes_of_videos_stay_on_the_disk(hub: HubServer) -> None:
    size, count = 2**20, 8
    rows = {"video": [{"path": None, "bytes": os.urandom(size)} for _ in range(count)], "label": list("ab") * 4}
    part = Dataset.from_dict(rows, features=Features({"video": Video(), "label": Value("string")}))
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    load_videos("tester/clips")  # fetches and converts
    allocated = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    videos = load_videos("tester/clips")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(videos["train"][3]["video"]["bytes"]) == size
    assert pyarrow.total_allocated_bytes() - allocated < size
    assert peak < count * size / 2


def test_a_copy_of_a_dataset_in_a_folder(tmp_path: Path, clips: dict[str, bytes]) -> None:
    for name, content in parquet_files(clips).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    videos = load_videos(str(tmp_path))
    assert_rows(videos, ["cat", "dog"])
    assert num_frames(videos)["test/1"] == 4


def test_folders_of_one_name_and_a_folder_written_again_are_not_taken_for_each_other(tmp_path: Path) -> None:
    def write(folder: Path, *ids: str) -> Path:
        part = rows(video=list(ids), label=["c", "d"], video_id=list(ids))
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "train-00000-of-00001.parquet").write_bytes(parquet(part))
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
        )
        return folder

    one, two = write(tmp_path / "one" / "prepared", "a", "b"), write(tmp_path / "two" / "prepared", "c", "d")
    assert list(load_videos(str(one))["train"]["video_id"]) == ["a", "b"]
    assert list(load_videos(str(two))["train"]["video_id"]) == ["c", "d"]
    write(one, "e", "f")
    assert list(load_videos(str(one))["train"]["video_id"]) == ["e", "f"]


def rows(**columns: list[Any]) -> Dataset:
    features: dict[str, Any] = {name: Video() for name in columns if name in ("video", "camera_1", "camera_2")}
    columns |= {name: [{"path": None, "bytes": text.encode()} for text in columns[name]] for name in features}
    features |= {"class": ClassLabel(names=["cat", "dog"])} if "class" in columns else {}
    part = Dataset.from_dict(columns)
    for name, feature in features.items():
        part = part.cast_column(name, feature)
    return part


BAD_DATASETS = {
    "no video": ({"train": rows(text=["a"], label=["b"])}, ["has no column of type Video (it has text, label)"]),
    "no label": ({"train": rows(video=["a"], name=["b"])}, ["has no column of labels (it has video, name)"]),
    "two cameras": (
        {"train": rows(camera_1=["a"], camera_2=["b"], label=["c"])},
        ["several columns of type Video and none is called video"],
    ),
    "no train": ({"test": rows(video=["a", "b"], label=["c", "d"])}, ["has no split `train`"]),
    "unknown split": (
        {"train": rows(video=["a"], label=["b"]), "holdout": rows(video=["a"], label=["b"])},
        ["has a split 'holdout'"],
    ),
    "one class": ({"train": rows(video=["a"], label=["c"])}, ["has one class only, 'c'"]),
    "hidden labels": (
        {"train": rows(video=["a", "b"], **{"class": [0, 1]}), "test": rows(video=["c"], **{"class": [-1]})},
        ["test/0 has no label"],
    ),
    "no label in a row": ({"train": rows(video=["a", "b", "c"], label=["c", "d", None])}, ["train/2 has no label"]),
    "lists of labels": (
        {"train": rows(video=["a"], label=[["c", "d"]])},
        ["label of train/0 is ['c', 'd']; several labels stand in a column `labels`"],
    ),
    "no label among labels": ({"train": rows(video=["a"], labels=[["c", None]])}, ["train/0 has no label"]),
    "no labels": ({"train": rows(video=["a", "b"], labels=[["c", "d"], None])}, ["train/1 has no label"]),
    "no fold": (
        {"train": rows(video=["a", "b"], label=["c", "d"], fold=[0, None])},
        ["fold of train/1 is None; give a whole number"],
    ),
}


@pytest.mark.parametrize("problem", BAD_DATASETS)
def test_datasets_on_the_hub_that_cannot_be_trained_on(hub: HubServer, problem: str) -> None:
    splits, words = BAD_DATASETS[problem]
    header = [{"split": split, "path": f"{split}.parquet"} for split in splits]
    card = f"---\nconfigs: {json.dumps([{'config_name': 'default', 'data_files': header}])}\n---\n"
    files = {f"{split}.parquet": parquet(part) for split, part in splits.items()}
    hub.add_dataset("tester/clips", {**files, "README.md": card.encode()})
    with one_line_error("tester/clips", *words):
        load_videos("tester/clips")


def test_a_dataset_that_the_hub_does_not_have(hub: HubServer) -> None:
    with one_line_error("tester/nothing: can't be loaded (", "404", "hf download tester/nothing --repo-type dataset"):
        load_videos("tester/nothing")
    assert hub.requests == ["GET /api/datasets/tester/nothing"]  # asked once


def test_a_private_dataset_is_read_with_the_token_alone(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_dataset("tester/clips", clips, private=True)
    assert len(load_videos("tester/clips")["train"]) == 3
    monkeypatch.delenv("HF_TOKEN")
    with one_line_error("tester/clips: can't be loaded (", "401"):
        load_videos("tester/clips")


def test_without_a_network_the_error_comes_soon(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
        started = time.monotonic()
        with one_line_error("user/clips: can't be loaded (", "HF_HUB_OFFLINE=1", "hf download user/clips"):
            load_videos("user/clips")
    assert time.monotonic() - started < 3


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub_dataset, "HUB_TIMEOUT_SECONDS", 0.3)
        started = time.monotonic()
        with one_line_error("user/clips: can't be loaded (timed out)"):
            load_videos("user/clips")
    assert time.monotonic() - started < 3


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_a_dataset_loaded_before_works_offline(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    hub.add_dataset("tester/clips", clips if layout == "folder" else parquet_files(clips))
    online = load_videos("tester/clips")
    asked = len(hub.requests)
    go_offline(monkeypatch)
    offline = load_videos("tester/clips")
    assert len(hub.requests) == asked
    assert [list(part) for part in offline.values()] == [list(part) for part in online.values()]
    assert num_frames(offline)["test/1"] == 4


def test_a_dataset_never_loaded_fails_offline_at_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    started = time.monotonic()
    with one_line_error("tester/clips: can't be loaded (", "hf download tester/clips"):
        load_videos("tester/clips")
    assert time.monotonic() - started < 1 and not hub.requests


# Configurations and revisions


def configured(clips: dict[str, bytes], *names: str, default: str | None = None) -> dict[str, bytes]:
    """A dataset of several configurations, each with a video fewer than the one before."""
    part = as_dataset(clips, "train")
    files = {
        f"{name}/train.parquet": parquet(part.select(range(number, len(part)))) for number, name in enumerate(names)
    }
    entries = [
        {"config_name": name, "data_files": f"{name}/*.parquet"} | ({"default": True} if name == default else {})
        for name in names
    ]
    return {**files, "README.md": f"---\nconfigs: {json.dumps(entries)}\n---\n".encode()}


def test_a_dataset_of_several_configurations(hub: HubServer, clips: dict[str, bytes]) -> None:
    hub.add_dataset("tester/clips", configured(clips, "large", "small"))
    assert len(load_videos("tester/clips", config="large")["train"]) == 3
    assert len(load_videos("tester/clips", config="small")["train"]) == 2
    with pytest.raises(InputError) as caught:
        load_videos("tester/clips")
    assert str(caught.value) == "dataset_config: missing; tester/clips has several, give one of large, small"
    with pytest.raises(InputError) as caught:
        load_videos("tester/clips", config="tiny")
    assert str(caught.value) == "dataset_config: tester/clips has no 'tiny'; give one of large, small"


def test_the_default_configuration_need_not_be_named(hub: HubServer, clips: dict[str, bytes]) -> None:
    hub.add_dataset("tester/clips", configured(clips, "large", "small", default="small"))
    assert len(load_videos("tester/clips")["train"]) == 2


def test_a_configuration_of_a_local_copy(tmp_path: Path, clips: dict[str, bytes]) -> None:
    for name, content in configured(clips, "large", "small").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert len(load_videos(str(tmp_path), config="small")["train"]) == 2
    with pytest.raises(InputError, match="has several, give one of large, small"):
        load_videos(str(tmp_path))


def add_commit(hub: HubServer, files: dict[str, bytes]) -> list[str]:
    """Put a second commit onto tester/clips; returns the ids of both."""
    commits = hub.repos["datasets/tester/clips"].commits
    commits.append(Commit("Change files", commits[-1].oid, {name: Blob(data, True) for name, data in files.items()}))
    return [commit.oid for commit in commits]


def test_a_revision_is_the_one_that_is_read(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train")
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    first, second = add_commit(hub, {"data/train.parquet": parquet(part.select([0, 2]))})
    assert len(load_videos("tester/clips")["train"]) == 2
    assert len(load_videos("tester/clips", revision=first)["train"]) == 3
    assert len(load_videos("tester/clips", revision=second)["train"]) == 2
    assert len(load_videos("tester/clips", revision="main")["train"]) == 2
    assert any(f"/{first}" in request for request in hub.requests)
    with pytest.raises(InputError, match="^dataset_revision: v9: is no branch, tag or commit of tester/clips"):
        load_videos("tester/clips", revision="v9")


def test_what_is_read_is_the_commit_that_was_looked_up(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(as_dataset(clips, "train"))})
    asked = []
    load_dataset = hub_dataset.load_dataset

    def listen(*arguments: Any, **options: Any) -> Any:
        asked.append(options["revision"])
        return load_dataset(*arguments, **options)

    monkeypatch.setattr(hub_dataset, "load_dataset", listen)
    load_videos("tester/clips", revision="main")
    assert asked == [hub.repos["datasets/tester/clips"].commits[-1].oid]


def test_without_a_network_no_other_revision_takes_its_place(
    hub: HubServer, clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = as_dataset(clips, "train")
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    first, second = add_commit(hub, {"data/train.parquet": parquet(part.select([0, 2]))})
    load_videos("tester/clips")
    go_offline(monkeypatch)
    assert len(load_videos("tester/clips", revision=second)["train"]) == 2
    with pytest.raises(
        InputError, match=f"dataset_revision: {first}: the cache holds tester/clips at {second}; unset"
    ):
        load_videos("tester/clips", revision=first)


def test_a_fetch_that_fails_is_not_made_up_for_by_an_older_copy(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train")
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    load_videos("tester/clips")
    first, second = add_commit(hub, {"data/train.parquet": parquet(part.select([0, 2]))})
    hub.fail(f"/resolve/{second}", 403)
    with one_line_error(f"can't be fetched at {second}, and the cache holds tester/clips at {first}; try again"):
        load_videos("tester/clips")


# What a dataset says of its videos


@pytest.mark.parametrize("classes", [None, ["sit", "run", "jump"]])
def test_several_labels_of_a_video(hub: HubServer, clips: dict[str, bytes], classes: list[str] | None) -> None:
    labels: list[list[Any]] = [["run", "jump"], ["sit"], []]
    part = as_dataset(clips, "train").remove_columns("label").add_column("labels", labels)
    part = part.cast_column("labels", List(ClassLabel(names=classes))) if classes else part
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    videos = load_videos("tester/clips")
    assert_rows(videos, ["jump", "run", "sit"], column="labels")
    assert list(videos["train"]["labels"]) == [[1, 0], [2], []]


def test_a_column_labels_of_single_labels(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train", label=ClassLabel(names=["cat", "dog"])).rename_column("label", "labels")
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    assert_rows(load_videos("tester/clips"), ["cat", "dog"])


def test_any_column_may_tell_the_group(hub: HubServer, clips: dict[str, bytes]) -> None:
    part = as_dataset(clips, "train").add_column("patient", [7, 8, 7])
    hub.add_dataset("tester/clips", {"data/train.parquet": parquet(part)})
    assert list(load_videos("tester/clips", group_column="patient")["train"]["group"]) == ["7", "8", "7"]
    with pytest.raises(
        InputError, match=r"split_by_group: 'group' is no column of tester/clips \(it has video, label"
    ):
        load_videos("tester/clips", group_column="group")


def test_a_prepared_dataset_keeps_what_its_rows_say(tmp_path: Path, clips: dict[str, bytes]) -> None:
    source = [
        {"video": {"path": None, "bytes": data}, "label": label, "split": "train", "video_id": name, "group": "home"}
        for name, label, data in zip(
            ("x/1.mp4", "y 2.mp4#1-2", "3"), ("dog", "cat", "dog"), clips.values(), strict=False
        )
    ]
    made = to_dataset([row | {"fold": number} for number, row in enumerate(source)], "source")
    (tmp_path / "data").mkdir()
    made["train"].to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("# Prepared\n")
    (tmp_path / "preparation.json").write_text("{}")
    videos = load_videos(str(tmp_path))
    assert_rows(videos, ["cat", "dog"], folds=True)
    assert list(videos["train"]) == list(made["train"])
    assert num_frames(videos) == {"x/1.mp4": 0, "y 2.mp4#1-2": 1, "3": 2}


def test_ids_that_are_not_unique_over_the_splits_are_made(tmp_path: Path) -> None:
    for split in ("train", "test"):
        part = rows(video=["a", "b"], label=["c", "d"], video_id=["1", "2"])
        (tmp_path / f"{split}.parquet").write_bytes(parquet(part))
    videos = load_videos(str(tmp_path))
    assert [list(part["video_id"]) for part in videos.values()] == [["train/0", "train/1"], ["test/0", "test/1"]]
