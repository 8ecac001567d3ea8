"""Models for other clips than their checkpoint's: position tables interpolated, all other weights kept."""

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForVideoClassification,
    PretrainedConfig,
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from vidtune.errors import InputError
from vidtune.models.configurations import InterpolatedVideoMAEConfig
from vidtune.models.shape import frames_key, patch_shape, side_length, size_key

logger = logging.getLogger(__name__)

# Learned tables, and the axes of a clip's grid of patches that each runs over.
TABLES = {
    "vivit.embeddings.position_embeddings": "THW",
    "timesformer.embeddings.position_embeddings": "HW",
    "timesformer.embeddings.time_embeddings": "T",
    "vision_model.spatial_embeddings.position_embeddings": "HW",  # VideoPrism's
    "vision_model.temporal_embeddings.position_embeddings": "T",
}


def interpolate_positions(table: torch.Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> torch.Tensor:
    """Interpolate the positions of a grid of patches, so that each keeps its place in the video.

    Bicubic in space, then linear in time, both between the centres of the patches; an axis that stays as long as it
    was is left alone, so that an unchanged grid gives the same table to the bit. Doubled frames keep the mean over
    time.

    Source: OpenGVLab/unmasked_teacher, `get_sinusoid_encoding_table`, which does this to VideoMAE's sinusoids; the
    part in space is `run_class_finetuning.py` of MCG-NJU/VideoMAE. (ViViT's own code is linear in space and repeats
    the table in time; TimeSformer's takes the nearest. Both leave several frames with one position.)

    Args:
        table: `(1, extra + T * H * W, width)`, in the order of time, rows, columns, after `extra` tokens such as the
            class token, which are kept.
        old_grid: `(T, H, W)`, patches along each axis.
        new_grid: The same of the result.

    Returns:
        `(1, extra + T' * H' * W', width)`, of the same type.

    Raises:
        ValueError: If the table has fewer positions than its grid.
    """
    (frames, *size), (new_frames, *new_size) = old_grid, new_grid
    extra = table.shape[1] - math.prod(old_grid)
    if extra < 0:
        raise ValueError(f"a table of {table.shape[1]} positions has no grid of {tuple(old_grid)}")
    grid = table[0, extra:].float().reshape(*old_grid, -1).permute(0, 3, 1, 2)  # (T, width, H, W)
    if size != new_size:
        grid = F.interpolate(grid, size=tuple(new_size), mode="bicubic", align_corners=False)
    if frames != new_frames:
        series = grid.flatten(1).T[None]  # (1, width * H' * W', T)
        series = F.interpolate(series, size=new_frames, mode="linear", align_corners=False)
        grid = series[0].T.reshape(new_frames, *grid.shape[1:])
    positions = grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)
    return torch.cat([table[:, :extra], positions[None]], dim=1)


class InterpolatedVideoMAEForVideoClassification(VideoMAEForVideoClassification):  # type: ignore[misc]
    """A VideoMAE whose positions are those of another clip, interpolated.

    VideoMAE's sinusoids are of the number of a patch within the clip, and no weights: transformers makes them anew
    from the size of the clip. With more frames the later ones would get numbers that the model never saw; with other
    rows and columns every number would mean another place. So the grid that the numbers were of is kept in the
    configuration, and as transformers knows no such field, the model has a type of its own: it loads after
    `import vidtune`, and without it not at all, rather than with other positions.
    """

    config: InterpolatedVideoMAEConfig

    def __init__(self, config: InterpolatedVideoMAEConfig) -> None:
        super().__init__(config)
        table = get_sinusoid_encoding_table(math.prod(config.position_grid), config.hidden_size)
        table = interpolate_positions(table, config.position_grid, clip_grid(config))
        self.videomae.embeddings.position_embeddings = table


def clip_shape(config: PretrainedConfig) -> tuple[int, int]:
    """Frames of a clip, and its height and width in pixels."""
    return getattr(config, frames_key(config)), side_length(getattr(config, size_key(config)))


def clip_grid(config: PretrainedConfig) -> tuple[int, int, int]:
    """Patches of a clip `(T, H, W)`."""
    (frames, size), (depth, side) = clip_shape(config), patch_shape(config)
    return frames // depth, size // side, size // side


def with_clips(model: PreTrainedModel, num_frames: int, image_size: int) -> PreTrainedModel:
    """Make a model that reads other clips: position tables are interpolated and told, all other weights kept.

    A model without a table takes any clip: V-JEPA 2 turns queries and keys by their places, a convolution slides.

    Args:
        model: Any of AutoModelForVideoClassification, with the weights to keep.
        num_frames: Frames of a clip.
        image_size: Height and width of a clip, pixels.

    Returns:
        A new model; VideoMAE becomes an `InterpolatedVideoMAEForVideoClassification`.

    Raises:
        InputError: If the shape of another weight depends on frames or size.
    """
    config = _config_with_clips(model.config, num_frames, image_size)
    old_grid, new_grid = clip_grid(model.config), clip_grid(config)
    is_foreign = getattr(model, "_auto_class", None) is not None  # its code was allowed when it was loaded
    new = AutoModelForVideoClassification.from_config(config, trust_remote_code=is_foreign).train(model.training)
    shapes = {name: value.shape for name, value in new.state_dict().items()}
    weights, interpolated = model.state_dict(), []
    for name, weight in weights.items():
        old, now = (_along(TABLES.get(name, ""), grid) for grid in (old_grid, new_grid))
        if old != now:
            weights[name] = interpolate_positions(weight, old, now)
            interpolated.append(name)
        elif weight.shape != shapes.get(name):
            given = zip(("num_frames", "image_size"), (num_frames, image_size), clip_shape(model.config), strict=True)
            fields = " and ".join(field for field, value, own in given if value != own)
            raise InputError(
                f"{fields}: {name} of a {config.model_type} model depends on it and can't be interpolated; "
                f"leave {fields} out"
            )
    new.load_state_dict(weights, strict=True)
    if isinstance(config, InterpolatedVideoMAEConfig):
        interpolated.append("videomae.embeddings.position_embeddings")
    logger.warning(
        "model: reads %d frames of %d px instead of %d of %d px; interpolated: %s",
        num_frames,
        image_size,
        *clip_shape(model.config),
        ", ".join(interpolated) or "nothing, it has no position tables",
    )
    return new


def _config_with_clips(config: PretrainedConfig, num_frames: int, image_size: int) -> PretrainedConfig:
    new = copy.deepcopy(config)
    if config.model_type == VideoMAEConfig.model_type:
        values: dict[str, Any] = config.to_dict()
        values.pop("model_type")
        new = InterpolatedVideoMAEConfig(**values, position_grid=list(clip_grid(config)))
        new._attn_implementation = config._attn_implementation
    setattr(new, frames_key(new), num_frames)
    setattr(new, size_key(new), image_size)
    return new


def _along(axes: str, grid: Sequence[int]) -> tuple[int, ...]:
    """Patches of a grid along some of its axes, one along the others."""
    return tuple(length if axis in axes else 1 for axis, length in zip("THW", grid, strict=True))
