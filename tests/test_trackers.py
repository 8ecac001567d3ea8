"""Trackers of `--report_to`, without a network: they hold what the run itself has logged."""

import json
import sqlite3
from contextlib import closing

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from run_recipe import finetune, refused
from video_files import write_folder_dataset

LOGGED = ("loss", "grad_norm", "learning_rate", "data_wait", "clips_per_second", "memory_gb")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 4, splits=["train"])
    return write_folder_dataset(root, ("blue", "red"), 1, splits=["validation"])


@pytest.mark.slow
def test_tensorboard_and_trackio_hold_the_log_of_the_run(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    output_dir = tmp_path / "run"
    finetune(
        dataset=dataset, output_dir=output_dir, report_to="[tensorboard, trackio]", project="videos", run_name="a"
    )
    entries = json.loads((output_dir / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]

    [folder] = (output_dir / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for name in LOGGED:
        scalars = events.Scalars(f"train/{name}")
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        assert [scalar.value for scalar in scalars] == pytest.approx([entry[name] for entry in steps], rel=1e-6)
    assert [scalar.step for scalar in events.Scalars("eval/accuracy")] == [2, 4]

    with closing(sqlite3.connect(tmp_path / "trackio" / "videos.db")) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _ in rows} == {"a"}
    kept = [metrics for metrics in (json.loads(text) for _, text in rows) if "train/loss" in metrics]
    for name in LOGGED:
        assert [metrics[f"train/{name}"] for metrics in kept] == [entry[name] for entry in steps]


def test_a_tracker_that_is_not_installed_is_named(dataset, tmp_path):
    message = refused(finetune, dataset=dataset, output_dir=tmp_path / "run", report_to="dvclive")
    assert message == "report_to: dvclive: is not installed; `pip install dvclive`, or leave it out"
    assert not (tmp_path / "run").exists()
