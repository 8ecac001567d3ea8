"""Kills real runs at random moments, restarts them, and says whether each ended as an uninterrupted one, to the bit.

    python tests/soak.py --kills 50 --output results/soak.json --docs docs/reliability.md

Of three runs, one has two processes and one reads tar shards (`--streaming`). A fifth of the kills are SIGTERM, a
scheduler's warning; the others are SIGKILL.
"""

import argparse
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from killed_runs import OPTIONS, Moment, differences, run_with_kills
from tar_files import tar_of_folder
from video_files import write_folder_dataset
from vidtune.evaluation.report import environment, to_json
from vidtune.training.checkpoints import write_text

KILLS_OF_A_RUN = 5
EPOCHS = 14
"""Of 3 steps each: five kills stay short of the end."""

WEIGHTS = {"starting": 1, "training": 5, "evaluating": 2, "saving": 3}
VARIANTS = (("files", 1), ("files", 2), ("shards", 1))
"""What runs in turn read, and in how many processes."""

COLUMNS = ("run", "reads", "processes", "killed", "with", "went on from step", "steps redone", "equal to the bit")
MARKS = "<!-- soak: begins -->", "<!-- soak: ends -->"
"""Between these, a document has the table of the last soak."""


def main(argv: Sequence[str] | None = None) -> int:
    """Soak; the exit code is 1 if a run did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50, some 15 minutes)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("outputs/soak.json"), help="(default: outputs/soak.json)")
    parser.add_argument("--docs", type=Path, help="a document whose table is replaced")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)

    started = time.perf_counter()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder, tqdm(total=options.kills, unit="kill") as bar:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        runs = soak(Path(folder), options.kills, random.Random(options.seed), bar)
    report = {
        "recipe": "soak",
        "command": shlex.join(["python", "tests/soak.py", *argv]),
        "config": {"kills": options.kills, "seed": options.seed, **OPTIONS, "num_train_epochs": EPOCHS},
        "runs": runs,
        "equal": all(run["equal"] for run in runs),
        "environment": environment(decoder="pyav"),
        "seconds": time.perf_counter() - started,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, to_json(report))
    if options.docs:
        write_text(options.docs, with_table(options.docs.read_text(encoding="utf-8"), report))
    print_table(report)
    return 0 if report["equal"] else 1


def soak(folder: Path, kills: int, draw: random.Random, bar: Any) -> list[dict[str, Any]]:
    """Kill runs so many times in all; returns what became of each."""
    files = write_folder_dataset(folder / "files", ("blue", "red"), 9, splits=["train"])
    write_folder_dataset(files, ("blue", "red"), 3, splits=["validation"])
    for start in range(0, 18, 7):
        tar_of_folder(files / "train", folder / "shards" / f"train-{start:05}.tar", slice(start, start + 7))
    tar_of_folder(files / "validation", folder / "shards" / "validation-00000.tar")
    runs: list[dict[str, Any]] = []
    while bar.n < kills and len(runs) < kills:
        number = len(runs) + 1
        reads, processes = VARIANTS[len(runs) % len(VARIANTS)]
        options = {"processes": processes, "per_device_train_batch_size": 4 // processes, "num_train_epochs": EPOCHS}
        options |= {"streaming": "true", "shuffle_buffer": 8} if reads == "shards" else {}
        whole, output_dir = folder / f"whole-{reads}-{processes}", folder / f"run-{number}"
        bar.set_description(f"run {number}, {reads}, {processes} processes")
        if not whole.exists():
            list(run_with_kills(whole, folder / reads, **options))
        starts, problems = list[dict[str, Any]](), list[str]()
        moments = draw_moments(draw, min(KILLS_OF_A_RUN, kills - bar.n))
        try:
            for start in run_with_kills(output_dir, folder / reads, moments, **options):
                starts.append(vars(start))
                bar.update(start.phase != "finished")
            problems = differences(whole, output_dir) + lost_steps(starts)
        except AssertionError as error:  # it could not be resumed, or did not end
            problems = [str(error)]
        facts = {"run": number, "reads": reads, "processes": processes}
        runs.append(facts | {"starts": starts, "equal": not problems, "differences": problems})
    return runs


def lost_steps(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where a run that was warned by SIGTERM did not go on from the step that it was at."""
    return [
        f"SIGTERM after step {start['steps']}, and it went on from {following['resumed_from']}"
        for start, following in pairwise(starts)
        if start["signal"] == signal.SIGTERM
        and start["phase"] in ("training", "evaluating", "saving")
        and following["resumed_from"] < start["steps"]
    ]


def draw_moments(draw: random.Random, number: int) -> list[Moment]:
    """Draw when a run is killed; the last time, it may be while it ends."""
    moments = []
    for index in range(number):
        phases = WEIGHTS | ({"ending": 2} if index == number - 1 else {})
        [phase] = draw.choices(list(phases), list(phases.values()))
        seconds = draw.uniform(0, {"starting": 10.0, "saving": 0.02, "ending": 2.0}.get(phase, 0.2))
        kind = signal.SIGTERM if draw.random() < 0.2 else signal.SIGKILL
        moments.append(Moment(phase, draw.randint(1, 10), seconds, kind))
    return moments


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of the table, one a kill, under COLUMNS."""
    for run in report["runs"]:
        for start, following in zip(run["starts"], [*run["starts"][1:], None], strict=True):
            if start["phase"] == "finished":
                continue
            where = {
                "starting": "while starting",
                "training": f"in step {start['steps'] + 1}",
                "evaluating": f"while evaluating, step {start['steps']}",
                "saving": f"while saving, step {start['steps']}",
                "ending": "after the last step",
            }[start["phase"]]
            if following is None:
                resumed, redone = "it did not", ""
            else:
                resumed = str(following["resumed_from"] or "the beginning")
                redone = str(max(0, start["steps"] - following["resumed_from"]))
            name = signal.Signals(start["signal"]).name
            facts = (str(run["run"]), run["reads"], str(run["processes"]))
            yield *facts, where, name, resumed, redone, "yes" if run["equal"] else "NO"


def summary(report: Mapping[str, Any]) -> str:
    """What came out, in a sentence."""
    kills, equal = len(list(rows(report))), sum(run["equal"] for run in report["runs"])
    hardware, minutes = report["environment"]["hardware"], report["seconds"] / 60
    return (
        f"{kills} kills of {len(report['runs'])} runs in {minutes:.0f} minutes ({hardware}): "
        f"{equal} ended as the uninterrupted run, to the bit; {len(report['runs']) - equal} did not."
    )


def with_table(document: str, report: Mapping[str, Any]) -> str:
    """Put summary and table between the marks of a Markdown document."""
    lines = [" | ".join(row) for row in (COLUMNS, ["---"] * len(COLUMNS), *rows(report))]
    before, rest = document.split(MARKS[0])
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{before}{MARKS[0]}\n{summary(report)}\n\n{table}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def print_table(report: Mapping[str, Any]) -> None:
    """Print summary, table, and what differs."""
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD)
    for row in rows(report):
        table.add_row(*row)
    console = Console(highlight=False, width=120)
    console.print(table)
    for run in report["runs"]:
        for difference in run["differences"][:5]:
            console.print(f"run {run['run']}: {difference}", markup=False)
    console.print(summary(report), markup=False)


if __name__ == "__main__":
    sys.exit(main())
