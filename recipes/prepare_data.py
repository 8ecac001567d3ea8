r"""Inspect videos, split them without leaks, and store them so that training never waits for decoding.

    python recipes/prepare_data.py --dataset my_videos --output_dir outputs/prepared

Only look at them; the exit code is 1 where something must be looked at, and 0 where all is well:

    python recipes/prepare_data.py --dataset my_videos --output_dir outputs/prepared --inspect_only
"""

import json
import shlex
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from vidtune.arguments import parse
from vidtune.card import without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.hub import check_access, publish
from vidtune.options import PrepareArguments, SourceArguments
from vidtune.printing import printable
from vidtune.training.checkpoints import check_writable, close_output_dir, open_output_dir, write_text

SECTIONS = {"source": SourceArguments, "prepare": PrepareArguments}

STORED = ("codec", "short_side", "fps", "quality", "container", "videos_per_shard", "decoder")
"""Options that decide what is stored."""

OF_A_RUN = ("output_dir", "inspect_only", "num_frames", "time_limit_seconds", "num_proc", "on_error")
"""Options that another run on the same folder may change, as it may those of the Hub."""

FILES = "config.yaml inspection.json report.json preparation.json README.md data .unfinished .lock".split()
"""What this recipe leaves in its folder."""


def main(argv: list[str] | None = None) -> None:
    """Inspect, split, store and publish; exits with 1 where something must be looked at."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS, training=False)
    source, prepare = options.source, options.prepare
    output_dir = Path(prepare.output_dir)
    config = without_secrets(yaml.safe_dump(options.config, sort_keys=False))
    command = shlex.join(["python", "recipes/prepare_data.py", *argv])
    report = {"recipe": "prepare_data", "command": command, "config": options.config}

    # What can be refused is refused here, before hours of work
    check_folder(output_dir, yaml.safe_load(config), prepare)
    push = prepare.push_to_hub and not prepare.inspect_only
    repo_id = check_access(prepare.hub_dataset_id, prepare.hub_private_repo, repo_type="dataset") if push else None
    videos = load(source)
    if not prepare.inspect_only:
        split(videos, {"files": [], "near_duplicates": []}, source, prepare.seed)
    lock = open_output_dir(output_dir)
    write_text(output_dir / "config.yaml", config)

    # Look at every video
    inspection, report["inspection"] = inspect(videos, prepare, output_dir)
    report["left_out"] = [
        {"path": file["path"], "reason": file["error"]} for file in inspection["files"] if file["error"]
    ]
    goes_on = not prepare.inspect_only and (prepare.on_error == "skip" or not report["left_out"])

    # Split, and store
    if goes_on:
        videos, report["split"] = split(videos, inspection, source, prepare.seed)
        report["prepared"] = store(videos, prepare, output_dir)
        shutil.rmtree(output_dir / ".unfinished", ignore_errors=True)
    write_report(report, prepare, output_dir)
    close_output_dir(lock)
    print_summary(report, output_dir)
    if repo_id and goes_on:
        shards = sorted(path.relative_to(output_dir).as_posix() for path in output_dir.glob("data/*"))
        files = ["README.md", "report.json", *shards]
        print("published:", publish(output_dir, repo_id, files, "Prepare with vidtune", repo_type="dataset"))

    # Tell a script that somebody must look
    if not goes_on and not prepare.inspect_only:
        first, more = report["left_out"][0], len(report["left_out"]) - 1
        print(
            f"prepare_data.py: dataset: {first['path']}: {first['reason']}{f' (and {more} more)' if more else ''}; "
            "mend or remove it, or leave such videos out with --on_error skip",
            file=sys.stderr,
        )
    if inspection["findings"]:
        sys.exit(1)


def check_folder(output_dir: Path, config: dict[str, Any], prepare: PrepareArguments) -> None:
    """Check that a folder is new, empty, or one that this recipe may go on with or replace.

    Raises:
        InputError: If it holds something else, or a dataset that was prepared with other options.
    """
    check_writable(output_dir)
    found = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
    others = [name for name in found if name not in FILES]
    if others:
        raise InputError(
            f"output_dir: {output_dir}: holds {others[0]}, of something else; give a new or an empty folder"
        )
    if "preparation.json" not in found:
        return
    if prepare.inspect_only:
        raise InputError(f"output_dir: {output_dir}: holds a prepared dataset; give --inspect_only another folder")
    if prepare.overwrite or "config.yaml" not in found:
        return
    earlier = yaml.safe_load((output_dir / "config.yaml").read_text(encoding="utf-8"))
    for name, value in config.items():
        if name not in OF_A_RUN and not name.startswith(("push_", "hub_")) and earlier.get(name, value) != value:
            raise InputError(
                f"output_dir: {output_dir}: was prepared with {name}: {earlier.get(name)}, not {value}; "
                "give another folder, or --overwrite"
            )


def load(source: SourceArguments) -> Any:
    """Load the videos by split, with their groups."""
    from vidtune.data.sources import load_videos
    from vidtune.data.splits import group_by_pattern

    videos = load_videos(
        source.dataset,
        source.dataset_format,
        config=source.dataset_config,
        revision=source.dataset_revision,
        split_number=source.split_number,
        group_column=source.split_by_group,
        video_root=source.video_root,
    )
    return group_by_pattern(videos, source.group_pattern)


def inspect(videos: Any, prepare: PrepareArguments, output_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode every video that was not looked at before, or was changed since, and print and keep what was found.

    Returns:
        What `inspect_videos` returns, and what the report says of it.
    """
    from vidtune.data.inspection import inspect_videos, print_inspection
    from vidtune.data.preparation import source_of
    from vidtune.evaluation.report import to_json

    started = time.perf_counter()
    sources = {
        row["video_id"]: source_of(row["video"])
        for part in videos.values()
        for row in part.select_columns(["video_id", "video"])
    }
    path, progress = output_dir / "inspection.json", output_dir / ".unfinished" / "inspection.jsonl"
    known = {
        file["video_id"]: file
        for file in inspected_before(path, progress)
        if not file["error"] and file["source"] == sources.get(file["video_id"])
    }
    progress.parent.mkdir(exist_ok=True)
    with progress.open("a", encoding="utf-8") as lines:

        def keep(video_id: str, facts: dict[str, Any]) -> None:
            lines.write(json.dumps(facts | {"source": sources[video_id]}) + "\n")
            lines.flush()

        lines.write("\n")  # after a line that was cut
        inspection = inspect_videos(
            videos,
            num_frames=prepare.num_frames,
            time_limit_seconds=prepare.time_limit_seconds,
            num_proc=prepare.num_proc,
            known=known,
            on_result=keep,
        )
    print_inspection(inspection)
    files = [file | {"source": sources[file["video_id"]]} for file in inspection["files"]]
    write_text(path, to_json(inspection | {"files": files}))
    progress.unlink()
    if not any(progress.parent.iterdir()):
        progress.parent.rmdir()
    return inspection, {
        "videos": len(files),
        "findings": dict(Counter(finding["kind"] for finding in inspection["findings"])),
        "near_duplicates": len(inspection["near_duplicates"]),
        "looked_at": len(files) - len(known),
        "seconds": time.perf_counter() - started,
    }


