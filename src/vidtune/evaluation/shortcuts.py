"""Whether a model needs what a video has and a picture has not: the same videos with their frames in another order."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidtune.errors import InputError
from vidtune.evaluation.intervals import accuracy_interval, paired_difference
from vidtune.evaluation.metrics import is_right, most_frequent
from vidtune.evaluation.scoring import Scores

FRAME_ORDERS = ("shuffled", "reversed", "frozen")
"""Of the frames of a clip: at random, the same for all clips of a video; backwards; the middle one only."""


def frame_order(order: str, num_frames: int, video_id: str) -> NDArray[np.int64]:
    """Say which frame of a clip stands in which place.

    Args:
        order: `normal`, or one of FRAME_ORDERS.
        num_frames: Frames of the clip, >= 1.
        video_id: The video, which alone decides how its frames are shuffled.

    Returns:
        Indices into the clip, `(num_frames,)`.
    """
    if order == "reversed":
        return np.arange(num_frames - 1, -1, -1)
    if order == "frozen":
        return np.full(num_frames, num_frames // 2)
    if order == "shuffled":
        return np.random.default_rng(zlib.crc32(video_id.encode())).permutation(num_frames)
    return np.arange(num_frames)


def use_of_time(scores: Mapping[str, Scores], groups: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Say what the order of frames does to a model.

    Args:
        scores: Of the same N videos, of `normal` and of each of FRAME_ORDERS.
        groups: What group each video is of, `(N,)`.
        names: Names of the labels, in order.

    Returns:
        Each of the names of `scores`, and `majority` (the most frequent label as the answer for every video), with its
        `accuracy`, `interval`, and, but for `normal`, by how much `normal` is better: `difference` and
        `difference_interval`, paired by video; and a `conclusion` in words. Only videos count that were scored each
        time.

    Raises:
        InputError: If there is none.
    """
    kept = ~np.any([found.failed for found in scores.values()], axis=0)
    if not kept.any():
        raise InputError("shortcuts: no video of the split can be decoded; mend the dataset")
    right = {name: is_right(found.probabilities[kept], found.labels[kept]) for name, found in scores.items()}
    labels, groups = scores["normal"].labels[kept], [group for group, keep in zip(groups, kept, strict=True) if keep]
    answer, right["majority"] = most_frequent(labels, names)
    table: dict[str, Any] = {}
    for name, values in right.items():
        table[name] = {"accuracy": float(values.mean()), "interval": accuracy_interval(values, groups)}
        if name != "normal":
            gain = paired_difference(right["normal"], values, groups)
            table[name] |= {"difference": gain["difference"], "difference_interval": gain["interval"]}
    return table | {"conclusion": _conclusion(table, answer)}


def _conclusion(table: Mapping[str, Any], majority_label: str) -> str:
    def matters(name: str) -> bool:
        return bool(table[name]["difference_interval"][0] > 0)

    def by_how_much(name: str) -> str:
        low, high = table[name]["difference_interval"]
        return f"{table[name]['difference']:.3f} [{low:.3f}, {high:.3f}]"

    if table["majority"]["difference_interval"] is None:
        return "All videos are of one group: nothing can be said."
    if not matters("majority"):
        return (
            f"Nothing can be said about time: the model is not shown to be better than {majority_label!r} for every "
            f"video; the difference is {by_how_much('majority')}."
        )
    order = [name for name in ("shuffled", "reversed") if matters(name)]
    if order:
        falls = " and ".join(f"by {by_how_much(name)} with frames {name}" for name in order)
        return f"The model uses the order of the frames: its accuracy falls {falls}."
    if matters("frozen"):
        return (
            "The model uses several frames, but it is not shown to use their order: its accuracy falls by "
            f"{by_how_much('frozen')} with one frame, and not surely with frames shuffled or reversed."
        )
    return (
        "The model is not shown to use time: its accuracy does not surely fall with one frame in place of all; the "
        f"difference is {by_how_much('frozen')}."
    )
