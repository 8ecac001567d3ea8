"""What ends a run, and what it leaves: workers, memory, disk, losses that are no number."""

import json
import os
import resource
import shutil
import signal
import time

import pytest
import torch

from run_recipe import refused
from test_trainer import Noise, assert_same, build, build_model, checkpoints, weights
from vidtune.errors import RunError
from vidtune.training.checkpoints import find_checkpoint, half_written
from vidtune.training.failures import clear_end, less_memory

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "logging_strategy": "steps", "logging_steps": 1}


class Deadly(Noise):
    """Noise whose reading of one row ends or stops the worker."""

    def __init__(self, *arguments, row, death, **options):
        super().__init__(*arguments, **options)
        self.row, self.death = row, death

    def __getitem__(self, index):
        if self.row == (index if self.views else index[1]):
            os.kill(os.getpid(), signal.SIGKILL) if self.death == "killed" else time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("death", "words"),
    [
        ("killed", "dataloader_num_workers: a worker died, as a lack of memory"),
        ("stalled", "dataloader_timeout: no clip came for 2 s"),
    ],
)
@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_worker_that_dies_or_hangs_ends_the_run_with_the_video_in_hand(tmp_path, death, words, where):
    fatal = {"row": 3, "death": death}
    train = Deadly(8, **fatal) if where == "training" else Noise(8)
    evaluate = Deadly(4, views=1, **fatal) if where == "evaluation" else Noise(4, views=1)
    options = {"dataloader_num_workers": 2, "eval_strategy": "epoch", "trainer_options": {"dataloader_timeout": 2}}
    trainer = build(tmp_path, None, train, evaluate, **options)
    with pytest.raises(RunError) as caught:
        trainer.train()
    line = str(caught.value)
    assert words in line and "/nowhere/3.mp4" in line and "\n" not in line


@pytest.mark.parametrize("training", [True, False])
def test_a_lack_of_memory_names_the_knobs(tmp_path, training):
    model = build_model()
    original = model.forward
    model.forward = lambda *arguments, **inputs: (
        torch.empty(2**58) if model.training == training else original(*arguments, **inputs)
    )
    trainer = build(tmp_path, model, Noise(8), Noise(4, views=1), eval_strategy="epoch", **EVERY_STEP)
    with pytest.raises(RunError) as caught:
        trainer.train()
    assert "per_device_train_batch_size 2 with gradient_accumulation_steps 2" in str(caught.value)
    assert "gradient_checkpointing true" in str(caught.value)
    assert checkpoints(tmp_path) == ([] if training else ["checkpoint-1", "checkpoint-2"])


def test_the_end_of_another_process_is_told_from_errors_of_ours():
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:20593"
    line = "another process of the run ended .* go on with --resume_from_checkpoint auto"
    with pytest.raises(RunError, match=line), clear_end([], 0, ""):
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught, clear_end([], 0, ""):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, RunError)


def test_the_knobs_of_memory_are_those_that_can_still_be_turned():
    assert less_memory(1, 4, False, 1, 1) == "try a smaller image_size or num_frames"
    assert less_memory(8, 4, False, 1, 1).startswith(
        "try per_device_train_batch_size 4 with gradient_accumulation_steps 8"
    )
    assert "per_device_eval_batch_size 2 (15 clips of each video)" in less_memory(1, 1, True, 4, 15)


