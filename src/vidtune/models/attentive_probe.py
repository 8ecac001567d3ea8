"""Attentive probes: heads that pool a frozen backbone's tokens with attention, many of them trained at once.

Source: V-JEPA 2, Assran et al. 2025, section on probe-based classification, and `evals/video_classification_frozen`
of facebookresearch/vjepa2; the pooler is the one that transformers has for it.
"""

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForVideoClassification, PreTrainedModel, VJEPA2Config
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from vidtune.errors import InputError
from vidtune.models.configurations import AttentiveProbeConfig
from vidtune.models.loading import CLIP_RECORD
from vidtune.models.positions import clip_shape
from vidtune.training.optimization import takes_weight_decay


class Probe(nn.Module):
    """One head: self-attention blocks, a query that pools what they give, and a linear classifier.

    Args:
        config: Of its pooler.
        num_labels: Number of labels.
    """

    def __init__(self, config: VJEPA2Config, num_labels: int) -> None:
        super().__init__()
        self.pooler = VJEPA2AttentivePooler(config)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score tokens `(B, N, width)`: `(B, num_labels)`."""
        scores: Tensor = self.classifier(self.pooler(tokens))
        return scores


class AttentiveProbeForVideoClassification(PreTrainedModel):  # type: ignore[misc]
    """The backbone of a model of videos with one attentive probe, or while it is trained with several.

    Args:
        config: Of the backbone and of the probes.
        network: The model whose backbone it takes; None for a new one.
    """

    config_class = AttentiveProbeConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: AttentiveProbeConfig, network: PreTrainedModel | None = None) -> None:
        if (config.num_frames, config.image_size) != clip_shape(config.network_config):
            frames, size = clip_shape(config.network_config)
            raise InputError(
                f"num_frames: {config.num_frames} and image_size: {config.image_size}: an attentive probe reads the "
                f"clips of its backbone, {frames} frames of {size} px; leave them out"
            )
        super().__init__(config)
        network = network or AutoModelForVideoClassification.from_config(
            config.network_config, trust_remote_code=False
        )
        self.backbone = getattr(network, network.base_model_prefix)
        self.main_input_name = network.main_input_name
        self.options = {"skip_predictor": True} if network.base_model_prefix == "vjepa2" else {}
        pooler = VJEPA2Config(
            hidden_size=config.network_config.hidden_size,
            num_attention_heads=config.probe_heads,
            num_pooler_layers=config.probe_blocks - 1,
        )
        pooler._attn_implementation = "sdpa"
        self.probes = nn.ModuleList(Probe(pooler, config.num_labels) for _ in range(config.num_probes))
        self._count_probes()
        self.post_init()

    @property
    def classifier(self) -> nn.Module | None:
        """The classifier of the one probe; None where there are several."""
        return self.probes[0].classifier if len(self.probes) == 1 else None  # type: ignore[return-value]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: `(B, T, C, H, W)`, normalised.
            pixel_values_videos: The same, under the name that some processors give it.
            labels: `(B,)`, or `(B, num_labels)` where a video has several.
            **kwargs: Of the loss.

        Returns:
            `logits`, `(B, num_labels)`, or `(B, num_probes, num_labels)` where there are several probes; and `loss`
            if there are labels.
        """
        clips = pixel_values_videos if pixel_values is None else pixel_values
        tokens = self.backbone(clips, **self.options).last_hidden_state
        scores = torch.stack([probe(tokens) for probe in self.probes], dim=1)
        logits = scores if len(self.probes) > 1 else scores[:, 0]
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def multiply(self, num_probes: int) -> None:
        """Add copies of the one probe, so that there are `num_probes`."""
        self.probes.extend(copy.deepcopy(self.probes[0]) for _ in range(num_probes - 1))
        self._count_probes()

    def keep_best(self) -> None:
        """Leave only the best probe, as `best_probe` says, of those that were trained."""
        if len(self.probes) > 1:
            self.probes = nn.ModuleList([self.probes[int(self.best_probe)]])
            del self.best_probe
            self._count_probes()

    def _count_probes(self) -> None:
        self.config.num_probes = len(self.probes)
        if len(self.probes) > 1:
            # Kept with the weights, so that a checkpoint knows which of them was best.
            self.register_buffer("best_probe", torch.tensor(0))

    def _init_weights(self, module: nn.Module) -> None:
        """Start a probe as V-JEPA 2 does: the last layers of block i at 1 / sqrt(i)."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        elif isinstance(module, VJEPA2AttentivePooler):
            init.trunc_normal_(module.query_tokens, std=0.02)
            layers = [*module.self_attention_layers, module.cross_attention_layer]
            for number, layer in enumerate(layers, 1):
                init.trunc_normal_(layer.mlp.fc2.weight, std=0.02 / number**0.5)
                if hasattr(layer, "self_attn"):
                    init.trunc_normal_(layer.self_attn.out_proj.weight, std=0.02 / number**0.5)
        else:
            super()._init_weights(module)


def attentive_probe(
    model: PreTrainedModel, num_probes: int, probe_blocks: int = 4, probe_heads: int | None = None
) -> AttentiveProbeForVideoClassification:
    """Put attentive probes in the place of a model's head; all start from the same weights.

    Args:
        model: A model of AutoModelForVideoClassification whose backbone gives tokens; its backbone is taken over.
        num_probes: Number of probes, >= 1.
        probe_blocks: Attention blocks of each, the last of which pools, >= 1.
        probe_heads: Attention heads of a block; None: as many as the backbone has.

    Raises:
        InputError: If the backbone gives no tokens, or their width doesn't divide by the heads.
    """
    network_config = model.config
    width, heads = (getattr(network_config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if not isinstance(width, int):
        name = getattr(network_config, "architecture", None) or network_config.model_type
        raise InputError(
            f"tuning: attentive_probe: the backbone of {name} gives no tokens that a probe can read; use linear_probe"
        )
    probe_heads = probe_heads or heads
    if not probe_heads or width % probe_heads:
        raise InputError(f"probe_heads: got {probe_heads}; give a divisor of {width}, the width of the model's tokens")
    frames, size = clip_shape(network_config)
    config = AttentiveProbeConfig(
        network_config=network_config,
        num_frames=frames,
        image_size=size,
        probe_blocks=probe_blocks,
        probe_heads=probe_heads,
        id2label=network_config.id2label,
        label2id=network_config.label2id,
        problem_type=network_config.problem_type,
    )
    if hasattr(network_config, CLIP_RECORD):
        setattr(config, CLIP_RECORD, getattr(network_config, CLIP_RECORD))
    for module in model.modules():  # the backbone keeps its weights
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor._is_hf_initialized = True
        module._is_hf_initialized = True
    probes = AttentiveProbeForVideoClassification(config, model)
    probes.multiply(num_probes)
    return probes


def probe_groups(
    model: nn.Module, learning_rates: Sequence[float], weight_decays: Sequence[float]
) -> list[dict[str, Any]]:
    """Divide the parameters of the probes for their optimiser: each has a learning rate and a weight decay of its own.

    Args:
        model: One with `probes`, as many as there are pairs.
        learning_rates: In the order of the probes; each goes with every weight decay.
        weight_decays: The second of each pair, which changes faster.

    Returns:
        Groups with `params`, their `names`, `lr` and `weight_decay`, in the order of the probes; those without weight
        decay (biases, norms, the query) after the others of a probe.
    """
    groups: list[dict[str, Any]] = []
    probes: Any = model.probes
    pairs = list(product(learning_rates, weight_decays))
    for index, (probe, (rate, decay)) in enumerate(zip(probes, pairs, strict=True)):
        named = list(probe.named_parameters(f"probes.{index}"))
        for decays in (True, False):
            own = [(name, value) for name, value in named if takes_weight_decay(name, value) is decays]
            new = {"lr": rate, "weight_decay": decay if decays else 0.0}
            groups.append({"params": [value for _, value in own], "names": [name for name, _ in own], **new})
    return groups
