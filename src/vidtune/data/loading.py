"""From what names a dataset to its splits."""

from typing import Any

from datasets import DatasetDict

from vidtune.data.sources import load_videos
from vidtune.data.splits import describe_split, few_of_each_label, group_by_pattern, split_videos


def load_splits(
    dataset: str,
    dataset_format: str = "auto",
    *,
    seed: int,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    split_number: int = 1,
    split_by_group: str | None = None,
    group_pattern: str | None = None,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    folds: int | None = None,
    fold: int | None = None,
    allow_leakage: bool = False,
    labelled: bool = True,
    videos_per_label: int | None = None,
    text_column: str | None = None,
    video_root: str | None = None,
    streaming: bool = False,
) -> tuple[DatasetDict, dict[str, Any]]:
    """Load the videos of a dataset, group and split them: the same splits for the same arguments.

    The arguments are the options of those names; see `load_videos`, `group_by_pattern`, `split_videos` and
    `few_of_each_label`. Without labels no videos are kept for a test.

    Returns:
        Rows by split, and what a report says of the split.

    Raises:
        InputError: If there is no such dataset, or it can't be split so.
    """
    videos = load_videos(
        dataset,
        dataset_format,
        config=dataset_config,
        revision=dataset_revision,
        split_number=split_number,
        group_column=split_by_group,
        labelled=labelled,
        text_column=text_column,
        video_root=video_root,
        streaming=streaming,
    )
    videos = group_by_pattern(videos, group_pattern)
    shares = validation_fraction, test_fraction if labelled else 0.0
    splits = split_videos(videos, *shares, seed, folds=folds, fold=fold, allow_leakage=allow_leakage)
    if videos_per_label:
        splits["train"] = few_of_each_label(splits["train"], videos_per_label, seed)
    return splits, describe_split(videos, splits, seed, fold)
