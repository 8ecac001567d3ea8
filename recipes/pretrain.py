r"""Pre-train a VideoMAE on videos without labels: it fills in what is hidden of them.

    accelerate launch --config_file accelerate_config.yaml recipes/pretrain.py \
        --config recipes/configs/demo/pretrain.yaml

Own videos in any folders, or in a table with a column `video`; then fine-tune what comes out:

    accelerate launch --config_file accelerate_config.yaml recipes/pretrain.py \
        --dataset my_videos --model_name_or_path MCG-NJU/videomae-base --output_dir outputs/pretrained
    accelerate launch --config_file accelerate_config.yaml recipes/finetune.py \
        --dataset my_labelled_videos --model_name_or_path outputs/pretrained
"""

import shlex
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from vidtune.arguments import parse
from vidtune.card import pretraining_card, without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.hub import check_access, publish_run
from vidtune.options import (
    DataArguments,
    FaultArguments,
    ModelArguments,
    PretrainArguments,
    PublishArguments,
    SourceArguments,
)
from vidtune.printing import printable
from vidtune.training.checkpoints import (
    check_output_dir,
    clear_run,
    close_output_dir,
    find_checkpoint,
    open_output_dir,
    write_text,
)
from vidtune.training.launch import check_launcher

SECTIONS = {
    "source": SourceArguments,
    "data": DataArguments,
    "model": ModelArguments,
    "pretraining": PretrainArguments,
    "faults": FaultArguments,
    "publish": PublishArguments,
}
PICTURES = 8
"""Videos of which the report has pictures."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Pre-train, save and publish; the report is returned, and written by the first process."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS)
    check_launcher()
    source, publishing = options.source, options.publish
    output_dir = Path(options.training.setdefault("output_dir", "outputs/pretrain"))
    resume = options.training.pop("resume_from_checkpoint", None)

    # What can be refused is refused here, before the seconds that importing torch takes
    from vidtune.data.sources import is_hub_id

    check_output_dir(output_dir, resume=bool(resume), overwrite=publishing.overwrite)
    checkpoint = find_checkpoint(resume, output_dir) if resume else None
    videos, split = split_source(source, seed=options.training.get("seed", 42))
    push = publishing.push_to_hub
    repo_id = check_access(publishing.hub_model_id, publishing.hub_private_repo) if push else None

    # Make the model, and join it with the videos
    from vidtune.evaluation.report import reported_when_stopped, to_json

    trainer, clips, newly_initialised = build_trainer(options, videos)
    is_first_process = trainer.is_world_process_zero()
    options.config["precision"] = {"no": "fp32"}.get(trainer.args.mixed_precision, trainer.args.mixed_precision)
    config = without_secrets(yaml.safe_dump(options.config, sort_keys=False))
    if is_first_process:
        lock = open_output_dir(output_dir)
        if not resume:
            clear_run(output_dir)
            write_text(output_dir / "config.yaml", config)
        if reason := split["labels_not_read"]:
            print(f"no labels are read, and no videos kept for a test ({reason})")
        print(", ".join(f"{split}: {len(part)} videos" for split, part in clips.items()), f"-> {output_dir}")
        if checkpoint:
            print("goes on from:", checkpoint)
    trainer.accelerator.wait_for_everyone()

    # Train, save, score, draw
    describe = partial(build_report, trainer, clips, newly_initialised, options, argv)
    with reported_when_stopped(output_dir, is_first_process, partial(describe, None, None)):
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    trainer.save_model()
    output = trainer.predict(clips["validation"], metric_key_prefix="validation")
    report = describe(output, result.metrics["train_runtime"])
    report |= {"split": split, "seconds": time.perf_counter() - started}
    if not is_first_process:
        return report
    draw(trainer, clips["validation"], output_dir)
    write_text(output_dir / "config.yaml", config)
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    names = {"base_model": options.model.model_name_or_path, "dataset": source.dataset}
    on_hub = is_hub_id(source.dataset)
    card = pretraining_card(repo_id, report, **names, dataset_on_hub=on_hub, license=publishing.hub_license)
    write_text(output_dir / "README.md", card)
    close_output_dir(lock)

    # Say what to do next, and publish
    print_summary(report, output_dir)
    if repo_id:
        print("published:", publish_run(output_dir, repo_id, report, "Pre-train with vidtune", publishing.hub_videos))
    return report


def split_source(source: SourceArguments, seed: int) -> tuple[Any, dict[str, Any]]:
    """Load the videos to train and to validate on, and what the report says of their split; no label is left.

    They are split as for fine-tuning, so that its test videos are never seen here. Where fine-tuning would refuse the
    videos, as it does without labels, none are kept for a test.
    """
    from datasets import DatasetDict

    from vidtune.data.loading import load_splits

    try:
        (splits, description), reason = load_splits(**asdict(source), seed=seed), None
    except InputError as error:
        (splits, description), reason = load_splits(**asdict(source), seed=seed, labelled=False), str(error)
    labels = [name for name in ("label", "labels") if name in splits["train"].column_names]
    parts = {split: rows.remove_columns(labels) for split, rows in splits.items() if split != "test"}
    return DatasetDict(parts), description | {"labels_not_read": reason}


def build_trainer(options: SimpleNamespace, videos: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """Make model, clips and trainer; returns trainer, clips by split, and the parameters that start at random."""
    from transformers import set_seed
    from transformers.utils import logging

    from vidtune.data.clips import ClipFormat
    from vidtune.data.masking import masked_per_frame
    from vidtune.hub import commit_of
    from vidtune.models.loading import clip_settings, read_config
    from vidtune.models.positions import clip_grid
    from vidtune.models.pretraining import load_autoencoder
    from vidtune.models.processors import load_processors, normalisation
    from vidtune.training.pretraining import PretrainingTrainer
    from vidtune.training.settings import training_arguments

    logging.disable_progress_bar()  # those of reading and writing weights; training keeps its own
    data, model, pretraining = options.data, options.model, options.pretraining
    if model.model_name_or_path:  # all of it from the commit that its branch is at now
        model.model_revision = commit_of(model.model_name_or_path, revision=model.model_revision)
        options.config["model_revision"] = model.model_revision
    checkpoint = {"model_name_or_path": model.model_name_or_path, "revision": model.model_revision}
    config = read_config(
        **checkpoint,
        config_name=model.config_name,
        config_overrides=model.config_overrides,
        labels=[],
        num_frames=data.num_frames,
        image_size=data.image_size,
        trust_remote_code=model.trust_remote_code,
    )
    if options.training.get("load_best_model_at_end") or options.training.get("save_strategy") == "best":
        options.training.setdefault("metric_for_best_model", "loss")
    args = training_arguments(
        options.training,
        model.precision,
        base_learning_rate=pretraining.base_learning_rate,
        min_learning_rate=pretraining.min_learning_rate,
    )
    clip = ClipFormat(**clip_settings(config, data.sampling, data.fps, data.frame_stride))
    set_seed(args.seed)
    network, newly_initialised = load_autoencoder(config, **checkpoint)
    masked_per_frame(pretraining.mask_ratio, clip_grid(config))
    processors = load_processors(**checkpoint, config=config)
    mean, std = normalisation(processors[0])
    clips = build_clips(data, pretraining.num_sample, videos, clip, args.seed)
    trainer = PretrainingTrainer(
        network,
        args,
        mask_ratio=pretraining.mask_ratio,
        image_mean=mean,
        image_std=std,
        processors=processors,
        on_error=data.on_error,
        train_dataset=clips["train"],
        eval_dataset=clips["validation"],
        shuffle_buffer=options.data.shuffle_buffer if options.source.streaming else None,
        **asdict(options.faults),
    )
    return trainer, clips, newly_initialised


def build_clips(data: DataArguments, num_sample: int, videos: Any, clip: Any, seed: int) -> dict[str, Any]:
    """Make the clips of each split, and try some videos, and a transform of the user's own, before training does."""
    from vidtune.data.clips import EvaluationClips, TrainingClips, unreadable_videos

    if data.on_error == "raise":
        problems = [problem for part in videos.values() for problem in unreadable_videos(part, data.decoder)]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputError(
                f"dataset: {problems[0]['path']}: {problems[0]['reason']}{more}; mend or remove it, "
                "or leave such videos out with --on_error skip"
            )
    names = ("crop_scale", "crop_ratio", "horizontal_flip", "color_jitter")
    augmentation = {name: getattr(data, name) for name in names} | {"num_sample": num_sample}
    settings = {"seed": seed, "decoder": data.decoder, "transform": data.train_transform}
    views = {"temporal_views": data.temporal_views, "spatial_crops": data.spatial_crops}
    clips = {
        "train": TrainingClips(videos["train"], clip, **settings, **augmentation),
        "validation": EvaluationClips(videos["validation"], clip, **views, decoder=data.decoder),
    }
    if data.train_transform:
        clips["train"][0, 0]
    return clips


