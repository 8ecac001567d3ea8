"""The output of a long prediction: kept line by line while it grows, written as a whole table when it is done."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from vidtune.data.cells import to_cell
from vidtune.errors import InputError
from vidtune.training.checkpoints import check_writable

OUTPUT_ENDINGS = (".csv", ".jsonl", ".parquet")

Row = dict[str, Any]


class Entry(NamedTuple):
    """Where the journal has a video's rows."""

    offset: int
    state: list[int] | None
    """Size and time of the file when it was read; None where it failed."""


class Journal:
    """What is known of each video so far, one JSON line a video, in a hidden file beside the output.

    A run that was killed goes on from it: a line that was cut is dropped, all others hold. It stays when the output is
    written, so that a later run adds to it. Its first line says with what model and settings it was made.

    Args:
        output: The table that is to be written; see `check_output`.
        settings: What the rows depend on; values of JSON.
        overwrite: Whether to begin anew.

    Attributes:
        entries: By video, in the order in which they came first.

    Raises:
        InputError: If the output can't be written, was made otherwise, or is being written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.output, self.entries = output, dict[str, Entry]()
        self._lock = FileLock(output.with_name(f".{output.name}.lock"))
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._file = journal_of(output).open("wb+" if overwrite else "ab+")
        except Timeout:
            raise InputError(f"output: {output}: another run is writing it; give another file") from None
        except OSError as error:
            raise InputError(f"output: {output}: can't be written ({error.strerror}); give another file") from None
        try:
            self._read(json.loads(json.dumps(settings)))
        except InputError:
            self.close()
            raise

    def _read(self, settings: Row) -> None:
        self._file.seek(0)
        offset = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                values = dict(json.loads(line))
                if offset:
                    self.entries[values["video"]] = Entry(offset, values["state"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"output: {journal_of(self.output)}: is damaged; give --overwrite") from None
            if not offset:
                self._check(values, settings)
            offset += len(line)
        self._file.truncate(offset)
        if not offset:
            self._append(settings)

    def _check(self, found: Row, settings: Row) -> None:
        name = next((name for name in settings if found.get(name) != settings[name]), None)
        if name:
            pair = "" if isinstance(settings[name], str | list) else f" {found.get(name)}, not {settings[name]}"
            raise InputError(
                f"output: {self.output}: was made with another {name}{pair}; give another file, or --overwrite"
            )

    def add(self, video: str, state: list[int] | None, tables: Mapping[str, list[Row]]) -> None:
        """Note a video that is done, in place of what was known of it.

        Args:
            video: Its name in the rows.
            state: As of `Entry`.
            tables: Rows, by the table they belong to.
        """
        self.entries[video] = Entry(self._append({"video": video, "state": state, **tables}), state)

    def rows(self, table: str) -> Iterator[Row]:
        """Read the rows of a table, by video in the order of `entries`."""
        for entry in self.entries.values():
            self._file.seek(entry.offset)
            yield from json.loads(self._file.readline()).get(table, [])

    def close(self) -> None:
        """Let go of the files."""
        self._file.close()
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _append(self, values: Row) -> int:
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(values).encode() + b"\n")
        self._file.flush()
        return offset


def check_output(output: Path, beside: Path, overwrite: bool) -> None:
    """Check what can be told of an output, and of a table beside it, before a model is loaded.

    Raises:
        InputError: If its ending is not one of OUTPUT_ENDINGS, its folder can't be written, or one of them is there
            and it has no journal.
    """
    if output.suffix.lower() not in OUTPUT_ENDINGS:
        raise InputError(f"output: {output}: give a name that ends in {', '.join(OUTPUT_ENDINGS)}")
    if output.is_dir():
        raise InputError(f"output: {output}: is a folder; give a file")
    check_writable(output.parent, "output")
    there = [path for path in (output, beside) if path.exists()]
    if there and not overwrite and not journal_of(output).exists():
        raise InputError(f"output: {there[0]}: is there, and not to be added to; give another file, or --overwrite")


def journal_of(output: Path) -> Path:
    """The journal that stands beside an output."""
    return output.with_name(f".{output.name}.journal")


def write_table(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    """Write rows as a table that is whole or not there.

    Args:
        path: The file; its ending is one of OUTPUT_ENDINGS.
        rows: Values by column; one that is missing is empty.
        columns: Their types, in order: `str`, `float`, or `list` of texts, which csv joins with `|`.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[path.suffix.lower()]
    write(temporary, ({name: row.get(name) for name in columns} for row in rows), columns)
    os.replace(temporary, path)


def _write_csv(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row.values()] for row in rows)


def _cell(value: Any) -> Any:
    text = "|".join(value) if isinstance(value, list) else value
    return to_cell(text) if isinstance(text, str) else text


def _write_jsonl(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.string())}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rows = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, 10_000)):
            writer.write_table(pa.Table.from_pylist(some, schema))
