"""The ways to launch in recipes/accelerate: run where CPUs can, else held against accelerate's own validation."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from run_recipe import REPOSITORY, TINY, finetune, refused, words
from video_files import write_folder_dataset
from vidtune.training.checkpoints import find_checkpoint, half_written
from vidtune.training.launch import check_processes, check_resumable, check_sharding, on_cpu, processes_asked_for

FOLDER = REPOSITORY / "recipes" / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SCRIPT = FOLDER / "launch.slurm"
STEADY = {"lr_scheduler_type": "constant", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "colours"
    write_folder_dataset(root, ("blue", "red"), 8, splits=["train"])
    return write_folder_dataset(root, ("blue", "red"), 3, splits=["validation"])


@pytest.fixture(scope="module")
def one_process(dataset, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("one") / "run"
    return finetune(dataset=dataset, output_dir=output_dir, **STEADY, per_device_train_batch_size=4)


def start(launcher, script, **options):
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, *script]
    return subprocess.Popen(
        [*command, *words(**TINY | {name: str(value) for name, value in options.items()})],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def wait_for_listener(address, port):
    deadline = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection((address, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at {address}:{port}"
            time.sleep(0.1)


def report_of(output_dir):
    return json.loads((Path(output_dir) / "report.json").read_text())


def losses(report):
    return [entry["loss"] for entry in report["history"] if "loss" in entry]


# Configs


def command_of(config):
    """The words of the command with which a config opens, behind `accelerate launch`."""
    [line] = re.findall(r"^# accelerate launch (.+)$", config.read_text(), re.MULTILINE)
    return shlex.split(line)


@pytest.fixture
def validated(monkeypatch, config):
    monkeypatch.chdir(REPOSITORY)
    given = launch_command_parser().parse_args(command_of(config))
    assert (REPOSITORY / given.config_file).samefile(config)
    arguments, defaults, _ = _validate_launch_command(given)
    assert defaults == load_config_from_file(str(config))
    return arguments


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_starts_as_many_processes_as_it_says(config, validated):
    assert validated.multi_gpu + validated.use_fsdp + validated.use_deepspeed == 1
    asked = processes_asked_for(["accelerate", "launch", *command_of(config)], "recipes/finetune.py")
    assert asked == validated.num_processes > 1
    assert asked % validated.num_machines == 0


@pytest.mark.parametrize("config", [FOLDER / "fsdp.yaml"], ids=["fsdp"])
def test_fsdp_is_version_2_with_sharded_checkpoints(validated):
    environment = prepare_multi_gpu_env(validated)
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"
    assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_has_the_stage_of_its_name(stage, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    given = launch_command_parser().parse_args(command_of(FOLDER / f"deepspeed_zero{stage}.yaml"))
    arguments, defaults, _ = _validate_launch_command(given)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "auto"
    assert environment["ACCELERATE_GRADIENT_CLIPPING"] == "auto"


@pytest.mark.parametrize("name, backend", [("multi_node", "static"), ("multi_node_elastic", "c10d")])
def test_machines_meet_as_the_config_says(name, backend):
    # Accelerate passes over the `rdzv_backend` of a config: the command has to say it.
    given = launch_command_parser().parse_args(command_of(FOLDER / f"{name}.yaml"))
    assert given.rdzv_backend == backend == load_config_from_file(str(FOLDER / f"{name}.yaml")).rdzv_backend


# What is asked for, and what runs


@pytest.mark.parametrize(
    "command, asked",
    [
        ("python -m accelerate.commands.launch --cpu --num_processes 2 x.py --num_processes 9", 2),
        ("python /bin/accelerate launch --num-processes=3 --mixed_precision bf16 x.py", 3),
        ("accelerate launch --config_file accelerate_config.yaml x.py", 1),
        ("accelerate launch --config-file recipes/accelerate/cpu_2_processes.yaml x.py", 2),
        ("accelerate launch --config_file recipes/accelerate/ddp.yaml --num_processes 4 x.py", 4),
        ("accelerate-launch --cpu x.py", None),
        ("accelerate launch --config_file nowhere.yaml x.py", None),
        ("accelerate launch --num_processes 2 y.py", None),
        ("torchrun --nproc_per_node 2 x.py --num_processes 2", None),
        ("python -m pytest x.py --num_processes 2", None),
        ("bash accelerate.sh --num_processes 2 x.py", None),
        ("srun --num_processes 2 accelerate_wrapper x.py", None),
        ("", None),
    ],
)
def test_what_a_launcher_was_asked_for(command, asked, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert processes_asked_for(command.split(), "x.py") == asked


@pytest.mark.parametrize("words, asked", [([], 4), (["--cpu"], None), (["--num_processes", "1"], 1)])
def test_without_a_config_file_the_users_own_counts(words, asked, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("distributed_type: 'NO'\nnum_processes: 4\n")
    assert processes_asked_for(["accelerate", "launch", *words, "x.py"], "x.py") == asked


def test_several_processes_without_an_accelerator_run_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert on_cpu(None)
    assert not on_cpu(False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not on_cpu(None)
    assert on_cpu(True)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(1)  # as some clusters set it, of machines
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_processes(2)
    assert "2 were started, and each would be a run of its own" in refused(check_processes, 1)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharding_that_was_asked_for_and_does_not_run_is_refused(name, monkeypatch):
    check_sharding(fsdp=False, deepspeed=False)
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    check_sharding(fsdp=name == "FSDP", deepspeed=name == "DEEPSPEED")
    assert f"use_{name.lower()}" in refused(check_sharding, fsdp=name != "FSDP", deepspeed=name != "DEEPSPEED")


def test_a_checkpoint_is_taken_up_with_the_sharding_that_it_has(tmp_path):
    check_resumable(tmp_path, fsdp=False, deepspeed=False)
    assert "saved with neither" in refused(check_resumable, tmp_path, fsdp=True, deepspeed=False)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    check_resumable(tmp_path, fsdp=True, deepspeed=False)
    assert "saved with FSDP, and here runs DeepSpeed" in refused(check_resumable, tmp_path, fsdp=False, deepspeed=True)


@pytest.mark.slow
def test_fsdp_on_a_cpu_is_refused_before_anything_is_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "use_fsdp: FSDP was asked for" in refused(finetune, dataset=dataset, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_of_two_is_found_out(dataset, tmp_path):
    launcher = ["--cpu", "--num_processes", "2"]
    code, output = finish(start(launcher, ["recipes/finetune.py"], dataset=dataset, output_dir=tmp_path / "run"))
    assert code != 0
    assert "finetune.py: num_processes: accelerate launch was asked for 2 and started 1" in output
    assert not (tmp_path / "run").exists()


# Several machines


@pytest.mark.slow
@pytest.mark.parametrize("config, more", [("multi_node", []), ("multi_node_elastic", ["--rdzv_backend", "c10d"])])
def test_two_machines_train_as_one_process_does(config, more, dataset, one_process, tmp_path):
    launcher = ["--config_file", str(FOLDER / f"{config}.yaml"), "--num_processes", "2", *more]
    port = free_port()
    launcher += ["--main_process_ip", "127.0.0.2", "--main_process_port", port]
    machines = []
    for rank in "01":
        machines.append(
            start(
                [*launcher, "--machine_rank", rank],
                ["recipes/finetune.py"],
                dataset=dataset,
                output_dir=tmp_path / "run",
                per_device_train_batch_size=2,
                **STEADY,
            )
        )
        wait_for_listener("127.0.0.2", int(port))  # the first refuses a port that the second has taken before it
    for code, output in map(finish, machines):
        assert code == 0, output[-3000:]
    report = report_of(tmp_path / "run")
    assert report["environment"]["processes"] == 2
    assert losses(report) == pytest.approx(losses(one_process), abs=1e-5)


# FSDP


def train_sharded(**options):
    options = {**STEADY, "per_device_train_batch_size": 2, "use_cpu": "false", **options}
    launcher = ["--config_file", str(FOLDER / "fsdp.yaml"), "--num_processes", "2", "--main_process_port", free_port()]
    return finish(start(launcher, ["tests/fsdp_on_cpu.py", "recipes/finetune.py"], **options))


@pytest.fixture(scope="module")
def sharded(dataset, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("sharded") / "run"
    code, output = train_sharded(dataset=dataset, output_dir=output_dir, load_best_model_at_end="true")
    assert code == 0, output[-3000:]
    return output_dir


@pytest.mark.slow
def test_fsdp_trains_as_one_process_does_and_leaves_a_plain_model(sharded, one_process):
    from transformers import AutoModelForVideoClassification

    report = report_of(sharded)
    assert losses(report) == pytest.approx(losses(one_process), abs=1e-5)
    assert report["metrics"]["validation"]["accuracy"] == one_process["metrics"]["validation"]["accuracy"]
    model, loading = AutoModelForVideoClassification.from_pretrained(sharded, output_loading_info=True)
    assert not any(loading.values())
    assert model.config.architectures == ["VideoMAEForVideoClassification"]


@pytest.mark.slow
def test_each_process_writes_its_part_of_a_checkpoint(sharded):
    checkpoint = sharded / "checkpoint-4"
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        assert {path.name for path in (checkpoint / part).iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    tensors = FileSystemReader(checkpoint / "pytorch_model_fsdp_0").read_metadata().state_dict_metadata
    assert len(tensors) == len(load_file(sharded / "model.safetensors"))
    assert all(len(tensor.chunks) == 2 for tensor in tensors.values())
    assert half_written(checkpoint) is None


@pytest.mark.slow
def test_a_sharded_run_goes_on_to_the_bit(sharded, dataset, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(sharded, again)
    (again / "model.safetensors").unlink()
    (again / "checkpoint-8" / "optimizer_0" / ".metadata").unlink()  # as a kill amid a copy leaves it
    assert find_checkpoint("auto", again).name == "checkpoint-4"
    options = {"dataset": dataset, "output_dir": again, "resume_from_checkpoint": "auto"}
    code, output = train_sharded(**options, load_best_model_at_end="true")
    assert code == 0, output[-3000:]
    assert losses(report_of(again)) == losses(report_of(sharded))
    expected, found = (load_file(folder / "model.safetensors") for folder in (sharded, again))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert "was saved with FSDP" in refused(finetune, **options)


# Slurm, whose own commands are played by scripts

SLURM = {
    "srun": """while [[ $1 == --* ]]; do shift; done
