"""Which videos a reader of a report should see: confident mistakes, uncertain ones, some of each confusion."""

import base64
import os.path
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vidtune.evaluation.predictions import label_order, to_arrays

EXAMPLES = 3
"""Most videos of a cell of the confusion matrix that are shown for its sake."""


class Gallery(NamedTuple):
    """Rows of the predictions, each list with the most telling first; none of them failed.

    Attributes:
        mistakes: Wrong predictions, the most confident first.
        uncertain: Predictions, right or wrong, the least certain first.
        examples: Some of each cell of the confusion matrix, cells of mistakes first.
    """

    mistakes: list[int]
    uncertain: list[int]
    examples: list[int]

    def rows(self) -> list[int]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.mistakes, *self.uncertain, *self.examples]))


def gallery_rows(predictions: pa.Table, most: int = 60) -> list[int]:
    """Choose the videos to show, each once; see `choose`."""
    return choose(predictions, most).rows()


def choose(predictions: pa.Table, most: int = 60) -> Gallery:
    """Choose the videos to show.

    A single label's confidence is its probability. Where a video may have several labels, a mistake is as confident
    as the probability of its worst label is far from the truth, and a prediction as certain as the probability of
    its label nearest to 0.5 is far from that.

    Args:
        predictions: As of `vidtune.evaluation.predictions`.
        most: Most videos; a third of them may be mistakes, and a third uncertain ones.
    """
    rows = np.flatnonzero(~predictions["failed"].to_numpy())
    probabilities, labels = (values[rows] for values in to_arrays(predictions))
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    if labels.ndim == 2:
        wrong = ((probabilities > 0.5) != labels).any(1)
        confidence, certainty = np.abs(probabilities - labels).max(1), np.abs(probabilities - 0.5).min(1)
    else:
        predicted = probabilities.argmax(1)
        wrong, confidence = predicted != labels, probabilities.max(1)
        certainty = confidence
        for index in np.argsort(-confidence, kind="stable"):
            cells[int(labels[index]), int(predicted[index])].append(int(rows[index]))
    mistakes = [int(rows[index]) for index in np.argsort(-confidence, kind="stable") if wrong[index]][: most // 3]
    uncertain = rows[np.argsort(certainty, kind="stable")][: most // 3].tolist()
    ordered = sorted(cells, key=lambda cell: (cell[0] == cell[1], -len(cells[cell])))
    examples = [cells[cell][depth] for depth in range(EXAMPLES) for cell in ordered if depth < len(cells[cell])]
    shown = {*mistakes, *uncertain}
    return Gallery(mistakes, uncertain, [row for row in examples if row not in shown][: most - len(shown)])


def cards(predictions: pa.Table, thumbnails: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Gather what the page shows of each video of the gallery.

    Args:
        predictions: As of `choose`.
        thumbnails: WebP by `video_id`; of any videos, or none.

    Returns:
        By video `path` (below what all share, see `common_folder`), `right`, `true` and `predicted` (lists of names
        and their probabilities), `cell` (numbers of both, of a single label), the places among the `mistake`s and the
        `uncertain` ones, or None, and `image`, a data URI or None.
    """
    gallery, names = choose(predictions), label_order(predictions)
    several = pa.types.is_list(predictions.schema.field("label").type)
    folder = common_folder(predictions)
    number = {name: index for index, name in enumerate(names)}
    shown = []
    for row in gallery.rows():
        video = {name: predictions[name][row].as_py() for name in predictions.column_names}
        true, predicted = ([*video[key]] if several else [video[key]] for key in ("label", "prediction"))
        image = thumbnails.get(video["video_id"])
        shown.append(
            {
                "path": video["path"].removeprefix(folder) or video["video_id"],
                "right": set(true) == set(predicted),
                "true": [(name, video["probabilities"][number[name]]) for name in true],
                "predicted": [(name, video["probabilities"][number[name]]) for name in predicted],
                "cell": None if several else (number[true[0]], number[predicted[0]]),
                "mistake": gallery.mistakes.index(row) if row in gallery.mistakes else None,
                "uncertain": gallery.uncertain.index(row) if row in gallery.uncertain else None,
                "image": image and f"data:image/webp;base64,{base64.b64encode(image).decode()}",
            }
        )
    return shown


def common_folder(predictions: pa.Table) -> str:
    """Name the folder that holds every video, with a slash at its end; empty where there is none."""
    folders = [path.rpartition("/")[0] for path in predictions["path"].to_pylist()]
    try:
        folder = os.path.commonpath(folders)
    except ValueError:  # none, or some from the root and some not
        return ""
    return f"{folder}/" if folder.strip("/") else ""
