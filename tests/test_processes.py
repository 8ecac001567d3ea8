"""Training in one process and in two: the same videos, each read once, and the same losses."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from run_recipe import REPOSITORY, finetune
from tar_files import tar_of_folder
from test_finetune_pieces import EVERYTHING
from video_files import write_folder_dataset

pytestmark = pytest.mark.slow

ROWS = 18
"""Training videos: two are left for the last of five batches of 4, so that the second of two processes has none."""

EPOCHS = 4

BEST = ("load_best_model_at_end", "early_stopping_patience")

CONSTANT = {"learning_rate": 1e-3, "lr_scheduler_type": "constant"}
RUNS = {
    "plain": CONSTANT,
    "streamed": CONSTANT | {"streaming": "true", "shuffle_buffer": 8},
    "pieces": {"balanced_sampling": "true"}
    | {name: value for name, value in EVERYTHING.items() if name not in ("drop_path", "head_dropout", *BEST)},
}
"""Options of the runs, by name; of the pieces all but those that each process draws by itself."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Reports by name and number of processes, and what each of two processes opened, by name."""
    root = tmp_path_factory.mktemp("processes")
    dataset = write_folder_dataset(root / "data", ("blue", "red"), ROWS // 2, splits=["train"])
    write_folder_dataset(dataset, ("blue", "red"), 3, splits=["validation"])
    shards = root / "shards"
    shards.mkdir()
    for start in range(0, ROWS, 7):
        tar_of_folder(dataset / "train", shards / f"train-{start:05}.tar", slice(start, start + 7))
    tar_of_folder(dataset / "validation", shards / "validation-00000.tar")
    shared = {"num_train_epochs": EPOCHS, "eval_strategy": "no", "save_strategy": "no", "on_error": "skip"}
    options = {
        name: shared | {"dataset": str(shards if name == "streamed" else dataset)} | more
        for name, more in RUNS.items()
    }
    reports = {(name, 1): finetune(**options[name], output_dir=root / "one" / name) for name in RUNS}
    two = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, "dataloader_num_workers": 2}
    notes = root / "notes"
    notes.mkdir()
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2_processes.yaml"]
    command = [sys.executable, *launcher, "tests/ranks.py", str(notes)]
    command += [json.dumps(options[name] | two | {"output_dir": str(root / "two" / name)}) for name in RUNS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in RUNS:
        reports[name, 2] = json.loads((root / "two" / name / "report.json").read_text())
    opened = {name: [(notes / f"{name}-{rank}.txt").read_text().splitlines() for rank in (0, 1)] for name in RUNS}
    return reports, opened


def logged(report, name):
    return [entry[name] for entry in report["history"] if "loss" in entry]


@pytest.mark.parametrize(("name", "steps"), [("plain", 5 * EPOCHS), ("streamed", 5 * EPOCHS), ("pieces", 3 * EPOCHS)])
def test_two_processes_take_the_steps_of_one(runs, name, steps):
    one, two = runs[0][name, 1], runs[0][name, 2]
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert two["optimisation"] == one["optimisation"]
    assert len(logged(one, "loss")) == steps
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=1e-5)
    assert logged(two, "grad_norm") == pytest.approx(logged(one, "grad_norm"), abs=1e-4)
    assert two["metrics"]["validation"]["loss"] == pytest.approx(one["metrics"]["validation"]["loss"], abs=1e-5)
    assert two["metrics"]["validation"]["videos"] == 6


@pytest.mark.parametrize("name", RUNS)
def test_one_of_two_processes_reads_each_video_once_an_epoch(runs, name):
    first, second = ([line.split() for line in lines if line[0] != "-"] for lines in runs[1][name])
    assert Counter(epoch for epoch, _ in first) == {str(epoch): 10 for epoch in range(EPOCHS)}
    assert Counter(epoch for epoch, _ in second) == {str(epoch): 8 for epoch in range(EPOCHS)}
    read = Counter(map(tuple, first + second))
    if name != "pieces":  # whose videos are drawn, some of them twice
        assert len(read) == ROWS * EPOCHS and set(read.values()) == {1}


def test_two_processes_fill_the_last_batch_of_an_evaluation_with_its_first_videos(runs):
    # 6 videos in two batches of 4: the second process reads the last two, and two more that are not counted.
    first, second = ([line.split()[1] for line in lines if line[0] == "-"] for lines in runs[1]["plain"])
    assert len(first[:4] + second) == 8
    assert sorted(Counter(first[:4] + second).values()) == [1, 1, 1, 1, 2, 2]
    assert set(second[2:]) == set(first[:2])
