"""Frame models: any model of AutoModelForImageClassification, applied to each frame of a clip.

The baseline that a model of videos must beat: it sees every frame, and neither order nor motion.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from vidtune.models.configurations import FrameClassifierConfig


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
        self.image_model = image_model or AutoModelForImageClassification.from_config(config.image_config)
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
