"""Models that are pre-trained by filling in what is hidden of their clips: VideoMAE, new or a checkpoint."""

import torch
from transformers import PretrainedConfig, VideoMAEConfig, VideoMAEForPreTraining

from vidtune.errors import InputError, first_line
from vidtune.hub import locate
from vidtune.models.positions import clip_shape


def load_autoencoder(
    config: PretrainedConfig, model_name_or_path: str | None, revision: str | None = None
) -> tuple[VideoMAEForPreTraining, list[str]]:
    """Build a new VideoMAE with its decoder, or load a checkpoint to go on with.

    Args:
        config: As `read_config` returned it.
        model_name_or_path: Checkpoint, Hub id or folder; None for a new model.
        revision: Branch, tag or commit of a checkpoint on the Hub.

    Returns:
        The model, and the names of the parameters that start from random numbers: all, or, where the checkpoint is
        one without a decoder, those of the decoder.

    Raises:
        InputError: If it is no VideoMAE, can't be built or loaded, weights of its encoder are missing, or it was
            trained on other clips.
    """
    field = "model_name_or_path" if model_name_or_path else "config_name"
    if type(config) is not VideoMAEConfig:
        raise InputError(f"{field}: a {config.model_type} model has no decoder to pre-train it with; give a videomae")
    try:
        if model_name_or_path is None:
            model = VideoMAEForPreTraining(config)
            return model, sorted(name for name, _ in model.named_parameters())
        source = locate(model_name_or_path, revision=revision)
        own = VideoMAEConfig.from_pretrained(source)  # nosec B615 # of a folder
        model, info = VideoMAEForPreTraining.from_pretrained(  # nosec B615 # of a folder
            source, config=config, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except InputError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise
        name = model_name_or_path or "config_overrides"
        raise InputError(f"{field}: {name}: can't be loaded: {first_line(error)}") from None
    if clip_shape(config) != clip_shape(own):
        raise InputError(
            f"num_frames, image_size: {clip_shape(config)} are not the {clip_shape(own)} that {model_name_or_path} "
            "was trained with; leave them out"
        )
    new = sorted(info["missing_keys"])
    encoder = [name for name in new if name.startswith(f"{model.base_model_prefix}.")]
    if encoder:
        raise InputError(
            f"{field}: {model_name_or_path}: {len(encoder)} weights of the encoder are missing, {encoder[0]} first; "
            "choose a checkpoint of a videomae model"
        )
    return model, new
