"""RandAugment over clips: some random operations in turn, drawn once and done to every frame.

Sources: RandAugment, Cubuk et al. 2020; operations, magnitudes and the text that describes them are those of timm's
`rand_augment_transform`, with which VideoMAE is fine-tuned. Pillow does the work, as it does there: the same
operation gives the same pixels, in less time than torchvision's on uint8 tensors, which know no bicubic rotation.

Neither torch nor torchvision is imported, so options can be checked at once.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from vidtune.errors import InputError

EXAMPLE = "rand-m7-n4-mstd0.5-inc1"

BOUNDS = {
    "m": (0, 10, "a magnitude from 0 to 10"),
    "n": (1, 15, "1 to 15 operations"),
    "mstd": (0, 10, "a standard deviation of the magnitude from 0 to 10"),
    "inc": (1, 1, "inc1: here all operations grow with the magnitude"),
}

OPERATIONS = (
    "AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing "
    "ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel TranslateYRel"
).split()

PROBABILITY = 0.5
"""How likely each operation that was drawn is done."""

GREY = (128, 128, 128)
"""What a rotated, sheared or moved picture leaves free."""


@dataclass(frozen=True)
class RandAugment:
    """What is drawn for a clip.

    Attributes:
        magnitude: Mean strength, 0 (weak) to 10 (strong).
        num_operations: Operations drawn, of which each is done with PROBABILITY.
        magnitude_std: Standard deviation of the strength.
    """

    magnitude: float
    num_operations: int
    magnitude_std: float


def parse_rand_augment(text: str) -> RandAugment:
    """Read timm's text, such as `rand-m7-n4-mstd0.5-inc1`: m, n and inc must be there, mstd is 0 if it isn't.

    Raises:
        InputError: If a part is missing, unknown, given twice or out of range.
    """
    head, *parts = text.split("-")
    given: dict[str, float] = {}
    for part in parts:
        found = re.fullmatch(r"(mstd|m|n|inc)(\d+(?:\.\d+)?)", part)
        if not found or found[1] in given:
            what = "given twice" if found else "none of m7, n4, mstd0.5 and inc1"
            raise InputError(f"rand_augment: {text}: {part!r} is {what}; write it like {EXAMPLE}")
        given[found[1]] = float(found[2])
    if head != "rand":
        raise InputError(f"rand_augment: {text}: does not begin with rand; write it like {EXAMPLE}")
    given.setdefault("mstd", 0.0)
    for key, (low, high, meaning) in BOUNDS.items():
        if key not in given:
            raise InputError(f"rand_augment: {text}: {key} is missing ({meaning}); write it like {EXAMPLE}")
        value = given[key]
        if not low <= value <= high or (key == "n" and value % 1):
            raise InputError(f"rand_augment: {text}: {key} is {value:g}; give {meaning}")
    return RandAugment(given["m"], int(given["n"]), given["mstd"])


def draw_operations(policy: RandAugment, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Draw what is done to a clip: operations in order, each with a magnitude in [-10, 10].

    The sign is a direction, or more or less of something; operations that know neither pass over it.
    """
    drawn = []
    for name in rng.choice(OPERATIONS, size=policy.num_operations):
        magnitude = min(max(rng.normal(policy.magnitude, policy.magnitude_std), 0.0), 10.0)
        sign = rng.choice((-1.0, 1.0))
        if rng.random() < PROBABILITY:
            drawn.append((str(name), float(sign * magnitude)))
    return drawn


def apply_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """Do one operation to an RGB picture.

    Args:
        image: RGB, of any size.
        name: One of OPERATIONS.
        magnitude: In [-10, 10].
    """
    level = magnitude / 10
    strength = abs(level)
    match name:
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
        case "Rotate":
            return image.rotate(30 * level, Image.Resampling.BICUBIC, fillcolor=GREY)
        case "PosterizeIncreasing":
            kept = 256 - 2 ** (4 + int(4 * strength))  # ImageOps.posterize refuses to keep no bit at all
            return image.point([value & kept for value in range(256)] * 3)
        case "SolarizeIncreasing":
            return ImageOps.solarize(image, 256 - int(256 * strength))
        case "SolarizeAdd":
            added = int(110 * strength)
            return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)
        case "ColorIncreasing":
            return ImageEnhance.Color(image).enhance(1 + 0.9 * level)
        case "ContrastIncreasing":
            return ImageEnhance.Contrast(image).enhance(1 + 0.9 * level)
        case "BrightnessIncreasing":
            return ImageEnhance.Brightness(image).enhance(1 + 0.9 * level)
        case "SharpnessIncreasing":
            return ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level)
        case "ShearX":
            return _affine(image, (1, 0.3 * level, 0, 0, 1, 0))
        case "ShearY":
            return _affine(image, (1, 0, 0, 0.3 * level, 1, 0))
        case "TranslateXRel":
            return _affine(image, (1, 0, 0.45 * level * image.width, 0, 1, 0))
        case "TranslateYRel":
            return _affine(image, (1, 0, 0, 0, 1, 0.45 * level * image.height))
    raise ValueError(f"name: got {name!r}; give one of {', '.join(OPERATIONS)}")


def rand_augment(frames: NDArray[np.uint8], policy: RandAugment, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Do the same random operations to all frames of a clip.

    AutoContrast, Equalize and ContrastIncreasing measure each frame by itself, as published.

    Args:
        frames: uint8 `(T, H, W, 3)`.
        policy: What to draw.
        rng: Source of randomness.

    Returns:
        uint8 `(T, H, W, 3)`.
    """
    images = [Image.fromarray(frame) for frame in frames]
    for name, magnitude in draw_operations(policy, rng):
        images = [apply_operation(image, name, magnitude) for image in images]
    return np.stack([np.asarray(image) for image in images])


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY)
