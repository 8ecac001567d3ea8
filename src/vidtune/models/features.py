"""The features of clips: what a backbone makes of them, before any head."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from vidtune.errors import InputError
from vidtune.hub import locate
from vidtune.models.auto import load_backbone
from vidtune.models.loading import clip_settings, load_trained, read_config, read_saved
from vidtune.models.processors import load_processors, normalisation

CLASS_TOKENS = ("cls_token", "class_embedding")
"""What models call the token that they put before the others, for the whole of a picture or clip."""


class FeatureExtractor(nn.Module):
    """One vector a clip, from the tokens of a model or, where it gives none, from what its classifier would read.

    Args:
        model: A backbone with tokens; or a whole model of ours, whose `classifier` is taken away.
        pooling: `mean` of all tokens, or `cls`, the first one; a model of images has them of each frame, whose average
            is taken.
        layer: Index of `hidden_states`, whose first one goes into the first block; but -1 is `last_hidden_state`,
            behind the final norm if the model has one.
    """

    def __init__(self, model: PreTrainedModel, pooling: str = "mean", layer: int = -1) -> None:
        super().__init__()
        self.model, self.pooling, self.layer = model, pooling, layer
        self.has_tokens = not isinstance(getattr(model, "classifier", None), nn.Module)
        if not self.has_tokens:
            model.classifier = nn.Identity()
        takes = inspect.signature(model.forward).parameters
        self.by_frame = "pixel_values" in takes and not hasattr(model.config, "num_frames")
        self.options: dict[str, Any] = {"skip_predictor": True} if "skip_predictor" in takes else {}
        if self.by_frame and "interpolate_pos_encoding" in takes:
            self.options["interpolate_pos_encoding"] = True

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features of clips.

        Args:
            pixels: `(B, T, C, H, W)`, normalised.

        Returns:
            `(B, width)`.
        """
        if not self.has_tokens:
            logits: Tensor = self.model(pixels).logits
            return logits.flatten(1)
        output = self.run(pixels)
        tokens = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        if tokens.ndim == 4:  # a map of features (B, width, H, W)
            tokens = tokens.flatten(2).transpose(1, 2)
        tokens = tokens.reshape(len(pixels), -1, *tokens.shape[1:])  # of each frame, or of the clip at once
        pooled: Tensor = tokens[:, :, 0].mean(1) if self.pooling == "cls" else tokens.flatten(1, 2).mean(1)
        return pooled

    def run(self, pixels: Tensor) -> Any:
        """Run a model with tokens, on clips or on each frame: what it returns, with `hidden_states` where needed."""
        clips = pixels.flatten(0, 1) if self.by_frame else pixels
        arguments = {self.model.main_input_name: clips, "output_hidden_states": self.layer != -1}
        return self.model(**arguments, **self.options)


def load_features(
    name: str,
    revision: str | None = None,
    pooling: str = "mean",
    layer: int = -1,
    sampling: str | None = None,
    fps: float | None = None,
    frame_stride: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[FeatureExtractor, dict[str, Any], Sequence[float], Sequence[float]]:
    """Load the backbone of any model that reads clips or pictures.

    Args:
        name: Folder or Hub id of a checkpoint, pre-trained or fine-tuned, or of an adapter.
        revision: Branch, tag or commit on the Hub.
        pooling: As of FeatureExtractor.
        layer: As of FeatureExtractor.
        sampling: As of `clip_settings`, for a model that doesn't say itself.
        fps: Likewise.
        frame_stride: Likewise.
        trust_remote_code: Whether code that lies in the checkpoint, or in the base of an adapter, may be run.

    Returns:
        What gives features, in evaluation mode; the settings of its clips (as `clip_settings`); and the mean and the
        standard deviation by channel that its processor normalises with, of values in [0, 1].

    Raises:
        InputError: If there is no such model, it reads no clips, or has no such layer or token.
    """
    from vidtune.models.tuning import adapter_base

    source = locate(name, "model", revision, trust_remote_code)
    config = read_saved("model", source, trust_remote_code)
    is_of_images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    is_known = is_of_images or type(config) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
    views = (sampling, fps, frame_stride)
    mean: Sequence[float]
    std: Sequence[float]
    if is_known and type(config) in MODEL_MAPPING and adapter_base(source) is None:
        model = load_backbone("image-classification" if is_of_images else "video-classification", source)
        config = _config_of_clips(source, list(config.id2label.values()))
        settings = clip_settings(config, *views)
        mean, std = normalisation(load_processors(source, config, field="model")[0])
    else:  # one of ours, or an adapter and its base
        trained, settings, mean, std = load_trained(source, None, *views, trust_remote_code)
        outer = getattr(trained, "image_model", trained)
        inner = getattr(outer, outer.base_model_prefix, None)
        model = inner if isinstance(inner, PreTrainedModel) else trained
    extractor = FeatureExtractor(model, pooling, layer).eval()
    _check(extractor, settings)
    return extractor, settings, mean, std


def _config_of_clips(source: str, labels: list[str]) -> PretrainedConfig:
    try:
        return read_config(source, None, {}, labels)
    except InputError as error:  # which calls the option as fine-tuning does
        raise InputError(str(error).replace("model_name_or_path:", "model:", 1)) from None


def _check(extractor: FeatureExtractor, settings: dict[str, Any]) -> None:
    """Try the model on an empty clip, and say what it lacks."""
    model, pooling, layer = extractor.model, extractor.pooling, extractor.layer
    kind = getattr(model.config, "architecture", None) or model.config.model_type
    names = {parameter.rpartition(".")[2] for parameter, _ in model.named_parameters()}
    if pooling == "cls" and not (extractor.has_tokens and names & {*CLASS_TOKENS}):
        raise InputError(f"pooling: cls: a {kind} model has no CLS token; use mean")
    if not extractor.has_tokens:
        if layer != -1:
            raise InputError(f"layer: {layer}: a {kind} model gives features at its end only; leave layer out")
        return
    size = settings["image_size"]
    try:
        with torch.inference_mode():
            output = extractor.run(torch.zeros(1, settings["num_frames"], 3, size, size))
        states = (output.last_hidden_state,) if layer == -1 else output.hidden_states
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"model: a {kind} model gives no features of clips; choose another") from None
    if layer != -1 and not -len(states) <= layer < len(states):
        raise InputError(
            f"layer: {layer}: the model has {len(states) - 1} layers; give 0 (what goes into the first) to "
            f"{len(states) - 1}, or -1, the end, and down"
        )
