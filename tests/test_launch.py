"""Real processes: launched by accelerate, one or two of them, with mixed precision, and killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from run_recipe import REPOSITORY, TINY, finetune, words
from video_files import write_folder_dataset

pytestmark = pytest.mark.slow

CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "colours"
    write_folder_dataset(root, CLASSES, 8, splits=["train"])
    return write_folder_dataset(root, CLASSES, 3, splits=["validation"])


def launch(launcher, **options):
    """Run recipes/finetune.py under accelerate and return its report."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "recipes/finetune.py"]
    done = subprocess.run(
        [*command, *words(**TINY | options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((Path(options["output_dir"]) / "report.json").read_text())


def losses(report):
    return [entry["loss"] for entry in report["history"] if "loss" in entry]


def test_two_processes_train_and_score_as_one_does(dataset, tmp_path):
    options = {"dataset": dataset, "lr_scheduler_type": "constant", "learning_rate": 1e-3}
    one = finetune(**options, output_dir=tmp_path / "one", per_device_train_batch_size=4)
    two = launch(
        ["--config_file", "recipes/accelerate/cpu_2_processes.yaml"],
        **options,
        output_dir=tmp_path / "two",
        per_device_train_batch_size=2,
    )
    assert two["environment"]["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert two["metrics"]["validation"]["videos"] == 6
    assert two["metrics"]["validation"]["confusion_matrix"] == one["metrics"]["validation"]["confusion_matrix"]


def test_the_root_config_launches_with_mixed_precision(dataset, tmp_path):
    report = launch(
        ["--config_file", "accelerate_config.yaml", "--mixed_precision", "bf16"],
        dataset=dataset,
        output_dir=tmp_path / "run",
        max_steps=2,
    )
    assert report["environment"]["processes"] == 1
    assert report["environment"]["precision"] == "bf16"
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["precision"] == "bf16"


def test_torchrun_starts_two_processes_that_leave_out_and_name_a_broken_video(dataset, tmp_path):
    root = write_folder_dataset(tmp_path / "data", CLASSES, 3, splits=["train", "validation"])
    for split in ("train", "validation"):
        (root / split / "red" / "0001.mp4").write_text("no video")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "recipes/finetune.py"]
    options = TINY | {"dataset": root, "output_dir": tmp_path / "run", "on_error": "skip"}
    done = subprocess.run([*command, *words(**options)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["environment"]["processes"] == 2
    assert [len(report["data"][split]["failed"]) for split in ("train", "validation")] == [1, 1]
    assert report["metrics"]["validation"]["videos"] == 5


@pytest.mark.parametrize("moment", range(2))
def test_a_killed_run_leaves_no_half_written_file_and_can_be_resumed(moment, dataset, tmp_path):
    output_dir = tmp_path / "run"
    options = TINY | {"dataset": dataset, "output_dir": output_dir, "max_steps": 2000, "save_strategy": "steps"}
    options |= {"save_steps": 1, "save_total_limit": 2, "eval_strategy": "no"}
    process = subprocess.Popen(
        [sys.executable, "recipes/finetune.py", *words(**options)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(output_dir.glob("checkpoint-*")):
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.02)
        time.sleep(random.Random(moment).uniform(0.1, 1.0))
        assert process.poll() is None, "the run ended before it was killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    yaml.safe_load((output_dir / "config.yaml").read_text())["config_overrides"]
    checkpoints = list(output_dir.glob("checkpoint-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        names = {path.name for path in checkpoint.iterdir()}
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "config.json"} <= names
        with safe_open(checkpoint / "model.safetensors", "pt") as weights:
            assert weights.keys()
        step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
        assert checkpoint.name == f"checkpoint-{step}"
    newest = max(int(checkpoint.name.split("-")[1]) for checkpoint in checkpoints)
    report = finetune(**options | {"max_steps": newest + 2, "resume_from_checkpoint": "auto"})
    assert report["history"][-1]["step"] == newest + 2
    assert not (output_dir / ".unfinished").exists()
