"""A dataset of the Hub, or a copy of one in a folder, or a prepared dataset, as rows."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    List,
    Value,
    Video,
    concatenate_datasets,
    get_dataset_config_names,
    load_dataset,
)
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name

from vidtune.data.files import inside
from vidtune.data.rows import SPLITS, UNLABELLED, class_label, video_features
from vidtune.errors import InputError, first_line

HUB_TIMEOUT_SECONDS = 3.0


def read_hub(
    name: str,
    config: str | None = None,
    revision: str | None = None,
    group_column: str | None = None,
    labelled: bool = True,
    text_column: str | None = None,
    video_root: Path | None = None,
) -> DatasetDict:
    """Load a dataset with a `Video` column from the Hub, or from a folder that holds a copy.

    Videos that are bytes stay in the files of the cache: they are never all in memory. Columns `video_id`, `group`,
    `fold`, `start_seconds` and `end_seconds` are kept.

    Args:
        name: Id on the Hub, or a folder.
        config: Which of its configurations.
        revision: Branch, tag or commit on the Hub; what is read is the commit that it names now.
        group_column: The column that names the group; `group`, where there is one, by default.
        labelled: Whether labels are read; else a column of videos will do.
        text_column: The column that holds a text of each video; None: none is read.
        video_root: Folder that videos lie below whose paths the dataset has, instead of their bytes, and that these
            are relative to; None: the folder, or the dataset's part of the cache.

    Raises:
        InputError: If it can't be reached, or has no such configuration, or no column of videos or of labels.
    """
    splits = _load(name, config, revision)
    features = next(iter(splits.values())).features
    video, label = hub_columns(features, name, labelled)
    for field, column in (("split_by_group", group_column), ("text_column", text_column)):
        if column and column not in features:
            raise InputError(
                f"{field}: {column!r} is no column of {name} (it has {', '.join(features)}); name one of them"
            )
    if text_column and features[text_column] not in (Value("string"), Value("large_string")):
        raise InputError(f"text_column: {text_column!r} of {name} holds no texts; name a column of strings")
    ids = _video_ids(splits)
    parts: dict[str, list[Dataset]] = {}
    columns: list[dict[str, list[Any]]] = []
    named: list[tuple[Any, str, str]] = []
    for split, part in splits.items():
        if split.lower() not in SPLITS:
            raise InputError(f"dataset: {name}: has a split {split!r}; only train, validation and test are known")
        columns.append(hub_values(part, label, group_column or "group", ids[split], name))
        if text_column:
            columns[-1]["text"] = _hub_texts(part, text_column, ids[split], name)
        names = zip(columns[-1]["label"], ids[split], strict=True)
        named += [(text, SPLITS[split.lower()], video_id) for text, video_id in names]
    classes = class_label(named, name, least=2 if labelled else 1)
    of_label = "labels" if label and isinstance(features[label], List) else "label"
    wanted = video_features(classes, of_label, folds="fold" in features, texts=bool(text_column))
    for (split, part), values in zip(splits.items(), columns, strict=True):
        values[of_label] = [classes.str2int(text) for text in values.pop("label")]
        part = part.select_columns([video]).cast_column(video, Video(decode=False)).rename_columns({video: "video"})
        part = _with_paths_inside(part, f"dataset: {name}: {split}", video_root or _own_folder(name))
        for column in [name for name in wanted if name != "video"]:
            part = part.add_column(column, values[column], feature=wanted[column])
        parts.setdefault(SPLITS[split.lower()], []).append(part)
    order = sorted(parts, key=list(SPLITS.values()).index)
    return DatasetDict({split: concatenate_datasets(parts[split]) for split in order})


def _load(name: str, config: str | None, revision: str | None) -> DatasetDict:
    """Load the splits of a dataset, at a commit that is known."""
    is_folder, commit = Path(name).is_dir(), revision
    try:
        if not (datasets.config.HF_HUB_OFFLINE or is_folder):
            # load_dataset would try an unreachable Hub again and again for half a minute
            commit = HfApi().dataset_info(name, revision=revision, expand=["sha"], timeout=HUB_TIMEOUT_SECONDS).sha
        splits = load_dataset(name, config, revision=commit, cache_dir=_cache_of(Path(name)) if is_folder else None)
    except RevisionNotFoundError:
        raise InputError(
            f"dataset_revision: {revision}: is no branch, tag or commit of {name}; give another, or leave it out"
        ) from None
    except Exception as error:  # every library below raises its own
        check_config(name, config, commit, error)
        if is_folder:
            raise InputError(f"dataset: {name}: can't be loaded ({first_line(error)}); mend its files") from None
        raise InputError(
            f"dataset: {name}: can't be loaded ({first_line(error)}); if it is private, run `hf auth login`; without "
            "a network, set HF_HUB_OFFLINE=1 if it was loaded here before, or fetch it elsewhere and give the folder: "
            f"hf download {name} --repo-type dataset --local-dir FOLDER"
        ) from None
    # Where the Hub can't be asked, load_dataset takes whatever its cache holds, of any commit.
    cached = {Path(file["filename"]).parent.name for part in splits.values() for file in part.cache_files}
    if commit and not is_folder and cached != {commit}:
        held = f"the cache holds {name} at {', '.join(sorted(cached))}"
        if datasets.config.HF_HUB_OFFLINE:
            raise InputError(f"dataset_revision: {revision}: {held}; unset HF_HUB_OFFLINE to fetch it, or give that")
        raise InputError(
            f"dataset: {name}: can't be fetched at {commit}, and {held}; "
            "try again, or set HF_HUB_OFFLINE=1 to read that"
        )
    return splits


def _own_folder(name: str) -> Path:
    """The folder that holds the files of a dataset: its own, or that of the client's cache."""
    if Path(name).is_dir():
        return Path(name)
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))


