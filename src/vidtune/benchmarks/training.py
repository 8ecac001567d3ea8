"""One epoch of training a small model: under the Trainer as the public notebook has it, and under ours."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from vidtune.benchmarks.pipelines import notebook_dataset
from vidtune.data.clips import TrainingClips
from vidtune.models.loading import load_model, read_config
from vidtune.models.processors import load_processors, normalisation
from vidtune.training.settings import training_arguments
from vidtune.training.trainer import VideoTrainer

NewModel = tuple[PreTrainedModel, list[float], list[float]]
"""A model, and mean and standard deviation by channel of its input."""


def small_model(
    overrides: Mapping[str, Any], labels: Sequence[str], num_frames: int, image_size: int | None, seed: int
) -> NewModel:
    """The same new VideoMAE at each call."""
    config = read_config(None, "videomae", overrides, labels=labels, num_frames=num_frames, image_size=image_size)
    set_seed(seed)
    model, _ = load_model(config, None)
    return model, *normalisation(load_processors(None, config)[0])


def training_fields(folder: str, steps: int, batch_size: int, seed: int) -> dict[str, Any]:
    """What both trainers are given: the guide's arguments, less evaluating, saving and publishing."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": 5e-5,
        "warmup_steps": 0.1,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }


def notebook_trainer(videos: Dataset, new: NewModel, fields: Mapping[str, Any]) -> Trainer:
    """The guide's Trainer: its dataset has no length, so an epoch is so many steps; it is read by the main process."""
    model, mean, std = new
    dataset = notebook_dataset(videos, model.config.num_frames, model.config.image_size, mean, std)

    def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        clips = [sample["video"].transpose(0, 1) for sample in samples]
        return {"pixel_values": torch.stack(clips), "labels": torch.tensor([sample["label"] for sample in samples])}

    args = TrainingArguments(**fields, remove_unused_columns=False)
    return Trainer(model, args, train_dataset=dataset, data_collator=collate)


def own_trainer(clips: TrainingClips, new: NewModel, fields: Mapping[str, Any], num_workers: int) -> VideoTrainer:
    """Our trainer, with so many data-loader workers."""
    model, mean, std = new
    return VideoTrainer(
        model,
        training_arguments({**fields, "dataloader_num_workers": num_workers}, precision="fp32"),
        image_mean=mean,
        image_std=std,
        label_names=list(model.config.label2id),
        train_dataset=clips,
    )


def timed_epoch(trainer: Trainer) -> dict[str, Any]:
    """Train, and count the clips that the model was given."""
    trainer.remove_callback(PrinterCallback)
    shapes = []

    def note(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        shapes.append(kwargs["pixel_values"].shape)

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    clips = sum(shape[0] for shape in shapes)
    return {"per_second": clips / seconds, "clips": clips, "output": str(tuple(shapes[0][1:]))}
