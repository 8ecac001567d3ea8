"""The networks themselves, as pytorchvideo and torchvision build them, for one class and without dropout in the head.

Builders take the fields of a ZooConfig; its `arguments` go to the library's builder, after ours. MotionCNN is our own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn
from torchvision.models.video import S3D, MViT, SwinTransformer3d, VideoResNet
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
)

from vidtune.models.configurations import ZooConfig

HEAD = {"model_num_class": 1, "dropout_rate": 0, "head_activation": None}
"""Of pytorchvideo's CNNs: scores, not the probabilities that some of them return."""


def build_network(config: ZooConfig) -> nn.Module:
    """Build the network of a configuration.

    Raises:
        ValueError: If an option is out of range, or not for this network.
        TypeError: If `config.arguments` has one that the library's builder lacks.
    """
    for name in ("head_dropout", "drop_path_rate"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name}: got {value}; give at least 0 and less than 1")
    if config.facts.drop_path_rate is None and config.drop_path_rate:
        raise ValueError(f"drop_path_rate: {config.architecture} has no paths to drop; leave it out")
    network: nn.Module = BUILDERS[config.architecture](config, **config.arguments or {})
    return network


class PoolToFit(nn.AvgPool3d):
    """Average pooling with a kernel no larger than the features, so that clips smaller than the paper's pass."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool `(B, C, T, H, W)`."""
        sides: Any = self.kernel_size
        return F.avg_pool3d(features, list(map(min, sides, features.shape[2:])), self.stride)


def x3d(config: ZooConfig, **arguments: Any) -> Any:
    """X3D. Source: Feichtenhofer 2020."""
    shape = {"input_clip_length": config.num_frames, "input_crop_size": config.image_size}
    return create_x3d(**shape | HEAD | arguments)


def slowfast(config: ZooConfig, **arguments: Any) -> Any:
    """SlowFast 8x8. Source: Feichtenhofer et al. 2019."""
    network = create_slowfast(**HEAD | arguments)
    pools = network.blocks[5].pool
    for index, pool in enumerate(pools):
        pools[index] = PoolToFit(pool.kernel_size, pool.stride)
    return network


def resnet(create: Callable[..., Any], config: ZooConfig, **arguments: Any) -> Any:
    """Slow (Feichtenhofer et al. 2019), CSN (Tran et al. 2019) or R(2+1)D (Tran et al. 2018) with bottlenecks."""
    return create(**HEAD | {"head_pool": PoolToFit} | arguments)


