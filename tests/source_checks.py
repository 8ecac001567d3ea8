"""What tests of sources share: files to list, and what rows and errors must look like."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import ClassLabel, DatasetDict, Features, List, Value, Video

from vidtune.errors import InputError


def touch(root: Path, *names: str) -> Path:
    """Empty files: a source lists videos, it does not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str, name: str = "videos.csv", videos: str = "a.mp4 b.mp4 c.mp4") -> Path:
    touch(root, *videos.split())
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def split_and_label(videos: DatasetDict) -> dict[str, tuple[str, str]]:
    """Split and label of each video, by its id."""
    return {
        row["video_id"]: (split, part.features["label"].int2str(row["label"]))
        for split, part in videos.items()
        for row in part
    }


@contextmanager
def one_line_error(*words: str) -> Iterator[None]:
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and message.startswith("dataset: ")
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


def assert_rows(videos: DatasetDict, labels: list[str], column: str = "label", folds: bool = False) -> None:
    """The contract that all stations lean on."""
    assert isinstance(videos, DatasetDict) and "train" in videos
    classes = ClassLabel(names=labels)
    ids = []
    for part in videos.values():
        assert part.features == Features(
            {
                "video": Video(decode=False),
                column: List(classes) if column == "labels" else classes,
                "video_id": Value("string"),
                "group": Value("string"),
                "start_seconds": Value("float64"),
                "end_seconds": Value("float64"),
            }
            | ({"fold": Value("int64")} if folds else {})
        )
        for row in part:
            assert set(row["video"]) == {"bytes", "path"} and row["group"]
            ids.append(row["video_id"])
    assert len(set(ids)) == len(ids)


def write(path: Path, text: str) -> Path:
    """A text file, and its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path