def inspected_before(path: Path, progress: Path) -> list[dict[str, Any]]:
    """Read what is known of files from a finished inspection, and from one that was interrupted."""
    files: list[dict[str, Any]] = json.loads(path.read_bytes())["files"] if path.exists() else []
    for line in progress.read_text(encoding="utf-8").splitlines() if progress.exists() else []:
        with suppress(ValueError):  # the last line may be cut
            files.append(json.loads(line))
    return files


def split(videos: Any, inspection: dict[str, Any], source: SourceArguments, seed: int) -> tuple[Any, dict[str, Any]]:
    """Split the videos that can be read, near-duplicates as one group.

    Returns:
        Rows by split, or all in one with a column `fold`; and what the report says of it.
    """
    from datasets import DatasetDict

    from vidtune.data.splits import assign_folds, check_groups, describe_split, merge_groups, split_videos

    unreadable = {file["video_id"] for file in inspection["files"] if file["error"]}
    videos = merge_groups(videos, inspection["near_duplicates"])
    videos = DatasetDict(
        {
            name: part.select([row for row, video_id in enumerate(part["video_id"]) if video_id not in unreadable])
            for name, part in videos.items()
        }
    )
    has_folds = list(videos) == ["train"] and "fold" in videos["train"].column_names
    if source.fold is None and (source.folds or has_folds):
        splits = assign_folds(videos, source.folds, seed) if source.folds else videos
        column = splits["train"]["fold"][:]
        folds = DatasetDict(
            {
                f"fold {number}": splits["train"].select([row for row, fold in enumerate(column) if fold == number])
                for number in sorted(set(column))
            }
        )
        check_groups(folds, source.allow_leakage)
        return splits, describe_split(videos, folds, seed)
    fractions = (source.validation_fraction, source.test_fraction)
    folds = {"folds": source.folds, "fold": source.fold}
    splits = split_videos(videos, *fractions, seed, **folds, allow_leakage=source.allow_leakage)
    return splits, describe_split(videos, splits, seed, source.fold)


