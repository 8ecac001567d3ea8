"""What is done to the picture: crops, flips, colours and noise of uint8 clips `(T, C, H, W)`, all frames alike.

The clips come from the decoder as views of channels-last memory `(T, H, W, C)` and stay so: resizing
uint8 in that layout takes a third of the time of contiguous frames.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
import torchvision.transforms.v2.functional as F

from vidtune.data.rand_augment import parse_rand_augment
from vidtune.data.rand_augment import rand_augment as augment_frames

NOISE_MEAN, NOISE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by channel, of values in [0, 1]: with these, VideoMAE's erasing is standard normal noise."""

MIRRORED = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


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
    rand_augment: str | None = None,
    random_erasing: float = 0.0,
) -> torch.Tensor:
    """Crop, mirror, colour and erase a training clip at random, every frame in the same way.

    RandAugment comes after the crop, as for images (timm), where VideoMAE has it before: there it costs as many times
    more as the video has more pixels than the crop. The box is erased last, as published.

    Args:
        clip: uint8 `(T, 3, H, W)`.
        size: Height and width of the result, pixels.
        rng: Source of randomness.
        crop_scale: Least and greatest share of the area that the crop covers.
        crop_ratio: Least and greatest width over height of the crop.
        horizontal_flip: Probability of mirroring.
        color_jitter: Greatest relative change of brightness, contrast and saturation, in `[0, 1]`.
        rand_augment: Such as `rand-m7-n4-mstd0.5-inc1`; see `parse_rand_augment`.
        random_erasing: Probability of erasing a box.

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
    if rand_augment:
        frames = augment_frames(clip.permute(0, 2, 3, 1).numpy(), parse_rand_augment(rand_augment), rng)
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return erase(clip, rng) if rng.random() < random_erasing else clip


def erase(clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Fill a box, the same in all frames, with noise that is another for each pixel and frame.

    Source: Random Erasing, Zhong et al. 2020, in the mode "pixel" of timm and VideoMAE: the box covers 0.02 to 1/3 of
    the picture and is 0.3 to 3.3 times as wide as high. There, standard normal noise is put into the normalised clip;
    here the clip is uint8, so the noise is what normalising by ImageNet's mean and standard deviation makes standard
    normal, but for what lies below 0 or above 255 (some 3 in 100 values), which is moved there.

    Args:
        clip: uint8 `(T, 3, H, W)`.
        rng: Source of randomness.

    Returns:
        uint8 `(T, 3, H, W)`, a copy.
    """
    top, left, height, width = random_box(clip.shape[-2], clip.shape[-1], (0.02, 1 / 3), (0.3, 1 / 0.3), rng)
    noise = rng.standard_normal((len(clip), height, width, 3), dtype=np.float32)
    noise = np.rint(255 * (np.array(NOISE_MEAN, np.float32) + np.array(NOISE_STD, np.float32) * noise)).clip(0, 255)
    clip = clip.clone()
    box = torch.from_numpy(noise.astype(np.uint8)).permute(0, 3, 1, 2)
    clip[..., top : top + height, left : left + width] = box
    return clip


def mirrored_labels(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Find labels of which one shows the other in a mirror: a flip would make the label wrong.

    Such are labels that differ by left and right alone, or by clockwise and counterclockwise, in any spelling:
    `turn_left` and `turnRight`, `Pushing from left to right` and `Pushing from right to left`. Only English is read.

    Returns:
        The pairs, each once.
    """
    pairs = []
    seen: dict[str, list[str]] = {}
    for label in labels:
        text = re.sub(r"[\W_]+", "", label).lower().replace("anticlockwise", "counterclockwise")
        mirrored = re.sub("left|right|(counter)?clockwise", lambda found: MIRRORED[found[0]], text)
        if mirrored != text:
            pairs += [(other, label) for other in seen.get(mirrored, [])]
        seen.setdefault(text, []).append(label)
    return pairs


def crop_views(clip: torch.Tensor, size: int, crops: int) -> list[torch.Tensor]:
    """Give the test-time crops of a clip: short side resized to `size`, then the middle, or both ends as well.

    Source: VideoMAE, Tong et al. 2022, and SlowFast, Feichtenhofer et al. 2019: three crops span the long side, at
    whole pixels rounded down (MCG-NJU/VideoMAE, kinetics.py, mode "test").

    Args:
        clip: uint8 `(T, 3, H, W)`.
        size: Height and width of a crop, pixels.
        crops: 1 (the middle) or 3 (left, middle and right; top, middle and bottom of an upright video).

    Returns:
        As many uint8 clips `(T, 3, size, size)` as crops.
    """
    clip = F.resize(clip, [size], antialias=True)
    clip = clip if crops == 1 else clip.contiguous()  # once, for what the crops have in common
    steps = [1] if crops == 1 else [0, 1, 2]
    corners = [[int(step * (side - size) / 2) for side in clip.shape[-2:]] for step in steps]
    return [clip[..., top : top + size, left : left + size] for top, left in corners]
