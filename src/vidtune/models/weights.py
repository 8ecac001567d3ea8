"""Weights in pickles: read without running any code, and those of pytorchvideo and torchvision made to fit ours."""

import warnings
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # only the name of an error

import torch

from vidtune.errors import InputError, first_line
from vidtune.models.zoo import ZooForVideoClassification


def read_pickle(path: str | Path, field: str, remedy: str) -> dict[str, torch.Tensor]:
    """Read tensors by name from a pickle; one that would run code is refused, and none of it runs.

    Args:
        path: What torch.save wrote: tensors by name, or these under `model_state` or `state_dict`.
        field: What errors call it.
        remedy: What to do instead, in errors.

    Raises:
        InputError: If the file can't be read, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol: what can't be read is refused below
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose message tells how to run the code in it
        raise InputError(f"{field}: {path}: can't be read: it holds more than weights, or none; {remedy}") from None
    except Exception as error:  # whatever torch raises for what is no file of its own
        raise InputError(f"{field}: {path}: can't be read: {first_line(error)}") from None
    for key in ("model_state", "state_dict"):
        saved = saved.get(key, saved) if isinstance(saved, dict) else None
    if not saved or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise InputError(f"{field}: {path}: holds no weights by name; {remedy}")
    return dict(saved)


def import_weights(model: ZooForVideoClassification, path: str) -> list[str]:
    """Load a library's own weights into a new model of one of its networks.

    Args:
        model: A new model; its shape and arguments must be those that the weights were trained with.
        path: pytorchvideo's `.pyth`, with the weights under `model_state`, or torchvision's `.pth`.

    Returns:
        Names of the parameters that stay as they are: the classifier's, if the file has it for another number of
        labels.

    Raises:
        InputError: If the file can't be read, or has not all weights of the backbone, or others.
    """
    if not Path(path).is_file():
        raise InputError(f"weights: {path}: is no file; give one of pytorchvideo's or torchvision's")
    saved = read_pickle(path, "weights", "give a file of pytorchvideo's or torchvision's")
    projection = f"{model.config.facts.projection}."
    weights = {
        f"classifier.{name.removeprefix(projection)}" if name.startswith(projection) else f"backbone.{name}": value
        for name, value in saved.items()
    }
    if "classifier.weight" in weights:  # S3D's is a convolution of size 1
        weights["classifier.weight"] = weights["classifier.weight"].flatten(1)
    own = model.state_dict()
    head = ["classifier.bias", "classifier.weight"]
    new = [] if len(weights.get("classifier.bias", [])) == model.config.num_labels else head
    weights = {name: value for name, value in weights.items() if name not in new}
    for problem, names in (
        ("lacks", [name for name in own if name not in weights and name not in new]),
        ("has, which the model lacks,", [name for name in weights if name not in own]),
        ("has in another shape", [name for name in weights if name in own and weights[name].shape != own[name].shape]),
    ):
        if names:
            raise InputError(
                f"weights: {path}: {problem} {names[0]}; give weights of {model.config.architecture} with the same "
                "num_frames, image_size and config_overrides"
            )
    model.load_state_dict(weights, strict=not new)
    return new
