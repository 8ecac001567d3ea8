"""ResumableTrainer: a transformers.Trainer that loses nothing, whatever ends it, and says what did."""

import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # its error alone
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vidtune.data.workers import WatchedRows, watch_workers
from vidtune.errors import InputError, Interrupted, RunError, first_line
from vidtune.models.blocks import find_blocks
from vidtune.training.callbacks import EachStep
from vidtune.training.checkpoints import STAGING, list_checkpoints, move_checkpoint, move_files, rotate_checkpoints
from vidtune.training.ema import LIVE_WEIGHTS, WeightAverage
from vidtune.training.failures import check_finite, clear_end, less_memory, videos_named, while_saving
from vidtune.training.launch import CONFIGS, check_resumable, check_sharding
from vidtune.training.processes import Processes, spread
from vidtune.training.running_loss import RunningLoss
from vidtune.training.signals import SignalWatch
from vidtune.training.throughput import Throughput
from vidtune.training.weights import complete_adapter, has_adapter, has_plain_weights, load_weights, merge_adapter

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose runs go on, after any end, as if there had been none: on a CPU to the bit.

    Checkpoints get their names when they are whole, and hold what Trainer's don't: the loss since the last log entry,
    the average of the weights, an evaluation that is still to be done. Signals end a run when its step is saved;
    workers that die or hang, a lack of memory or disk, and losses that are no number end it in one line.

    Args:
        model: Any model.
        args: Training arguments.
        processors: Saved beside the model.
        ema_decay: Share that an average of the weights keeps at each step; the average is scored and saved. None: the
            weights themselves are.
        merge_lora: Save a model with LoRA's matrices as a plain one, and the adapter in a folder of its own.
        max_nan_steps: Steps in a row, >= 1, whose loss is no number: then the run ends. They change no weights.
        dataloader_timeout: Seconds after which workers that hand over nothing end the run; 0 waits for ever.
        **kwargs: Passed on to Trainer.

    Raises:
        InputError: If arguments contradict each other, or a package is missing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        processors: Sequence[Any] = (),
        ema_decay: float | None = None,
        merge_lora: bool = False,
        max_nan_steps: int = 3,
        dataloader_timeout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(model, args, **kwargs)
        except (ValueError, ImportError) as error:  # of arguments that contradict each other, or lack a package
            message = first_line(error).rstrip(".")
            raise InputError(f"training arguments: {message}; mend the option, or leave it out") from error
        self.processors, self.merge_lora, self.ema_decay = processors, merge_lora, ema_decay
        # Trainer deletes old checkpoints in place, where a kill would leave half of one.
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None
        self.average: WeightAverage | None = None
        for name, value in {"ema_decay": ema_decay, "merge_lora": merge_lora}.items():
            if value and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                raise InputError(f"{name}: {value}: needs whole weights, and here they are sharded; launch with DDP")
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise InputError(
                "fsdp: its version 1 flattens parameters, so that weight decay would spare all of them; set "
                "fsdp_version: 2 in accelerate's config"
            )
        check_sharding(self.is_fsdp_enabled, self.is_deepspeed_enabled)
        if self.is_fsdp_enabled:
            if self.train_dataset is None:
                raise InputError(f"fsdp: a model is sharded for training only; launch with {CONFIGS}ddp.yaml")
            plugin = self.accelerator.state.fsdp_plugin
            if plugin.transformer_cls_names_to_wrap is None:  # accelerate's own choice shards VideoMAE's input twice
                blocks = {type(block).__name__ for block in find_blocks(model).values()}
                plugin.transformer_cls_names_to_wrap = sorted(blocks)
        self.max_nan_steps, self.dataloader_timeout = max_nan_steps, dataloader_timeout
        self.nan_steps, self.step_batches = 0, list[tuple[torch.Tensor, torch.Tensor]]()
        self.processes = Processes(args.world_size, args.ddp_timeout_delta)
        self.watched = dict[str, WatchedRows]()
        self.signals: SignalWatch | None = None
        self.stop_signal = 0
        self.saved_step, self.epoch_ended = -1, False
        self.resumed_from: str | None = None
        self.throughput = Throughput()
        self.add_callback(EachStep(self))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train as Trainer does; afterwards the model is the average of its weights, if there is one.

        Raises:
            Interrupted: On SIGTERM or SIGINT, when the step is finished and a checkpoint written.
            RunError: If workers, memory, disk or a loss that is no number end the run; checkpoints are left as whole.
        """
        if resume_from_checkpoint:
            check_resumable(Path(resume_from_checkpoint), self.is_fsdp_enabled, self.is_deepspeed_enabled)
        self.average = WeightAverage(self.model, self.ema_decay) if self.ema_decay else None
        self.resumed_from = resume_from_checkpoint
        with SignalWatch() as self.signals, self._clear_end():
            try:
                result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except UnpicklingError as error:  # torch's advice is to run what stands there
                reason = "an archive in it is damaged, or holds more than tensors and numbers; take another"
                raise InputError(f"resume_from_checkpoint: {resume_from_checkpoint}: {reason}") from error
            finally:
                self._close_bars()
        [noted] = self.processes.largest(self.signals.noted)
        if noted:  # after the last step
            raise self._interrupted(noted)
        self.signals = None
        if self.average:  # not where the best checkpoint, an average itself, was loaded
            self.average.swap(self.model)
            self.average = None
        return result

    def _close_bars(self) -> None:
        """Close the progress bars, which would be drawn once more behind the line that says what ended the run."""
        for callback in self.callback_handler.callbacks:
            for name in ("training_bar", "prediction_bar"):
                if bar := getattr(callback, name, None):
                    bar.close()

    def _with_average(self) -> AbstractContextManager[None]:
        return self.average.in_place(self.model) if self.average else nullcontext()

    def _clear_end(self) -> AbstractContextManager[None]:
        args, clips = self.args, self.eval_dataset
        views = getattr(clips, "temporal_views", 1) * getattr(clips, "spatial_crops", 1)
        smaller = less_memory(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            self.model.supports_gradient_checkpointing and not args.gradient_checkpointing,
            args.per_device_eval_batch_size,
            views,
        )
        return clear_end(self.watched.values(), self.dataloader_timeout, smaller)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict as Trainer does, with the average of the weights, if there is one."""
        with self._clear_end(), self._with_average():
            return super().evaluation_loop(*args, **kwargs)

    def _get_dataloader(self, dataset: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        workers = self.args.dataloader_num_workers
        if workers:
            dataset = self.watched[description] = WatchedRows(dataset, workers)
        loader = super()._get_dataloader(dataset, description, *args, **kwargs)
        if workers:
            watch_workers(loader, self.dataloader_timeout)
        return loader

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Take the batches of a step, and keep count of the time that it waits for them."""
        start = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self.throughput.waited += time.perf_counter() - start
        return batches

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a step as Trainer does, without telling each module of a model in training that it is."""
        if (
            model.training and self.model.training
        ):  # an evaluation leaves what is around the model, as DDP's, as it was
            vars(model)["train"] = lambda: model
        try:
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        finally:
            vars(model).pop("train", None)
        self.step_batches.append((loss, inputs["rows"]))  # read where it is needed: a GPU would be waited for
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, and how fast training goes; `train_loss` is over all steps, before a restart, too."""
        if "loss" in logs:
            logs |= self.throughput.entry(self.args.device)
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(1, self.state.global_step)
        super().log(logs, start_time)

    def check_step(self) -> None:
        """Before the weights change: leave out a step whose loss is no number, and hear whether a signal came.

        Raises:
            RunError: If it is the last of `max_nan_steps` in a row.
        """
        batches, self.step_batches = self.step_batches, []
        bad_rows = [row for loss, rows in batches if not math.isfinite(loss) for row in rows.tolist()]
        noted = self.signals.noted if self.signals else 0
        self.stop_signal, is_bad = self.processes.largest(noted, bool(bad_rows))
        self.nan_steps = self.nan_steps + 1 if is_bad else 0
        if not is_bad:
            return
        rows = sorted({row for rows in self.processes.gathered(bad_rows) for row in rows})
        videos = [self.train_dataset.videos[row] for row in rows]
        paths = [video["video"]["path"] or video["video_id"] for video in videos]
        step = f"step {self.state.global_step + 1}: the loss is no finite number"
        if self.nan_steps >= self.max_nan_steps:
            raise RunError(
                f"max_nan_steps: {self.max_nan_steps}: {step}, the batch's videos are {videos_named(paths)}; make "
                f"learning_rate smaller, set max_grad_norm, or take bf16 for fp16{self._newest_checkpoint()}"
            )
        logger.warning("%s, it changes no weights; the batch's videos are %s", step, videos_named(paths))
        if self.accelerator.scaler is None and not self.is_deepspeed_enabled:  # these leave it out themselves
            self.optimizer.zero_grad()

    def stop_evaluation(self) -> None:
        """Between two batches of an evaluation amid training: hear whether a signal came.

        Raises:
            Interrupted: If one came.
        """
        if self.signals:
            [self.stop_signal] = self.processes.largest(self.signals.noted)
            if self.stop_signal:
                raise self._interrupted(self.stop_signal)

    def finish_interrupted_step(self) -> None:
        """As training begins: take up the loss that was not logged, and the evaluation that a signal ended."""
        running = RunningLoss.load(self.resumed_from) if self.resumed_from else None
        if running:
            own = spread(running.losses, self.args.process_index, self.args.world_size)
            self._tr_loss.fill_(own)
            self._total_loss_scalar, self._globalstep_last_logged = running.total, running.last_logged
        self.throughput.restart()
        control = self.state.stateful_callbacks.get("TrainerControl", {}).get("args", {}) if self.resumed_from else {}
        if control.get("should_evaluate"):
            self.control.should_evaluate, self.control.should_save = True, control["should_save"]
            super()._maybe_log_save_evaluate(
                self._tr_loss, None, self.model_wrapped, None, self.state.epoch, None, time.time()
            )

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        # Between the last step of an epoch and its end nothing is saved: the end's evaluation would be forgotten.
        epoch_ends = self.state.epoch == int(self.state.epoch or 0) and not self.epoch_ended
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except Interrupted:  # in an evaluation; `control` says in the checkpoint that it is still to be done
            epoch_ends = False
        if self.stop_signal and not epoch_ends:
            if self.saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
            raise self._interrupted(self.stop_signal)

    def _interrupted(self, signal_number: int) -> Interrupted:
        return Interrupted(signal_number, f"stopped at step {self.state.global_step}{self._newest_checkpoint()}")

    def _newest_checkpoint(self) -> str:
        checkpoints = list_checkpoints(Path(self.args.output_dir))
        return f"; go on from {checkpoints[-1].name} with --resume_from_checkpoint auto" if checkpoints else ""

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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processors; outside of a checkpoint each file gets its name when it is whole."""
        final = Path(output_dir or self.args.output_dir)
        folder = final if _internal_call else final / STAGING / "model"
        if not _internal_call and self.args.should_save:
            shutil.rmtree(final / STAGING, ignore_errors=True)  # what an interrupted run left
        with while_saving("the model", final, self._newest_checkpoint()):
            if self.is_fsdp_enabled and not _internal_call:  # Trainer saves no model where checkpoints are sharded
                self._save(str(folder), state_dict=self.accelerator.get_state_dict(self.model))
            else:
                super().save_model(str(folder), _internal_call=True)
            if self.args.should_save:
                self._complete_model(folder, merge=self.merge_lora and not _internal_call)
                if not _internal_call:
                    move_files(folder, final)
                    (final / STAGING).rmdir()
        self.accelerator.wait_for_everyone()

    def _complete_model(self, folder: Path, merge: bool) -> None:
        for processor in self.processors:
            processor.save_pretrained(folder)
        if has_adapter(folder):
            complete_adapter(self.model, folder)
            if merge:
                merge_adapter(self.model, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint under a temporary name, and rename it when it is whole."""
        run_dir, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)  # what an interrupted run left
        self.accelerator.wait_for_everyone()
        start = time.perf_counter()
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            check_finite(self.model, name)
        try:
            with while_saving(name, run_dir, self._newest_checkpoint()):
                self._stage_checkpoint(model, trial)
                if self.args.should_save:
                    staged = run_dir / STAGING / name
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))  # with the best one's final name
                    move_checkpoint(staged, run_dir / name)
        except RunError:
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)
            raise
        if self.args.should_save:
            rotate_checkpoints(run_dir, self.save_total_limit, self.state.best_model_checkpoint)
            (run_dir / STAGING).rmdir()
        self.saved_step = self.state.global_step
        self.throughput.elsewhere += time.perf_counter() - start
        self.accelerator.wait_for_everyone()

    def _stage_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self.args.output_dir)
        self._saving = True
        try:
            with self._with_average():
                super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_global_step and (self.state.best_global_step == self.state.global_step or best.is_dir()):
            self.state.best_model_checkpoint = str(best)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        losses = self.processes.gathered(self._tr_loss.item())
        if self.args.should_save:
            RunningLoss(losses, self._total_loss_scalar, self._globalstep_last_logged).save(output_dir)
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
