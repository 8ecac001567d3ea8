"""Pictures for a model card, which is Markdown and shows no page: training curves, confusion matrix, labels."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vidtune.evaluation.charts import Line
from vidtune.evaluation.summary import MOST_LABELS, classes, curves, scored_split
from vidtune.training.checkpoints import write_bytes

RIGHT, WRONG, THIRD, INK, SOFT, RULE = "#1a6d87", "#c2492a", "#80762b", "#1e1c19", "#6a655c", "#e6e1d7"
"""The colours of the page in the light; they stand on white, whatever the theme of the reader."""

STYLES: list[dict[str, Any]] = [
    {"color": RIGHT},
    {"color": WRONG, "linestyle": (0, (4, 2))},
    {"color": THIRD, "linestyle": (0, (1, 2))},
]


def card_pictures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw what there is to draw of a report.

    Args:
        report: What `report.json` holds.

    Returns:
        PNG by file name: `curves.png` of a training run, and, of the split that the card is about and of at most
        MOST_LABELS, `per_class.png`, and `confusion.png` where a video has one label.
    """
    scores = report["metrics"].get(scored_split(report)) or {}
    charts, rows, matrix = curves(report.get("history") or []), classes(scores), scores.get("confusion_matrix")
    drawn = {"curves.png": draw_curves(charts)} if charts else {}
    if 0 < len(rows) <= MOST_LABELS:
        drawn["per_class.png"] = draw_classes(rows, "F1" if matrix else "average precision")
        if matrix:
            drawn["confusion.png"] = draw_confusion(matrix, report["labels"])
    return {name: to_png(figure) for name, figure in drawn.items()}


def write_pictures(output_dir: Path, report: Mapping[str, Any]) -> list[str]:
    """Write the pictures of `card_pictures` into a folder; returns their names."""
    pictures = card_pictures(report)
    for name, content in pictures.items():
        write_bytes(output_dir / name, content)
    return list(pictures)


def draw_curves(charts: Mapping[str, Sequence[Line]]) -> Figure:
    """Draw the lines of each chart over epochs, side by side."""
    figure = Figure(figsize=(3.4 * len(charts), 2.7), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts.items(), strict=True):
        for line, style in zip(lines, STYLES, strict=False):
            axes.plot(*zip(*line.points, strict=True), label=line.name, linewidth=1.8, **style)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel("epoch", fontsize=9, color=SOFT)
        axes.set_xlim(left=0)
        if title.startswith("Scores"):
            axes.set_ylim(0, 1.02)
        axes.grid(axis="y", color=RULE)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=SOFT)
        _plain(axes)
    return figure


def draw_classes(rows: Sequence[Mapping[str, Any]], score: str) -> Figure:
    """Draw a bar a label, the worst on top; `rows` as of `classes`."""
    figure = Figure(figsize=(7, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    values = [row["score"] or 0.0 for row in rows]
    axes.barh(range(len(rows)), [1.0] * len(rows), height=0.55, color=RULE)
    axes.barh(range(len(rows)), values, height=0.55, color=RIGHT)
    for place, row in enumerate(rows):
        text = f"{row['score']:.2f}" if row["support"] and row["score"] is not None else "no video"
        axes.text(1.02, place, text, va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), [_short(row["name"]) for row in rows], parse_math=False)
    axes.set_xlim(0, 1.12)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xticks([])
    axes.set_title(f"{score} of each label", loc="left", fontsize=10, fontweight="bold", color=INK)
    _plain(axes)
    return figure


def draw_confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Draw videos by true label (rows) and predicted label, coloured by their share of the row."""
    size = 1.8 + 0.42 * len(labels)
    figure = Figure(figsize=(size + 0.4, size), layout="constrained")
    axes = figure.subplots()
    right, wrong = (LinearSegmentedColormap.from_list(colour, ["white", colour]) for colour in (RIGHT, WRONG))
    shares = [[count / max(sum(row), 1) for count in row] for row in matrix]
    pixels = [
        [(right if true == other else wrong)(0.14 + 0.86 * share if share else 0.0) for other, share in enumerate(row)]
        for true, row in enumerate(shares)
    ]
    axes.imshow(pixels)
    for true, row in enumerate(matrix):
        for other, count in enumerate(row):
            if count:
                colour = "white" if shares[true][other] > 0.45 else INK
                axes.text(other, true, str(count), ha="center", va="center", fontsize=9, color=colour)
    names = [_short(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(labels)), names, parse_math=False)
    axes.set_xticks([place - 0.5 for place in range(1, len(labels))], minor=True)
    axes.set_yticks([place - 0.5 for place in range(1, len(labels))], minor=True)
    axes.grid(which="minor", color=RULE, linewidth=0.6)
    axes.set_xlabel("predicted", fontsize=9, color=SOFT)
    axes.set_ylabel("true", fontsize=9, color=SOFT)
    _plain(axes)
    return figure


def to_png(figure: Figure) -> bytes:
    """Write a figure as PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no font here has is drawn as boxes
        figure.savefig(file, format="png", dpi=110, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return file.getvalue()


def _plain(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=SOFT)
    axes.set_axisbelow(True)


def _short(label: str, most: int = 28) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"
