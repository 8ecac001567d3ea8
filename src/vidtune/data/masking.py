"""Clips as patches, and which of them are hidden from a model that learns to fill them in."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vidtune.errors import InputError

TRAINING, EVALUATION = 1, 2
"""Last word of a mask's key: it keeps its draw apart from that of the crop, and from that of the other purpose."""


def masked_per_frame(mask_ratio: float, grid: tuple[int, int, int]) -> int:
    """Give the patches that a mask hides of each frame: the share of them, rounded down.

    Raises:
        InputError: If nothing would be hidden, or nothing seen.
    """
    hidden, patches = int(mask_ratio * grid[1] * grid[2]), grid[1] * grid[2]
    if not 0 < hidden < patches:
        change = "more" if hidden == 0 else "less"
        raise InputError(
            f"mask_ratio: got {mask_ratio}, which hides {hidden} of the {patches} patches of a frame; give {change}"
        )
    return hidden


def tube_mask(grid: tuple[int, int, int], mask_ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw what is hidden of a clip: the same patches of all frames, so that none is seen a moment earlier.

    Source: VideoMAE, Tong et al. 2022, section 3.3; `masking_generator.py` of MCG-NJU/VideoMAE.

    Args:
        grid: Patches of a clip `(T, H, W)`.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        rng: Source of randomness.

    Returns:
        `(T * H * W,)`, True where hidden; as many in each clip.

    Raises:
        InputError: If nothing would be hidden, or nothing seen.
    """
    mask = np.zeros(grid[1] * grid[2], dtype=bool)
    mask[rng.permutation(len(mask))[: masked_per_frame(mask_ratio, grid)]] = True
    return np.tile(mask, grid[0])


def draw_masks(
    rows: Sequence[int],
    clips: int,
    grid: tuple[int, int, int],
    mask_ratio: float,
    *,
    seed: int,
    epoch: int = 0,
    purpose: int = TRAINING,
) -> torch.Tensor:
    """Draw the masks of a batch, each a pure function of (seed, epoch, row, draw).

    Args:
        rows: Rows of the B videos.
        clips: Clips of each.
        grid: Patches of a clip `(T, H, W)`.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        seed: Seed of all draws.
        epoch: The epoch; 0 in evaluation, whose masks are always the same.
        purpose: TRAINING or EVALUATION.

    Returns:
        bool `(B * clips, T * H * W)`, True where hidden; those of the first video first.
    """
    rngs = [np.random.default_rng([seed, epoch, row, draw, purpose]) for row in rows for draw in range(clips)]
    return torch.from_numpy(np.stack([tube_mask(grid, mask_ratio, rng) for rng in rngs]))


def to_patches(frames: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Cut clips into patches, in the order in which VideoMAE has them and their pixels.

    Args:
        frames: `(B, t, C, h, w)`, whole patches.
        grid: Patches of a clip `(T, H, W)`.

    Returns:
        `(B, T * H * W, pixels, C)`, where a patch has `t / T * h / H * w / W` pixels.
    """
    (batch, depth, channels, height, width), (t, h, w) = frames.shape, grid
    cut = frames.reshape(batch, t, depth // t, channels, h, height // h, w, width // w)
    return cut.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, t * h * w, -1, channels)


def from_patches(patches: torch.Tensor, grid: tuple[int, int, int], size: int) -> torch.Tensor:
    """Put clips of `size` x `size` pixels together again from patches, as `to_patches` cut them: `(B, t, C, h, w)`."""
    (batch, _, pixels, channels), (t, h, w) = patches.shape, grid
    high, wide = size // h, size // w
    cut = patches.reshape(batch, t, h, w, pixels // (high * wide), high, wide, channels)
    return cut.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(batch, -1, channels, size, size)


def patch_statistics(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each patch by channel, `(B, N, 1, C)`, that its pixels are normalised with.

    Source: `engine_for_pretraining.py` of MCG-NJU/VideoMAE.
    """
    return patches.mean(-2, keepdim=True), patches.var(-2, keepdim=True).sqrt() + 1e-6
