"""The report that people look at: one HTML file that needs nothing beside it, no network either."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm  # type: ignore[import-untyped]

from vidtune.card import without_secrets
from vidtune.errors import VideoError
from vidtune.evaluation.charts import Line, line_chart, percent
from vidtune.evaluation.gallery import cards, common_folder, gallery_rows
from vidtune.evaluation.report import to_json
from vidtune.evaluation.summary import SCORES, classes, confusion, curves, scored_split, tiles, unit
from vidtune.evaluation.thumbnails import animated_thumbnail
from vidtune.training.checkpoints import write_text

MOST_FAILED = 100

SHORTCUTS = {
    "normal": "As it is",
    "shuffled": "Frames shuffled",
    "reversed": "Frames reversed",
    "frozen": "One frame, repeated",
    "majority": "No video: the most frequent label",
}


def write_page(
    output_dir: Path,
    report: Mapping[str, Any],
    predictions: pa.Table | None,
    videos: Dataset | None = None,
    decoder: str = "auto",
) -> None:
    """Write `report.html` into the folder of a run.

    Args:
        output_dir: The folder.
        report: What `report.json` holds.
        predictions: Of the scored split, as of `vidtune.evaluation.predictions`; None shows no videos.
        videos: The rows of that split, in the order of `predictions`; None shows no pictures of them.
        decoder: `auto`, `torchcodec` or `pyav`.
    """
    thumbnails = {}
    rows = [] if predictions is None or videos is None else gallery_rows(predictions)
    for row in tqdm(rows, desc="report.html: pictures", unit="video", leave=False, disable=None):
        try:
            thumbnails[videos[row]["video_id"]] = animated_thumbnail(videos[row], decoder)  # type: ignore[index]
        except VideoError:
            continue  # it was scored, from other frames: its card stands without a picture
    write_text(output_dir / "report.html", report_page(report, predictions, thumbnails))


def report_page(report: Mapping[str, Any], predictions: pa.Table | None, thumbnails: Mapping[str, bytes]) -> str:
    """Render a report as one self-contained HTML page; secrets and the path of the home folder are taken out.

    Args:
        report: What `report.json` holds; what it lacks is left out of the page.
        predictions: Of the scored split (see `scored_split`), as of `vidtune.evaluation.predictions`, or None.
        thumbnails: WebP by `video_id`, of any videos.
    """
    plain = json.loads(without_secrets(to_json(report)))
    split = scored_split(plain)
    scores = plain["metrics"].get(split) or {}
    folder = Path(__file__).parent
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    script, style = Markup(script), Markup(style)  # nosec B704 # our own files
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "yaml": _yaml, "tojson_plain": _one_line}
    page = environment.get_template("page.html").render(
        report=plain,
        split=split,
        scores=scores,
        title=_title(plain),
        tiles=tiles(scores),
        score_names=SCORES,
        curves=training(plain.get("history") or []),
        classes=classes(scores),
        confusion=confusion(scores, plain["labels"]),
        confidence=confidence(scores),
        unit=unit(scores),
        shortcuts=[(title, plain["shortcuts"][key]) for key, title in SHORTCUTS.items() if key in plain["shortcuts"]]
        if plain.get("shortcuts")
        else [],
        videos=None if predictions is None else cards(predictions, thumbnails),
        folder="" if predictions is None else without_secrets(common_folder(predictions)),
        failed=[(name, video) for name, part in plain["data"].items() for video in part["failed"]],
        most_failed=MOST_FAILED,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name may hold what is no character


def share(value: float | None, digits: int = 1) -> str:
    """Write a share as a percentage; a dash for none."""
    return "-" if value is None else f"{100 * value:.{digits}f}\u202f%".replace("100.0", "100")


def training(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw the course of a training run, from the Trainer's log."""
    drawn = []
    for title, lines in curves(history).items():
        end = max(x for line in lines for x, _ in line.points)
        axes: dict[str, Any] = {"x_range": (0.0, end)}
        if title.startswith("Scores"):
            axes |= {"y_range": (0.0, 1.0), "y_number": percent}
        chart = line_chart(lines, "epoch", title, **axes)
        drawn.append({"title": title, "chart": chart, "lines": [line.name for line in lines]})
    return drawn


def confidence(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Draw how far the probabilities can be believed: reliability before and after calibration, and abstaining."""
    drawn = []
    calibration = scores.get("calibration") or {}
    lines = []
    for key, name in (("after", "calibrated"), ("before", "as trained")):
        bins = [part for part in (calibration.get(key) or {}).get("bins", []) if part["videos"]]
        if bins:
            most = max(part["videos"] for part in bins)
            notes = [
                f"{name}: {part['videos']} {unit(scores)} of probability {share(part['confidence'])}, "
                f"right on {share(part['accuracy'])}"
                for part in bins
            ]
            radii = [2.5 + 5 * math.sqrt(part["videos"] / most) for part in bins]
            lines.append(Line(name, [(part["confidence"], part["accuracy"]) for part in bins], notes, radii))
    axes: dict[str, Any] = {"x_number": percent, "y_number": percent}
    if lines:
        chart = line_chart(lines, "probability given", "right", x_range=(0, 1), y_range=(0, 1), diagonal=True, **axes)
        drawn.append({"title": "Reliability", "chart": chart, "lines": [line.name for line in lines]})
    steps = [step for step in scores.get("coverage") or [] if step["accuracy"] is not None]
    if len(steps) > 1:
        notes = [
            f"above {share(step['threshold'])}: answers on {share(step['coverage'])} of the {unit(scores)}, "
            f"right on {share(step['accuracy'])} of these"
            for step in steps
        ]
        line = Line("accuracy", [(step["coverage"], step["accuracy"]) for step in steps], notes, [2.5] * len(steps))
        low = math.floor(min(step["accuracy"] for step in steps) * 10) / 10
        ends: dict[str, Any] = {"x_range": (0, 1), "y_range": (min(low, 0.9), 1)}
        chart = line_chart([line], f"{unit(scores)} answered", "right", **ends, **axes)
        drawn.append({"title": "Answering only when sure", "chart": chart, "lines": []})
    return drawn


def _title(report: Mapping[str, Any]) -> str:
    """Name the model and the dataset, by the last part of their paths."""
    model, config = report.get("model") or {}, report.get("config") or {}
    names = [model.get("name_or_path") or config.get("model") or model.get("type"), config.get("dataset")]
    return " on ".join(Path(str(name)).name for name in names if name) or "Predictions of several runs"


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _one_line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
