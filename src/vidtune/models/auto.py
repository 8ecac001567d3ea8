"""Models and processors by the Auto classes: a checkpoint with a fresh head, or a configuration from scratch."""

import difflib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from vidtune.errors import InputError

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Where a configuration keeps the shape of its clips, if not under `num_frames` and `image_size`.
FRAMES_KEY = {"vjepa2": "frames_per_clip"}
SIZE_KEY = {"vjepa2": "crop_size"}

CLIP_RECORD = "vidtune"
"""The field of a model's configuration that says how its clips were sampled: `{"sampling": ..., "fps": ...}`."""


def read_config(
    model_name_or_path: str | None,
    config_name: str | None,
    config_overrides: Mapping[str, Any],
    labels: Sequence[str],
    num_frames: int | None = None,
    image_size: int | None = None,
    revision: str | None = None,
) -> PretrainedConfig:
    """Read the configuration of a checkpoint, or make one to train from scratch, and set the labels.

    Args:
        model_name_or_path: Checkpoint, Hub id or folder; or None.
        config_name: Without a checkpoint: model type, folder or JSON file.
        config_overrides: Fields to change, only with `config_name`.
        labels: Names of the labels, in order.
        num_frames: Frames of a clip; sets those of a new model, must agree with those of a checkpoint.
        image_size: Height and width of a clip, likewise.
        revision: Branch, tag or commit of a checkpoint on the Hub.

    Raises:
        InputError: If there is no such checkpoint or type, or frames and size don't fit the model.
    """
    if model_name_or_path:
        source = locate(model_name_or_path, revision=revision)
        config = _load("model_name_or_path", AutoConfig.from_pretrained, source, revision=revision)
        for name, value, own in (
            ("num_frames", num_frames, getattr(config, frames_key(config), None)),
            ("image_size", image_size, _side(getattr(config, size_key(config), None))),
        ):
            if value is not None and value != own:
                raise InputError(f"{name}: got {value}, but {model_name_or_path} reads {own}; leave {name} out")
    else:
        config = _new_config(str(config_name), config_overrides)
        for key, value in ((frames_key(config), num_frames), (size_key(config), image_size)):
            if value is not None:
                setattr(config, key, value)
    _check_shape(config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    return config


def clip_settings(config: PretrainedConfig, sampling: str | None, fps: float | None) -> dict[str, Any]:
    """Say what clips a model reads, and keep it in its configuration.

    Args:
        config: The model's configuration; one that vidtune saved tells its sampling and rate.
        sampling: What was asked for; None for the model's own, else `segments`.
        fps: Frames per second of a dense clip; None for the model's own, else 7.5.

    Returns:
        `num_frames`, `image_size`, `sampling` and `fps`.

    Raises:
        InputError: If sampling or rate differ from those the checkpoint was trained with.
    """
    record = getattr(config, CLIP_RECORD, {})
    for name, value in (("sampling", sampling), ("fps", fps)):
        if value is not None and record.get(name, value) != value:
            raise InputError(f"{name}: got {value}, but the model was trained with {record[name]}; leave {name} out")
    settings = {
        "sampling": sampling or record.get("sampling", "dense" if fps else "segments"),
        "fps": fps or record.get("fps", 7.5),
    }
    setattr(config, CLIP_RECORD, settings)
    shape = {
        "num_frames": getattr(config, frames_key(config)),
        "image_size": _side(getattr(config, size_key(config))),
    }
    return shape | settings


def load_model(
    config: PretrainedConfig, model_name_or_path: str | None, revision: str | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint with a head for the labels of `config`, or build the model from scratch.

    Args:
        config: As `read_config` returned it.
        model_name_or_path: Checkpoint, Hub id or folder; None for a new model.
        revision: Branch, tag or commit of a checkpoint on the Hub.

    Returns:
        The model, and the names of the parameters that start from random numbers.

    Raises:
        InputError: If there is no such model, or weights of its backbone are missing or of another shape.
    """
    if model_name_or_path is None:
        model = _load("config_overrides", AutoModelForVideoClassification.from_config, config)
        return model, sorted(name for name, _ in model.named_parameters())
    source = locate(model_name_or_path, revision=revision)
    model, info = _load(
        "model_name_or_path",
        AutoModelForVideoClassification.from_pretrained,
        source,
        revision=revision,
        id2label=config.id2label,
        label2id=config.label2id,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    setattr(model.config, CLIP_RECORD, getattr(config, CLIP_RECORD, {}))
    new = set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
    backbone = sorted(name for name in new if name.startswith(f"{model.base_model_prefix}."))
    if backbone:
        raise InputError(
            f"model_name_or_path: {model_name_or_path}: {len(backbone)} weights of the backbone are missing or of "
            f"another shape, {backbone[0]} first; choose a checkpoint of a {config.model_type} model"
        )
    new |= _renew_foreign_head(model, source, revision)
    logger.info("newly initialised: %s", ", ".join(sorted(new)) or "nothing")
    return model, sorted(new)


def load_processors(
    model_name_or_path: str | None, config: PretrainedConfig, revision: str | None = None
) -> list[Any]:
    """Load what turns raw frames into a model's input: the video processor, the image processor, or both.

    Both are saved beside the model, so that AutoVideoProcessor and AutoImageProcessor find theirs. A checkpoint that
    still names a `VideoMAEFeatureExtractor` (gone in transformers 5) is read as its successor.

    Raises:
        InputError: If the checkpoint has neither, it can't be read, or its size is not the model's.
    """
    size = _side(getattr(config, size_key(config)))
    if model_name_or_path is None:
        return _new_processors(config.model_type, size)
    source = locate(model_name_or_path, revision=revision)
    processors, reasons = [], []
    with tempfile.TemporaryDirectory() as folder:
        source = _mended_processor(source, revision, folder) or source
        for auto in (AutoVideoProcessor, AutoImageProcessor):
            try:
                processors.append(auto.from_pretrained(source, revision=revision))
            except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
                reasons.append(_first_line(error))
    if not processors:
        raise InputError(
            f"model_name_or_path: {model_name_or_path}: has no processor ({reasons[0].split('. ')[0]}); "
            "put its preprocessor_config.json beside the weights"
        )
    found = processor_size(processors[0])
    if found != size:
        raise InputError(
            f"model_name_or_path: {model_name_or_path}: its processor makes pictures of {found} px, its model reads "
            f"{size} px; mend preprocessor_config.json"
        )
    return processors


def load_classifier(
    name: str, revision: str | None = None
) -> tuple[PreTrainedModel, dict[str, Any], Sequence[float], Sequence[float]]:
    """Load a trained model and what its input is.

    Args:
        name: Folder of a run, or Hub id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model, the settings of its clips (as `clip_settings`), and the mean and the standard deviation by channel
        that its processor normalises with, of values in [0, 1].

    Raises:
        InputError: If there is no such model, or it has not been fine-tuned.
    """
    source = locate(name, "model", revision)
    model, info = _load(
        "model", AutoModelForVideoClassification.from_pretrained, source, revision=revision, output_loading_info=True
    )
    if info["missing_keys"]:
        raise InputError(f"model: {name}: has no weights for {min(info['missing_keys'])}; give a fine-tuned model")
    processors = load_processors(source, model.config, revision)
    return model, clip_settings(model.config, None, None), *normalisation(processors[0])


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


def frames_key(config: PretrainedConfig) -> str:
    """The field of a configuration that holds the frames of a clip."""
    return FRAMES_KEY.get(config.model_type, "num_frames")


def size_key(config: PretrainedConfig) -> str:
    """The field of a configuration that holds height and width of a clip."""
    return SIZE_KEY.get(config.model_type, "image_size")


def locate(name: str, field: str = "model_name_or_path", revision: str | None = None) -> str:
    """Find a checkpoint: a folder, the id of one on a Hub that answers, or the folder of the cache that holds it.

    transformers tries an unreachable Hub for a minute, and again for each file, even if the cache has them all.

    Args:
        name: Folder or Hub id.
        field: What errors call it.
        revision: Branch, tag or commit on the Hub.

    Returns:
        What transformers can load from.

    Raises:
        InputError: If it is none of these.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if Path(name).is_dir():
        return name
    if Path(name).exists():
        raise InputError(f"{field}: {name}: is a file; give the folder that holds config.json and the weights")
    cached = None
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        HfApi().model_info(name, revision=revision, timeout=10)
        return name
    except HFValidationError:
        raise InputError(f"{field}: {name}: does not exist; give a folder or a Hub id (user/name)") from None
    except RevisionNotFoundError:
        raise InputError(f"{field}: {name}: has no branch, tag or commit {revision}") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{field}: {name}: is no folder here and not on the Hub, or private; check the spelling, "
            "or run `hf auth login`"
        ) from None
    except Exception as error:  # whatever the connection raises
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise InputError(
            f"{field}: {name}: is no folder here, and the Hub can't be reached ({_first_line(error)}); "
            f"offline, copy it here where there is a network (hf download {name} --local-dir DIR), and --{field} DIR"
        ) from None


def _load(field: str, loader: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers, and say in one line what it has against its arguments."""
    try:
        return loader(*args, **kwargs)
    except Exception as error:  # whatever transformers and safetensors raise
        name = args[0] if isinstance(args[0], str) else args[0].model_type
        raise InputError(f"{field}: {name}: can't be loaded: {_first_line(error)}") from None


def _new_config(name: str, overrides: Mapping[str, Any]) -> PretrainedConfig:
    if name in CONFIG_MAPPING:
        config = CONFIG_MAPPING[name]()
    elif Path(name).exists():
        config = _load("config_name", AutoConfig.from_pretrained, name)
    else:
        near = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=1)
        hint = f"did you mean {near[0]}?" if near else "give a model type such as videomae, a folder or a JSON file"
        raise InputError(f"config_name: {name}: no such model type or file; {hint}")
    known = config.to_dict()
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise InputError(f"config_overrides: {key}: unknown to {config.model_type}; {hint}")
        try:
            setattr(config, key, value)
        except (TypeError, ValueError, StrictDataclassFieldValidationError) as error:
            reason = _first_line(error.__cause__ or error)
            raise InputError(f"config_overrides: {key}: got {value!r}: {reason}") from None
    return config


def _check_shape(config: PretrainedConfig) -> None:
    """Check that a clip falls into whole patches."""
    frames, size = getattr(config, frames_key(config), None), getattr(config, size_key(config), None)
    if frames is None or size is None:
        raise InputError(
            f"model_name_or_path: a {config.model_type} model reads no clips; choose one of videomae, timesformer, "
            "vivit, vjepa2 or videoprism_vision_model"
        )
    tubelet = getattr(config, "tubelet_size", 1)
    depth, patch = (tubelet[0], tubelet[1]) if isinstance(tubelet, list | tuple) else (tubelet, None)
    patch = _side(getattr(config, "patch_size", 1)) if patch is None else patch
    for name, value, unit, of in (
        ("num_frames", frames, depth, "tubelet_size"),
        ("image_size", _side(size), patch, "patch_size"),
    ):
        if unit < 1:
            raise InputError(f"{of}: got {unit}; give at least 1")
        if not isinstance(value, int) or value < 1 or value % unit:
            raise InputError(f"{name}: got {value}; give a multiple of {unit}, the {of} of the model")


def _renew_foreign_head(model: PreTrainedModel, name: str, revision: str | None) -> set[str]:
    """Start the head afresh where the checkpoint's has as many labels, but others: names of what was renewed."""
    old = AutoConfig.from_pretrained(name, revision=revision).id2label
    head = getattr(model, "classifier", None)
    if head is None or old == model.config.id2label or len(old) != model.config.num_labels:
        return set()
    for module in head.modules():
        module._is_hf_initialized = False
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False
    head.apply(model._init_weights)
    return {f"classifier.{parameter}" for parameter, _ in head.named_parameters()}


def _new_processors(model_type: str, size: int) -> list[Any]:
    import transformers

    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type)
    if isinstance(names, dict):
        names = names.get("torchvision") or next(iter(names.values()))
    name = names if isinstance(names, str) else next(item for item in names or ("VideoMAEImageProcessor",) if item)
    processor = getattr(transformers, name)(
        do_resize=True,
        size={"shortest_edge": size},
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_normalize=True,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    if getattr(processor, "offset", False):  # ViViT's, whose values lie in [-1, 1]
        processor.image_mean = [2 * value - 1 for value in IMAGENET_MEAN]
        processor.image_std = [2 * value for value in IMAGENET_STD]
    return [processor]


def _mended_processor(name: str, revision: str | None, folder: str) -> str | None:
    """Copy a processor that names a class of transformers 4, under its present name; None if it doesn't."""
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "preprocessor_config.json", revision=revision)
    except OSError:
        return None
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError(f"model_name_or_path: {path}: is not the JSON of a processor")
    old = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    if not old.endswith("FeatureExtractor"):
        return None
    values.pop("feature_extractor_type", None)
    values["image_processor_type"] = old.replace("FeatureExtractor", "ImageProcessor")
    # Sizes were plain numbers once.
    if isinstance(values.get("size"), int):
        values["size"] = {"shortest_edge": values["size"]}
        values.setdefault(
            "crop_size", {"height": values["size"]["shortest_edge"], "width": values["size"]["shortest_edge"]}
        )
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def _side(size: Any) -> Any:
    """Height and width of a square that is given as one number or two; what is no square comes back as it is."""
    return size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines and not isinstance(error, KeyError) else "") or f"{type(error).__name__} {error}".strip()