def _with_paths_inside(part: Dataset, where: str, root: Path) -> Dataset:
    """Check that the videos of a split that are paths, not bytes, lie below a folder, which they are relative to.

    Of bytes only whether they are there is looked at. The path beside them is a name, and never opened.
    """
    chunks = part.data.column("video").chunks
    if not any(chunk.field("bytes").null_count for chunk in chunks):
        return part
    paths: list[str | None] = []
    for chunk in chunks:
        pairs = zip(chunk.field("bytes").is_valid().to_pylist(), chunk.field("path").to_pylist(), strict=True)
        paths += [None if has_bytes else path or "" for has_bytes, path in pairs]
    for row, path in enumerate(paths, start=1):
        if not path:
            reason = "is neither bytes nor a path" if path == "" else "is bytes, and others are paths"
            raise InputError(f"{where}: row {row}: video {reason}; mend the dataset")
    joined = [inside(str(path), root, f"{where}: row {row}") for row, path in enumerate(paths, start=1)]
    if joined == paths:
        return part
    return Dataset.from_dict({"video": joined}).cast_column("video", Video(decode=False))


def _cache_of(folder: Path) -> str:
    """A cache for one folder as it is now: datasets takes folders of one name for the same dataset."""
    files = [(str(path), path.stat()) for path in [*sorted(folder.rglob("*.parquet")), *folder.glob("README.md")]]
    state = [str(folder.resolve()), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "folders" / digest)


def check_config(name: str, config: str | None, commit: str | None, error: Exception) -> None:
    """Raise an error that lists the configurations, if that is what a dataset could not be loaded for."""
    if not isinstance(error, ValueError):
        return
    try:
        configs = get_dataset_config_names(name, revision=commit)
    except Exception:  # the first error says more
        return
    if config is None and "Config name is missing" in str(error):
        raise InputError(f"dataset_config: missing; {name} has several, give one of {', '.join(configs)}") from None
    if config is not None and config not in configs:
        raise InputError(f"dataset_config: {name} has no {config!r}; give one of {', '.join(configs)}") from None


def hub_columns(features: Features, name: str, labelled: bool) -> tuple[str, str | None]:
    """Which columns hold the videos and the labels; None where labels are not read."""
    videos = [column for column, feature in features.items() if isinstance(feature, Video)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if "label" in features:
        labels = ["label"]
    elif isinstance(features.get("labels"), List):
        labels = ["labels"]
    found: list[str] = []
    for word, candidates in (("video", videos), ("label", labels))[: 2 if labelled else 1]:
        if word in candidates:
            candidates = [word]
        if len(candidates) != 1:
            kind = "of type Video" if word == "video" else "of labels"
            problem = (
                f"has several columns {kind} and none is called {word}" if candidates else f"has no column {kind}"
            )
            raise InputError(
                f"dataset: {name}: {problem} (it has {', '.join(features)}); "
                "choose another, or list its videos in a table"
            )
        found += candidates
    return found[0], found[1] if labelled else None


def _hub_texts(part: Dataset, column: str, ids: list[str], name: str) -> list[str]:
    texts = ["" if text is None else text.strip() for text in part[column][:]]
    for video_id, text in zip(ids, texts, strict=True):
        if not text:
            raise InputError(f"dataset: {name}: {column} of {video_id} is empty; fill it in, or leave the video out")
    return texts


def _video_ids(splits: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """The ids that a dataset gives its videos, if these are unique, else split and number."""
    if all("video_id" in part.column_names for part in splits.values()):
        ids = {split: [str(video_id) for video_id in part["video_id"][:]] for split, part in splits.items()}
        if len({video_id for part in ids.values() for video_id in part}) == sum(map(len, ids.values())):
            return ids
    return {split: [f"{split}/{number}" for number in range(len(part))] for split, part in splits.items()}


def hub_values(part: Dataset, label: str | None, group: str, ids: list[str], name: str) -> dict[str, list[Any]]:
    """What a row says of its video, by column of ours, the label as text; videos are not read."""

    def read(column: str) -> list[Any]:
        if column not in part.column_names:
            return [None] * len(part)
        values: list[Any] = part[column][:]
        return values

    feature, folds = part.features[label] if label else Value("string"), read("fold")
    labels = read(label) if label else [UNLABELLED] * len(part)
    several = label == "labels" and isinstance(feature, List)
    of_one = feature.feature if several else feature
    for video_id, value, fold in zip(ids, labels, folds, strict=True):
        values = value if several and value is not None else [value]
        if any(one is None or (isinstance(of_one, ClassLabel) and one < 0) for one in values):
            raise InputError(f"dataset: {name}: {video_id} has no label; choose another, or leave its split out")
        if any(isinstance(one, list | dict) for one in values):
            raise InputError(
                f"dataset: {name}: label of {video_id} is {value!r}; several labels stand in a column `labels`"
            )
        if "fold" in part.column_names and not isinstance(fold, int):
            raise InputError(f"dataset: {name}: fold of {video_id} is {fold!r}; give a whole number")
    to_text = of_one.int2str if isinstance(of_one, ClassLabel) else str
    return {
        "label": [[to_text(one) for one in value] if several else to_text(value) for value in labels],
        "video_id": ids,
        "group": [video_id if value is None else str(value) for video_id, value in zip(ids, read(group), strict=True)],
        "start_seconds": read("start_seconds"),
        "end_seconds": read("end_seconds"),
        "fold": folds,
    }