def build_report(
    trainer: Any,
    clips: dict[str, Any],
    newly_initialised: list[str],
    options: SimpleNamespace,
    argv: list[str],
    output: Any,
    train_seconds: float | None,
) -> dict[str, Any]:
    """Gather everything that a reader of the run asks for.

    `output` is that of predicting the validation videos; a run that was stopped has none, and no time either.
    """
    import math

    import numpy as np
    from accelerate.utils import gather_object

    from vidtune.data.clips import FAILED, failure
    from vidtune.data.masking import masked_per_frame
    from vidtune.evaluation.report import environment

    processes = trainer.args.world_size
    launcher = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    decoder = "pyav" if options.data.decoder == "auto" else options.data.decoder
    scores = output.metrics if output else {}
    timed = train_seconds and trainer.trained_videos
    speed = trainer.trained_videos / (train_seconds - trainer.evaluation_seconds) if timed else None
    failed_rows = {
        "train": sorted(set(gather_object(list(trainer.failed_rows)))),
        "validation": np.flatnonzero(output.label_ids == FAILED).tolist() if output else [],
    }
    return {
        "recipe": "pretrain",
        "command": shlex.join([*launcher, "recipes/pretrain.py", *argv]),
        "config": options.config,
        "model": {
            "name_or_path": options.model.model_name_or_path or options.model.config_name,
            "revision": options.model.model_revision,
            "type": trainer.model.config.model_type,
            "attention": trainer.model.config._attn_implementation,
            "parameters": trainer.model.num_parameters(),
            "encoder_parameters": trainer.model.base_model.num_parameters(),
            "newly_initialised": newly_initialised,
        },
        "masking": {
            "ratio": trainer.mask_ratio,
            "patches": math.prod(trainer.grid),
            "hidden": trainer.grid[0] * masked_per_frame(trainer.mask_ratio, trainer.grid),
        },
        "optimisation": {
            "learning_rate": trainer.args.learning_rate,
            "total_batch": trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps * processes,
        },
        "clip": asdict(clips["train"].clip),
        "data": {
            split: {
                "videos": len(part),
                "failed": [failure(part.videos, row, part.decoder) for row in failed_rows[split]],
            }
            for split, part in clips.items()
        },
        "metrics": {"validation": {name: scores.get(f"validation_{name}") for name in ("loss", "videos", "failed")}},
        "history": trainer.state.log_history,
        "throughput": {
            "train_videos_per_second": speed,
            "validation_videos_per_second": scores.get("validation_samples_per_second"),
        },
        "environment": environment(processes, options.config["precision"], decoder),
    }


