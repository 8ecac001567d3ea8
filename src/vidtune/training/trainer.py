"""VideoTrainer: a transformers.Trainer that reads uint8 clips and scores videos."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from vidtune.data.clips import FAILED, EpochSampler, Item, collate, failure
from vidtune.data.streaming import fingerprint, shard_numbers
from vidtune.errors import InputError, VideoError
from vidtune.evaluation.metrics import scalar_metrics
from vidtune.evaluation.scoring import average_views
from vidtune.models.attentive_probe import probe_groups
from vidtune.training.callbacks import SetEpoch
from vidtune.training.losses import classification_loss, soft_targets
from vidtune.training.mixing import Mixing, draw_mix, mix_clips
from vidtune.training.optimization import layer_ids, parameter_groups, stepped
from vidtune.training.resumable import ResumableTrainer
from vidtune.training.sampler_state import check_sampler, sampler_state, save_sampler

ROW_FACTS = {"rows", "failed_rows", "epoch"}
"""What of a batch is not for the model."""


class VideoTrainer(ResumableTrainer):
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
        on_error: `raise`: a failed training video ends the run with VideoError; `skip`: it is left out, and listed in
            `failed_rows`.
        multi_label: Whether a video may have several labels: labels are float `(B, num_labels)`.
        layer_decay: Learning rate of each layer over that of the next one, in (0, 1].
        learning_rate_steps: Epochs at which the learning rate falls to a tenth, ascending; replaces the schedule.
        mixing: How training clips are mixed; None: not.
        label_weights: Of each label's loss; None: all alike.
        focal_gamma: Exponent of the focal loss, >= 0.
        row_weights: How likely a training video is drawn, over the others; None: each once an epoch.
        shuffle_buffer: How many videos of the shards of a stream are shuffled among each other; None: no stream.
        probe_grid: Learning rates and weight decays of the probes of a model that has one for each pair; when
            training is done, the best by validation stays. None for other models.
        **kwargs: Those of ResumableTrainer and Trainer, such as `ema_decay`, `train_dataset`, `callbacks`.
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
        on_error: str = "raise",
        multi_label: bool = False,
        layer_decay: float = 1.0,
        learning_rate_steps: Sequence[float] | None = None,
        mixing: Mixing | None = None,
        label_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        row_weights: Sequence[float] | None = None,
        shuffle_buffer: int | None = None,
        probe_grid: tuple[Sequence[float], Sequence[float]] | None = None,
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
        kwargs |= {"data_collator": data_collator, "compute_loss_func": loss, "compute_metrics": score}
        super().__init__(model, args, **kwargs)
        if layer_decay < 1:
            layer_ids(model)  # refused before anything is written
        if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise InputError("gradient_checkpointing: True: the model has no blocks to compute twice; leave it out")
        self.image_mean = 255 * torch.tensor(image_mean, device=args.device).view(-1, 1, 1)
        self.image_std = 255 * torch.tensor(image_std, device=args.device).view(-1, 1, 1)
        self.on_error, self.multi_label, self.mixing, self.row_weights = on_error, multi_label, mixing, row_weights
        self.layer_decay, self.learning_rate_steps = layer_decay, learning_rate_steps
        self.probe_grid, self.shuffle_buffer = probe_grid, shuffle_buffer
        self.best_probe: int | None = None
        self.failed_rows: set[int] = set()
        self.trained_videos = 0
        self.evaluation_seconds = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        options: dict[str, Any] = {} if self.row_weights is None else {"weights": self.row_weights}
        if self.shuffle_buffer is not None:
            shards = shard_numbers(self.train_dataset.videos)
            options |= {"shards": shards, "shuffle_buffer": self.shuffle_buffer}
        args, num_rows = self.args, len(train_dataset or self.train_dataset)
        unfilled = args.world_size == 1 or args.dataloader_drop_last
        multiple_of = 1 if unfilled else args.train_batch_size * args.world_size
        sampler = EpochSampler(num_rows, self.data_seed, multiple_of=multiple_of, **options)
        self.add_callback(SetEpoch(sampler))
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
        """Train; afterwards a model of several probes has its best one only."""
        result = super().train(*args, **kwargs)
        if self.probe_grid:
            several = len(self.model.probes) > 1
            if several and not any("eval_best_probe" in entry for entry in self.state.log_history):
                self.evaluate()
            self.best_probe = int(self.model.best_probe) if several else 0
            self.model.keep_best()
        return result

    def _sampler_state(self) -> dict[str, Any] | None:
        if self.shuffle_buffer is None:
            return None
        args = self.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        order = {"seed": self.data_seed, "shuffle_buffer": self.shuffle_buffer, "videos_per_step": per_step}
        return sampler_state(len(self.train_dataset), self._fingerprint, self.state.global_step, **order)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.train_dataset.videos)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and (state := self._sampler_state()):
            save_sampler(output_dir, state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        check_sampler(resume_from_checkpoint, self._sampler_state())
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count none: Trainer's estimate is of language models, and takes longer than a small model's step."""
        return 0

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        mix = None
        if self.model.training:
            self.throughput.clips += len(inputs["labels"]) * self.args.world_size
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as Trainer does, and keep count of the time it takes."""
        start = time.perf_counter()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            seconds = time.perf_counter() - start
            self.evaluation_seconds += seconds
            self.throughput.elsewhere += seconds
        if "eval_best_probe" in metrics:
            self.model.best_probe.fill_(int(metrics["eval_best_probe"]))
        if self.args.load_best_model_at_end and metrics.get("eval_videos") == 0:
            raise InputError(
                f"dataset: none of the {metrics['eval_failed']} validation videos can be decoded, so there is no best "
                "checkpoint; mend them, or set load_best_model_at_end: false"
            )
        return metrics
