r"""Predict the labels of videos with a fine-tuned model.

    python recipes/predict.py --model outputs/mine --input video.mp4
    python recipes/predict.py --model user/name --input my_videos 'more/**/*.mp4' --output labels.csv

What long videos show and when: a table of windows, one of segments beside it, and a picture of each video:

    python recipes/predict.py --model outputs/mine --input long.mp4 --output timeline.csv \
        --window_seconds 2 --stride_seconds 1

With an output, the same command goes on where an earlier run stopped, adds what is new, and tries again what failed.
The exit code is 1 if any video failed.
"""

import csv
import glob
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.arguments import parse
from vidtune.errors import InputError, exit_code
from vidtune.evaluation.journal import Journal, check_output, write_table
from vidtune.options import PredictArguments
from vidtune.printing import printable

if TYPE_CHECKING:
    from vidtune.evaluation.classifier import Classifier
    from vidtune.evaluation.inference import Part, VideoScores
    from vidtune.evaluation.timeline import Segment

SECTIONS = {"predict": PredictArguments}


def main(argv: list[str] | None = None) -> None:
    """Print or write the most probable labels of each video; exits with 1 if any could not be read."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv, __doc__, SECTIONS, training=("use_cpu",))
    options: PredictArguments = arguments.predict
    output = Path(options.output) if options.output else None
    if output:
        check_output(output, segments_file(output), options.overwrite)
    paths = find_videos(options.input)

    from transformers.utils import logging

    from vidtune.evaluation.classifier import load_predictor

    logging.disable_progress_bar()  # that of reading weights
    classifier = load_predictor(
        str(options.model),
        revision=options.model_revision,
        trust_remote_code=options.trust_remote_code,
        device="cpu" if arguments.training.get("use_cpu") else None,
        sampling=options.sampling,
        fps=options.fps,
        frame_stride=options.frame_stride,
    )
    if output is None:
        failed = print_labels(classifier, paths, options)
    else:
        with closing(Journal(output, what_rows_depend_on(classifier, options), options.overwrite)) as journal:
            failed = write_labels(classifier, paths, options, journal)
    if failed:
        command = shlex.join(["python", "recipes/predict.py", *argv])
        again = re.sub(r" --overwrite([ =]true\b)?", "", command)  # what is done stays
        line = f"failed:    {failed} of {len(paths)} videos; mend or remove them, then: {again}"
        print(printable(line), file=sys.stderr)
        sys.exit(1)


# Predicting


def print_labels(classifier: "Classifier", paths: list[Path], options: PredictArguments) -> int:
    """Print the most probable labels of each video, or its segments; returns how many videos failed."""
    from tqdm import tqdm

    failed = 0
    for scores in predict(classifier, paths, len(paths), options):
        if scores.error:
            failed += 1
            continue
        if options.window_seconds:
            found = [
                f"{part.start_seconds:g}-{part.end_seconds:g} s {part.label} {part.probability:.3f}"
                for part in segments(classifier, scores)
            ]
        else:
            best = ranked(scores.probabilities[0], options.top_k)
            found = [f"{classifier.labels[index]} {scores.probabilities[0][index]:.3f}" for index in best]
        tqdm.write(printable(f"{shown(scores.path)}: {', '.join(found)}"))
    return failed


def write_labels(classifier: "Classifier", paths: list[Path], options: PredictArguments, journal: Journal) -> int:
    """Predict what the journal lacks, and write the tables; returns how many videos failed."""
    left = [path for path in paths if not is_done(journal, path)]
    failed = 0
    for scores in predict(classifier, left, len(paths), options):
        failed += scores.error is not None
        tables = {"rows": rows(classifier, scores, options), "segments": []}
        if options.window_seconds and not scores.error:
            merged = segments(classifier, scores)
            tables["segments"] = [rounded({"video": shown(scores.path)} | part._asdict()) for part in merged]
            draw(picture_file(journal.output, scores.path), classifier, scores, merged)
        journal.add(shown(scores.path), None if scores.error else file_state(scores.path), tables)
    columns = table_columns(classifier, options)
    write_table(journal.output, journal.rows("rows"), columns)
    print(f"written:   {journal.output} ({len(left) - failed} videos new, {len(journal.entries)} in all)")
    if options.window_seconds:
        segment_columns = {
            name: columns[name] for name in ("video", "start_seconds", "end_seconds", "label", "probability")
        }
        write_table(segments_file(journal.output), journal.rows("segments"), segment_columns)
        print(f"segments:  {segments_file(journal.output)}")
        print(f"pictures:  {picture_file(journal.output, Path('*')).parent}")
    return failed


def predict(
    classifier: "Classifier", paths: list[Path], total: int, options: PredictArguments
) -> Iterator["VideoScores"]:
    """Score videos under a progress bar, and print why one fails."""
    from tqdm import tqdm

    from vidtune.data.isolation import available_cores
    from vidtune.evaluation.inference import predict_videos

    with tqdm(desc="predicting", total=total, initial=total - len(paths), unit="video", disable=None) as bar:

        def show(part: "Part") -> None:
            if options.window_seconds:
                bar.set_postfix_str(printable(f"{shown(paths[part.row].name)} {part.span[1]:.0f} s"))

        for scores in predict_videos(
            classifier,
            paths,
            batch_size=options.batch_size,
            num_workers=available_cores() if options.num_workers is None else options.num_workers,
            on_part=show,
            temporal_views=options.temporal_views,
            spatial_crops=options.spatial_crops,
            window_seconds=options.window_seconds,
            stride_seconds=options.stride_seconds,
            decoder=options.decoder,
        ):
            bar.update()
            if scores.error:
                tqdm.write(printable(f"{shown(scores.path)}: {scores.error}"), file=sys.stderr)
            yield scores


# Which videos


def find_videos(inputs: Iterable[str]) -> list[Path]:
    """List the videos that files, folders, patterns and lists name, each once.

    Raises:
        InputError: If one of them names none.
    """
    paths: list[Path] = []
    for name in inputs:
        path = Path(name).expanduser()
        if name == "-":
            paths += listed(sys.stdin.read().splitlines(), Path(), "standard input")
        elif path.is_dir():
            paths += videos_below(path)
        elif path.suffix.lower() in (".txt", ".csv") and path.exists():
            paths += read_list(path)
        elif path.exists():
            paths.append(path)
        elif glob.has_magic(name):
            paths += matching(str(path))
        else:
            raise InputError(f"input: {path}: does not exist; give a video or a folder of videos")
    return list(dict.fromkeys(paths))


def videos_below(folder: Path) -> list[Path]:
    """List the videos of a folder, at any depth."""
    from vidtune.data.files import list_videos, warn_left_out

    videos, others = list_videos(folder)
    if not videos:
        raise InputError(f"input: {folder}: holds no videos; give a folder that does")
    warn_left_out(folder, others, "are no videos")
    return [folder / video for video in videos]


def matching(pattern: str) -> list[Path]:
    """List the videos that a pattern matches, and those of the folders it matches; `**` is any depth."""
    from vidtune.data.files import is_video

    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    videos = [path for path in found if path.is_file() and is_video(path)]
    if not videos:
        videos = [video for path in found if path.is_dir() for video in videos_below(path)]
    if not videos:
        raise InputError(f"input: {pattern}: matches no video; mend the pattern, in which ** is any depth of folders")
    return videos


def read_list(path: Path) -> list[Path]:
    """List the videos of a text of one path a line, or of the column `video` of a table, relative to the file."""
    from vidtune.data.cells import from_cell

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        if path.suffix.lower() == ".txt":
            return listed(lines, path.parent, str(path))
        table = csv.DictReader(lines)
        columns = [name.strip() for name in table.fieldnames or ()]
        table.fieldnames = columns
        names = [from_cell(row.get("video") or "") for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"input: {path}: can't be read as text ({error}); give a list of paths") from None
    if "video" not in columns:
        raise InputError(f"input: {path}: column 'video' is missing (it has {', '.join(columns)}); add it")
    for name in ("start_seconds", "end_seconds"):
        if name in columns:
            raise InputError(
                f"input: {path}: column {name!r}: whole files are predicted; remove it, or cut the videos"
            )
    return listed(names, path.parent, str(path))


def listed(lines: Iterable[str], folder: Path, source: str) -> list[Path]:
    """Join the paths of a list with the folder that they are relative to; empty lines are passed over."""
    paths = [folder / Path(line.strip()).expanduser() for line in lines if line.strip()]
    if not paths:
        raise InputError(f"input: {source}: names no video; write one path a line")
    return paths


# What is written


def what_rows_depend_on(classifier: "Classifier", options: PredictArguments) -> dict[str, Any]:
    """Gather what a table must have been made with, for rows to be added to it."""
    names = ("top_k", "temporal_views", "spatial_crops", "window_seconds", "stride_seconds")
    return {
        "model": classifier.fingerprint,
        "list of labels": classifier.labels,
        "kind of labels": "several a video" if classifier.multi_label else "one a video",
        "clip": asdict(classifier.clip),
        "temperature": classifier.temperature,
        "normalisation": [classifier.image_mean, classifier.image_std],
        **{name: getattr(options, name) for name in names},
    }


def table_columns(classifier: "Classifier", options: PredictArguments) -> dict[str, type]:
    """Name the columns of the table, and their types."""
    columns: dict[str, type] = {"video": str}
    if options.window_seconds:
        columns |= {"start_seconds": float, "end_seconds": float}
    if classifier.multi_label:
        columns["labels"] = list
    for end in endings(min(options.top_k, len(classifier.labels))):
        columns |= {f"label{end}": str, f"probability{end}": float}
    return columns | {"error": str}


def rows(classifier: "Classifier", scores: "VideoScores", options: PredictArguments) -> list[dict[str, Any]]:
    """Make the rows of a video: one, or one a window; of one that failed, its error."""
    video = {"video": shown(scores.path)}
    if scores.error:
        return [video | {"error": shown(scores.error)}]
    made = []
    for (start, end), probabilities in zip(scores.spans, scores.probabilities, strict=True):
        row: dict[str, Any] = dict(video)
        if options.window_seconds:
            row |= {"start_seconds": start, "end_seconds": end}
        if classifier.multi_label:
            pairs = zip(classifier.labels, probabilities, strict=True)
            row["labels"] = [label for label, probability in pairs if probability > 0.5]
        best = ranked(probabilities, options.top_k)
        for suffix, index in zip(endings(len(best)), best, strict=True):
            row |= {f"label{suffix}": classifier.labels[index], f"probability{suffix}": probabilities[index]}
        made.append(rounded(row))
    return made


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Round to six digits behind the point: microseconds, and more than a probability is known to."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def endings(count: int) -> list[str]:
    """Tell the columns of the most probable label, of the second, and so on apart: label, label_2, ..."""
    return ["", *(f"_{place}" for place in range(2, count + 1))]


def ranked(probabilities: list[float], top_k: int) -> list[int]:
    """Rank the labels by probability: indices of the first ones."""
    return sorted(range(len(probabilities)), key=lambda index: -probabilities[index])[:top_k]


def segments(classifier: "Classifier", scores: "VideoScores") -> list["Segment"]:
    """Merge the windows of a video."""
    from vidtune.evaluation.timeline import merge_windows

    return merge_windows(scores.spans, scores.probabilities, classifier.labels, classifier.multi_label)


def draw(path: Path, classifier: "Classifier", scores: "VideoScores", merged: list["Segment"]) -> None:
    """Draw the timeline of a video."""
    from vidtune.evaluation.timeline import plot_timeline

    path.parent.mkdir(exist_ok=True)
    plot_timeline(path, shown(scores.path), scores.spans, scores.probabilities, classifier.labels, merged)


def segments_file(output: Path) -> Path:
    """Name the table of segments that belongs to an output."""
    return output.with_name(f"{output.stem}.segments{output.suffix}")


def picture_file(output: Path, video: Path) -> Path:
    """Name the picture of a video: two files of one name in different folders have two."""
    digest = hashlib.sha256(os.fsencode(video)).hexdigest()[:8]
    return output.with_name(f"{output.stem}.pictures") / f"{shown(video.stem)[:60]}-{digest}.png"


def shown(path: Path | str) -> str:
    """Write a path as text, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def file_state(path: Path) -> list[int] | None:
    """Size and time of a file, which change when it does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def is_done(journal: Journal, path: Path) -> bool:
    """Whether the journal has the labels of a file as it is now."""
    entry = journal.entries.get(shown(path))
    return entry is not None and entry.state is not None and entry.state == file_state(path)


if __name__ == "__main__":
    sys.exit(exit_code(main))
