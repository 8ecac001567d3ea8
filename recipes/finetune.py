r"""Fine-tune a video-classification model, score it by video, and publish it.

    accelerate launch --config_file accelerate_config.yaml recipes/finetune.py --config recipes/configs/demo.yaml

Own videos in class/*.mp4, a checkpoint of the Hub, the result on the Hub:

    accelerate launch --config_file accelerate_config.yaml recipes/finetune.py \
        --dataset my_videos --model_name_or_path MCG-NJU/videomae-base --output_dir outputs/mine \
        --push_to_hub --hub_model_id user/mine

What a single frame tells, or a title: --task image-classification, --task text-classification --text_column title
"""

import json
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
from vidtune.card import model_card, without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.hub import check_access, publish_run
from vidtune.options import (
    DataArguments,
    FaultArguments,
    ModelArguments,
    PublishArguments,
    SourceArguments,
    TaskArguments,
    TuningArguments,
)
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
    "task": TaskArguments,
    "data": DataArguments,
    "model": ModelArguments,
    "tuning": TuningArguments,
    "faults": FaultArguments,
    "publish": PublishArguments,
}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, score, save and publish; the report is returned, and written by the first process."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS)
    check_launcher()
    source, publishing = options.source, options.publish
    output_dir = Path(options.training.setdefault("output_dir", "outputs/finetune"))
    resume = options.training.pop("resume_from_checkpoint", None)

    # What can be refused is refused here, before the seconds that importing torch takes
    from vidtune.data.loading import load_splits

    check_output_dir(output_dir, resume=bool(resume), overwrite=publishing.overwrite)
    checkpoint = find_checkpoint(resume, output_dir) if resume else None
    part = {"seed": options.training.get("seed", 42), "videos_per_label": options.tuning.videos_per_label}
    videos, split = load_splits(**asdict(source), **part, text_column=options.task.text_column)
    push = publishing.push_to_hub
    repo_id = check_access(publishing.hub_model_id, publishing.hub_private_repo) if push else None

    # Load the model, and join it with the videos
    from vidtune.evaluation.report import print_summary, reported_when_stopped
    from vidtune.evaluation.scoring import score_videos

    trainer, clips, newly_initialised = build_trainer(options, videos)
    is_first_process = trainer.is_world_process_zero()
    # What the launcher or the machine decided belongs to what reproduces the run
    options.config["precision"] = {"no": "fp32"}.get(trainer.args.mixed_precision, trainer.args.mixed_precision)
    config = without_secrets(yaml.safe_dump(options.config, sort_keys=False))
    if is_first_process:
        lock = open_output_dir(output_dir)
        if not resume:
            clear_run(output_dir)
            write_text(output_dir / "config.yaml", config)
        print(", ".join(f"{split}: {len(part)} videos" for split, part in clips.items()), f"-> {output_dir}")
        if checkpoint:
            print("goes on from:", checkpoint)
        else:
            print("newly initialised:", ", ".join(newly_initialised) if options.model.model_name_or_path else "all")
    trainer.accelerator.wait_for_everyone()

    # Train, save, score by video
    describe = partial(build_report, trainer, clips, newly_initialised, options, argv)
    with reported_when_stopped(output_dir, is_first_process, partial(describe, {}, None)):
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    trainer.save_model()
    scores = {split: score_videos(trainer, part, split) for split, part in clips.items() if split != "train"}
    report = describe(scores, result.metrics["train_runtime"])
    report |= {"split": split, "seconds": time.perf_counter() - started}
    if not is_first_process:
        return report
    write_text(output_dir / "config.yaml", config)
    write_results(output_dir, report, scores, clips, options, repo_id)
    close_output_dir(lock)

    # Say what to do next, and publish
    print_summary(report, output_dir, predict_command(output_dir, videos["validation"][0]))
    if repo_id:
        kept = {"of_videos": publishing.hub_videos, "code": options.model.trust_remote_code}
        print("published:", publish_run(output_dir, repo_id, report, "Fine-tune with vidtune", **kept))
    return report


