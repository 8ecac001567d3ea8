"""Models and processors by the Auto classes: a checkpoint with a fresh head, or a configuration from scratch."""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForVideoClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from vidtune.errors import InputError, first_line
from vidtune.hub import locate
from vidtune.models.auto import load_with
from vidtune.models.configurations import ARCHITECTURES, FrameClassifierConfig, ZooConfig
from vidtune.models.frames import FrameClassifierForVideoClassification, model_of_one_frame
from vidtune.models.positions import clip_shape, with_clips
from vidtune.models.processors import load_processors, normalisation, processor_size, saved_processors
from vidtune.models.shape import frames_key, patch_shape, side_length, size_key
from vidtune.models.trust import check_code
from vidtune.models.weights import import_weights

# It would list every weight of a decoder that no classifier has; what is missing is checked and named here.
logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())

CLIP_RECORD = "vidtune"
"""The field of a model's configuration that says how its clips were sampled: `{"sampling": ..., "fps": ...}`, or
`frame_stride` in place of `fps`; and the `temperature` of its probabilities, if one was fitted."""

SETTLED = PretrainedConfig().to_dict().keys() | {
    *("model_type", "architecture", "image_config", "network_config", "position_grid", CLIP_RECORD)
}
"""Fields of a configuration that say what model it is, or follow from the labels, the clips or from saving it."""


