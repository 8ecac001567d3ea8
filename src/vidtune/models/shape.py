"""Where a configuration keeps the shape of its clips."""

from typing import Any

from transformers import PretrainedConfig

# Where a configuration keeps the shape of its clips, if not under `num_frames` and `image_size`.
FRAMES_KEY = {"vjepa2": "frames_per_clip"}
SIZE_KEY = {"vjepa2": "crop_size"}


def frames_key(config: PretrainedConfig) -> str:
    """The field of a configuration that holds the frames of a clip."""
    return FRAMES_KEY.get(config.model_type, "num_frames")


def size_key(config: PretrainedConfig) -> str:
    """The field of a configuration that holds height and width of a clip."""
    return SIZE_KEY.get(config.model_type, "image_size")


def side_length(size: Any) -> Any:
    """Height and width of a square that is given as one number or two; what is no square comes back as it is."""
    return size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size


def patch_shape(config: PretrainedConfig) -> tuple[Any, Any]:
    """Frames of a patch, and its height and width in pixels."""
    tubelet = getattr(config, "tubelet_size", 1)
    if isinstance(tubelet, list | tuple):
        return tubelet[0], tubelet[1]
    return tubelet, side_length(getattr(config, "patch_size", 1))