def store(videos: Any, prepare: PrepareArguments, output_dir: Path) -> dict[str, Any]:
    """Encode every video once more; see `prepare_videos`."""
    from vidtune.data.preparation import prepare_videos

    names = (*STORED, "num_proc", "on_error", "overwrite")
    options = {name: getattr(prepare, name) for name in names}
    return prepare_videos(videos, output_dir, **options, license=prepare.hub_license)


def write_report(report: dict[str, Any], prepare: PrepareArguments, output_dir: Path) -> None:
    """Add speed and surroundings to a report, and write it; one of the work stays where nothing was left to do."""
    from vidtune.evaluation.report import environment, to_json

    looked, stored = report["inspection"], report.get("prepared", {"encoded": 0, "seconds": 0.0})
    path = output_dir / "report.json"
    earlier = json.loads(path.read_bytes()) if path.exists() else {}
    if "prepared" in earlier and not looked["looked_at"] and not stored["encoded"]:
        return
    decoder = "pyav" if prepare.decoder == "auto" else prepare.decoder
    report |= {
        "throughput": {
            "inspected_videos_per_second": looked["looked_at"] / looked["seconds"],
            "prepared_videos_per_second": stored["encoded"] / stored["seconds"] if stored["encoded"] else None,
        },
        "seconds": looked["seconds"] + stored["seconds"],
        "environment": environment(decoder=decoder),
    }
    write_text(path, without_secrets(to_json(report)))


def print_summary(report: dict[str, Any], output_dir: Path) -> None:
    """Print what was stored, what was left out, and what to do next."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if "prepared" in report:
        prepared, splits = report["prepared"], report["split"]["splits"]
        table = Table(box=box.SIMPLE_HEAD)
        labels = list(next(iter(splits.values()))["labels"])
        for column in ("split", "videos", "groups", *labels[:8]):
            table.add_column(escape(printable(column)), justify="left" if column == "split" else "right")
        for name, part in splits.items():
            table.add_row(
                name, *(str(part[key]) for key in ("videos", "groups")), *map(str, list(part["labels"].values())[:8])
            )
        console.print(table)
        failed = [problem for part in prepared["splits"].values() for problem in part["failed"]]
        for problem in [*report["left_out"], *failed]:
            console.print(printable(f"left out:  {problem['path']}: {problem['reason']}"), markup=False)
        psnr, nothing = prepared["psnr"], " (all of it was there before)" if not prepared["encoded"] else ""
        console.print(
            f"stored:    {prepared['bytes'] / 1e6:.1f} MB, from {prepared['source_bytes'] / 1e6:.1f} MB of sources; "
            f"PSNR {psnr['mean']:.1f} dB, at worst {psnr['min']:.1f} dB ({printable(psnr['worst'])}){nothing}",
            markup=False,
        )
    console.print(f"saved:     {output_dir}", markup=False)
    if "prepared" in report:
        dataset = ["--dataset", str(output_dir)] + (["--fold", "0"] if "fold 0" in splits else [])
        dataset += ["--streaming"] if report["config"]["container"] == "webdataset" else []
        train = ["accelerate", "launch", "--config_file", "accelerate_config.yaml", "recipes/finetune.py", *dataset]
        model = ["--model_name_or_path", "MCG-NJU/videomae-base", "--output_dir", "outputs/finetuned"]
        console.print(f"train:     {shlex.join([*train, *model])}", markup=False)


if __name__ == "__main__":
    sys.exit(exit_code(main))
