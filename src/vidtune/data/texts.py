"""Texts of a dataset's videos, such as their titles, as tokens: what a model knows without looking."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers import DataCollatorWithPadding

from vidtune.data.clips import PADDING, Item, row_label, uncounted, without_padding

logger = logging.getLogger(__name__)


class Texts(TorchDataset[Item]):
    """The text of each video, the same at every call.

    Args:
        videos: Rows with columns `text` and `label` or `labels`.
        tokenizer: Of AutoTokenizer.
        max_tokens: Tokens that the model reads, >= 1; of a longer text, the rest is left out, and a warning says so.
    """

    clip = None  # there is none

    def __init__(self, videos: Dataset, tokenizer: Any, max_tokens: int) -> None:
        self.videos, self.rows = videos, videos.remove_columns("video")
        texts = videos["text"][:]
        self.tokens = tokenizer(texts, truncation=True, max_length=max_tokens)
        room = max_tokens - tokenizer.num_special_tokens_to_add()
        full = [text for text, ids in zip(texts, self.tokens["input_ids"], strict=True) if len(ids) == max_tokens]
        cut = sum(len(tokenizer.tokenize(text)) > room for text in full)
        if cut:
            logger.warning(
                "text_column: %d of %d texts have more than the %d tokens that the model reads; the rest is left out",
                cut,
                len(texts),
                max_tokens,
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int | tuple[int, ...]) -> Item:
        """Return `tokens`, `labels` and `row`, and the `epoch` where the index has it, as in training."""
        of_training = {} if isinstance(index, int) else {"epoch": index[0]}
        row = index if isinstance(index, int) else index[1]
        tokens = {name: values[row] for name, values in self.tokens.items()}
        item = {"tokens": tokens, "labels": row_label(self.rows, self.rows[row]), "row": row} | of_training
        fills = not isinstance(index, int) and index[2:] == (PADDING,)
        return uncounted(item) | {"padding": True} if fills else item


def collate_texts(items: Sequence[Item], tokenizer: Any) -> dict[str, Any]:
    """Pad the texts of B videos to the longest.

    Returns:
        What the tokenizer gives, as `input_ids` and `attention_mask`: int64 `(B, tokens)`, in evaluation
        `(B, 1, tokens)`, since a text is the one view of its video; and the rest as `collate` has it.
    """
    items = without_padding(items)
    tokens = DataCollatorWithPadding(tokenizer)([item["tokens"] for item in items])
    in_training = "epoch" in items[0]
    return {name: values if in_training else values[:, None] for name, values in tokens.items()} | {
        "labels": torch.stack([torch.as_tensor(item["labels"]) for item in items]),
        "rows": torch.tensor([item["row"] for item in items]),
        "failed_rows": [],
        "epoch": items[0].get("epoch", 0),
    }
