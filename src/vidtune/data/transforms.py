"""What is done to the picture: crops, flips and colours of uint8 clips `(T, C, H, W)`, all frames alike.

The clips come from the decoder as views of channels-last memory `(T, H, W, C)` and stay so: resizing
uint8 in that layout takes a third of the time of contiguous frames.
"""

import math
import warnings

import numpy as np
import torch
import torchvision.transforms.v2.functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch's, of how pytorchvideo uses it
    from pytorchvideo.transforms.functional import uniform_crop


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the crop of a training clip: an area and an aspect ratio, then a place.

    Source: Going deeper with convolutions, Szegedy et al. 2015, section 6; ten draws and then the largest
    centred box, as torchvision's RandomResizedCrop.

    Args:
        height: Height of the picture, pixels, >= 1.
        width: Width of the picture, pixels, >= 1.
        scale: Least and greatest share of the area, in `(0, 1]`.
        ratio: Least and greatest width over height, > 0.
        rng: Source of randomness.

    Returns:
        Top, left, height and width of the box, pixels, inside the picture.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_height, box_width = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def augment(
    clip: torch.Tensor,
    size: int,
    rng: np.random.Generator,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    crop_ratio: tuple[float, float] = (0.75, 1.3333),
    horizontal_flip: float = 0.5,
    color_jitter: float = 0.0,
) -> torch.Tensor:
    """Crop, mirror and colour a training clip at random, every frame in the same way.

    Args:
        clip: uint8 `(T, 3, H, W)`.
        size: Height and width of the result, pixels.
        rng: Source of randomness.
        crop_scale: Least and greatest share of the area that the crop covers.
        crop_ratio: Least and greatest width over height of the crop.
        horizontal_flip: Probability of mirroring.
        color_jitter: Greatest relative change of brightness, contrast and saturation, in `[0, 1]`.

    Returns:
        uint8 `(T, 3, size, size)`.
    """
    top, left, height, width = random_box(clip.shape[-2], clip.shape[-1], crop_scale, crop_ratio, rng)
    mirrored = rng.random() < horizontal_flip
    brightness, contrast, saturation = rng.uniform(1 - color_jitter, 1 + color_jitter, size=3)
    clip = F.resized_crop(clip, top, left, height, width, [size, size], antialias=True)
    if mirrored:
        clip = clip.flip(-1)
    if color_jitter:
        clip = F.adjust_brightness(clip, brightness)
        clip = F.adjust_contrast(clip, contrast)
        clip = F.adjust_saturation(clip, saturation)
    return clip


def crop_views(clip: torch.Tensor, size: int, crops: int) -> list[torch.Tensor]:
    """Give the test-time crops of a clip: short side resized to `size`, then the middle, or both ends as well.

    Source: VideoMAE, Tong et al. 2022, and SlowFast, Feichtenhofer et al. 2019: three crops span the long side.

    Args:
        clip: uint8 `(T, 3, H, W)`.
        size: Height and width of a crop, pixels.
        crops: 1 (the middle) or 3 (left, middle and right; top, middle and bottom of an upright video).

    Returns:
        As many uint8 clips `(T, 3, size, size)` as crops.
    """
    clip = F.resize(clip, [size], antialias=True).transpose(0, 1)  # pytorchvideo has channels first
    positions = [1] if crops == 1 else [0, 1, 2]
    return [uniform_crop(clip, size, position).transpose(0, 1) for position in positions]