def read_config(
    model_name_or_path: str | None,
    config_name: str | None,
    config_overrides: Mapping[str, Any],
    labels: Sequence[str],
    num_frames: int | None = None,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PretrainedConfig:
    """Read the configuration of a checkpoint, or make one to train from scratch, and set the labels.

    A model of images, of either origin, becomes one that is applied to each frame.

    Args:
        model_name_or_path: Checkpoint, Hub id or folder; or None.
        config_name: Without a checkpoint: model type, name of ARCHITECTURES, folder or JSON file.
        config_overrides: Fields to change.
        labels: Names of the labels, in order.
        num_frames: Frames of a clip; None: as the configuration says.
        image_size: Height and width of a clip, likewise.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        trust_remote_code: Whether code that lies in the checkpoint, or beside the configuration, may be run.

    Raises:
        InputError: If there is no such checkpoint or type, or frames and size don't fit the model.
    """
    config = starting_config(model_name_or_path, config_name, config_overrides, revision, trust_remote_code)
    if model_name_or_path:
        if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            # Many models of images read other sizes than they were built for; their processors tell.
            processor = saved_processors(model_name_or_path, revision, trust_remote_code=trust_remote_code)[-1]
            config = FrameClassifierConfig(image_config=config, image_size=processor_size(processor))
    elif type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        if image_size is not None and hasattr(config, "image_size"):
            config.image_size = image_size
        size = side_length(getattr(config, "image_size", 224))
        config = FrameClassifierConfig(image_config=config, image_size=size)
    for key, value in ((frames_key(config), num_frames), (size_key(config), image_size)):
        if value is not None and hasattr(config, key):
            setattr(config, key, value)
    _check_shape(config, "model_name_or_path" if model_name_or_path else "config_name")
    return with_labels(config, labels)


def starting_config(
    model_name_or_path: str | None,
    config_name: str | None,
    config_overrides: Mapping[str, Any],
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PretrainedConfig:
    """Read the configuration of a checkpoint, or make one to train from scratch, and change fields of it.

    The arguments are those of `read_config`.
    """
    if model_name_or_path:
        source = locate(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
        config = read_saved("model_name_or_path", source, trust_remote_code)
    else:
        config = _new_config(str(config_name), trust_remote_code)
    _override(config, config_overrides)
    return config


def with_labels(config: PretrainedConfig, labels: Sequence[str]) -> PretrainedConfig:
    """Give a configuration other labels, for weights that are not trained yet."""
    getattr(config, CLIP_RECORD, {}).pop("temperature", None)  # of other weights than training will make
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    return config


def clip_settings(
    config: PretrainedConfig, sampling: str | None, fps: float | None, frame_stride: int | None = None
) -> dict[str, Any]:
    """Say what clips a model reads, and keep it in its configuration.

    Args:
        config: The model's configuration; one that vidtune saved tells its sampling and rate.
        sampling: What was asked for; None for the model's own, else `segments`.
        fps: Frames per second of a dense clip; None for the model's own, else 7.5.
        frame_stride: In place of `fps`: every so many-th frame of a file; None for the model's own.

    Returns:
        `num_frames`, `image_size`, `sampling`, and `fps` or `frame_stride`.

    Raises:
        InputError: If sampling or rate differ from those the checkpoint was trained with, or its record is damaged.
    """
    record = getattr(config, CLIP_RECORD, {})
    _check_record(record)
    rate = "frame_stride" if "frame_stride" in record else "fps"
    for name, value, trained in (
        ("sampling", sampling, "sampling"),
        ("fps", fps, rate),
        ("frame_stride", frame_stride, rate),
    ):
        if value is not None and trained in record and (name, value) != (trained, record[trained]):
            other = "" if name == trained else f"{trained} "
            raise InputError(
                f"{name}: got {value}, but the model was trained with {other}{record[trained]}; leave {name} out"
            )
    stride = frame_stride or record.get("frame_stride")
    settings = {
        "sampling": sampling or record.get("sampling", "dense" if fps or stride else "segments"),
        **({"frame_stride": stride} if stride else {"fps": fps or record.get("fps", 7.5)}),
    }
    setattr(config, CLIP_RECORD, settings)
    shape = {
        "num_frames": getattr(config, frames_key(config)),
        "image_size": side_length(getattr(config, size_key(config))),
    }
    return shape | settings


def _check_record(record: Any) -> None:
    numbers = (
        [record.get(name) for name in ("fps", "frame_stride", "temperature")] if isinstance(record, dict) else [0]
    )
    positive = all(value is None or (isinstance(value, int | float) and value > 0) for value in numbers)
    if not positive or record.get("sampling", "dense") not in ("segments", "dense"):
        raise InputError(f"model: config.json: {CLIP_RECORD}: {record} is not what a run saves; copy the file anew")


def load_model(
    config: PretrainedConfig,
    model_name_or_path: str | None,
    revision: str | None = None,
    weights: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint with a head for the labels of `config`, or build the model from scratch.

    Weights are float32, whatever they were saved as: training keeps them so, and lowers the precision where it counts.

    Args:
        config: As `read_config` returned it, or as a run saved it.
        model_name_or_path: Checkpoint, Hub id or folder; None for a new model.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        weights: File of pytorchvideo's or torchvision's own weights, for a new model of theirs.
        trust_remote_code: Whether code that lies in the checkpoint, or beside the configuration, may be run.

    Returns:
        The model, and the names of the parameters that start from random numbers.

    Raises:
        InputError: If there is no such model, weights of its backbone are missing or of another shape, or it can't
            read the clips of `config`.
    """
    if weights and (model_name_or_path or not isinstance(config, ZooConfig)):
        raise InputError(f"weights: {weights}: goes with config_name: one of {', '.join(ARCHITECTURES)}")
    if model_name_or_path is None:
        options = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
        model = load_with("config_overrides", _auto_class(config).from_config, config, **options)
        fresh = import_weights(model, weights) if weights else [name for name, _ in model.named_parameters()]
        return model, sorted(fresh)
    source = locate(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    from vidtune.models.tuning import adapter_base

    if base := adapter_base(source):
        raise InputError(
            f"model_name_or_path: {model_name_or_path}: is an adapter of {base[0]}, no whole model; give that one, "
            "or a run with merge_lora"
        )
    own = read_saved("model_name_or_path", source, trust_remote_code)
    is_of_images = isinstance(config, FrameClassifierConfig) and own.model_type != config.model_type
    changed = _changed_fields(config.image_config if is_of_images else config, own)
    auto = AutoModelForImageClassification if is_of_images else _auto_class(config)
    model, info = load_with(
        "model_name_or_path",
        auto.from_pretrained,
        source,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        id2label=config.id2label,
        label2id=config.label2id,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **changed,
    )
    new = set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
    if is_of_images:
        model = FrameClassifierForVideoClassification(config, model)
        new = {f"{model.base_model_prefix}.{name}" for name in new}
    setattr(model.config, CLIP_RECORD, getattr(config, CLIP_RECORD, {}))
    prefix = f"{model.base_model_prefix}."
    if isinstance(model, FrameClassifierForVideoClassification):
        prefix += f"{model.image_model.base_model_prefix}."
    # A pooler belongs to the task that it was trained for: models of texts are often published without
    backbone = sorted(name for name in new if name.startswith(prefix) and ".pooler." not in name)
    if backbone:
        overridden = f"leave {', '.join(changed)} out of config_overrides"
        raise InputError(
            f"model_name_or_path: {model_name_or_path}: {len(backbone)} weights of the backbone are missing or of "
            f"another shape, {backbone[0]} first; "
            f"{overridden if changed else f'choose a checkpoint of a {_kind(config)} model'}"
        )
    unused = sorted(
        name for name in info["unexpected_keys"] if re.search(r"\.\d+\.", name) and name.startswith(prefix)
    )
    if changed and unused:
        raise InputError(
            f"config_overrides: {', '.join(changed)}: {len(unused)} weights of the checkpoint would be left out, "
            f"{unused[0]} first; leave it out"
        )
    new |= _renew_foreign_head(model, own)
    if not classifies_texts(config) and clip_shape(config) != clip_shape(model.config):
        model = with_clips(model, *clip_shape(config))
    return model, sorted(new)


def load_trained(
    name: str,
    revision: str | None = None,
    sampling: str | None = None,
    fps: float | None = None,
    frame_stride: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, dict[str, Any], Sequence[float], Sequence[float]]:
    """Load a trained model and what its input is.

    Args:
        name: Folder of a run, or Hub id.
        revision: Branch, tag or commit on the Hub.
        sampling: As of `clip_settings`, for a model that doesn't say itself.
        fps: Likewise.
        frame_stride: Likewise.
        trust_remote_code: Whether code that lies in the checkpoint, or in the base of an adapter, may be run.

    Returns:
        The model (one of images reads clips of one frame), the settings of its clips (as `clip_settings`), and the
        mean and the standard deviation by channel that its processor normalises with, of values in [0, 1].

    Raises:
        InputError: If there is no such model, it has not been fine-tuned, or it is not for videos.
    """
    from vidtune.models.tuning import adapter_base, with_adapter

    source = locate(name, "model", revision, trust_remote_code)
    config = read_saved("model", source, trust_remote_code)
    is_of_images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if not is_of_images and not classifies_videos(config):
        raise InputError(f"model: {name}: a {_kind(config)} model reads no videos; give a fine-tuned one that does")
    if sorted(config.id2label) != [*range(len(config.id2label))]:
        raise InputError(f"model: {name}: config.json: id2label: {config.id2label}; number the labels from 0 on")
    if base := adapter_base(source):
        locate(base[0], f"model: {name}: its base model", base[1], trust_remote_code)
        model = with_adapter(load_model(config, *base, trust_remote_code=trust_remote_code)[0], source)
    else:
        auto = AutoModelForImageClassification if is_of_images else AutoModelForVideoClassification
        options = {"dtype": torch.float32, "output_loading_info": True, "use_safetensors": True}
        model, info = load_with("model", auto.from_pretrained, source, **options, trust_remote_code=trust_remote_code)
        if info["missing_keys"]:
            raise InputError(f"model: {name}: has no weights for {min(info['missing_keys'])}; give a fine-tuned model")
    if is_of_images:
        size = processor_size(saved_processors(source, field="model", trust_remote_code=trust_remote_code)[-1])
        model = model_of_one_frame(model, size)
    processors = load_processors(source, model.config, field="model", trust_remote_code=trust_remote_code)
    record = getattr(model.config, CLIP_RECORD, {})
    settings = clip_settings(model.config, sampling, fps, frame_stride)
    setattr(model.config, CLIP_RECORD, record | getattr(model.config, CLIP_RECORD))  # it may hold the temperature, too
    return model, settings, *normalisation(processors[0])


def _auto_class(config: PretrainedConfig) -> Any:
    return AutoModelForSequenceClassification if classifies_texts(config) else AutoModelForVideoClassification


def _kind(config: PretrainedConfig) -> str:
    return str((isinstance(config, ZooConfig) and config.architecture) or config.model_type)


def read_saved(field: str, source: str, trust_remote_code: bool) -> PretrainedConfig:
    """Read the configuration of a checkpoint that `locate` found."""
    config: PretrainedConfig = load_with(
        field, AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code
    )
    return config


def classifies_videos(config: PretrainedConfig) -> bool:
    """Whether a configuration is of a model of AutoModelForVideoClassification, or one of its own code."""
    own = getattr(config, "auto_map", None) or {}
    return type(config) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING or "AutoModelForVideoClassification" in own


def classifies_texts(config: PretrainedConfig) -> bool:
    """Whether a configuration is of a model of AutoModelForSequenceClassification, or one of its own code."""
    own = getattr(config, "auto_map", None) or {}
    return type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or "AutoModelForSequenceClassification" in own


def _new_config(name: str, trust_remote_code: bool) -> PretrainedConfig:
    if name in ARCHITECTURES:
        return ZooConfig(architecture=name)
    if name in CONFIG_MAPPING:
        return CONFIG_MAPPING[name]()
    if path := next((path for path in (Path(name, "config.json"), Path(name)) if path.is_file()), None):
        check_code(path.parent, name, "config_name", trust_remote_code, path.name)
    if Path(name).exists():
        return read_saved("config_name", name, trust_remote_code)
    near = difflib.get_close_matches(name, [*CONFIG_MAPPING, *ARCHITECTURES], n=1)
    hint = f"did you mean {near[0]}?" if near else "give a model type such as videomae, a folder or a JSON file"
    raise InputError(f"config_name: {name}: no such model type or file; {hint}")


def _override(config: PretrainedConfig, overrides: Mapping[str, Any]) -> None:
    known = config.to_dict().keys() - SETTLED
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise InputError(f"config_overrides: {key}: unknown to {_kind(config)}; {hint}")
        try:
            setattr(config, key, value)
        except (TypeError, ValueError, StrictDataclassFieldValidationError) as error:
            reason = first_line(error.__cause__ or error)
            raise InputError(f"config_overrides: {key}: got {value!r}: {reason}") from None


def _changed_fields(config: PretrainedConfig, own: PretrainedConfig) -> dict[str, Any]:
    """Find the fields of a checkpoint's own configuration that `config` has with other values, but for the clips'."""
    fields = own.to_dict().keys() - SETTLED - {frames_key(own), size_key(own)}
    pairs = ((name, getattr(own, name, None), getattr(config, name, None)) for name in sorted(fields))
    return {name: value for name, old, value in pairs if value != old}


def _check_shape(config: PretrainedConfig, field: str) -> None:
    """Check that a clip falls into whole patches."""
    frames, size = getattr(config, frames_key(config), None), getattr(config, size_key(config), None)
    if frames is None or size is None:
        raise InputError(
            f"{field}: a {config.model_type} model reads no clips; choose one of videomae, timesformer, vivit, "
            f"vjepa2, videoprism_vision_model, {', '.join(ARCHITECTURES)}, or a model of images such as vit"
        )
    depth, patch = patch_shape(config)
    for name, value, unit, of in (
        ("num_frames", frames, depth, "tubelet_size"),
        ("image_size", side_length(size), patch, "patch_size"),
    ):
        if unit < 1:
            raise InputError(f"{of}: got {unit}; give at least 1")
        if not isinstance(value, int) or value < 1 or value % unit:
            raise InputError(f"{name}: got {value}; give a multiple of {unit}, the {of} of the model")


def _renew_foreign_head(model: PreTrainedModel, own: PretrainedConfig) -> set[str]:
    """Start the head afresh where the checkpoint's has as many labels, but others: names of what was renewed."""
    old = own.id2label
    head = getattr(model, "classifier", None)
    if head is None or old == model.config.id2label or len(old) != model.config.num_labels:
        return set()
    for module in head.modules():
        module._is_hf_initialized = False
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False
    head.apply(model._init_weights)
    place = next(place for place, module in model.named_modules() if module is head)
    return {f"{place}.{parameter}" for parameter, _ in head.named_parameters()}
