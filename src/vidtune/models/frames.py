"""Frame models: any model of AutoModelForImageClassification, applied to each frame of a clip.

The baseline that a model of videos must beat: it sees every frame, and neither order nor motion.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from vidtune.errors import InputError
from vidtune.models.configurations import FrameClassifierConfig
from vidtune.models.shape import side_length


class FrameClassifierForVideoClassification(PreTrainedModel):  # type: ignore[misc]
    """A model of images whose logits are averaged over the frames.

    Args:
        config: Configuration of the model of images, and the shape of a clip.
        image_model: A model of images; None for a new one.
    """

    config_class = FrameClassifierConfig
    base_model_prefix = "image_model"
    main_input_name = "pixel_values"

    def __init__(self, config: FrameClassifierConfig, image_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        config.image_config.num_labels = config.num_labels
        self.image_model = image_model or AutoModelForImageClassification.from_config(
            config.image_config, trust_remote_code=False
        )
        config._attn_implementation = self.image_model.config._attn_implementation
        self.supports_gradient_checkpointing = self.image_model.supports_gradient_checkpointing
        takes = inspect.signature(self.image_model.forward).parameters
        # Those that interpolate their position table, as ViT, then take frames of any size.
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        self.post_init()

    @property
    def classifier(self) -> nn.Module | None:
        """The head of the model of images, where it has one of this name."""
        return getattr(self.image_model, "classifier", None)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: `(B, T, C, H, W)`, normalised.
            labels: `(B,)`, or `(B, num_labels)` where a video has several.
            **kwargs: Of the loss.

        Returns:
            `logits`, `(B, num_labels)`, and `loss` if there are labels.
        """
        frames = self.image_model(pixel_values=pixel_values.flatten(0, 1), **self.options).logits
        logits = frames.unflatten(0, pixel_values.shape[:2]).mean(1)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        self.image_model._init_weights(module)


def check_frames(config: PretrainedConfig, name: str) -> None:
    """Check that a configuration is of a model of images.

    Args:
        config: As `read_config` returns it.
        name: What errors call the model.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(config, FrameClassifierConfig):
        raise InputError(
            f"task: image-classification: {name}: a {config.model_type} model reads no single frames; give one of "
            "images, such as vit"
        )


KEPT = ("id2label", "label2id", "problem_type", "vidtune")
"""Fields of a configuration that say what a model was trained for, whichever way it reads frames."""


def model_of_one_frame(image_model: PreTrainedModel, image_size: int | None) -> FrameClassifierForVideoClassification:
    """Have a trained model of images read clips, of one frame each."""
    config = FrameClassifierConfig(image_config=image_model.config, num_frames=1, image_size=image_size)
    _copy_fields(image_model.config, config)
    return FrameClassifierForVideoClassification(config, image_model)


def image_model_of(model: FrameClassifierForVideoClassification) -> PreTrainedModel:
    """Take the model of images out, as the pipeline of image classification loads it.

    Raises:
        InputError: If the table of its positions is of another size than the frames, which a pipeline can't tell it.
    """
    image_model: PreTrainedModel = model.image_model
    size, own_size = model.config.image_size, side_length(getattr(image_model.config, "image_size", None))
    if model.options and size != own_size:
        raise InputError(f"image_size: {size}: the model reads single frames of {own_size} px only; leave it out")
    _copy_fields(model.config, image_model.config)
    return image_model


def _copy_fields(source: PretrainedConfig, target: PretrainedConfig) -> None:
    for name in KEPT:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