echo $$ > "$PLAY/srun.pid"
[[ -z $STEP ]] || exec bash -c "$STEP" step "$@"
exec "$@"
""",
    "scancel": 'echo "$*" >> "$PLAY/scancel.log"; kill -TERM "$(cat "$PLAY/srun.pid")"\n',
    "scontrol": """if [[ $1 == show ]]; then echo 127.0.0.1; echo 127.0.0.2; exit; fi
echo "$*" >> "$PLAY/scontrol.log"
""",
}
SHOW = 'printf "%s\\n" "$@"'


@pytest.fixture
def submit(tmp_path):
    """Run launch.slurm as Slurm does; `step` plays the launcher and the recipe, where they are not run."""
    for name, script in SLURM.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}")
        path.chmod(0o755)

    def run(arguments, step="", **variables):
        variables = {"SLURM_JOB_NUM_NODES": 1, "SLURM_GPUS_ON_NODE": 2, "SLURM_JOB_ID": 71234} | variables
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        more = {"PATH": path, "PLAY": tmp_path, "STEP": step, "SLURM_JOB_NODELIST": "node[1-2]"} | variables
        return subprocess.Popen(
            ["bash", str(SCRIPT), *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | {name: str(value) for name, value in more.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def test_the_script_is_sound():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, SCRIPT], check=True)


@pytest.mark.parametrize(
    "files, restarts, added",
    [
        ([], 0, []),
        (["checkpoint-5/trainer_state.json", "config.yaml"], 0, ["--resume_from_checkpoint", "auto"]),
        (["checkpoint-5/trainer_state.json", "model.safetensors"], 1, ["--resume_from_checkpoint", "auto"]),
        (["checkpoint-5/model.safetensors", "config.yaml"], 1, ["--overwrite"]),
        (["config.yaml"], 0, []),  # another's run, which the recipe refuses to write into
        (["config.yaml", "model.safetensors"], 1, []),
    ],
)
def test_each_start_looks_at_what_there_is(files, restarts, added, submit, tmp_path):
    output_dir = tmp_path / "a run"
    for name in files:
        (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (output_dir / name).touch()
    own = ["recipes/finetune.py", "--output_dir", str(output_dir), "--seed", "1"]
    code, output = finish(submit(own, SHOW, SLURM_RESTART_COUNT=restarts, SLURM_JOB_NUM_NODES=4))
    given = output.splitlines()
    assert code == 0
    assert given[given.index("recipes/finetune.py") :] == own + added
    arguments = launch_command_parser().parse_args(given[2:])
    assert (arguments.num_machines, arguments.num_processes, arguments.rdzv_backend) == (4, 8, "c10d")
    assert (arguments.main_process_ip, arguments.main_process_port) == ("127.0.0.1", 21234)


def test_one_gpu_needs_no_launcher(submit):
    own = ["recipes/finetune.py", "--output_dir=nowhere"]
    code, output = finish(submit(own, SHOW, SLURM_GPUS_ON_NODE=1))
    assert (code, output.splitlines()) == (0, ["python", *own])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "output_dir: is not on the command line"),
        (["--output_dir"], "output_dir: is not on the command line"),
        (["--output_dir", "x", "--overwrite"], "--overwrite: is decided at each start"),
        (["--output_dir", "x", "--resume_from_checkpoint=auto"], "--resume_from_checkpoint=auto: is decided"),
    ],
)
def test_what_each_start_decides_is_not_for_the_command_line(arguments, message, submit):
    code, output = finish(submit(["recipes/finetune.py", *arguments], SHOW))
    assert code == 2
    assert output.startswith(f"launch.slurm: {message}")


def step(on_term):
    return f"trap {shlex.quote(on_term)} TERM; echo begun; for i in {{1..600}}; do sleep 0.05; done"


@pytest.mark.parametrize(
    "sent, on_term, code, requeued",
    [
        (signal.SIGUSR1, "echo saved; exit 1", 1, True),  # what a launcher makes of 143
        (signal.SIGUSR1, "echo saved; exit 143", 143, True),
        (signal.SIGUSR1, "echo done; exit 0", 0, False),  # it had just finished
        (signal.SIGTERM, "echo saved; exit 143", 143, False),  # cancelled, or preempted: Slurm sees to the queue
    ],
)
def test_a_job_whose_time_is_up_saves_and_goes_back_into_the_queue(sent, on_term, code, requeued, submit, tmp_path):
    job = submit(["recipes/finetune.py", "--output_dir", "x"], step(on_term))
    assert job.stdout.readline() == "begun\n"
    job.send_signal(sent)
    found, output = finish(job)
    assert (found, output.split()) == (code, [on_term.split()[1].rstrip(";")])
    assert (tmp_path / "scancel.log").read_text() == "--signal=TERM 71234\n"
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 71234\n" if requeued else "")


def test_a_run_that_fails_is_not_tried_again(submit, tmp_path):
    code, _ = finish(submit(["recipes/finetune.py", "--output_dir", "x"], "exit 2"))
    assert code == 2
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.slow
def test_a_job_of_two_processes_is_stopped_and_goes_on(submit, dataset, one_process, tmp_path):
    output_dir = tmp_path / "run"
    options = TINY | STEADY | {"dataset": dataset, "output_dir": output_dir, "per_device_train_batch_size": 2}
    options |= {"max_steps": 300, "logging_steps": 300, "eval_strategy": "no", "save_strategy": "steps"}
    own = ["recipes/finetune.py", *words(**options | {"save_steps": 20})]
    job = submit(own)
    deadline = time.monotonic() + 120
    while not list(output_dir.glob("checkpoint-*")):
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    code, output = finish(job)
    assert (code, (tmp_path / "scontrol.log").exists()) == (1, True), output[-3000:]
    stopped = max(int(path.name.split("-")[1]) for path in output_dir.glob("checkpoint-*"))
    assert 20 <= stopped < 300
    code, output = finish(submit(own, SLURM_RESTART_COUNT=1))
    assert code == 0, output[-3000:]
    assert report_of(output_dir)["history"][-1]["step"] == 300
