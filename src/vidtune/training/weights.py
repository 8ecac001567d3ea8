"""Weights in folders: all of a model's, or what LoRA trained beside them."""

from pathlib import Path
from typing import Any

from torch import nn

from vidtune.errors import InputError
from vidtune.models.tuning import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, merged_model

ADAPTER = "adapter"
"""Folder beside a merged model that holds the adapter itself."""


def has_adapter(folder: str | Path) -> bool:
    """Whether a folder has what LoRA trained, instead of all weights of a model."""
    return Path(folder, ADAPTER_WEIGHTS).is_file()


def has_plain_weights(folder: str) -> bool:
    """Whether a folder has weights that are not sharded over processes."""
    return has_adapter(folder) or any(Path(folder).glob("model*.safetensors"))


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load the weights of a checkpoint into a model, all of them.

    Those of an adapter, if the folder holds one. Else through `from_pretrained`, because `save_pretrained` renames
    tensors of some models (VideoMAE's biases, most of ViViT's), and Trainer, which reads the file directly, would pass
    over those without a word.

    Raises:
        InputError: If the checkpoint is one of another model, such as one with other labels.
    """
    if has_adapter(checkpoint):
        return load_adapter(model, checkpoint)
    loaded, info = type(model).from_pretrained(checkpoint, output_loading_info=True)  # type: ignore[attr-defined]
    try:
        if info["missing_keys"]:
            raise RuntimeError(f"it lacks {min(info['missing_keys'])}")
        model.load_state_dict(loaded.state_dict(), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"resume_from_checkpoint: {checkpoint}: holds another model: {reason}") from None


def complete_adapter(model: Any, folder: Path) -> None:
    """Make a folder into which peft has saved an adapter say what labels and clips it is for."""
    model.config.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own; ours says more


def merge_adapter(model: Any, folder: Path) -> None:
    """Move the adapter of a folder into one of its own, and save the plain model that it makes in its place."""
    adapter = folder / ADAPTER
    adapter.mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"):
        (folder / name).rename(adapter / name)
    merged_model(model).save_pretrained(folder)
