"""VideoTrainer: a transformers.Trainer that reads uint8 clips, scores videos and saves whole checkpoints."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vidtune.data.clips import FAILED, EpochSampler, Item, collate, failure
from vidtune.errors import InputError, VideoError, first_line
from vidtune.evaluation.metrics import scalar_metrics
from vidtune.evaluation.scoring import average_views
from vidtune.models.attentive_probe import probe_groups
from vidtune.training.checkpoints import STAGING, move_checkpoint, move_files, rotate_checkpoints
from vidtune.training.ema import LIVE_WEIGHTS, WeightAverage
from vidtune.training.losses import classification_loss, soft_targets
from vidtune.training.mixing import Mixing, draw_mix, mix_clips
from vidtune.training.optimization import layer_ids, parameter_groups, stepped
from vidtune.training.weights import complete_adapter, has_adapter, has_plain_weights, load_weights, merge_adapter

ROW_FACTS = {"rows", "failed_rows", "epoch"}
"""What of a batch is not for the model."""


class VideoTrainer(Trainer):  # type: ignore[misc]
    """A Trainer for video classification.

    Datasets yield uint8 `pixel_values` and `labels` (see `vidtune.data.clips`), which are normalised on the device, or
    tokens of texts (see `vidtune.data.texts`).
    The views of a video are scored together and its probabilities averaged. A video that failed has label FAILED,
    which no loss and no metric counts.

    Args:
        model: Any model of AutoModelForVideoClassification, of images or of texts, as the collator makes its input.
        args: Training arguments.
        image_mean: Mean that the model's processor subtracts, of values in [0, 1], by channel; texts need none.
        image_std: Standard deviation that it divides by, by channel.
        label_names: Names of the labels, in order.
        data_collator: What makes a batch of items, as `collate`.
        processors: Saved beside the model.
        on_error: `raise`: a failed training video ends the run with VideoError; `skip`: it is left out, and listed in
            `failed_rows`.
        multi_label: Whether a video may have several labels: labels are float `(B, num_labels)`.
        layer_decay: Learning rate of each layer over that of the next one, in (0, 1].
        learning_rate_steps: Epochs at which the learning rate falls to a tenth, ascending; replaces the schedule.
        mixing: How training clips are mixed; None: not.
        label_weights: Of each label's loss; None: all alike.
        focal_gamma: Exponent of the focal loss, >= 0.
        ema_decay: Share that an average of the weights keeps at each step; the average is scored and saved. None: the
            weights themselves are.
        row_weights: How likely a training video is drawn, over the others; None: each once an epoch.
        probe_grid: Learning rates and weight decays of the probes of a model that has one for each pair; when
            training is done, the best by validation stays. None for other models.
        merge_lora: Save a model with LoRA's matrices as a plain one, and the adapter in a folder of its own.
        **kwargs: Passed on to Trainer, such as `train_dataset`, `eval_dataset`, `callbacks`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        image_mean: Sequence[float] = (),
        image_std: Sequence[float] = (),
        label_names: Sequence[str],
        data_collator: Callable[[Sequence[Item]], dict[str, Any]] = collate,
        processors: Sequence[Any] = (),
        on_error: str = "raise",
        multi_label: bool = False,
        layer_decay: float = 1.0,
        learning_rate_steps: Sequence[float] | None = None,
        mixing: Mixing | None = None,
        label_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        ema_decay: float | None = None,
        row_weights: Sequence[float] | None = None,
        probe_grid: tuple[Sequence[float], Sequence[float]] | None = None,
        merge_lora: bool = False,
        **kwargs: Any,
    ) -> None:
        def score(prediction: EvalPrediction) -> dict[str, float]:
            probabilities = average_views(np.asarray(prediction.predictions), multi_label)
            return scalar_metrics(probabilities, np.asarray(prediction.label_ids), label_names)

        loss = partial(
            classification_loss,
            label_smoothing=args.label_smoothing_factor,
            weights=None if label_weights is None else torch.tensor(label_weights, device=args.device),
            focal_gamma=focal_gamma,
            multi_label=multi_label,
        )
        try:
            super().__init__(
                model,
                args,
                data_collator=data_collator,
                compute_loss_func=loss,
                compute_metrics=score,
                **kwargs,
            )
        except (ValueError, ImportError) as error:  # of arguments that contradict each other, or lack a package
            raise InputError(f"training arguments: {first_line(error)}") from error
        if layer_decay < 1:
            layer_ids(model)  # refused before anything is written
        if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise InputError("gradient_checkpointing: True: the model has no blocks to compute twice; leave it out")
        self.image_mean = 255 * torch.tensor(image_mean, device=args.device).view(-1, 1, 1)
        self.image_std = 255 * torch.tensor(image_std, device=args.device).view(-1, 1, 1)
        self.processors = processors
        # Trainer deletes old checkpoints in place, where a kill would leave half of one.
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None
        self.on_error, self.multi_label, self.mixing, self.row_weights = on_error, multi_label, mixing, row_weights
        self.layer_decay, self.learning_rate_steps = layer_decay, learning_rate_steps
        self.probe_grid, self.merge_lora, self.ema_decay = probe_grid, merge_lora, ema_decay
        self.average: WeightAverage | None = None
        if ema_decay and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise InputError("ema_decay: can't average weights that are sharded; leave it out, or launch with DDP")
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise InputError(
                "fsdp: its version 1 flattens parameters, so that weight decay would spare all of them; set "
                "fsdp_version: 2 in accelerate's config"
            )
        self.add_callback(_EachStep(self))
        self.best_probe: int | None = None
        self.failed_rows: set[int] = set()
        self.trained_videos = 0
        self.evaluation_seconds = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        weighted = {} if self.row_weights is None else {"weights": self.row_weights}
        sampler = EpochSampler(len(train_dataset or self.train_dataset), self.data_seed, **weighted)
        self.add_callback(_SetEpoch(sampler))
        return sampler

    @property
    def data_seed(self) -> int:
        """Seed of what is drawn, and of how it is mixed."""
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser as Trainer does, with our groups of parameters."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new:
            rate, decay = self.args.learning_rate, self.args.weight_decay
            optimizer.param_groups.clear()
            groups = (
                probe_groups(self.model, *self.probe_grid)
                if self.probe_grid
                else parameter_groups(model or self.model, rate, decay, self.layer_decay)
            )
            for group in groups:
                optimizer.add_param_group(group)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule as Trainer does, or one that falls at given epochs."""
        if self.learning_rate_steps and self.lr_scheduler is None:  # type: ignore[has-type]
            epochs = [epoch / self.args.num_train_epochs for epoch in self.learning_rate_steps]
            falls = [round(epoch * num_training_steps) for epoch in epochs]
            warmup = self.args.get_warmup_steps(num_training_steps)
            rate = partial(stepped, num_warmup_steps=warmup, falls=falls)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; afterwards the model is the average of its weights, or has its best probe only."""
        self.average = WeightAverage(self.model, self.ema_decay) if self.ema_decay else None
        result = super().train(*args, **kwargs)
        if self.average:  # not where the best checkpoint, an average itself, was loaded
            self.average.swap(self.model)
            self.average = None
        if self.probe_grid:
            several = len(self.model.probes) > 1
            if several and not any("eval_best_probe" in entry for entry in self.state.log_history):
                self.evaluate()
            self.best_probe = int(self.model.best_probe) if several else 0
            self.model.keep_best()
        return result

    def _with_average(self) -> AbstractContextManager[None]:
        return self.average.in_place(self.model) if self.average else nullcontext()

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a step as Trainer does, without telling each module of a model in training that it is."""
        if (
            model.training and self.model.training
        ):  # an evaluation leaves what is around the model, as DDP's, as it was
            vars(model)["train"] = lambda: model
        try:
            loss: torch.Tensor = super().training_step(model, *args, **kwargs)
        finally:
            vars(model).pop("train", None)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count none: Trainer's estimate is of language models, and takes longer than a small model's step."""
        return 0

    @property
    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [item for item in self.callback_handler.callbacks if isinstance(item, EarlyStoppingCallback)]

    def _load_callback_state(self) -> None:
        """Restore the patience that was used up, which Trainer forgets."""
        for callback in self._early_stopping:
            saved = self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
            callback.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
        super()._load_callback_state()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed after its last step: Trainer would take one more.
        stopped = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self._early_stopping
        )
        if stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        mix = None
        if self.model.training:
            self.trained_videos += (len(inputs["rows"]) - len(inputs["failed_rows"])) * self.args.world_size
            if inputs["failed_rows"]:
                self._note_failed(inputs["failed_rows"])
            if self.mixing:
                failed = (inputs["labels"].reshape(len(inputs["labels"]), -1)[:, 0] == FAILED).tolist()
                size, seed = inputs["pixel_values"].shape[-2:], self.data_seed
                mix = draw_mix(self.mixing, inputs["rows"].tolist(), failed, size, seed=seed, epoch=inputs["epoch"])
        inputs = super()._prepare_inputs({name: inputs[name] for name in inputs.keys() - ROW_FACTS})
        if "pixel_values" not in inputs:
            return inputs
        pixels, labels = inputs["pixel_values"].sub(self.image_mean).div(self.image_std), inputs["labels"]
        if not self.model.training and (self.args.bf16_full_eval or self.args.fp16_full_eval):
            pixels = pixels.to(next(self.model.parameters()).dtype)
        if mix:
            pixels, labels = mix_clips(pixels, soft_targets(labels, self.model.config.num_labels), mix)
        return {self.model.main_input_name: pixels, "labels": labels}

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
        """Return the logits of each view of each video, and the labels of the videos.

        They are `(B, V, num_labels)`, or `(B, V, num_probes, num_labels)` while several probes are trained.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        # A last batch of fewer videos is filled, as it is where there are several processes: the logits of a video
        # differ by bits with the size of its batch.
        missing = max(0, self.args.eval_batch_size - len(labels))

        def filled(views: torch.Tensor) -> torch.Tensor:
            return torch.cat([views, views[:1].expand(missing, *views.shape[1:])]) if missing else views

        num_views = inputs[self.model.main_input_name].shape[1]
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**{name: filled(views).flatten(0, 1) for name, views in inputs.items()}).logits
        logits = logits.float()
        if logits.shape[1] == 1 and logits.ndim == 3:  # VideoPrism's
            logits = logits.squeeze(1)
        return None, logits.unflatten(0, (-1, num_views))[: len(labels)], labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict as Trainer does, with the average of the weights, if there is one."""
        with self._with_average():
            return super().evaluation_loop(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as Trainer does, and keep count of the time it takes."""
        start = time.perf_counter()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start
        if "eval_best_probe" in metrics:
            self.model.best_probe.fill_(int(metrics["eval_best_probe"]))
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
            if has_adapter(folder):
                complete_adapter(self.model, folder)
                if self.merge_lora and not _internal_call:
                    merge_adapter(self.model, folder)
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
            with self._with_average():
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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average and self.args.should_save:
            self.average.save(output_dir)

    def _get_output_dir(self, trial: Any) -> str:
        folder = str(super()._get_output_dir(trial))
        return os.path.join(folder, STAGING) if getattr(self, "_saving", False) else folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._has_plain_weights(resume_from_checkpoint):
            load_weights(model or self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema_decay:
            self.average = WeightAverage.load(self.model, self.ema_decay, resume_from_checkpoint)
        elif Path(resume_from_checkpoint, LIVE_WEIGHTS).is_file():
            raise InputError(
                f"resume_from_checkpoint: {resume_from_checkpoint}: its run has ema_decay; set it as there"
            )

    def _load_best_model(self) -> None:
        self.average = None  # what was scored and saved is the average
        if self._has_plain_weights(self.state.best_model_checkpoint):
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _has_plain_weights(self, checkpoint: str) -> bool:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not sharded and has_plain_weights(checkpoint)


class _EachStep(TrainerCallback):  # type: ignore[misc]
    """Seeds each step, on each process another way, and averages the weights after it."""

    def __init__(self, trainer: VideoTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sequence = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
        # torch.manual_seed takes a tenth of a millisecond, for all kinds of devices.
        set_seed = torch.default_generator.manual_seed if args.device.type == "cpu" else torch.manual_seed
        set_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.average and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.average.update(self.trainer.model)


class _SetEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler the epoch; accelerate does so only for some of the loaders it makes."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)
