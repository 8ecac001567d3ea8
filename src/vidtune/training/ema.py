"""An average of the weights over the steps, which is scored and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidtune.errors import InputError

LIVE_WEIGHTS = "live_weights.safetensors"
"""The file in a checkpoint with the weights that training goes on from; the model beside it is the average."""


class WeightAverage:
    """The exponential moving average of a model's weights, and of the statistics of its norms.

    It starts from the weights as they are; each step keeps `decay` of it and adds `1 - decay` of the new weights.
    Source: Tarvainen and Valpola 2017; `ModelEma` of timm.

    Args:
        model: The model that is trained.
        decay: Share that is kept at each step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights of a step."""
        torch._foreach_lerp_(list(self.weights.values()), list(_averaged(model).values()), 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Put the average into the model, and the model's weights here; again puts them back."""
        for name, value in _averaged(model).items():
            other = self.weights[name].clone()
            self.weights[name].copy_(value)
            value.copy_(other)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Have the average in the model for a while."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    def save(self, checkpoint: str) -> None:
        """Save the weights that are here into a checkpoint, while the average is in the model."""
        save_file({name: value.contiguous() for name, value in self.weights.items()}, Path(checkpoint, LIVE_WEIGHTS))

    @classmethod
    @torch.no_grad()
    def load(cls, model: nn.Module, decay: float, checkpoint: str) -> "WeightAverage":
        """Continue from a checkpoint, whose average has been loaded into the model.

        Raises:
            InputError: If the checkpoint was saved without an average.
        """
        path = Path(checkpoint, LIVE_WEIGHTS)
        if not path.is_file():
            raise InputError(
                f"ema_decay: {decay}: {checkpoint}: is one of a run without ema_decay; leave it out, or start afresh"
            )
        average, live = cls(model, decay), load_file(path)
        if live.keys() != average.weights.keys():
            raise InputError(f"resume_from_checkpoint: {checkpoint}: {LIVE_WEIGHTS} is of another model; start afresh")
        for name, value in live.items():
            average.weights[name].copy_(value)
        average.swap(model)
        return average


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Name what changes in training: trainable parameters, and buffers with fractions."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return trained | {name: value for name, value in model.named_buffers() if value.is_floating_point()}
