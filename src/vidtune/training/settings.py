"""The arguments of the Trainer, from what was asked for, and from what launcher and machine decide."""

import os
import warnings
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from vidtune.errors import InputError, first_line
from vidtune.evaluation.metrics import LOGGED_METRICS
from vidtune.training.launch import check_processes, check_sharding, on_cpu
from vidtune.training.memory import keep_freed_memory
from vidtune.training.optimization import scaled_learning_rate

TORCH_OPTIMISERS = {"adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"}
"""Optimisers of torch, which get their `optim_args` under their own names."""

UNLOGGED_METRICS = {False: {"mean_average_precision"}, True: {"top5_accuracy"}}
"""Metrics that no evaluation has, by whether a video may have several labels."""


def training_arguments(
    given: dict[str, Any],
    precision: str = "auto",
    *,
    base_learning_rate: float | None = None,
    min_learning_rate: float | None = None,
    multi_label: bool = False,
) -> TrainingArguments:
    """Build the arguments of the Trainer.

    Args:
        given: Fields of TrainingArguments by name.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: what accelerate was launched with, else bf16 on a GPU that has
            it, else fp32. `fp32` also overrules what accelerate was launched with, in the environment of this process.
        base_learning_rate: Learning rate for 256 videos a step, which is scaled to this run's; replaces
            `learning_rate`.
        min_learning_rate: Where cosine ends; for 256 videos a step, too, if there is a `base_learning_rate`.
        multi_label: Whether a video may have several labels, which decides what the best checkpoint is.

    Raises:
        InputError: If a field is refused.
    """
    given = dict(given)
    given["use_cpu"] = on_cpu(given.get("use_cpu"))
    on_gpu = torch.cuda.is_available() and not given["use_cpu"]
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "auto" and launched == "no" and not given.keys() & {"bf16", "fp16"}:
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision in ("bf16", "fp16"):
        given[precision] = True
    if precision == "fp32":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    given.setdefault("dataloader_num_workers", min(8, max(1, (os.cpu_count() or 1) // local_processes)))
    given.setdefault("dataloader_pin_memory", on_gpu)
    if given.get("report_to") is None:
        given.pop("report_to", None)
    if given.get("load_best_model_at_end") or given.get("save_strategy") == "best":
        metric = given.setdefault("metric_for_best_model", "mean_average_precision" if multi_label else "accuracy")
        known = [name for name in LOGGED_METRICS if name not in UNLOGGED_METRICS[multi_label]]
        if metric.removeprefix("eval_") not in known:
            raise InputError(f"metric_for_best_model: got {metric!r}; give one of {', '.join(known)}")
    given.setdefault("logging_nan_inf_filter", False)  # a loss that is no number shows
    given |= {"push_to_hub": False, "remove_unused_columns": False, "label_names": ["labels"]}
    try:
        with warnings.catch_warnings():  # newer versions call it activation_checkpointing, and still take the old name
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            arguments = TrainingArguments(**given)
    except Exception as error:  # whatever transformers, accelerate and torch raise of a field
        message = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"training arguments: {message}; mend the option, or leave it out") from None
    if arguments.n_gpu > 1:
        raise InputError(
            f"num_processes: one process was started for {arguments.n_gpu} GPUs; add `--multi_gpu --num_processes "
            f"{arguments.n_gpu}` to accelerate launch, or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    check_processes(arguments.world_size)
    kind = arguments.distributed_state.distributed_type
    on_accelerators = kind not in (DistributedType.NO, DistributedType.MULTI_CPU)
    check_sharding(fsdp=on_accelerators, deepspeed=on_accelerators)
    if arguments.optim.startswith(("galore", "apollo", "lomo", "adalomo")):
        raise InputError(f"optim: {arguments.optim.value} groups the parameters by itself; choose another")
    if arguments.mixed_precision == "fp16" and arguments.device.type == "cpu":
        raise InputError("precision: fp16 needs a GPU; use fp32 here, or bf16")
    if arguments.device.type == "cpu":
        keep_freed_memory()
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    if base_learning_rate is not None:
        arguments.learning_rate = scaled_learning_rate(base_learning_rate, batch)
        min_learning_rate = min_learning_rate and scaled_learning_rate(min_learning_rate, batch)
    if min_learning_rate:
        arguments.lr_scheduler_type = SchedulerType.COSINE_WITH_MIN_LR
        arguments.lr_scheduler_kwargs = {
            **(arguments.lr_scheduler_kwargs or {}),
            "min_lr_rate": min_learning_rate / arguments.learning_rate,
        }
    _check_optimizer(arguments)
    missing = (INTEGRATION_TO_CALLBACK.keys() & arguments.report_to) - {
        *get_available_reporting_integrations(),
        "flyte",
    }
    if missing:  # Trainer says so with a traceback; of flyte it doesn't tell whether it is there
        name = min(missing)
        raise InputError(f"report_to: {name}: is not installed; `pip install {name}`, or leave it out")
    return arguments


def _check_optimizer(arguments: TrainingArguments) -> None:
    """Try optimiser and schedule on one number, so that what they refuse is refused before a run begins."""
    name, given = arguments.optim.value, arguments.optim_args or ""
    pairs = [pair.partition("=") for pair in given.replace(" ", "").split(",") if pair]
    if not all(key and value for key, _, value in pairs):
        raise InputError(
            f"optim_args: got {given!r}; write key=value, with commas between: momentum=0.9,nesterov=true"
        )
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = kind([torch.zeros(1, requires_grad=True, device=arguments.device)], **options)
    except Exception as error:  # whatever an optimiser of another package raises
        raise InputError(f"optim: {name}, optim_args: {given!r}: {first_line(error)}") from None
    if name in TORCH_OPTIMISERS:  # Trainer passes over what it doesn't know
        unknown = [key for key, *_ in pairs if key not in options or key == "weight_decay"]
        if unknown:
            raise InputError(f"optim_args: {unknown[0]}: {name} takes no such argument here; leave it out")
    try:
        more = {"scheduler_specific_kwargs": arguments.lr_scheduler_kwargs}
        get_scheduler(arguments.lr_scheduler_type, optimizer, 0, 1, **more)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"lr_scheduler_type: {arguments.lr_scheduler_type.value}, lr_scheduler_kwargs: "
            f"{arguments.lr_scheduler_kwargs}: {first_line(error)}"
        ) from None
