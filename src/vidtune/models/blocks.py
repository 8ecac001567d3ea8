"""The blocks of a model: what repeats between its input and its head."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

REPEATED = {
    "ResBlock",
    "MultiScaleBlock",
    "BasicBlock",
    "SepInceptionBlock3D",
    "MultiscaleBlock",
    "SwinTransformerBlock",
}
"""Classes of blocks in the networks of pytorchvideo and torchvision."""


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Find the blocks of a model's backbone.

    Those of a head that pools with attention, and those of V-JEPA 2's predictor, which no prediction of a label
    uses, are none.

    Args:
        model: A model of AutoModelForVideoClassification.

    Returns:
        Blocks by their names in the model, in the order in which a clip passes them.
    """
    prefix = getattr(model, "base_model_prefix", "")
    found = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(prefix)
        and ".predictor." not in name
        and (isinstance(module, GradientCheckpointingLayer) or type(module).__name__ in REPEATED)
    }
    return {
        name: module
        for name, module in found.items()
        if not any(other.startswith(f"{name}.") for other in found)  # a stage is made of blocks
    }
