"""A real run that is killed and restarted ends as one that was not, to the bit."""

import random
import signal

import pytest

from killed_runs import OPTIONS, SAVE_STEPS, Moment, differences, run_with_kills
from run_recipe import finetune
from video_files import write_folder_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_folder_dataset(tmp_path_factory.mktemp("data") / "colours", ("blue", "red"), 9, splits=["train"])
    return write_folder_dataset(root, ("blue", "red"), 3, splits=["validation"])


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    output_dir = tmp_path_factory.mktemp("runs") / "whole"
    finetune(**OPTIONS, dataset=dataset, output_dir=output_dir)
    return output_dir


def test_a_run_killed_three_times_ends_as_one_that_was_not(dataset, whole, tmp_path):
    draw = random.Random(1)
    moments = [  # before the first checkpoint, while the second is written, and on the way to the third
        Moment("training", draw.randint(1, SAVE_STEPS - 2), draw.uniform(0, 0.02)),
        Moment("saving", SAVE_STEPS + 1, draw.uniform(0, 0.005)),
        Moment("training", SAVE_STEPS + draw.randint(1, SAVE_STEPS - 2), draw.uniform(0, 0.02)),
    ]
    starts, names = [], {path.name for path in whole.glob("checkpoint-30/*")}
    for start in run_with_kills(tmp_path / "killed", dataset, moments):
        starts.append(start)
        for checkpoint in (tmp_path / "killed").glob("checkpoint-*"):
            assert {path.name for path in checkpoint.iterdir()} == names
    assert [start.phase for start in starts] == ["training", "saving", "training", "finished"]
    assert [start.exit_code for start in starts] == [-signal.SIGKILL] * 3 + [0]
    assert [start.resumed_from for start in starts] == [0, 0, SAVE_STEPS, 2 * SAVE_STEPS]
    assert differences(whole, tmp_path / "killed") == []
