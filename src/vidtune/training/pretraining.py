"""Pre-training: a VideoMAE fills in what is hidden of its clips, and no label is read."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, TrainingArguments, VideoMAEForPreTraining

from vidtune.data.clips import FAILED
from vidtune.data.masking import EVALUATION, TRAINING, draw_masks, patch_statistics, to_patches
from vidtune.errors import InputError
from vidtune.models.positions import clip_grid
from vidtune.training.trainer import VideoTrainer


def pixel_targets(
    frames: torch.Tensor, masks: torch.Tensor, grid: tuple[int, int, int], normalised: bool
) -> torch.Tensor:
    """Give what a model is to predict: the pixels of the hidden patches.

    Source: masked autoencoders, He et al. 2022, for the normalisation; VideoMAE, Tong et al. 2022.

    Args:
        frames: `(B, t, C, h, w)`, in [0, 1].
        masks: bool `(B, N)`, True where hidden; as many in each clip.
        grid: Patches of a clip `(T, H, W)`; N in all.
        normalised: Whether each patch has mean 0 and standard deviation 1, by channel.

    Returns:
        `(B, hidden patches, values of a patch)`.
    """
    patches = to_patches(frames, grid)
    if normalised:
        mean, std = patch_statistics(patches)
        patches = (patches - mean) / std
    hidden = patches.flatten(2)[masks]
    return hidden.reshape(len(frames), -1, hidden.shape[-1])


def reconstruction_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Weigh the loss of a batch, the mean over its clips, by its share of the clips of the whole step.

    So a step of 2 batches of 4 has the loss, and the gradient, of one batch of 8.

    Args:
        outputs: With `loss`, the mean over the clips that have not failed.
        labels: `(B,)`, FAILED where a video failed.
        num_items_in_batch: Clips of the batches that make a step, over all processes, less those of videos that
            failed; None: of this batch.

    Returns:
        Scalar.
    """
    loss: torch.Tensor = outputs["loss"]
    counted = (labels != FAILED).sum()
    count = counted if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=loss.device)
    return loss * counted / count.clamp(min=1)


def mean_error(prediction: EvalPrediction) -> dict[str, float]:
    """Average the errors of an evaluation's videos: `loss`, of how many `videos`, and how many `failed`.

    Raises:
        InputError: If an error is no finite number.
    """
    counted = np.asarray(prediction.label_ids) != FAILED
    errors = np.asarray(prediction.predictions, dtype=np.float64)[counted]
    if not np.isfinite(errors).all():
        raise InputError("learning_rate: the model has diverged; make it smaller, or set max_grad_norm")
    counts = {"videos": int(counted.sum()), "failed": int((~counted).sum())}
    return {"loss": float(errors.mean()), **counts} if len(errors) else {**counts}


class PretrainingTrainer(VideoTrainer):
    """A VideoTrainer that hides most of each clip, and scores how well the model fills it in.

    What is hidden of a clip is a pure function of (seed, epoch, row, draw), as the clip itself is: the same on any
    number of processes, before and after a restart. Evaluations always hide the same. Labels are only looked at for
    whether a video failed.

    Args:
        model: The model.
        args: Training arguments.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        **kwargs: Those of VideoTrainer, less what is about labels.
    """

    def __init__(
        self, model: VideoMAEForPreTraining, args: TrainingArguments, *, mask_ratio: float, **kwargs: Any
    ) -> None:
        super().__init__(model, args, label_names=(), **kwargs)
        self.compute_loss_func, self.compute_metrics = reconstruction_loss, mean_error
        self.mask_ratio, self.grid = mask_ratio, clip_grid(model.config)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return normalised clips, in training those that have not failed, what is hidden of each, and `labels`."""
        training = self.model.training
        prepared = super()._prepare_inputs(inputs)
        pixels, labels = prepared[self.model.main_input_name], prepared["labels"]
        pixels = pixels if training else pixels.flatten(0, 1)  # several views of each video
        rows = inputs["rows"].tolist()
        key = {"seed": self.data_seed, "epoch": inputs["epoch"], "purpose": TRAINING if training else EVALUATION}
        masks = draw_masks(rows, len(pixels) // len(rows), self.grid, self.mask_ratio, **key).to(pixels.device)
        counted = labels != FAILED
        if training and counted.any():  # else one batch of zeros, whose loss has no weight
            pixels, masks = pixels[counted], masks[counted]
        return {"pixel_values": pixels, "bool_masked_pos": masks, "labels": labels}

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Return the error of each video, averaged over its views, and its label, by which a failed one is known."""
        inputs = self._prepare_inputs(inputs)
        pixels, masks, labels = inputs["pixel_values"], inputs["bool_masked_pos"], inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            predicted = model(pixel_values=pixels, bool_masked_pos=masks).logits.float()
        frames = (pixels * self.image_std + self.image_mean) / 255
        targets = pixel_targets(frames, masks, self.grid, self.model.config.norm_pix_loss)
        errors = (predicted - targets).square().flatten(1).mean(1)
        return None, errors.reshape(len(labels), -1).mean(1), labels