def build_trainer(options: SimpleNamespace, videos: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """Make model, clips and trainer; returns trainer, clips by split, and the parameters that start at random."""
    from transformers.utils import logging

    from vidtune.data.splits import label_names
    from vidtune.hub import commit_of
    from vidtune.training.settings import training_arguments
    from vidtune.training.trainer import VideoTrainer

    logging.disable_progress_bar()  # those of reading and writing weights; training keeps its own
    model, tuning = options.model, options.tuning
    if model.model_name_or_path:  # all of it from the commit that its branch is at now
        model.model_revision = commit_of(model.model_name_or_path, revision=model.model_revision)
        options.config["model_revision"] = model.model_revision
    labels, multi_label = label_names(videos["train"]), "labels" in videos["train"].column_names
    reads_texts = options.task.task == "text-classification"
    if reads_texts:  # there is nothing to decode
        options.training.setdefault("dataloader_num_workers", 0)
    args = training_arguments(
        options.training,
        model.precision,
        base_learning_rate=tuning.base_learning_rate,
        min_learning_rate=tuning.min_learning_rate,
        multi_label=multi_label,
    )
    build_input = build_texts if reads_texts else build_clips
    network, newly_initialised, clips, reading = build_input(options, videos, labels, args.seed)
    network.config.problem_type = f"{'multi' if multi_label else 'single'}_label_classification"  # for the pipeline
    network = tune(network, model, tuning, newly_initialised)
    if tuning.tuning == "attentive_probe":
        newly_initialised = [name for name, _ in network.named_parameters() if name.startswith("probes.0.")]
    trainer = VideoTrainer(
        network,
        args,
        label_names=labels,
        on_error=options.data.on_error,
        multi_label=multi_label,
        train_dataset=clips["train"],
        eval_dataset=clips["validation"],
        shuffle_buffer=options.data.shuffle_buffer if options.source.streaming else None,
        **asdict(options.faults),
        **reading,
        **training_pieces(tuning, videos["train"]),
    )
    return trainer, clips, newly_initialised


def build_clips(options: SimpleNamespace, videos: Any, labels: list[str], seed: int) -> tuple[Any, ...]:
    """Load a model of clips or of single frames, and make the clips of each split.

    Returns:
        The model, the parameters that start at random, clips by split, and keyword arguments of VideoTrainer.
    """
    from transformers import set_seed

    from vidtune.data.clips import ClipFormat, collate_frames
    from vidtune.models.frames import check_frames, image_model_of
    from vidtune.models.loading import clip_settings, load_model, read_config
    from vidtune.models.processors import load_processors, normalisation, picture_processor

    data, model = options.data, options.model
    checkpoint = {
        "model_name_or_path": model.model_name_or_path,
        "revision": model.model_revision,
        "trust_remote_code": model.trust_remote_code,
    }
    config = read_config(
        **checkpoint,
        config_name=model.config_name,
        config_overrides=model.config_overrides,
        labels=labels,
        num_frames=data.num_frames,
        image_size=data.image_size,
    )
    reads_frames = options.task.task == "image-classification"
    if reads_frames:
        check_frames(config, model.model_name_or_path or model.config_name)
        config.num_frames = 1
    clip = ClipFormat(**clip_settings(config, data.sampling, data.fps, data.frame_stride))
    clips = split_clips(data, options.tuning, videos, clip, seed)
    processors = load_processors(**checkpoint, config=config)
    mean, std = normalisation(processors[0])
    set_seed(seed)
    network, newly_initialised = load_model(config, **checkpoint, weights=model.weights)
    reading = {"image_mean": mean, "image_std": std, "processors": processors}
    if reads_frames:
        newly_initialised = [name.removeprefix("image_model.") for name in newly_initialised]
        network = image_model_of(network)
        reading |= {"processors": [picture_processor(clip.image_size, mean, std)], "data_collator": collate_frames}
    return network, newly_initialised, clips, reading


def build_texts(options: SimpleNamespace, videos: Any, labels: list[str], seed: int) -> tuple[Any, ...]:
    """Load a model of texts, and tokenize the texts of each split; returns what `build_clips` does."""
    from transformers import set_seed

    from vidtune.data.texts import Texts, collate_texts
    from vidtune.models.loading import load_model
    from vidtune.models.texts import load_tokenizer, most_tokens, read_text_config

    model = options.model
    checkpoint = {
        "model_name_or_path": model.model_name_or_path,
        "revision": model.model_revision,
        "trust_remote_code": model.trust_remote_code,
    }
    new = {"config_name": model.config_name, "config_overrides": model.config_overrides}
    config = read_text_config(**checkpoint, **new, labels=labels)
    tokenizer = load_tokenizer(**checkpoint, config_name=model.config_name, config=config)
    most = most_tokens(config, tokenizer)
    texts = {split: Texts(part, tokenizer, most) for split, part in videos.items()}
    set_seed(seed)
    network, newly_initialised = load_model(config, **checkpoint, weights=model.weights)
    reading = {"processors": [tokenizer], "data_collator": partial(collate_texts, tokenizer=tokenizer)}
    return network, newly_initialised, texts, reading


def tune(network: Any, model: ModelArguments, tuning: TuningArguments, newly_initialised: list[str]) -> Any:
    """Regularise a model, and choose what of it is trained; returns it, or what stands around it."""
    from vidtune.models.regularisation import scale_head, set_drop_path, set_head_dropout
    from vidtune.models.tuning import apply_tuning

    if tuning.head_init_scale != 1:
        if not any("classifier." in name for name in newly_initialised):
            raise InputError("head_init_scale: the checkpoint's head is kept, not initialised; leave it out")
        scale_head(network, tuning.head_init_scale)
    if tuning.drop_path is not None:
        set_drop_path(network, tuning.drop_path)
    if tuning.head_dropout is not None:
        set_head_dropout(network, tuning.head_dropout)
    return apply_tuning(
        network,
        tuning.tuning,
        new=newly_initialised,
        unfreeze_layers=tuning.unfreeze_layers,
        lora_rank=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        lora_targets=tuning.lora_targets,
        base_model=model.model_name_or_path,
        revision=model.model_revision,
        num_probes=len(tuning.probe_learning_rates) * len(tuning.probe_weight_decays),
        probe_blocks=tuning.probe_blocks,
        probe_heads=tuning.probe_heads,
    )


def training_pieces(tuning: TuningArguments, videos: Any) -> dict[str, Any]:
    """Say what VideoTrainer adds to Trainer: keyword arguments."""
    from transformers import EarlyStoppingCallback

    from vidtune.data.splits import label_names, multi_hot
    from vidtune.training.losses import label_weights, row_weights
    from vidtune.training.mixing import Mixing

    names = ("layer_decay", "learning_rate_steps", "focal_gamma", "ema_decay", "merge_lora")
    pieces: dict[str, Any] = {name: getattr(tuning, name) for name in names}
    if tuning.tuning == "attentive_probe":
        pieces["probe_grid"] = (tuning.probe_learning_rates, tuning.probe_weight_decays)
    if tuning.mixup or tuning.cutmix:
        pieces["mixing"] = Mixing(tuning.mixup, tuning.cutmix, tuning.mix_probability, tuning.mix_switch_probability)
    if tuning.class_weights:
        several = "labels" in videos.column_names
        pieces["label_weights"] = label_weights(tuning.class_weights, multi_hot(videos), label_names(videos), several)
    if tuning.balanced_sampling:
        pieces["row_weights"] = row_weights(multi_hot(videos))
    if tuning.early_stopping_patience:
        pieces["callbacks"] = [EarlyStoppingCallback(tuning.early_stopping_patience)]
    return pieces


def split_clips(data: DataArguments, tuning: TuningArguments, videos: Any, clip: Any, seed: int) -> dict[str, Any]:
    """Make the clips of each split, and try some videos, and a transform of the user's own, before training does."""
    from vidtune.data.clips import EvaluationClips, TrainingClips, unreadable_videos
    from vidtune.data.splits import label_names
    from vidtune.data.transforms import mirrored_labels

    pairs = mirrored_labels(label_names(videos["train"])) if tuning.flip_guard and not data.train_transform else []
    if data.horizontal_flip and pairs:
        raise InputError(
            f"horizontal_flip: {data.horizontal_flip}: in the mirror {pairs[0][0]!r} is {pairs[0][1]!r}; "
            "set horizontal_flip: 0, or flip_guard: false if it does not matter"
        )
    if data.on_error == "raise":
        problems = [problem for part in videos.values() for problem in unreadable_videos(part, data.decoder)]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputError(
                f"dataset: {problems[0]['path']}: {problems[0]['reason']}{more}; mend or remove it, "
                "or leave such videos out with --on_error skip"
            )
    augmentation = {
        name: getattr(data, name) for name in ("crop_scale", "crop_ratio", "horizontal_flip", "color_jitter")
    }
    augmentation |= {name: getattr(tuning, name) for name in ("num_sample", "rand_augment", "random_erasing")}
    clips: dict[str, Any] = {
        "train": TrainingClips(
            videos["train"], clip, seed=seed, decoder=data.decoder, transform=data.train_transform, **augmentation
        )
    }
    views = {"temporal_views": data.temporal_views, "spatial_crops": data.spatial_crops}
    for split in ("validation", "test"):
        if split in videos:
            clips[split] = EvaluationClips(videos[split], clip, **views, decoder=data.decoder)
    if data.train_transform:
        clips["train"][0, 0]
    return clips


def build_report(
    trainer: Any,
    clips: dict[str, Any],
    newly_initialised: list[str],
    options: SimpleNamespace,
    argv: list[str],
    scores: dict[str, Any],
    train_seconds: float | None,
) -> dict[str, Any]:
    """Gather everything that a reader of the run asks for.

    `scores` are those of validation and test by video; a run that was stopped has none, and no time either.
    """
    from itertools import product

    import numpy as np
    from accelerate.utils import gather_object

    from vidtune.data.clips import failure
    from vidtune.evaluation.calibration import fit_temperature
    from vidtune.evaluation.report import environment
    from vidtune.evaluation.scoring import model_labels, split_metrics

    processes = trainer.args.world_size
    launcher = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    labels = model_labels(trainer.model.config)
    decoder = "pyav" if options.data.decoder == "auto" else options.data.decoder
    timed = train_seconds and trainer.trained_videos
    speed = trainer.trained_videos / (train_seconds - trainer.evaluation_seconds) if timed else None
    throughput = {"train_videos_per_second": speed}
    failed_rows = {"train": sorted(set(gather_object(list(trainer.failed_rows))))}
    metrics = {}
    if scores:
        temperature = fit_temperature(scores["validation"].probabilities, scores["validation"].labels)
    for split, found in scores.items():
        metrics[split] = split_metrics(found, clips[split].videos["group"], labels, temperature)
        failed_rows[split] = np.flatnonzero(found.failed).tolist()
        throughput[f"{split}_videos_per_second"] = found.videos_per_second
    return {
        "recipe": "finetune",
        "command": shlex.join([*launcher, "recipes/finetune.py", *argv]),
        "config": options.config,
        "model": {
            "name_or_path": options.model.model_name_or_path or options.model.config_name,
            "revision": options.model.model_revision,
            "type": trainer.model.config.model_type,
            "attention": trainer.model.config._attn_implementation,
            "parameters": trainer.model.num_parameters(),
            "trainable_parameters": trainer.model.num_parameters(only_trainable=True),
            "newly_initialised": newly_initialised,
        },
        "optimisation": {
            "learning_rate": trainer.args.learning_rate,
            "total_batch": trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps * processes,
            "best_probe": None
            if trainer.best_probe is None
            else list(product(*trainer.probe_grid))[trainer.best_probe],
        },
        "labels": labels,
        "clip": asdict(clips["train"].clip) if clips["train"].clip else {},
        "data": {
            split: {
                "videos": len(part),
                "failed": [failure(part.videos, row, part.decoder) for row in failed_rows.get(split, [])],
            }
            for split, part in clips.items()
        },
        "metrics": metrics,
        "history": trainer.state.log_history,
        "throughput": throughput,
        "environment": environment(processes, options.config["precision"], decoder),
    }


def write_results(
    output_dir: Path,
    report: dict[str, Any],
    scores: dict[str, Any],
    clips: dict[str, Any],
    options: SimpleNamespace,
    repo_id: str | None,
) -> None:
    """Write report, predictions, page, pictures and card, and keep the temperature in the model's config."""
    from vidtune.data.sources import is_hub_id
    from vidtune.evaluation.calibration import save_temperature
    from vidtune.evaluation.page import write_page
    from vidtune.evaluation.pictures import write_pictures
    from vidtune.evaluation.predictions import FILE, predictions_table, write_predictions
    from vidtune.evaluation.report import to_json, without_paths

    scored = "test" if "test" in scores else "validation"
    videos, dataset = clips[scored].videos, options.source.dataset
    predictions = predictions_table(videos, scores[scored], report["labels"])
    save_temperature(output_dir, report["metrics"][scored]["calibration"]["temperature"])
    write_predictions(output_dir / FILE, predictions)
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    shown = repo_id is None or options.publish.hub_videos
    page = (report, predictions) if shown else (without_paths(report), None)
    write_page(output_dir, *page, videos, options.data.decoder)
    card = model_card(
        repo_id,
        report,
        base_model=options.model.model_name_or_path,
        dataset=dataset,
        dataset_on_hub=is_hub_id(dataset),
        license=options.publish.hub_license,
        pictures=write_pictures(output_dir, report),
        task=options.task.task,
    )
    write_text(output_dir / "README.md", card)


def predict_command(output_dir: Path, video: Any) -> str:
    """Write the command that predicts the label of a video, or of its text."""
    if "text" in video:
        model, text = (json.dumps(word, ensure_ascii=False) for word in (str(output_dir), video["text"]))
        code = f'from transformers import pipeline; print(pipeline("text-classification", {model})({text}))'
        return shlex.join(["python", "-c", code])
    path = str(video["video"]["path"])
    example = path if Path(path).is_file() else "VIDEO"
    return shlex.join(["python", "recipes/predict.py", "--model", str(output_dir), "--input", example])


if __name__ == "__main__":
    sys.exit(exit_code(main))
