"""Two models on the same videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidtune.errors import InputError
from vidtune.evaluation.intervals import paired_difference
from vidtune.evaluation.predictions import read_predictions


def read_report(path: str) -> pa.Table:
    """Read the predictions that stand beside a report.

    Args:
        path: Folder of a run, its report.json, or its predictions.

    Raises:
        InputError: If there are none.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise InputError(f"compare: {file}: does not exist; give the folder of a run, or its report.json")
    try:
        return read_predictions(file.parent if file.suffix == ".json" else file)
    except InputError as error:
        raise InputError(f"compare: {str(error).removeprefix('predictions: ')}") from None


def compare(ours: pa.Table, theirs: pa.Table, name: str) -> dict[str, Any]:
    """Compare the accuracies of two models on the videos that both scored.

    Args:
        ours: Predictions of the first model, as of `predictions_table`.
        theirs: Predictions of the second.
        name: What to call the second.

    Returns:
        `with` (name), `videos` (how many both scored), `only_here` and `only_there` (ids of those that one of them
        didn't score), and `difference`, `interval` and `p_value`, as of `paired_difference`.

    Raises:
        InputError: If no video was scored by both, or one has another label there.
    """
    here, there = _scored(ours), _scored(theirs)
    check_overlap(list(here), theirs, name)
    both = [video_id for video_id in here if video_id in there]
    for video_id in both:
        label, other = here[video_id]["label"], there[video_id]["label"]
        if _names(label) != _names(other):
            raise InputError(
                f"compare: {name}: {video_id} is labelled {other} there and {label} here; compare on one dataset"
            )
    right, other_right = (np.array([_is_right(rows[video_id]) for video_id in both]) for rows in (here, there))
    return {
        "with": name,
        "videos": len(both),
        "only_here": sorted(here.keys() - there.keys()),
        "only_there": sorted(there.keys() - here.keys()),
        **paired_difference(right, other_right, [here[video_id]["group"] for video_id in both]),
    }


def check_overlap(video_ids: Sequence[str], theirs: pa.Table, name: str) -> None:
    """Check that a model scored some of these videos.

    Raises:
        InputError: If it scored none.
    """
    if not _scored(theirs).keys() & set(video_ids):
        raise InputError(f"compare: {name}: scored none of these videos; give a report on the same split")


def _scored(table: pa.Table) -> dict[str, dict[str, Any]]:
    rows = table.select(["video_id", "group", "label", "prediction", "failed"]).to_pylist()
    return {row["video_id"]: row for row in rows if not row["failed"]}


def _is_right(row: dict[str, Any]) -> bool:
    return _names(row["label"]) == _names(row["prediction"])


def _names(label: str | list[str]) -> set[str]:
    return {label} if isinstance(label, str) else set(label)
