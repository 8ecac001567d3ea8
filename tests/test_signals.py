"""SIGTERM and SIGINT: the step is finished, a checkpoint written, and the run resumed to the bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from transformers import TrainerCallback

from run_recipe import REPOSITORY, TINY, finetune, words
from test_trainer import Noise, assert_same, build, build_model, checkpoints, weights
from video_files import write_folder_dataset
from vidtune.data.workers import ForkContext, SpawnContext, start_worker
from vidtune.errors import Interrupted
from vidtune.training.checkpoints import list_checkpoints

OPTIONS = {"num_train_epochs": 3, "logging_strategy": "steps", "logging_steps": 2, "lr_scheduler_type": "linear"}
OPTIONS |= {"eval_strategy": "epoch", "save_strategy": "epoch", "gradient_accumulation_steps": 2}
TIMES = {"data_wait", "clips_per_second", "memory_gb", "eval_runtime", "eval_samples_per_second"}
TIMES |= {"eval_steps_per_second", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


class Send(TrainerCallback):
    """Sends this process a signal at one step, as it ends or while what follows it is evaluated."""

    def __init__(self, number, step, while_evaluating=False):
        self.number, self.step, self.while_evaluating = number, step, while_evaluating

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1 and not self.while_evaluating:
            os.kill(os.getpid(), self.number)

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.while_evaluating:
            os.kill(os.getpid(), self.number)


class Look(TrainerCallback):
    """Looks at something in each step."""

    def __init__(self, look):
        self.look = look

    def on_step_begin(self, args, state, control, **kwargs):
        self.look()


def history(trainer):
    return [{name: entry[name] for name in entry if name not in TIMES} for entry in trainer.state.log_history]


def make(folder, seed=0, **pieces):
    pieces = {"ema_decay": 0.8} | pieces
    return build(folder, build_model(seed=seed), Noise(22), Noise(5, views=1), trainer_options=pieces, **OPTIONS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    trainer = make(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("step", "while_evaluating"), [(1, False), (2, False), (3, False), (3, True), (5, False), (9, False), (9, True)]
)
def test_a_run_that_a_signal_stops_goes_on_as_if_it_had_not(straight, tmp_path, number, step, while_evaluating):
    stopped = make(tmp_path, callbacks=[Send(number, step, while_evaluating)])
    with pytest.raises(Interrupted) as caught:
        stopped.train()
    assert caught.value.number == number
    assert f"go on from checkpoint-{step} with --resume_from_checkpoint auto" in str(caught.value)
    assert list_checkpoints(tmp_path)[-1].name == f"checkpoint-{step}"

    again = make(tmp_path, seed=9)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert history(again) == history(straight)
    assert_same(weights(again.model), weights(straight.model))
    assert {"checkpoint-3", "checkpoint-6", "checkpoint-9"} <= set(checkpoints(tmp_path))


def test_signals_are_as_before_when_training_is_over(tmp_path):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before, during = handlers(), []
    trainer = build(tmp_path, None, Noise(4))
    trainer.add_callback(Look(lambda: during.append(handlers())))
    trainer.train()
    assert handlers() == before and before not in during and during


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_folder_dataset(root, ("blue", "red"), 6, splits=["train", "validation"])


def started(command, output_dir, **options):
    """Start a run in a group of its own, and wait for its first checkpoint."""
    options = TINY | {"max_steps": 100_000, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 2} | options
    options |= {"eval_strategy": "no", "dataloader_num_workers": 2, "output_dir": output_dir}
    process = subprocess.Popen(
        [*command, "recipes/finetune.py", *words(**options)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not list(output_dir.glob("checkpoint-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)
    return process, options


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_ends_in_a_checkpoint_a_report_and_its_exit_code(dataset, tmp_path, number, code):
    process, options = started([sys.executable], tmp_path / "run", dataset=dataset)
    os.killpg(process.pid, number)  # workers of the data loader get it, too
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code, stderr
    newest = list_checkpoints(tmp_path / "run")[-1]
    step = int(newest.name.split("-")[1])
    line = stderr.strip().splitlines()[-1]
    assert line.startswith(f"finetune.py: {number.name}: stopped at step {step}; go on from {newest.name} with "), line
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stopped"] in line and report["metrics"] == {} and report["history"][-1]["step"] == step
    yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())

    report = finetune(**options | {"max_steps": step + 1, "resume_from_checkpoint": "auto"})
    assert "stopped" not in report and report["history"][-1]["step"] == step + 1


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_though_one_alone_is_told(dataset, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    process, _ = started(launcher, tmp_path / "run", dataset=dataset)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[-1]), signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 1  # torchrun's, whatever its processes end with
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert stderr.count(f"go on from {newest.name} with --resume_from_checkpoint auto") >= 2, stderr
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in newest.iterdir()}


@pytest.mark.parametrize("kind", [ForkContext, SpawnContext])
def test_a_worker_that_is_told_to_end_while_it_starts_does_not(kind):
    worker = kind().Process(target=be_told_while_starting)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    worker.start()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    worker.join(60)
    assert worker.exitcode == 7


def be_told_while_starting():
    """What a worker of a data loader does: it has torch's handler of SIGTERM before ours."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    start_worker(0)
    os.kill(os.getpid(), signal.SIGINT)
    sys.exit(7)