@pytest.fixture
def disk_of():
    """Limits the size of files, as a full disk does: writing beyond it is an error of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [1000, 30_000, 60_000])
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, disk_of, room):
    trainer = build(tmp_path, None, Noise(8), **EVERY_STEP, max_steps=1)
    trainer.train()
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoint-1").iterdir()}
    sizes = sorted(len(content) for content in before.values())
    assert sizes[-1] > 60_000
    again = build(tmp_path, None, Noise(8), **EVERY_STEP, max_steps=3)
    disk_of(room)
    with pytest.raises(RunError) as caught:
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    line = str(caught.value)
    assert "checkpoint-2 can't be saved" in line and "go on from checkpoint-1 with" in line
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoint-1").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_full_disk_at_the_end_keeps_the_model_that_is_there(tmp_path, disk_of):
    trainer = build(tmp_path)
    trainer.save_model()
    before = (tmp_path / "model.safetensors").read_bytes()
    disk_of(1000)
    with pytest.raises(RunError, match="the model can't be saved"):
        trainer.save_model()
    assert (tmp_path / "model.safetensors").read_bytes() == before


NAN = float("nan")


def test_a_loss_that_is_no_number_ends_the_run_after_so_many_steps_in_a_row(tmp_path):
    trainer = build(
        tmp_path, None, Noise(12), **EVERY_STEP, trainer_options={"label_weights": [NAN, NAN], "max_nan_steps": 2}
    )
    before = weights(trainer.model)
    with pytest.raises(RunError) as caught:
        trainer.train()
    rows = sorted({int(word.rpartition("/")[2].removesuffix(".mp4")) for word in names(str(caught.value))})
    assert rows == sorted(row for _, row in trainer.train_dataset.seen[4:8])
    assert "max_nan_steps: 2: step 2: the loss is no finite number" in str(caught.value)
    assert_same(weights(trainer.model), before)


def names(line):
    return [word.strip(",;") for word in line.split() if word.startswith("/nowhere/")]


def test_a_step_whose_loss_is_no_number_changes_no_weights(tmp_path, caplog):
    model = build_model()

    def spoil(module, arguments, inputs, output):
        if inputs["pixel_values"].mean() > 0:  # the rows of label 1, which are odd
            output.logits = output.logits * NAN

    model.register_forward_hook(spoil, with_kwargs=True)
    options = {"per_device_train_batch_size": 1, "weight_decay": 0.1, "max_grad_norm": 1.0}
    trainer = build(tmp_path, model, Noise(8), **options, trainer_options={"max_nan_steps": 9})
    before = weights(model)
    trainer.train()
    assert caplog.text.count("the loss is no finite number, it changes no weights") == 4
    assert sorted(names(caplog.text)) == [f"/nowhere/{row}.mp4" for row in (1, 3, 5, 7)]
    assert all(value.isfinite().all() for value in weights(model).values())
    assert not torch.equal(before["classifier.weight"], weights(model)["classifier.weight"])


def test_weights_that_are_no_numbers_do_not_take_a_checkpoints_place(tmp_path):
    trainer = build(tmp_path, None, Noise(8), **EVERY_STEP, max_steps=1, save_total_limit=1)
    trainer.train()
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(NAN)
    trainer.state.global_step = 2
    with pytest.raises(RunError, match="classifier.bias is no finite number any more, so checkpoint-2 is not saved"):
        trainer._save_checkpoint(trainer.model, None)
    assert checkpoints(tmp_path) == ["checkpoint-1"]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    build(folder, None, Noise(8), **EVERY_STEP, trainer_options={"ema_decay": 0.9}).train()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "live_weights.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "running_loss.json",
    ],
)
@pytest.mark.parametrize("how", ["cut", "empty", "missing"])
def test_a_half_written_checkpoint_is_named_and_passed_over(two_checkpoints, tmp_path, caplog, name, how):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    newest, path = tmp_path / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-2" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
    if how == "missing":
        path.unlink()
    if how == "missing" and name in ("live_weights.safetensors", "rng_state.pth", "running_loss.json"):
        assert half_written(newest) is None  # a run may have none; what needs it says so
        return
    assert find_checkpoint("auto", tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    if not (how == "missing" and name == "trainer_state.json"):  # then it is no checkpoint at all
        assert f"{newest} is passed over: " in caplog.text
        assert "give another one, or auto" in refused(find_checkpoint, str(newest), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")
    assert "holds no " in refused(find_checkpoint, "auto", tmp_path / "run")


def test_the_log_says_what_training_waits_for(tmp_path):
    trainer = build(tmp_path, None, Noise(8), dataloader_num_workers=1, **EVERY_STEP)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 2
    for entry in entries:
        assert 0 <= entry["data_wait"] <= 1
        assert entry["clips_per_second"] > 0
        assert 0.05 < entry["memory_gb"] < 100
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["log_history"] == [{**entry} for entry in entries]
