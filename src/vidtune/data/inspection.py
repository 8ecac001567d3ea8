"""Inspection: every video decoded once, in processes of their own, and what must be looked at before training."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from datasets import Dataset, DatasetDict
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tqdm import tqdm  # type: ignore[import-untyped]

from vidtune.data.findings import (
    KINDS,
    Facts,
    Finding,
    count_classes,
    find_duplicates,
    findings_of_duplicates,
    findings_of_files,
    findings_of_groups,
)
from vidtune.data.isolation import Lost, available_cores, run_isolated
from vidtune.data.probe import FACTS, probe_file
from vidtune.printing import printable

MOST_CLASSES = 16
"""Classes that the table names."""

MOST_VALUES = 4
"""Values of a fact, and findings of a kind, that the tables name."""


def inspect_videos(
    videos: DatasetDict,
    *,
    num_frames: int = 16,
    time_limit_seconds: float = 120,
    num_proc: int | None = None,
    known: Mapping[str, Facts] | None = None,
    on_result: Callable[[str, Facts], None] | None = None,
) -> dict[str, Any]:
    """Look at every video, and at what they have in common.

    A file is decoded once, however many videos are spans of it.

    Args:
        videos: Rows by split, with columns `video`, `label` or `labels`, `video_id`, `group`, and optionally
            `start_seconds` and `end_seconds`.
        num_frames: Frames of a clip, >= 1; a video with fewer is a finding.
        time_limit_seconds: Longest that one file may take, > 0.
        num_proc: Worker processes, >= 1; None for one a core.
        known: Facts by `video_id` from a call that was interrupted, as `on_result` got them; those videos are not
            decoded again.
        on_result: Called in this process with `video_id` and facts of each video that is decoded.

    Returns:
        A mapping that JSON can hold: `files` (of each video, in the order of rows, what its row says and `FACTS`),
        `findings` (`path`, `kind`, one of `KINDS`, and `detail`; a healthy dataset has none), `classes` (the number of
        videos by label and split), `near_duplicates` (pairs of `video_id` that show the same, be it the same file).
    """
    places = [(split, place) for split, part in videos.items() for place in range(len(part))]
    rows = [row for split, part in videos.items() for row in _rows(part, split)]
    facts: dict[str, Facts] = {}
    todo = []
    for (split, place), row in zip(places, rows, strict=True):
        found = (known or {}).get(row["video_id"], {})
        if found.keys() >= set(FACTS):
            facts[row["video_id"]] = {name: found[name] for name in FACTS}
        else:
            todo.append((split, place, row))
    processes = min(num_proc or available_cores(), max(1, len(todo)))
    with (
        tqdm(total=len(rows), initial=len(rows) - len(todo), desc="inspecting", unit="video") as progress,
        closing(run_isolated(probe_file, _tasks(videos, todo), processes, time_limit_seconds)) as results,
    ):
        for of_file, result in results:
            if isinstance(result, Lost):
                lost = dict.fromkeys(FACTS) | {"error": result.detail, "problems": {result.kind: result.detail}}
                result = [lost] * len(of_file)
            for row, own in zip(of_file, result, strict=True):
                facts[row["video_id"]] = own
                if on_result:
                    on_result(row["video_id"], row | own)
            progress.update(len(of_file))
    files = [row | facts[row["video_id"]] for row in rows]
    duplicates = find_duplicates(files)
    return {
        "files": files,
        "findings": [
            *findings_of_files(files, num_frames),
            *findings_of_groups(files),
            *findings_of_duplicates(files, duplicates),
        ],
        "classes": count_classes(files),
        "near_duplicates": [[files[first]["video_id"], files[second]["video_id"]] for first, second, _ in duplicates],
    }


def _rows(part: Dataset, split: str) -> list[Facts]:
    """What the rows of a split say of their videos; bytes of videos are left where they are."""
    column = "labels" if "labels" in part.column_names else "label"
    feature = part.features[column]
    classes = feature.feature if column == "labels" else feature
    absent = [None] * len(part)
    columns = {
        name: part[name][:] if name in part.column_names else absent
        for name in ("video_id", column, "group", "start_seconds", "end_seconds")
    }
    if len(part) and part[0]["video"]["bytes"] is not None:  # whose path is a bare name, of several perhaps
        paths = columns["video_id"]
    else:
        paths = part.select_columns(["video"]).flatten().select_columns(["video.path"])["video.path"][:]
    return [
        {"video_id": video_id, "path": path, "split": split, column: classes.int2str(label)}
        | {"group": group, "start_seconds": start, "end_seconds": end}
        for path, video_id, label, group, start, end in zip(paths, *columns.values(), strict=True)
    ]


def _tasks(
    videos: DatasetDict, todo: list[tuple[str, int, Facts]]
) -> Iterator[tuple[list[Facts], tuple[str | bytes, list[tuple[float | None, float | None]]]]]:
    """The rows of each file, and the arguments of `probe_file`."""
    files: dict[str, list[tuple[str, int, Facts]]] = defaultdict(list)
    for split, place, row in todo:
        files[row["path"]].append((split, place, row))
    for path, of_file in files.items():
        spans = []
        for split, place, row in of_file:
            content = videos[split][place]["video"]["bytes"]
            if content is None:
                spans.append(row)
            else:
                yield [row], (content, [(row["start_seconds"], row["end_seconds"])])
        if spans:
            yield spans, (path, [(row["start_seconds"], row["end_seconds"]) for row in spans])


def print_inspection(result: Mapping[str, Any]) -> None:
    """Print what a dataset holds, and what of it must be looked at.

    Args:
        result: What `inspect_videos` returned.
    """
    files, findings = result["files"], result["findings"]
    console = Console(highlight=False)
    console.print(_class_table(result["classes"], files))
    console.print(_fact_table(files))
    console.print()
    for line in _finding_lines(findings):
        console.print(line, soft_wrap=True)
    console.print(f"findings: {len(findings)} in {len(files)} videos", style="bold")


def _class_table(classes: Mapping[str, Mapping[str, int]], files: Sequence[Facts]) -> Table:
    """How many videos of each class are in each split; of many classes the largest and the smallest."""
    parts: dict[str, list[Facts]] = defaultdict(list)
    for facts in files:
        parts[facts["split"]].append(facts)
    table = Table("class", *(Column(split, justify="right") for split in parts), box=box.SIMPLE_HEAD)
    rows = [
        (name, *(str(counts[split]) for split in parts))
        for name, counts in sorted(classes.items(), key=lambda item: -sum(item[1].values()))
    ]
    if len(rows) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        rows[half:-half] = [(f"({len(rows) - MOST_CLASSES} more)",)]
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    table.add_section()
    table.add_row("videos", *(str(len(part)) for part in parts.values()))
    table.add_row("groups", *(str(len({facts["group"] for facts in part})) for part in parts.values()))
    table.add_row("hours", *(f"{sum(facts['seconds'] or 0 for facts in part) / 3600:.2f}" for part in parts.values()))
    return table


def _fact_table(files: Sequence[Facts]) -> Table:
    """What the files are, and how many of each."""
    readable = [facts for facts in files if facts["error"] is None]
    table = Table(show_header=False, box=None)
    table.add_row("can be read", f"{len(readable)} of {len(files)}")
    values: Callable[[Facts], str]
    for title, values in (
        ("container", lambda facts: "/".join(facts["container"].split(",")[:2])),
        ("codec", lambda facts: str(facts["codec"])),
        ("size", lambda facts: f"{facts['width']} x {facts['height']}"),
        ("frames/s", lambda facts: f"{facts['fps']:.4g}" if facts["constant_rate"] else "variable"),
        ("turned by", lambda facts: f"{facts['rotation']} degrees"),
        ("video streams", lambda facts: str(facts["video_streams"])),
    ):
        counts = Counter(map(values, readable)).most_common()
        more = f", {len(counts) - MOST_VALUES} more" if len(counts) > MOST_VALUES else ""
        table.add_row(title, ", ".join(f"{value} ({count})" for value, count in counts[:MOST_VALUES]) + more)
    for title in ("seconds", "frames"):
        numbers = sorted(facts[title] for facts in readable) or [0]
        table.add_row(title, f"{numbers[0]:.4g} to {numbers[-1]:.4g}, median {numbers[len(numbers) // 2]:.4g}")
    return table


def _finding_lines(findings: Sequence[Finding]) -> Iterator[Text]:
    """The kinds of findings, what they mean, what to do, and the first of each."""
    for kind, (meaning, remedy) in KINDS.items():
        of_kind = [finding for finding in findings if finding["kind"] == kind]
        if of_kind:
            yield Text.assemble((f"{len(of_kind):4} {kind}", "bold red"), f": {meaning}; {remedy}")
        for finding in of_kind[:MOST_VALUES]:
            yield Text(printable(" ".join(f"     {finding['path']}: {finding['detail']}".splitlines())))
        if len(of_kind) > MOST_VALUES:
            yield Text(f"     and {len(of_kind) - MOST_VALUES} more")
