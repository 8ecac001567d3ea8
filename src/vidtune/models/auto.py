"""The table of the Auto classes: what turns raw input into tensors, tensors into features, features into logits.

A *processor* makes tensors, a *backbone* makes features of them, a *task model* is a backbone with a head and a loss.
For each an Auto class finds in the checkpoint's configuration which specific class it is (docs/autoclass.md).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from vidtune.errors import InputError, first_line
from vidtune.hub import locate
from vidtune.models.processors import saved_processors
from vidtune.models.trust import untrusted


class Classes(NamedTuple):
    """Names of classes of transformers, by purpose; of several processors, the first that a checkpoint has."""

    preprocessing: tuple[str, ...]
    features: str
    task: str


AUTO = {
    "video-classification": Classes(
        ("AutoImageProcessor", "AutoVideoProcessor"), "AutoModel", "AutoModelForVideoClassification"
    ),
    "image-classification": Classes(("AutoImageProcessor",), "AutoModel", "AutoModelForImageClassification"),
    "text-classification": Classes(("AutoTokenizer",), "AutoModel", "AutoModelForSequenceClassification"),
}
"""By task: the Auto classes."""

SPECIFIC = {
    "video-classification": {
        "VideoMAE": Classes(
            ("VideoMAEImageProcessor", "VideoMAEVideoProcessor"), "VideoMAEModel", "VideoMAEForVideoClassification"
        ),
        "TimeSformer": Classes(
            ("VideoMAEImageProcessor", "VideoMAEVideoProcessor"),
            "TimesformerModel",
            "TimesformerForVideoClassification",
        ),
        "ViViT": Classes(("VivitImageProcessor", "VivitVideoProcessor"), "VivitModel", "VivitForVideoClassification"),
        "V-JEPA 2": Classes(("VJEPA2VideoProcessor",), "VJEPA2Model", "VJEPA2ForVideoClassification"),
    },
    "image-classification": {"ViT": Classes(("ViTImageProcessor",), "ViTModel", "ViTForImageClassification")},
    "text-classification": {"BERT": Classes(("BertTokenizer",), "BertModel", "BertForSequenceClassification")},
}
"""By task and family of models: the classes that the Auto classes of that task pick."""


def load_processor(
    task: str, name: str, revision: str | None = None, field: str = "model", trust_remote_code: bool = False
) -> Any:
    """Load what turns frames, a picture or a text into tensors.

    A processor that still has its name of transformers 4 (`VideoMAEFeatureExtractor`) is read as its successor.

    Args:
        task: One of AUTO.
        name: Folder or Hub id of a checkpoint.
        revision: Branch, tag or commit on the Hub.
        field: What errors call the checkpoint's option.
        trust_remote_code: Whether code that lies in the checkpoint may be run.

    Raises:
        InputError: If the checkpoint is not for the task, or has no processor or no words in its tokenizer.
    """
    source = _find(task, name, revision, field, trust_remote_code)
    if task != "text-classification":
        return saved_processors(source, None, field, trust_remote_code)[-1]
    tokenizer = load_with(field, AutoTokenizer.from_pretrained, source, trust_remote_code=trust_remote_code)
    # Without its files, transformers 5 makes one that knows nothing but special tokens, and says so nowhere.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{field}: {name}: has no tokenizer; put its tokenizer.json or vocab.txt beside the weights")
    return tokenizer


def load_backbone(
    task: str, name: str, revision: str | None = None, field: str = "model", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load what turns tensors into features: `last_hidden_state`, shape `(B, tokens, hidden size)`.

    A pooler that the checkpoint has no weights for is left out: its features would be random.

    Args:
        task: As of `load_processor`, like the rest.
        name: Likewise.
        revision: Likewise.
        field: Likewise.
        trust_remote_code: Likewise.

    Raises:
        InputError: If the checkpoint is not for the task, or lacks weights.
    """
    source = _find(task, name, revision, field, trust_remote_code)
    model, missing = _load_model(field, AutoModel, source, trust_remote_code=trust_remote_code)
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler, missing = None, set()
    if missing:
        raise InputError(f"{field}: {name}: has no weights for {min(missing)}; choose a checkpoint that is whole")
    return model


def load_classifier(
    task: str,
    name: str,
    labels: Sequence[str] = (),
    revision: str | None = None,
    field: str = "model",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a backbone with the head of a task: its `logits` have the shape `(B, labels)`.

    Args:
        task: As of `load_processor`.
        name: Likewise.
        labels: Names of the labels of a head; one that the checkpoint has for as many labels is kept, else it is new.
            Empty: the checkpoint's own head.
        revision: As of `load_processor`.
        field: Likewise.
        trust_remote_code: Likewise.

    Raises:
        InputError: If the checkpoint is not for the task, or lacks weights, of the head too where `labels` is empty.
    """
    source = _find(task, name, revision, field, trust_remote_code)
    head: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if labels:
        head |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,
        }
    model, missing = _load_model(field, getattr(transformers, AUTO[task].task), source, **head)
    prefix = f"{model.base_model_prefix}."
    needed = {key for key in missing if not labels or (key.startswith(prefix) and ".pooler." not in key)}
    if needed:
        remedy = "choose a checkpoint that is whole" if labels else "give the labels of a new head"
        raise InputError(f"{field}: {name}: has no weights for {min(needed)}; {remedy}")
    return model


def load_with(field: str, loader: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers, and say in one line what it has against its arguments."""
    try:
        return loader(*args, **kwargs)
    except Exception as error:  # whatever transformers and safetensors raise
        first = args[0]
        name = first if isinstance(first, str) else getattr(first, "architecture", None) or first.model_type
        if "trust_remote_code=True" in str(error):
            raise untrusted(name, field, "for this task, as its config.json says") from None
        reason = first_line(error).rstrip(".")
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights have other shapes than its config.json says"
        remedy = "mend it" if field == "config_overrides" else "give a whole checkpoint, or copy this one anew"
        raise InputError(f"{field}: {name}: can't be loaded: {reason}; {remedy}") from None


def _find(task: str, name: str, revision: str | None, field: str, trust_remote_code: bool) -> str:
    """Find a checkpoint, and check that its configuration is of a model for the task."""
    if task not in AUTO:
        raise InputError(f"task: {task}: choose one of {', '.join(AUTO)}")
    source = locate(name, field, revision, trust_remote_code)
    config = load_with(field, AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code)
    own = getattr(config, "auto_map", None) or {}
    fitting = [each for each, classes in AUTO.items() if type(config) in _models(classes.task) or classes.task in own]
    if task not in fitting:
        good = f", which is for {' and '.join(fitting)}" if fitting else ""
        raise InputError(f"{field}: {name}: is a {config.model_type} model{good}; choose one for {task}")
    return source


def _models(auto: str) -> Any:
    """The models that an Auto class picks from, by the class of their configuration."""
    return getattr(transformers, auto)._model_mapping


def _load_model(field: str, auto: Any, source: str, **options: Any) -> tuple[PreTrainedModel, set[str]]:
    """Load weights as float32: the model, and the names of those that the checkpoint lacks."""
    model, info = load_with(
        field,
        auto.from_pretrained,
        source,
        dtype=torch.float32,
        output_loading_info=True,
        use_safetensors=True,
        **options,
    )
    return model.eval(), set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
