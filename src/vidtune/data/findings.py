"""What must be looked at in a dataset: findings, from the facts of its videos alone."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from vidtune.data.duplicates import near_duplicates

Facts = dict[str, Any]
Finding = dict[str, str]

KINDS = {
    "missing": ("the file isn't there, or can't be read", "mend the path or its permissions, or delete the row"),
    "empty": ("the file has no bytes", "fetch it again, or remove it"),
    "not_a_video": ("text, a web page or other data under a video's name", "fetch it again, or remove it"),
    "audio_only": ("sound without a picture", "remove it"),
    "cover_picture": ("sound with a cover picture", "remove it"),
    "still_picture": ("a picture under a video's name", "remove it"),
    "unknown_codec": ("FFmpeg has no decoder for it", "re-encode it with the tool that wrote it"),
    "bad_timestamps": ("frames without times, or out of order", "re-encode it with the ffmpeg tool"),
    "truncated": ("the end of the file is missing", "fetch it again; training sees what is there, if anything"),
    "corrupt": ("frames are damaged or lost", "fetch it again, or remove it"),
    "header_mismatch": ("header and content last differently long", "look whether content is missing"),
    "size_changes": ("frames of several sizes", "re-encode it with the ffmpeg tool, or cut it where the size changes"),
    "time_limit": ("not decoded in the time allowed", "raise --time_limit_seconds, or remove it"),
    "crashed": ("decoding it ended its process", "re-encode it on another machine, or remove it"),
    "black": ("nearly all frames are black", "remove it"),
    "frozen": ("nearly all frames show the same picture", "look at it; remove it if something should happen"),
    "shorter_than_clip": ("fewer frames than a clip has", "remove it, or use clips of fewer frames"),
    "span_outside": ("the span reaches past the end of its file", "mend start_seconds and end_seconds"),
    "two_labels": ("the same video under two labels", "decide which label is right, and delete the other row"),
    "two_splits": ("the same video in two splits", "delete one, or leave out the splits and have them made"),
    "group_in_two_splits": ("a group that is in two splits", "move some, or leave out the splits and have them made"),
    "duplicate": ("the same file in two groups", "delete one; where splits are made, both stay together"),
    "near_duplicate": ("the same footage in two groups", "delete one; where splits are made, both stay together"),
}
"""Kinds of findings: what each means, and what to do."""


SAME_FILE, COPY, MIRRORED = "the same file as", "a copy of", "a mirrored copy of"


class Duplicate(NamedTuple):
    """Two videos that show the same, the later one second, by their places in the dataset, and how they differ."""

    first: int
    second: int
    how: str


def labels_of(facts: Facts) -> list[str]:
    """The labels of a video, one or several."""
    return facts["labels"] if "labels" in facts else [facts["label"]]


def count_classes(files: Sequence[Facts]) -> dict[str, dict[str, int]]:
    """Count the videos of each label in each split."""
    splits = dict.fromkeys(facts["split"] for facts in files)
    counts: dict[str, dict[str, int]] = {}
    for facts in files:
        for label in labels_of(facts):
            counts.setdefault(label, dict.fromkeys(splits, 0))[facts["split"]] += 1
    return dict(sorted(counts.items()))


def findings_of_files(files: Sequence[Facts], num_frames: int) -> list[Finding]:
    """List what is wrong with single videos, which includes having fewer than `num_frames` frames."""
    findings = []
    for facts in files:
        findings += [_finding(facts, kind, detail) for kind, detail in facts["problems"].items()]
        if facts["error"] is None and facts["frames"] < num_frames:
            detail = f"{facts['frames']} frames; a clip has {num_frames} and repeats some"
            findings.append(_finding(facts, "shorter_than_clip", detail))
    return findings


def findings_of_groups(files: Sequence[Facts]) -> list[Finding]:
    """List the groups that are in two splits or more, by their first video outside of their first split."""
    groups: dict[str, dict[str, list[Facts]]] = defaultdict(lambda: defaultdict(list))
    for facts in files:
        groups[facts["group"]][facts["split"]].append(facts)
    findings = []
    for group, splits in groups.items():
        if len(splits) > 1:
            shares = ", ".join(f"{len(part)} in {split}" for split, part in splits.items())
            findings.append(_finding([*splits.values()][1][0], "group_in_two_splits", f"group {group!r}: {shares}"))
    return findings


def find_duplicates(files: Sequence[Facts]) -> list[Duplicate]:
    """Find the videos that are one file, each paired with the first of them, and those that show the same."""
    firsts: dict[Any, int] = {}
    pairs = []
    for place, facts in enumerate(files):
        if facts["error"] is None:
            first = firsts.setdefault((facts["sha256"], facts["start_seconds"], facts["end_seconds"]), place)
            if first != place:
                pairs.append(Duplicate(first, place, SAME_FILE))
    places = sorted(firsts.values())
    for one, other, mirrored in near_duplicates([files[place]["hashes"] for place in places]):
        pairs.append(Duplicate(places[one], places[other], MIRRORED if mirrored else COPY))
    return sorted(pairs)


def findings_of_duplicates(files: Sequence[Facts], duplicates: Sequence[Duplicate]) -> list[Finding]:
    """List the duplicates that cross labels, splits or groups; of each video one a kind."""
    findings: dict[tuple[int, str], Finding] = {}
    for first, second, how in duplicates:
        one, other = files[first], files[second]
        same = f"{how} {one['video_id']}"
        details = {}
        if sorted(labels_of(one)) != sorted(labels_of(other)):
            theirs, own = (", ".join(labels_of(facts)) for facts in (one, other))
            details["two_labels"] = f"{same}, which is labelled {theirs}, and this one {own}"
        if one["split"] != other["split"]:
            details["two_splits"] = f"{same}, which is in {one['split']}, and this one in {other['split']}"
        if not details and one["group"] != other["group"]:
            kind = "duplicate" if how == SAME_FILE else "near_duplicate"
            details[kind] = f"{same}, of another group; the two are split as one group"
        for kind, detail in details.items():
            findings.setdefault((second, kind), _finding(other, kind, detail))
    return list(findings.values())


def _finding(facts: Facts, kind: str, detail: str) -> Finding:
    start, end = facts["start_seconds"], facts["end_seconds"]
    if start is not None or end is not None:
        detail = f"{start or 0:g} s to {'its end' if end is None else f'{end:g} s'}: {detail}"
    return {"path": facts["path"], "kind": kind, "detail": detail}
