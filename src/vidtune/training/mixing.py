"""Mixup and cutmix: pairs of neighbouring videos of a batch are mixed on the device, pictures and labels.

Which pairs, how much of each, and which box is a function of (seed, epoch, rows of the pair), and both of a pair lie
in one batch of even size. So 1 and 2 processes, and one batch of 8 and 2 of 4, mix the same.

Source: mixup, Zhang et al. 2018; cutmix, Yun et al. 2019; `Mixup` of timm in its mode `pair`. VideoMAE's copy of it
draws once a batch, and its cutmix, written for pictures, takes frames and rows where a clip has rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How clips are mixed.

    Attributes:
        mixup: Alpha of the Beta distribution of a clip's own share of a blend; 0 for no mixup.
        cutmix: Alpha of the Beta distribution of a clip's own share of the picture; 0 for no cutmix.
        probability: Share of the pairs that are mixed.
        switch_probability: Share of cutmix where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5


@dataclass(frozen=True)
class Mix:
    """What is mixed of N clips.

    Attributes:
        partners: Index of the clip that each is mixed with, int64 `(N,)`; its own where it stays as it is.
        shares: Its own share of the blend, float32 `(N,)`; 1 for cutmix.
        boxes: Top, bottom, left and right of what its partner replaces, pixels, int64 `(N, 4)`; empty for mixup.
    """

    partners: Tensor
    shares: Tensor
    boxes: Tensor


def draw_mix(
    mixing: Mixing, rows: Sequence[int], failed: Sequence[bool], size: tuple[int, int], *, seed: int, epoch: int
) -> Mix:
    """Draw how the clips of a batch are mixed: videos 0 and 1, 2 and 3 and so on.

    Args:
        mixing: How clips are mixed.
        rows: Of the dataset, one a video.
        failed: Whether a clip failed, for as many clips of each video as of any other, those of the first video
            first. A clip that failed, or whose partner did, stays as it is.
        size: Height and width of a clip, pixels.
        seed: Of the run.
        epoch: In which the rows were drawn.
    """
    samples = len(failed) // len(rows)
    partners, shares, boxes = list(range(len(failed))), [1.0] * len(failed), [(0, 0, 0, 0)] * len(failed)
    for first in range(0, len(rows) - 1, 2):
        for sample in range(samples):
            pair = [first * samples + sample, (first + 1) * samples + sample]
            if any(failed[index] for index in pair):
                continue
            rng = np.random.default_rng([seed, epoch, rows[first], rows[first + 1], sample])
            share, box = draw_pair(mixing, size, rng)
            for index, partner in (pair, reversed(pair)):
                partners[index], shares[index], boxes[index] = partner, share, box
    return Mix(torch.tensor(partners), torch.tensor(shares), torch.tensor(boxes))


def draw_pair(
    mixing: Mixing, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, tuple[int, int, int, int]]:
    """Draw the share of a blend and the box of a cut; one of them leaves the clip as it is.

    Args:
        mixing: How clips are mixed.
        size: Height and width of a clip, pixels.
        rng: Source of randomness.

    Returns:
        Share in [0, 1], and top, bottom, left and right in pixels.
    """
    nothing = (0, 0, 0, 0)
    if rng.random() >= mixing.probability:
        return 1.0, nothing
    is_cut = mixing.cutmix > 0 and (mixing.mixup == 0 or rng.random() < mixing.switch_probability)
    if not is_cut:
        return float(rng.beta(mixing.mixup, mixing.mixup)), nothing
    side = np.sqrt(1 - rng.beta(mixing.cutmix, mixing.cutmix))
    box = []
    for length in size:
        centre, half = int(rng.integers(length)), int(length * side) // 2
        box += [max(centre - half, 0), min(centre + half, length)]
    return 1.0, (box[0], box[1], box[2], box[3])


def mix_clips(pixels: Tensor, targets: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """Mix clips and their targets.

    Args:
        pixels: float `(N, T, C, H, W)`, or of single frames `(N, C, H, W)`.
        targets: float `(N, num_labels)`.
        mix: How, as `draw_mix` says.

    Returns:
        Both, mixed: a target by the share of the picture that is the clip's own.
    """
    partners, shares, boxes = (value.to(pixels.device) for value in (mix.partners, mix.shares, mix.boxes))
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    y, x = (torch.arange(length, device=pixels.device) for length in pixels.shape[-2:])
    in_box = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
    own = shares[:, None, None].masked_fill(in_box, 0.0)
    share = own.reshape(len(own), *[1] * (pixels.ndim - 3), *own.shape[1:]).to(pixels.dtype)
    mixed = torch.lerp(pixels[partners], pixels, share)
    return mixed, torch.lerp(targets[partners], targets, own.mean((1, 2))[:, None].to(targets.dtype))
