"""Real processes: launched by accelerate and by torchrun, with mixed precision, and with a broken video."""

import json
import subprocess
import sys

import pytest
import yaml

from run_recipe import REPOSITORY, TINY, words
from video_files import write_folder_dataset

pytestmark = pytest.mark.slow

CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "colours"
    write_folder_dataset(root, CLASSES, 8, splits=["train"])
    return write_folder_dataset(root, CLASSES, 3, splits=["validation"])


def test_the_root_config_launches_with_mixed_precision(dataset, tmp_path):
    launcher = ["--config_file", "accelerate_config.yaml", "--mixed_precision", "bf16"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "recipes/finetune.py"]
    options = TINY | {"dataset": dataset, "output_dir": tmp_path / "run", "max_steps": 2}
    done = subprocess.run([*command, *words(**options)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
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
