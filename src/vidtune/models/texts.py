"""Models of texts: their configuration, and the tokenizer that turns a text into their input."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from vidtune.errors import InputError, first_line
from vidtune.hub import locate
from vidtune.models.loading import classifies_texts, starting_config, with_labels


def read_text_config(
    model_name_or_path: str | None,
    config_name: str | None,
    config_overrides: Mapping[str, Any],
    labels: Sequence[str],
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PretrainedConfig:
    """Read the configuration of a model of AutoModelForSequenceClassification, and set the labels.

    The arguments are those of `vidtune.models.loading.read_config`.

    Raises:
        InputError: If there is no such model, or it reads no texts.
    """
    config = starting_config(model_name_or_path, config_name, config_overrides, revision, trust_remote_code)
    if not classifies_texts(config):
        raise InputError(
            f"task: text-classification: {model_name_or_path or config_name}: a {config.model_type} model reads no "
            "texts; give one that does, such as google-bert/bert-base-uncased"
        )
    return with_labels(config, labels)


def load_tokenizer(
    model_name_or_path: str | None,
    config_name: str | None,
    config: PretrainedConfig,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load the tokenizer of a checkpoint, or the one beside the configuration of a new model.

    Args:
        model_name_or_path: Checkpoint, Hub id or folder; or None.
        config_name: Without a checkpoint: the folder of the configuration, which holds the tokenizer, too.
        config: The model's.
        revision: Branch, tag or commit of a checkpoint on the Hub.
        trust_remote_code: Whether code that lies in the checkpoint, or beside the configuration, may be run.

    Raises:
        InputError: If there is none, it doesn't fit the model, or it can't fill up short texts.
    """
    name = str(model_name_or_path or config_name)
    remedy = "give a checkpoint or a folder that has one: tokenizer.json, or vocab.txt"
    if not model_name_or_path and not Path(name).is_dir():
        raise InputError(f"config_name: {name}: a new model has no tokenizer; {remedy}")
    field = "model_name_or_path" if model_name_or_path else "config_name"
    source = locate(name, field, revision if model_name_or_path else None, trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # of a folder
            source, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # whatever its libraries raise
        raise InputError(
            f"{field}: {name}: has no tokenizer that can be read ({first_line(error)}); {remedy}"
        ) from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where there are no files
        raise InputError(f"{field}: {name}: has no tokenizer; {remedy}")
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{field}: {name}: its tokenizer knows {len(tokenizer)} tokens, its model {config.vocab_size}; mend it"
        )
    if tokenizer.pad_token is None:
        raise InputError(
            f"{field}: {name}: its tokenizer has no token that fills up short texts; give an encoder such as "
            "google-bert/bert-base-uncased"
        )
    return tokenizer


def most_tokens(config: PretrainedConfig, tokenizer: Any) -> int:
    """Tokens of the longest text that a model reads whole."""
    return int(min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 10**9))
