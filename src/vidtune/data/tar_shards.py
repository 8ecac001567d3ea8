"""Tar shards as the webdataset package writes them: `key.mp4` and `key.json` or `key.cls`, key after key.

Source of the naming: https://github.com/webdataset/webdataset. A tar is never unpacked: its members' bytes are read
where they lie, so that their names can't lead anywhere.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from vidtune.data.files import is_video_ending
from vidtune.data.rows import Row
from vidtune.data.shard_files import open_shard
from vidtune.data.tables import fold_number, label_list, span_seconds
from vidtune.errors import InputError, first_line

MOST_LABEL_BYTES = 2**20
"""A label is small; what is larger is none."""

MOST_PADDING_BYTES = 2**20
"""What follows the last member: two empty blocks, and as many as fill up a tape's record."""


def tar_rows(shard: str, name: str) -> list[Row]:
    """Read the headers and labels of a tar shard.

    Args:
        shard: The file.
        name: What the ids of its videos begin with.

    Returns:
        A row a video, in their order: `label` or `labels`, where it has one, as text, what else the JSON states, and
        the `offset` and `size` of its bytes.

    Raises:
        InputError: If the file is no tar or ends too early, holds no video, or one twice, or a label without a video.
    """
    samples: dict[str, dict[str, Any]] = {}
    with open_shard(shard) as file, _archive(file, shard) as archive:
        for member in archive:
            key, ending = _key(member.name)
            if not (member.isreg() and key):
                continue
            where = f"dataset: {shard}: {key}"
            sample = samples.setdefault(key, {})
            value: Any
            if is_video_ending(f".{ending.rpartition('.')[2]}"):
                kind, value = "video", (f"{key}.{ending}", member.offset_data, member.size)
                if member.sparse is not None:
                    raise InputError(f"{where}: is stored as a sparse file; write the tar without --sparse")
            elif ending in ("json", "cls"):
                kind, value = ending, _facts(archive, member, ending, where)
            else:
                continue
            if kind in sample:
                raise InputError(
                    f"{where}: has more than one {kind}; a key ends at the first dot, and names one video of a shard"
                )
            sample[kind] = value
    rows = [_row(sample, shard, name, key) for key, sample in samples.items() if sample]
    if not rows:
        raise InputError(f"dataset: {shard}: holds no videos; remove it")
    return rows


@contextmanager
def _archive(file: BinaryIO, shard: str) -> Iterator[tarfile.TarFile]:
    """Open a tar, and check afterwards that what was taken for its end is one."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
            file.seek(archive.offset)
            end = file.read(MOST_PADDING_BYTES)
    except InputError:
        raise
    except Exception as error:  # tarfile and the connection raise whatever the bytes lead to
        raise InputError(
            f"dataset: {shard}: can't be read as a tar ({first_line(error)}); fetch or write it again, not compressed"
        ) from None
    if len(end) < tarfile.BLOCKSIZE:
        raise InputError(f"dataset: {shard}: can't be read as a tar (its end is missing); fetch or write it again")
    if end.strip(b"\0"):
        raise InputError(
            f"dataset: {shard}: has no header of a tar at byte {archive.offset}, where one should be; write it again, "
            "without joining tars to one"
        )


def _key(name: str) -> tuple[str, str]:
    """What comes before the first dot of a file's name, with its folder, and what after it in small letters."""
    name = name.encode(errors="surrogateescape").decode(errors="replace")  # a name may be any bytes
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, ending = file.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), ending.lower()


def _facts(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, where: str) -> dict[str, Any]:
    """What a label's file says."""
    if member.size > MOST_LABEL_BYTES:
        raise InputError(f"{where}: its .{ending} has {member.size} bytes; that is no label")
    file = archive.extractfile(member)
    assert file is not None  # nosec B101 # a regular file has content
    try:
        text = file.read().decode().strip()
        facts = json.loads(text) if ending == "json" else {"label": text}
        json.dumps(facts, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or half a letter in it
        raise InputError(f"{where}: its .{ending} can't be read ({first_line(error)}); mend it") from None
    if not isinstance(facts, dict):
        raise InputError(f'{where}: its .json holds no object; write {{"label": ...}}')
    return facts


def _row(sample: dict[str, Any], shard: str, name: str, key: str) -> Row:
    where = f"dataset: {shard}: {key}"
    if "video" not in sample:
        raise InputError(f"{where}: has a label and no video; add the video, or remove the label")
    (file, offset, size), facts = sample["video"], sample.get("cls", {}) | sample.get("json", {})
    label, group = facts.get("label"), facts.get("group")
    if isinstance(label, bool | float | list | dict) or label == "":
        raise InputError(f"{where}: label is {label!r}; give a name or a whole number, or several under `labels`")
    start, end = (span_seconds(facts.get(field), f"{where}: {field}") for field in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0):
        raise InputError(f"{where}: end_seconds is {end:g}; give a time after the start, {start or 0:g}")
    return {
        "video": {"path": f"{shard}/{file}", "bytes": None},
        "label": None if label is None else str(label),
        "labels": None if facts.get("labels") is None else label_list(facts["labels"], where),
        "video_id": str(facts.get("video_id") or f"{name}/{file}"),
        "group": None if group is None else str(group),
        "start_seconds": start,
        "end_seconds": end,
        "fold": None if facts.get("fold") is None else fold_number(facts["fold"], where),
        "shard": shard,
        "offset": offset,
        "size": size,
    }
