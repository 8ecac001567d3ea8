"""Pictures of what a pre-trained model sees of a clip, and what it makes of the rest."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VideoMAEForPreTraining

from vidtune.data.masking import from_patches, patch_statistics, to_patches

GAP, WIDE_GAP = 2, 8
"""White pixels between frames, and between videos."""

GREY = 0.5
"""What stands for a hidden pixel, in [0, 1]."""


@torch.no_grad()
def reconstruct(
    model: VideoMAEForPreTraining,
    frames: torch.Tensor,
    masks: torch.Tensor,
    grid: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Have a model fill in clips.

    A model of normalised pixels tells each patch but for its mean and standard deviation; these are the clip's own.
    Source: `run_videomae_vis.py` of MCG-NJU/VideoMAE.

    Args:
        model: The model.
        frames: uint8 `(N, t, C, size, size)`.
        masks: bool `(N, T * H * W)`, True where hidden.
        grid: Patches of a clip `(T, H, W)`.
        mean: Mean that the model's processor subtracts, of values in [0, 1], by channel.
        std: Standard deviation that it divides by, likewise.

    Returns:
        What the model sees, with GREY for the rest, and the clips with the rest filled in; both float32 in [0, 1],
        of the shape of `frames`.
    """
    pixels, size = frames.float() / 255, frames.shape[-1]
    shift, scale = (torch.tensor(values, device=frames.device).view(-1, 1, 1) for values in (mean, std))
    logits = model.eval()(pixel_values=(pixels - shift) / scale, bool_masked_pos=masks).logits.float()
    patches = to_patches(pixels, grid)
    hidden = logits.reshape(-1, *patches.shape[2:])
    if model.config.norm_pix_loss:
        middle, spread = (values[masks] for values in patch_statistics(patches))
        hidden = hidden * spread + middle
    seen, filled = patches.clone(), patches.clone()
    seen[masks], filled[masks] = GREY, hidden.clamp(0, 1)
    return from_patches(seen, grid, size), from_patches(filled, grid, size)


def picture_strip(versions: Sequence[torch.Tensor], most_frames: int = 8) -> bytes:
    """Draw clips as a PNG: a row of frames for each version of a clip, the versions below each other.

    Args:
        versions: Each float `(N, t, 3, size, size)` in [0, 1].
        most_frames: Frames that are shown of a clip, evenly spread.
    """
    from PIL import Image

    length = versions[0].shape[1]
    shown = np.linspace(0, length - 1, min(most_frames, length)).round().astype(int)
    pictures = _as_pictures(versions, shown)
    clips = [
        _stacked([_stacked(list(version[clip]), axis=1) for version in pictures], axis=0)
        for clip in range(len(versions[0]))
    ]
    buffer = io.BytesIO()
    Image.fromarray(_stacked(clips, axis=0, gap=WIDE_GAP)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _as_pictures(versions: Sequence[torch.Tensor], shown: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Frames of each version, uint8 `(N, frames, height, width, 3)`."""
    picked = (version[:, shown].clamp(0, 1).mul(255).round() for version in versions)
    return [version.to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy() for version in picked]


def _stacked(pictures: Sequence[NDArray[np.uint8]], axis: int, gap: int = GAP) -> NDArray[np.uint8]:
    """Put pictures `(height, width, 3)` of one size beside or below each other, white between them."""
    margin = [(0, gap if axis == side else 0) for side in range(3)]
    spaced = [np.pad(picture, margin, constant_values=255) for picture in pictures[:-1]]
    return np.concatenate([*spaced, pictures[-1]], axis=axis)
