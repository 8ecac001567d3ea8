"""Networks of pytorchvideo and torchvision as models of AutoModelForVideoClassification.

The network is the library's own, under `backbone`; only its last layer stands outside, as `classifier`, as in every
model of transformers. Its features for a clip that the library accepts are the library's; smaller clips pass as well.
One small network is our own, for training from scratch.

All but MViT and Video Swin have batch normalisation, which sees one batch at a time: for them, a step of 2 batches of
4 is not a step of one batch of 8, and a video that failed counts in its statistics as a black one.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from vidtune.models.blocks import find_blocks
from vidtune.models.configurations import ZooConfig

ALPHA = 4
"""Of so many frames SlowFast's slow pathway takes one."""


class ZooForVideoClassification(PreTrainedModel):  # type: ignore[misc]
    """A network of pytorchvideo or torchvision with a linear classifier.

    Args:
        config: Which network, and its shape.
    """

    config_class = ZooConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: ZooConfig) -> None:
        super().__init__(config)
        with warnings.catch_warnings():  # pytorchvideo compiles functions by TorchScript, which torch gives up
            warnings.simplefilter("ignore", FutureWarning)
            from vidtune.models.networks import build_network  # takes time, and only this class needs it
        from_pretrained = torch.empty(0).is_meta
        with torch.device("cpu"):  # on the meta device, pytorchvideo's builder of MViT fails
            self.backbone = build_network(config)
        projection: Any = self.backbone.get_submodule(config.facts.projection)
        self.backbone.set_submodule(config.facts.projection, nn.Identity())
        if not from_pretrained:  # keep what the library started; there, this would hide what a checkpoint lacks
            for tensor in chain(self.backbone.parameters(), self.backbone.buffers()):
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]
        self.dropout = nn.Dropout(config.head_dropout or 0.0)
        self.classifier = nn.Linear(projection.weight.shape[1], config.num_labels)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: `(B, T, C, H, W)`, normalised.
            labels: `(B,)`, or `(B, num_labels)` where a video has several.
            **kwargs: Of the loss.

        Returns:
            `logits`, `(B, num_labels)`, and `loss` if there are labels.
        """
        clips = pixel_values.transpose(1, 2)
        is_slowfast = self.config.architecture.startswith("slowfast")
        features = self.backbone([slow_pathway(clips), clips] if is_slowfast else clips)
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            init.normal_(self.classifier.weight, std=0.01)  # as both libraries do for their 3-D ResNets
            init.zeros_(self.classifier.bias)
        else:
            super()._init_weights(module)

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        """Keep of each block its input only, and compute the rest again in the backward pass."""
        self.gradient_checkpointing = enable
        for block in find_blocks(self).values():
            vars(block).pop("forward", None)
            if enable:
                twice = partial(checkpoint, block.forward, use_reentrant=False, context_fn=self._computing_twice)
                block.forward = twice

    def _computing_twice(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        return nullcontext(), _without_statistics(norms)


@contextmanager
def _without_statistics(norms: list[Any]) -> Iterator[None]:
    """Let batch normalisation see a batch again without counting it again."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


def slow_pathway(clips: Tensor) -> Tensor:
    """Take the frames of SlowFast's slow pathway, the first and the last among them.

    Source: PackPathway in pytorchvideo's tutorials.

    Args:
        clips: `(B, C, T, H, W)`, all frames, which are those of the fast pathway; T is a multiple of ALPHA.

    Returns:
        `(B, C, T / ALPHA, H, W)`.
    """
    last, count = clips.shape[2] - 1, clips.shape[2] // ALPHA
    return clips[:, :, [index * last // max(1, count - 1) for index in range(count)]]