def draw(trainer: Any, clips: Any, output_dir: Path) -> None:
    """Draw some validation clips, what the saved model sees of them, and what it makes of the rest."""
    import torch
    from transformers import VideoMAEForPreTraining

    from vidtune.data.masking import EVALUATION, draw_masks
    from vidtune.evaluation.reconstruction import picture_strip, reconstruct
    from vidtune.models.processors import normalisation
    from vidtune.training.checkpoints import write_bytes

    items = [item for item in map(clips.__getitem__, range(min(PICTURES, len(clips)))) if not item["failed"]]
    if not items:
        return
    frames = torch.stack([item["pixel_values"][0] for item in items])
    rows = [item["row"] for item in items]
    masks = draw_masks(rows, 1, trainer.grid, trainer.mask_ratio, seed=trainer.data_seed, purpose=EVALUATION)
    model = VideoMAEForPreTraining.from_pretrained(output_dir, dtype=torch.float32)  # nosec B615 # of a folder
    seen, filled = reconstruct(model, frames, masks, trainer.grid, *normalisation(trainer.processors[0]))
    write_bytes(output_dir / "reconstructions.png", picture_strip([frames / 255, seen, filled]))


def print_summary(report: dict[str, Any], output_dir: Path) -> None:
    """Print the error, the speed, and what to do next."""
    score, speed = report["metrics"]["validation"], report["throughput"]["train_videos_per_second"]
    if score["loss"] is not None:
        print(f"mean squared error of {score['videos']} validation videos: {score['loss']:.4f}")
    print("nothing was left to train" if speed is None else f"trained at {speed:.1f} videos/s", end=", ")
    print(f"{report['seconds']:.0f} s in all")
    for split, part in report["data"].items():
        for problem in part["failed"][:5]:
            print(printable(f"left out of {split}: {problem['path']}: {problem['reason']}"))
        if len(part["failed"]) > 5:
            print(f"left out of {split}: {len(part['failed']) - 5} more, see report.json")
    print(f"saved:     {output_dir}")
    print(f"pictures:  {output_dir / 'reconstructions.png'}")
    finetune = ["python", "recipes/finetune.py", "--model_name_or_path", str(output_dir), "--dataset", "my_videos"]
    print(f"fine-tune: {shlex.join(finetune)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
