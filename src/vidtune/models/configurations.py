"""Configurations of the models that transformers lacks; each says what it is.

Nothing here needs a model class, so that AutoConfig can know them before any is imported.
"""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class Architecture:
    """What paper and library say of a network.

    Args:
        num_frames: Frames of a clip.
        image_size: Height and width of a clip, pixels.
        projection: The layer of the library's network that turns features into scores.
        head_dropout: Share of the features that training drops before that layer.
        drop_path_rate: Share of the last block's residuals that training drops; None where the network can't.
        mean: Subtracted from values in [0, 1], by channel.
        std: Divided by, by channel.
        frames_step: Clips have a multiple of so many frames.
        size_step: Clips have a multiple of so many pixels a side.
    """

    num_frames: int
    image_size: int
    projection: str
    head_dropout: float = 0.0
    drop_path_rate: float | None = None
    mean: tuple[float, float, float] = GREY_MEAN
    std: tuple[float, float, float] = GREY_STD
    frames_step: int = 1
    size_step: int = 1


# Shapes: the papers' (X3D table 1, SlowFast 8x8, CSN 32x2, R(2+1)D 16x4, MViT-B 16x4, S3D 64 frames, Video Swin 32x2);
# mean and std: pytorchvideo's model zoo, and the transforms that torchvision keeps with each weight.
ARCHITECTURES = {
    "x3d_xs": Architecture(4, 160, "blocks.5.proj", 0.5),
    "x3d_s": Architecture(13, 160, "blocks.5.proj", 0.5),
    "x3d_m": Architecture(16, 224, "blocks.5.proj", 0.5),
    "x3d_l": Architecture(16, 312, "blocks.5.proj", 0.5),
    "slowfast_r50": Architecture(32, 224, "blocks.6.proj", 0.5, frames_step=4),
    "slow_r50": Architecture(8, 224, "blocks.5.proj", 0.5),
    "csn_r101": Architecture(32, 224, "blocks.5.proj"),
    "r2plus1d_r50": Architecture(16, 224, "blocks.5.proj", 0.5),
    "mvit_base_16x4": Architecture(16, 224, "head.proj", 0.5, 0.2, frames_step=2, size_step=4),
    "r3d_18": Architecture(16, 112, "fc", mean=KINETICS_MEAN, std=KINETICS_STD),
    "mc3_18": Architecture(16, 112, "fc", mean=KINETICS_MEAN, std=KINETICS_STD),
    "r2plus1d_18": Architecture(16, 112, "fc", mean=KINETICS_MEAN, std=KINETICS_STD),
    "s3d": Architecture(
        64, 224, "classifier.1", 0.2, mean=KINETICS_MEAN, std=KINETICS_STD, frames_step=8, size_step=32
    ),
    "mvit_v2_s": Architecture(16, 224, "head.1", 0.5, 0.2, frames_step=2, size_step=4),
    "swin3d_t": Architecture(32, 224, "head", 0.0, 0.1, IMAGENET_MEAN, IMAGENET_STD),
    "swin3d_s": Architecture(32, 224, "head", 0.0, 0.1, IMAGENET_MEAN, IMAGENET_STD),
    "swin3d_b": Architecture(32, 224, "head", 0.0, 0.1, IMAGENET_MEAN, IMAGENET_STD),
    "motion_cnn": Architecture(16, 96, "projection", 0.3),
}
"""The networks of pytorchvideo and torchvision, under the names that these libraries give them, and one of ours."""


@strict
class ZooConfig(PreTrainedConfig):  # type: ignore[misc]
    """A network of pytorchvideo or torchvision, or our small one.

    Args:
        architecture: A name of ARCHITECTURES, which also has what is left out here.
        num_frames: Frames of a clip.
        image_size: Height and width of a clip, pixels.
        head_dropout: In [0, 1).
        drop_path_rate: In [0, 1); only for networks that can drop paths.
        arguments: Further arguments of the network's own builder, such as `width_factor` of X3D.
    """

    model_type = "video_zoo"

    architecture: Any = None
    num_frames: int | None = None
    image_size: int | None = None
    head_dropout: float | int | None = None
    drop_path_rate: float | int | None = None
    arguments: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what the architecture says."""
        if self.architecture is not None:
            if self.architecture not in ARCHITECTURES:
                raise ValueError(f"architecture: {self.architecture}: unknown; give one of {', '.join(ARCHITECTURES)}")
            for name in ("num_frames", "image_size", "head_dropout", "drop_path_rate"):
                if getattr(self, name) is None:
                    setattr(self, name, getattr(ARCHITECTURES[self.architecture], name))
            self.arguments = self.arguments or {}
        super().__post_init__(**kwargs)

    @property
    def facts(self) -> Architecture:
        """What paper and library say of the network."""
        return ARCHITECTURES[self.architecture]

    @property
    def tubelet_size(self) -> int:
        """Clips have a multiple of so many frames."""
        return self.facts.frames_step

    @property
    def patch_size(self) -> int:
        """Clips have a multiple of so many pixels a side."""
        return self.facts.size_step


@strict
class FrameClassifierConfig(PreTrainedConfig):  # type: ignore[misc]
    """A model of images that is applied to each frame.

    Args:
        image_config: Configuration of the model of images.
        num_frames: Frames of a clip; 8 if left out.
        image_size: Height and width of a clip, pixels.
    """

    model_type = "frame_classifier"

    image_config: Any = None
    num_frames: int | None = None
    image_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the configuration of the model of images from its fields."""
        from transformers import AutoConfig

        if isinstance(self.image_config, dict):
            self.image_config = AutoConfig.for_model(**self.image_config)
        if self.image_config is not None:
            self.num_frames = self.num_frames or 8
        super().__post_init__(**kwargs)


@strict
class InterpolatedVideoMAEConfig(PreTrainedConfig):  # type: ignore[misc]
    """A VideoMAE for other clips than those of the checkpoint that it started from.

    It has the fields of a `VideoMAEConfig` as well, which is no parent, as no model of transformers can be imported
    while the Auto classes are.

    Args:
        position_grid: Patches `[T, H, W]` of that checkpoint's clips.
    """

    model_type = "videomae_interpolated"

    position_grid: list[int] | tuple[int, ...] = (8, 14, 14)


@strict
class AttentiveProbeConfig(PreTrainedConfig):  # type: ignore[misc]
    """Heads that pool with attention, over the backbone of another model.

    Args:
        network_config: Configuration of the model whose backbone it is.
        num_frames: Frames of a clip, which are the backbone's.
        image_size: Height and width of a clip, pixels, likewise.
        num_probes: Heads that are trained beside each other; 1 in a finished model.
        probe_blocks: Attention blocks of a head, the last of which pools.
        probe_heads: Attention heads of a block.
    """

    model_type = "attentive_probe"

    network_config: Any = None
    num_frames: int | None = None
    image_size: int | None = None
    num_probes: int = 1
    probe_blocks: int = 4
    probe_heads: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the configuration of the other model from its fields."""
        from transformers import AutoConfig

        if isinstance(self.network_config, dict):
            self.network_config = AutoConfig.for_model(**self.network_config)
        super().__post_init__(**kwargs)

    @property
    def tubelet_size(self) -> Any:
        """Frames of a patch."""
        return getattr(self.network_config, "tubelet_size", 1)

    @property
    def patch_size(self) -> Any:
        """Height and width of a patch, pixels."""
        return getattr(self.network_config, "patch_size", 1)
