"""What happens before and after each step: seeds, averages, signals and losses that are no number."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from vidtune.data.clips import EpochSampler

if TYPE_CHECKING:
    from vidtune.training.resumable import ResumableTrainer


class EachStep(TrainerCallback):  # type: ignore[misc]
    """Seeds each step, on each process another way, averages the weights after it, and looks for what ends a run."""

    def __init__(self, trainer: "ResumableTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what was under way when a signal came."""
        self.trainer.finish_interrupted_step()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that its end is still to come."""
        self.trainer.epoch_ended = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that it is there."""
        self.trainer.epoch_ended = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed the step by (seed, step, process)."""
        sequence = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
        # torch.manual_seed takes a tenth of a millisecond, for all kinds of devices.
        set_seed = torch.default_generator.manual_seed if args.device.type == "cpu" else torch.manual_seed
        set_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out a step whose loss is no number, and agree with the other processes on signals."""
        self.trainer.check_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average the weights."""
        if self.trainer.average and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.average.update(self.trainer.model)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let a signal end an evaluation in the middle of training."""
        self.trainer.stop_evaluation()


class SetEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler the epoch; accelerate does so only for some of the loaders it makes."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch."""
        self.sampler.epoch = int(state.epoch or 0)