def mvit(config: ZooConfig, **arguments: Any) -> Any:
    """MViT-B. Source: Fan et al. 2021."""
    base = {
        "embed_dim_mul": [[1, 2.0], [3, 2.0], [14, 2.0]],
        "atten_head_mul": [[1, 2.0], [3, 2.0], [14, 2.0]],
        "pool_q_stride_size": [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
        "pool_kv_stride_adaptive": [1, 8, 8],
        "pool_kvq_kernel": [3, 3, 3],
        "droppath_rate_block": config.drop_path_rate,
    }
    shape = {"spatial_size": config.image_size, "temporal_size": config.num_frames}
    return create_multiscale_vision_transformers(
        **shape | {"head_num_classes": 1, "head_dropout_rate": 0.0} | base | arguments
    )


def video_resnet(
    stem: type[nn.Module], convolutions: Sequence[Any], config: ZooConfig, layers: Sequence[int] = (2, 2, 2, 2)
) -> Any:
    """R3D, MC3 or R(2+1)D with 18 layers. Source: Tran et al. 2018."""
    return VideoResNet(BasicBlock, convolutions, list(layers), stem, num_classes=1)


def s3d(config: ZooConfig) -> Any:
    """S3D. Source: Xie et al. 2018."""
    network = S3D(num_classes=1, dropout=0.0)
    network.avgpool = PoolToFit(network.avgpool.kernel_size, network.avgpool.stride)
    return network


def mvit_v2(
    config: ZooConfig,
    depths: Sequence[int] = (1, 2, 11, 2),
    embed_dim: int = 96,
    num_heads: int = 1,
    **arguments: Any,
) -> Any:
    """MViTv2-S: width and heads double, and the picture halves, with each stage. Source: Li et al. 2022, table 1."""
    stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
    blocks = [
        MSBlockConfig(
            num_heads=num_heads * 2**stage,
            input_channels=embed_dim * 2**before,
            output_channels=embed_dim * 2**stage,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 2, 2] if stage > before else [1, 1, 1],
            stride_kv=[1, max(1, 8 // 2**stage), max(1, 8 // 2**stage)],
        )
        for before, stage in zip([0, *stages], stages, strict=False)
    ]
    return MViT(
        spatial_size=(config.image_size, config.image_size),
        temporal_size=config.num_frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=0.0,
        stochastic_depth_prob=config.drop_path_rate,
        num_classes=1,
        **arguments,
    )


def swin(config: ZooConfig, **arguments: Any) -> Any:
    """Video Swin. Source: Liu et al. 2022."""
    base = {"patch_size": [2, 4, 4], "embed_dim": 96, "num_heads": [3, 6, 12, 24], "window_size": [8, 7, 7]}
    return SwinTransformer3d(num_classes=1, stochastic_depth_prob=config.drop_path_rate, **base | arguments)


class MotionCNN(nn.Module):
    """A 3-D CNN that sees changes between frames alone: small enough to learn from some hundred videos.

    Two convolutions and two residual blocks, each of which halves height and width, and the blocks the frames as well;
    then the mean over time and space. Every convolution is followed by batch normalisation.

    Args:
        config: Its clips have 2 frames or more.
        width: Channels of the first convolution, >= 1; each later stage has twice those of the one before.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, config: ZooConfig, width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width: got {width}; give at least 1")
        if (config.num_frames or 0) < 2:
            raise ValueError(f"num_frames: got {config.num_frames}; motion_cnn compares frames, give at least 2")
        halved = (1, 2, 2)
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (3, 5, 5), halved, (1, 2, 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, 2 * width, 3, halved, 1, bias=False),
            nn.BatchNorm3d(2 * width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(self._block(channels) for channels in (2 * width, 4 * width)))
        self.projection = nn.Linear(8 * width, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Score clips `(B, C, T, H, W)`, `(B, 1)`."""
        scores: Tensor = self.projection(self.blocks(self.stem(clips.diff(dim=2))).mean((2, 3, 4)))
        return scores

    @staticmethod
    def _block(channels: int) -> nn.Module:
        shortcut = nn.Sequential(nn.Conv3d(channels, 2 * channels, 1, 2, bias=False), nn.BatchNorm3d(2 * channels))
        block: nn.Module = BasicBlock(channels, 2 * channels, Conv3DSimple, 2, shortcut)
        return block


BUILDERS: dict[str, Callable[..., Any]] = {
    "x3d_xs": x3d,
    "x3d_s": x3d,
    "x3d_m": x3d,
    "x3d_l": partial(x3d, depth_factor=5.0),
    "slowfast_r50": slowfast,
    "slow_r50": partial(resnet, create_resnet, stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(8, 7, 7)),
    "csn_r101": partial(resnet, create_csn, model_depth=101, stem_pool=nn.MaxPool3d, head_pool_kernel_size=(4, 7, 7)),
    "r2plus1d_r50": partial(resnet, create_r2plus1d),
    "mvit_base_16x4": mvit,
    "r3d_18": partial(video_resnet, BasicStem, [Conv3DSimple] * 4),
    "mc3_18": partial(video_resnet, BasicStem, [Conv3DSimple] + [Conv3DNoTemporal] * 3),
    "r2plus1d_18": partial(video_resnet, R2Plus1dStem, [Conv2Plus1D] * 4),
    "s3d": s3d,
    "mvit_v2_s": mvit_v2,
    "swin3d_t": partial(swin, depths=[2, 2, 6, 2]),
    "swin3d_s": partial(swin, depths=[2, 2, 18, 2]),
    "swin3d_b": partial(swin, depths=[2, 2, 18, 2], embed_dim=128, num_heads=[4, 8, 16, 32]),
    "motion_cnn": MotionCNN,
}
