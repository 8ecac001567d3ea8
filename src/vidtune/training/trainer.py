"""VideoTrainer: a transformers.Trainer that reads uint8 clips, scores videos and saves whole checkpoints."""

import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vidtune.data.clips import FAILED, EpochSampler, collate, failure
from vidtune.errors import InputError, VideoError, first_line
from vidtune.evaluation.metrics import video_metrics
from vidtune.training.checkpoints import STAGING, move_checkpoint, move_files, rotate_checkpoints

LOGGED_METRICS = ("loss", "accuracy", "top5_accuracy", "macro_f1")
"""What each evaluation logs, and the best checkpoint can be chosen by."""


class VideoTrainer(Trainer):  # type: ignore[misc]
    """A Trainer for video classification.

    Datasets yield uint8 `pixel_values` and `labels` (see `vidtune.data.clips`), which are normalised on the device.
    The views of a video are scored together and its probabilities averaged. A video that failed has label FAILED,
    which no loss and no metric counts.

    Args:
        model: Any model of AutoModelForVideoClassification.
        args: Training arguments.
        image_mean: Mean that the model's processor subtracts, of values in [0, 1], by channel.
        image_std: Standard deviation that it divides by, by channel.
        label_names: Names of the labels, in order.
        processors: Saved beside the model.
        on_error: `raise`: a failed training video ends the run with VideoError; `skip`: it is left out, and listed in
            `failed_rows`.
        **kwargs: Passed on to Trainer, such as `train_dataset`, `eval_dataset`, `callbacks`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        label_names: Sequence[str],
        processors: Sequence[Any] = (),
        on_error: str = "raise",
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(
                model,
                args,
                data_collator=collate,
                compute_loss_func=partial(classification_loss, label_smoothing=args.label_smoothing_factor),
                compute_metrics=partial(scalar_metrics, label_names=label_names),
                **kwargs,
            )
        except (ValueError, ImportError) as error:  # of arguments that contradict each other, or lack a package
            raise InputError(f"training arguments: {first_line(error)}") from error
        self.image_mean = 255 * torch.tensor(image_mean, device=args.device).view(-1, 1, 1)
        self.image_std = 255 * torch.tensor(image_std, device=args.device).view(-1, 1, 1)
        self.processors = processors
        # Trainer deletes old checkpoints in place, where a kill would leave half of one.
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None
        self.on_error = on_error
        self.failed_rows: set[int] = set()
        self.trained_videos = 0
        self.evaluation_seconds = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = EpochSampler(len(train_dataset or self.train_dataset), seed)
        self.add_callback(_SetEpoch(sampler))
        return sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # resumed after its last step: Trainer would take one more
        else:
            super()._run_epoch(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.model.training:
            self.trained_videos += (len(inputs["labels"]) - len(inputs["failed_rows"])) * self.args.world_size
            if inputs["failed_rows"]:
                self._note_failed(inputs["failed_rows"])
        inputs = super()._prepare_inputs({name: inputs[name] for name in ("pixel_values", "labels")})
        pixels = inputs["pixel_values"].sub(self.image_mean).div(self.image_std)
        return {self.model.main_input_name: pixels, "labels": inputs["labels"]}

    def _note_failed(self, rows: list[int]) -> None:
        self.failed_rows.update(rows)
        if self.on_error == "raise":
            problem = failure(self.train_dataset.videos, rows[0], self.train_dataset.decoder)
            raise VideoError(
                f"{problem['path']}: {problem['reason']}; mend or remove it, or leave it out with --on_error skip"
            )

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Return the probabilities of each video, `(B, num_labels)`, averaged over its views, and the labels."""
        inputs = self._prepare_inputs(inputs)
        views = inputs[self.model.main_input_name]
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**{self.model.main_input_name: views.flatten(0, 1)}).logits
        probabilities = logits.float().flatten(1).softmax(-1)
        return None, probabilities.unflatten(0, views.shape[:2]).mean(1), inputs["labels"]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as Trainer does, and keep count of the time it takes."""
        start = time.perf_counter()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start
        if self.args.load_best_model_at_end and metrics.get("eval_videos") == 0:
            raise InputError(
                f"dataset: none of the {metrics['eval_failed']} validation videos can be decoded, so there is no best "
                "checkpoint; mend them, or set load_best_model_at_end: false"
            )
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processors; outside of a checkpoint each file gets its name when it is whole."""
        final = Path(output_dir or self.args.output_dir)
        folder = final if _internal_call else final / STAGING / "model"
        if not _internal_call and self.args.should_save:
            shutil.rmtree(final / STAGING, ignore_errors=True)  # what an interrupted run left
        super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            for processor in self.processors:
                processor.save_pretrained(folder)
            if not _internal_call:
                move_files(folder, final)
                (final / STAGING).rmdir()
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint under a temporary name, and rename it when it is whole."""
        run_dir, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)  # what an interrupted run left
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_global_step and (best.name == name or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            staged = run_dir / STAGING / name
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))  # with the best checkpoint's final name
            move_checkpoint(staged, run_dir / name)
            rotate_checkpoints(run_dir, self.save_total_limit, self.state.best_model_checkpoint)
            (run_dir / STAGING).rmdir()
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        folder = str(super()._get_output_dir(trial))
        return os.path.join(folder, STAGING) if getattr(self, "_saving", False) else folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._has_plain_weights(resume_from_checkpoint):
            load_weights(model or self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._has_plain_weights(self.state.best_model_checkpoint):
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _has_plain_weights(self, checkpoint: str) -> bool:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not sharded and any(Path(checkpoint).glob("model*.safetensors"))


class _SetEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler the epoch; accelerate does so only for some of the loaders it makes."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)


def training_arguments(given: dict[str, Any], precision: str = "auto") -> TrainingArguments:
    """Build the arguments of the Trainer.

    Args:
        given: Fields of TrainingArguments by name.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: what accelerate was launched with, else bf16 on a GPU that has
            it, else fp32. `fp32` also overrules what accelerate was launched with, in the environment of this process.

    Raises:
        InputError: If a field is refused.
    """
    given = dict(given)
    on_gpu = torch.cuda.is_available() and not given.get("use_cpu")
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
        metric = given.setdefault("metric_for_best_model", "accuracy")
        if metric.removeprefix("eval_") not in LOGGED_METRICS:
            raise InputError(f"metric_for_best_model: got {metric!r}; give one of {', '.join(LOGGED_METRICS)}")
    given |= {"push_to_hub": False, "remove_unused_columns": False, "label_names": ["labels"]}
    try:
        arguments = TrainingArguments(**given)
    except (ValueError, TypeError, ImportError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"training arguments: {message}") from None
    if arguments.n_gpu > 1:
        raise InputError(
            f"num_processes: one process was started for {arguments.n_gpu} GPUs; add `--multi_gpu --num_processes "
            f"{arguments.n_gpu}` to accelerate launch, or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    if arguments.mixed_precision == "fp16" and arguments.device.type == "cpu":
        raise InputError("precision: fp16 needs a GPU; use fp32 here, or bf16")
    return arguments


def classification_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy, summed and divided by the videos of the whole step.

    So a step of 2 batches of 4 has the loss, and the gradient, of one batch of 8, for every architecture.

    Args:
        outputs: With `logits`, `(B, num_labels)` or `(B, 1, num_labels)`.
        labels: `(B,)`; FAILED where a video failed.
        num_items_in_batch: Videos that count, over all processes and accumulated batches; None: of this batch.
        label_smoothing: In [0, 1).

    Returns:
        Scalar, nats.
    """
    logits = outputs["logits"].flatten(1).float()
    total = F.cross_entropy(logits, labels, ignore_index=FAILED, reduction="sum", label_smoothing=label_smoothing)
    count = (labels != FAILED).sum() if num_items_in_batch is None else num_items_in_batch
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


def scalar_metrics(prediction: EvalPrediction, label_names: Sequence[str]) -> dict[str, float]:
    """Give what the Trainer logs and chooses the best checkpoint by: loss, accuracy, top-5 and macro F1."""
    metrics = video_metrics(np.asarray(prediction.predictions), np.asarray(prediction.label_ids), label_names)
    return {name: metrics[name] for name in (*LOGGED_METRICS, "videos", "failed") if metrics[name] is not None}


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load the weights of a checkpoint into a model, all of them.

    Through `from_pretrained`, because `save_pretrained` renames tensors of some models (VideoMAE's biases, most of
    ViViT's), and Trainer, which reads the file directly, would pass over those without a word.

    Raises:
        InputError: If the checkpoint is one of another model, such as one with other labels.
    """
    loaded, info = type(model).from_pretrained(checkpoint, output_loading_info=True)  # type: ignore[attr-defined]
    try:
        if info["missing_keys"]:
            raise RuntimeError(f"it lacks {min(info['missing_keys'])}")
        model.load_state_dict(loaded.state_dict(), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"resume_from_checkpoint: {checkpoint}: holds another model: {reason}") from None
