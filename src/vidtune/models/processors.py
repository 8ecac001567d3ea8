"""Processors: what turns raw frames into a model's input, and what they normalise with."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor, PretrainedConfig
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from vidtune.errors import InputError, first_line
from vidtune.hub import locate
from vidtune.models.configurations import IMAGENET_MEAN, IMAGENET_STD, FrameClassifierConfig, ZooConfig
from vidtune.models.shape import side_length, size_key


def load_processors(
    model_name_or_path: str | None,
    config: PretrainedConfig,
    revision: str | None = None,
    field: str = "model_name_or_path",
    trust_remote_code: bool = False,
) -> list[Any]:
    """Load what turns raw frames into a model's input: the video processor, the image processor, or both.

    Both are saved beside the model, so that AutoVideoProcessor and AutoImageProcessor find theirs. Where `config`
    asks for other pictures than the checkpoint's, the processors' sizes are scaled. The processor of a model of images
    gives way to one of clips, with its mean and standard deviation. Errors call the checkpoint's option `field`.

    Raises:
        InputError: If the checkpoint has neither, it can't be read, or its size is not that of the checkpoint's model.
    """
    size = side_length(getattr(config, size_key(config)))
    if model_name_or_path is None:
        return [_new_processor(config, size)]
    source = locate(model_name_or_path, field, revision, trust_remote_code)
    processors = saved_processors(source, None, field, trust_remote_code)
    if isinstance(config, FrameClassifierConfig):
        return [_clip_processor("VideoMAEImageProcessor", size, *normalisation(processors[-1]))]
    own = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)  # nosec B615 # of a folder
    own_size = side_length(getattr(own, size_key(own)))
    found = processor_size(processors[0])
    if found != own_size:
        raise InputError(
            f"{field}: {model_name_or_path}: its processor makes pictures of {found} px, its model reads "
            f"{own_size} px; mend preprocessor_config.json"
        )
    for processor in processors:
        _scale(processor, size / own_size)
    return processors


def picture_processor(size: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Make the processor of a model of single frames: it crops as clips are, where its checkpoint's may distort."""
    return _clip_processor("ViTImageProcessor", size, mean, std)


def saved_processors(
    model_name_or_path: str,
    revision: str | None = None,
    field: str = "model_name_or_path",
    trust_remote_code: bool = False,
) -> list[Any]:
    """Load the video processor and the image processor of a checkpoint, in this order, where it has them.

    One that still names a `VideoMAEFeatureExtractor` (gone in transformers 5) is read as its successor.

    Raises:
        InputError: If it has neither, or they can't be read.
    """
    source = locate(model_name_or_path, field, revision, trust_remote_code)
    processors, reasons = [], []
    with tempfile.TemporaryDirectory() as folder:
        source = _mended_processor(source, folder, field) or source
        for auto in (AutoVideoProcessor, AutoImageProcessor):
            try:
                processors.append(auto.from_pretrained(source, trust_remote_code=trust_remote_code))
            except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
                reasons.append(first_line(error))
    if not processors:
        raise InputError(
            f"{field}: {model_name_or_path}: has no processor ({reasons[0].split('. ')[0]}); "
            "put its preprocessor_config.json beside the weights"
        )
    return processors


def normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel that a processor normalises with, of values in [0, 1].

    Its `image_mean` and `image_std` are of its own values: ViViT's lie in [-1, 1].
    """
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255
    is_signed = getattr(processor, "offset", type(processor).__name__.startswith("Vivit"))
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    return [(value + is_signed) / scale for value in mean], [value / scale for value in std]


def processor_size(processor: Any) -> int | None:
    """Height and width of the pictures that a processor makes, pixels."""
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(crop or processor.size)
    side = size.get("height") or size.get("shortest_edge")
    return None if side is None else int(side)


def _scale(processor: Any, factor: float) -> None:
    """Have a processor make larger or smaller pictures."""
    for name in ("size", "crop_size"):
        sides = getattr(processor, name, None)
        if sides:
            scaled = {side: round(factor * length) for side, length in dict(sides).items()}
            setattr(processor, name, type(sides)(**scaled))


def _new_processor(config: PretrainedConfig, size: int) -> Any:
    model_type = config.model_type
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type)
    if isinstance(names, dict):
        names = names.get("torchvision") or next(iter(names.values()))
    name = names if isinstance(names, str) else next(item for item in names or ("VideoMAEImageProcessor",) if item)
    if isinstance(config, ZooConfig):
        return _clip_processor(name, size, config.facts.mean, config.facts.std)
    return _clip_processor(name, size, IMAGENET_MEAN, IMAGENET_STD)


def _clip_processor(name: str, size: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Make a processor that crops to `size` pixels and normalises values in [0, 1] with `mean` and `std`."""
    import transformers

    processor = getattr(transformers, name)(
        do_resize=True,
        size={"shortest_edge": size},
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_normalize=True,
        image_mean=mean,
        image_std=std,
    )
    if getattr(processor, "offset", False):  # ViViT's, whose values lie in [-1, 1]
        processor.image_mean = [2 * value - 1 for value in mean]
        processor.image_std = [2 * value for value in std]
    return processor


def _mended_processor(source: str, folder: str, field: str) -> str | None:
    """Copy a processor that names a class of transformers 4, under its present name; None if it doesn't."""
    path = Path(source) / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{field}: {path}: is not the JSON of a processor; copy the file anew")
    old = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    if not old.endswith("FeatureExtractor"):
        return None
    values.pop("feature_extractor_type", None)
    values["image_processor_type"] = old.replace("FeatureExtractor", "ImageProcessor")
    # Sizes were plain numbers once, which the classes still read, and cropped to the same number.
    if isinstance(values.get("size"), int):
        values.setdefault("crop_size", values["size"])
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder
