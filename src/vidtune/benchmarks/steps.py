"""What a Trainer costs: steps of training on batches that are ready, beside those of a bare loop."""

import time
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler

from vidtune.benchmarks.training import NewModel
from vidtune.training.optimization import parameter_groups
from vidtune.training.trainer import VideoTrainer

WARM_UP_STEPS = 3

Batch = dict[str, Any]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times all steps but the first WARM_UP_STEPS, which allocate, and the last, at whose start it stops.

    Attributes:
        marks: Seconds of the clock on the wall and of this process's CPU time, when it started and stopped.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.ends, self.device = (WARM_UP_STEPS, steps - 1), device
        self.marks: list[tuple[float, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Be told by a Trainer that a step begins."""
        self.step_begins(state.global_step)

    def step_begins(self, step: int) -> None:
        """Start or stop, if this is the step to do so."""
        if step in self.ends:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.marks.append((time.perf_counter(), time.process_time()))

    def measured(self) -> dict[str, float]:
        """Milliseconds a step, on the wall and of CPU time."""
        steps = self.ends[1] - self.ends[0]
        (wall, cpu), (wall_end, cpu_end) = self.marks
        return {"ms": 1000 * (wall_end - wall) / steps, "cpu_ms": 1000 * (cpu_end - cpu) / steps}


def ready_batches(
    num_batches: int, shape: Sequence[int], num_labels: int, seed: int, device: torch.device
) -> list[Batch]:
    """Draw batches as `vidtune.data.clips.collate` gives them, on the device already: clips uint8 of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[0]
    return [
        {
            "pixel_values": torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device),
            "labels": torch.randint(num_labels, (size,), generator=generator).to(device),
            "rows": torch.arange(size),
            "failed_rows": [],
            "epoch": 0,
        }
        for _ in range(num_batches)
    ]


def bare_steps(new: NewModel, args: TrainingArguments, batches: Sequence[Batch]) -> dict[str, float]:
    """Train a model as a bare loop of PyTorch does, with a Trainer's optimiser, schedule, clipping and precision.

    Args:
        new: The model, and mean and standard deviation of its input.
        args: What a Trainer would be given; `max_steps` counts.
        batches: As many as steps.

    Returns:
        `ms` and `cpu_ms`, of a step.
    """
    model, mean, std = new
    model.to(args.device).train()
    offset, scale = (255 * torch.tensor(values, device=args.device).view(-1, 1, 1) for values in (mean, std))
    optimizer_class, optimizer_options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = optimizer_class(parameter_groups(model, args.learning_rate, args.weight_decay), **optimizer_options)
    warmup = args.get_warmup_steps(args.max_steps)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, args.max_steps)
    clock = Clock(args.max_steps, args.device)
    loss_sum, losses = torch.zeros((), device=args.device), []
    for step, batch in enumerate(batches):
        clock.step_begins(step)
        pixels = batch["pixel_values"].sub(offset).div(scale)
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            logits = model(pixels).logits
        loss = F.cross_entropy(logits.float(), batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        loss_sum += loss.detach()
        if (step + 1) % args.logging_steps == 0:
            losses.append(loss_sum.item())
    return clock.measured()


def own_steps(new: NewModel, args: TrainingArguments, batches: Sequence[Batch]) -> dict[str, float]:
    """The same under our trainer."""
    model, mean, std = new
    names = list(model.config.label2id)
    return trainer_steps(VideoTrainer(model, args, image_mean=mean, image_std=std, label_names=names), batches)


def stock_steps(new: NewModel, args: TrainingArguments, batches: Sequence[Batch]) -> dict[str, float]:
    """The same under transformers' Trainer, the model normalising its input."""
    model, mean, std = new
    offset, scale = (255 * torch.tensor(values, device=args.device).view(-1, 1, 1) for values in (mean, std))

    def normalise(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"pixel_values": kwargs["pixel_values"].sub(offset).div(scale)}

    model.register_forward_pre_hook(normalise, with_kwargs=True)
    plain = [{name: batch[name] for name in ("pixel_values", "labels")} for batch in batches]
    return trainer_steps(Trainer(model, args), plain)


def trainer_steps(trainer: Trainer, batches: Sequence[Batch]) -> dict[str, float]:
    """Time the steps of a trainer on batches that are ready."""
    loader: Any = DataLoader(cast(Any, batches), batch_size=None, collate_fn=lambda batch: batch)
    trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(loader)
    trainer.remove_callback(PrinterCallback)
    clock = Clock(trainer.args.max_steps, trainer.args.device)
    trainer.add_callback(clock)
    trainer.train()
    return clock.measured()
