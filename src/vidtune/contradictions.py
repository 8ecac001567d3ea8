"""Options that contradict each other: what no single value can tell."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.errors import InputError

if TYPE_CHECKING:
    from vidtune.options import (
        DataArguments,
        EvaluateArguments,
        FaultArguments,
        FeatureArguments,
        ModelArguments,
        PredictArguments,
        PretrainArguments,
        SourceArguments,
        TaskArguments,
        TuningArguments,
    )

GOES_WITH = {
    "unfreeze_layers": ("partial",),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "lora_dropout": ("lora",),
    "lora_targets": ("lora",),
    "merge_lora": ("lora",),
    "probe_learning_rates": ("attentive_probe",),
    "probe_weight_decays": ("attentive_probe",),
    "probe_blocks": ("attentive_probe",),
    "probe_heads": ("attentive_probe",),
    "layer_decay": ("full", "partial"),
    "drop_path": ("full", "partial", "lora"),
    "head_dropout": ("full", "partial", "lora", "linear_probe"),
    "head_init_scale": ("full", "partial", "lora", "linear_probe"),
}
"""Options that only some choices of `tuning` give a meaning."""


OF_SEVERAL_FRAMES = ("num_frames", "sampling", "fps", "frame_stride")
"""Options of the clips that a single frame has no use for."""

OF_PICTURES = ("mixup", "cutmix", "random_erasing", "rand_augment", "num_sample", "flip_guard")
"""Options of the tuning that a text has no use for; and of the data all do but `decoder`, as a report has pictures."""


OF_A_MODEL = (
    "model_revision trust_remote_code split temporal_views spatial_crops sampling fps frame_stride average calibrate "
    "shortcuts"
).split()
"""Options of an evaluation that scores saved predictions have no use for."""


def check_together(sections: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Check the options of a recipe against each other.

    Args:
        sections: The filled dataclasses, by the names that `parse` was given.
        training: Fields of transformers.TrainingArguments that were given.

    Raises:
        InputError: If two options contradict each other.
    """
    given = {name: value for section in sections.values() for name, value in vars(section).items()} | {**training}
    _check_paths(given)
    if given.get("overwrite") and (resume := given.get("resume_from_checkpoint")):
        raise InputError(
            f"overwrite: True would replace the run that resume_from_checkpoint: {resume} goes on with; leave one out"
        )
    _check_training(training)
    if faults := sections.get("faults"):
        _check_faults(faults, training)
    if source := sections.get("source"):
        _check_source(source)
        _check_streaming(source, sections)
    if data := sections.get("data"):
        _check_data(data)
    if model := sections.get("model"):
        _check_model(model, training)
    if task := sections.get("task"):
        _check_task(task, sections["data"], sections["tuning"])
    if tuning := sections.get("tuning"):
        _check_tuning(tuning, training)
        _check_learning_rate(tuning, training)
        _check_learning_rate_steps(tuning.learning_rate_steps, training)
        if tuning.tuning == "attentive_probe":
            _check_probes(tuning, training)
    for name in ("export", "app", "convert"):
        if (section := sections.get(name)) and not section.model:
            raise InputError("model: missing; give --model with the folder of a run, or a Hub id")
    if app := sections.get("app"):
        _check_stride(app.window_seconds, app.stride_seconds)
    if pretraining := sections.get("pretraining"):
        _check_learning_rate(pretraining, training)
        if model and model.weights:
            raise InputError(f"weights: {model.weights}: a new videomae takes none of another library; leave it out")
        if smoothing := training.get("label_smoothing_factor"):
            raise InputError(f"label_smoothing_factor: {smoothing}: pre-training reads no labels; leave it out")
        if (metric := training.get("metric_for_best_model", "loss")).removeprefix("eval_") != "loss":
            raise InputError(f"metric_for_best_model: got {metric!r}; pre-training has only loss")
    if model and tuning and tuning.tuning != "full" and not model.model_name_or_path:
        if not model.weights:
            raise InputError(
                f"tuning: {tuning.tuning} trains a part, and the rest of a new model would stay random; give "
                "model_name_or_path, or use full"
            )
        if tuning.tuning == "lora" and not tuning.merge_lora:
            raise InputError(
                "merge_lora: False: an adapter needs a checkpoint that it is loaded onto; add --merge_lora, or give "
                "model_name_or_path"
            )
    if data and tuning and data.train_transform:
        for name in ("rand_augment", "random_erasing"):
            if getattr(tuning, name):
                raise InputError(f"{name}: train_transform: {data.train_transform} replaces it; give one of them")
    if evaluation := sections.get("evaluation"):
        _check_evaluation(evaluation)
    if predict := sections.get("predict"):
        _check_predict(predict)
    if features := sections.get("features"):
        _check_features(features)
    for name, identifier in (("publish", "hub_model_id"), ("prepare", "hub_dataset_id")):
        section = sections.get(name)
        if section and section.push_to_hub and not getattr(section, identifier):
            raise InputError(f"{identifier}: missing; push_to_hub needs the repository: --{identifier} user/name")


def _check_paths(given: Mapping[str, Any]) -> None:
    """Check that no output lies in what is read, or would replace it, and that a revision is one of the Hub's."""
    model = next((name for name in ("model", "model_name_or_path") if given.get(name)), None)
    if revision := given.get("model_revision"):
        problem = f"{model}: {given[model]} is no model of the Hub" if model else "there is no model of the Hub"
        if model is None or Path(given[model]).exists():
            raise InputError(f"model_revision: {revision}: {problem}; leave it out")
    if output_dir := given.get("output_dir"):
        folder = Path(output_dir).resolve()
        if model and Path(given[model]).is_dir() and Path(given[model]).resolve().is_relative_to(folder):
            raise InputError(f"output_dir: {output_dir}: holds {model}: {given[model]}; give another folder")
        dataset = Path(given.get("dataset") or "demo")
        if dataset.is_dir() and folder.is_relative_to(dataset.resolve()):
            raise InputError(f"output_dir: {output_dir}: lies in dataset: {dataset}; give a folder outside of it")
        if dataset.is_dir() and dataset.resolve().is_relative_to(folder):
            raise InputError(f"output_dir: {output_dir}: holds dataset: {dataset}; give another folder")
    inputs = [Path(name).expanduser().resolve() for name in given.get("input", [])]
    if inputs and given["output"] and Path(given["output"]).resolve() in inputs:
        raise InputError(f"output: {given['output']}: is an input; give another file")


def _check_training(training: Mapping[str, Any]) -> None:
    for pair in (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval")):
        if all(map(training.get, pair)):
            raise InputError(f"{pair[0]}: True and {pair[1]}: True exclude each other; give one of them")
    watched, saved = training.get("eval_strategy", "no"), training.get("save_strategy", "steps")
    if training.get("load_best_model_at_end") and saved != "best" and watched != saved:
        raise InputError(
            f"load_best_model_at_end: needs the same eval_strategy and save_strategy, and they are {watched} and "
            f"{saved}; set both to epoch"
        )


def _check_faults(faults: "FaultArguments", training: Mapping[str, Any]) -> None:
    seconds = faults.dataloader_timeout
    if training.get("dataloader_num_workers") == 0 and seconds not in (0, type(faults)().dataloader_timeout):
        raise InputError(
            f"dataloader_timeout: {seconds:g}: goes with workers, and dataloader_num_workers is 0; leave one out"
        )


def _check_source(source: "SourceArguments") -> None:
    if source.validation_fraction + source.test_fraction >= 1:
        raise InputError(
            f"validation_fraction: {source.validation_fraction} and test_fraction: {source.test_fraction} "
            "leave no video to train on; make them smaller"
        )
    if source.split_by_group and source.group_pattern:
        raise InputError(
            f"group_pattern: {source.group_pattern!r} and split_by_group: {source.split_by_group!r} both say what a "
            "group is; give one of them"
        )
    try:
        re.compile(source.group_pattern or "")
    except re.error as error:
        raise InputError(
            f"group_pattern: got {source.group_pattern!r}, which is no regular expression ({error}); mend it"
        ) from None
    if source.folds is not None and source.fold is not None and source.fold >= source.folds:
        raise InputError(f"fold: got {source.fold}; folds: {source.folds} are numbered 0 to {source.folds - 1}")


def _check_streaming(source: "SourceArguments", sections: Mapping[str, Any]) -> None:
    data, task = sections.get("data"), sections.get("task")
    if not source.streaming:
        if data and data.shuffle_buffer != type(data)().shuffle_buffer:
            raise InputError(f"shuffle_buffer: {data.shuffle_buffer} goes with streaming; add it, or leave this out")
        return
    for name in ("dataset_format", "split_number", "video_root"):
        if (value := getattr(source, name)) != getattr(type(source)(), name):
            raise InputError(f"{name}: {value}: streaming reads tar and Parquet shards only; leave one of them out")
    if source.dataset in ("demo", "demo-success"):
        raise InputError(f"streaming: dataset: {source.dataset} is drawn on this disk, in files; leave streaming out")
    if "prepare" in sections:
        raise InputError("streaming: a prepared dataset is made of files, all on this disk; leave it out")
    if task and task.text_column:
        raise InputError(f"streaming: text_column: {task.text_column}: texts need no videos; leave streaming out")


def _check_data(data: "DataArguments") -> None:
    for name in ("crop_scale", "crop_ratio"):
        low, high = getattr(data, name)
        if low > high:
            raise InputError(f"{name}: got [{low}, {high}]; give the smaller number first")
    _check_sampling(data.sampling, data.fps, data.frame_stride)
    if data.train_transform and ":" not in data.train_transform:
        raise InputError(f"train_transform: got {data.train_transform!r}; write module:function")


def _check_task(task: "TaskArguments", data: "DataArguments", tuning: "TuningArguments") -> None:
    reads_texts = task.task == "text-classification"
    if reads_texts and not task.text_column:
        raise InputError(
            "text_column: missing; name the column of the dataset that holds the texts: --text_column title"
        )
    if task.text_column and not reads_texts:
        raise InputError(f"text_column: {task.text_column} goes with task: text-classification; it is {task.task}")
    if task.task == "video-classification":
        return
    if tuning.tuning == "attentive_probe":
        raise InputError(f"tuning: attentive_probe pools the patches of a clip; task: {task.task} has none")
    if tuning.tuning == "lora" and not tuning.merge_lora:
        raise InputError(f"merge_lora: False: task: {task.task} saves no adapters; add --merge_lora")
    given, defaults = vars(data) | vars(tuning), vars(type(data)()) | vars(type(tuning)())
    unused = {*vars(data), *OF_PICTURES} - {"decoder"} if reads_texts else OF_SEVERAL_FRAMES
    for name in sorted(unused):
        if given[name] != defaults[name]:
            reads = "texts" if reads_texts else "single frames"
            raise InputError(f"{name}: {given[name]}: task: {task.task} reads {reads} only; leave it out")


def _check_evaluation(evaluation: "EvaluateArguments") -> None:
    _check_sampling(evaluation.sampling, evaluation.fps, evaluation.frame_stride)
    if bool(evaluation.model) == bool(evaluation.predictions):
        raise InputError(
            f"model: {evaluation.model or 'missing'}; give either --model, or --predictions of runs that were scored"
        )
    if evaluation.predictions:
        for name in OF_A_MODEL:
            if (value := getattr(evaluation, name)) != getattr(type(evaluation)(), name):
                raise InputError(f"{name}: {value} needs a model, not its predictions; give --model, or leave it out")


def _check_sampling(sampling: str | None, fps: float | None, frame_stride: int | None) -> None:
    for name, value in (("fps", fps), ("frame_stride", frame_stride)):
        if value is not None and sampling == "segments":
            raise InputError(f"{name}: {value} goes with sampling: dense; segments span the whole video")
    if fps is not None and frame_stride is not None:
        raise InputError(f"fps: {fps} and frame_stride: {frame_stride} are two ways to say it; give one of them")


def _check_model(model: "ModelArguments", training: Mapping[str, Any]) -> None:
    if model.model_name_or_path and model.config_name:
        raise InputError(
            f"config_name: {model.config_name!r} trains from scratch, model_name_or_path: "
            f"{model.model_name_or_path!r} fine-tunes; give one of them"
        )
    if not model.model_name_or_path and not model.config_name:
        raise InputError("model_name_or_path: missing; give a checkpoint to fine-tune, or --config_name videomae")
    for name in ("bf16", "fp16"):
        if training.get(name) and model.precision not in ("auto", name):
            raise InputError(f"{name}: {training[name]} contradicts precision: {model.precision}; give one of them")
    if model.weights and not model.config_name:
        raise InputError(f"weights: {model.weights} goes with config_name; a checkpoint has its own weights")


def _check_tuning(tuning: "TuningArguments", training: Mapping[str, Any]) -> None:
    defaults = type(tuning)()
    for name, modes in GOES_WITH.items():
        value = getattr(tuning, name)
        if value != getattr(defaults, name) and tuning.tuning not in modes:
            raise InputError(f"{name}: {value} goes with tuning: {' or '.join(modes)}; it is {tuning.tuning}")
    if tuning.tuning == "partial" and tuning.unfreeze_layers is None:
        raise InputError("unfreeze_layers: missing; tuning: partial needs how many of the last blocks to train")
    if tuning.rand_augment:
        from vidtune.data.rand_augment import parse_rand_augment

        parse_rand_augment(tuning.rand_augment)
    if not (tuning.mixup and tuning.cutmix) and tuning.mix_switch_probability != defaults.mix_switch_probability:
        raise InputError(
            f"mix_switch_probability: {tuning.mix_switch_probability} goes with both mixup and cutmix; one is 0"
        )
    if tuning.mixup or tuning.cutmix:
        batch = training.get("per_device_train_batch_size", 8)
        if batch % 2:
            raise InputError(
                f"per_device_train_batch_size: got {batch}; give an even number, since mixup and cutmix mix pairs"
            )
    elif tuning.mix_probability != defaults.mix_probability:
        raise InputError(f"mix_probability: {tuning.mix_probability} goes with mixup and cutmix; both are 0")
    if tuning.balanced_sampling and tuning.class_weights == "balanced":
        raise InputError(
            "class_weights: balanced and balanced_sampling: True would make up for the same twice; give one of them"
        )
    if tuning.early_stopping_patience and not training.get("load_best_model_at_end"):
        raise InputError(
            "early_stopping_patience: needs load_best_model_at_end: true, and eval_strategy and save_strategy with it"
        )


def _check_learning_rate(tuning: "TuningArguments | PretrainArguments", training: Mapping[str, Any]) -> None:
    base, given = tuning.base_learning_rate, training.get("learning_rate")
    if base is not None and given is not None:
        raise InputError(
            f"base_learning_rate: {base} and learning_rate: {given} are two ways to say it; give one of them"
        )
    if base is not None and training.get("auto_find_batch_size"):
        raise InputError("auto_find_batch_size: base_learning_rate is scaled by the batch size; give one of them")
    schedule, least = training.get("lr_scheduler_type"), tuning.min_learning_rate
    if least is not None:
        if schedule != "cosine":
            raise InputError(f"min_learning_rate: {least} goes with lr_scheduler_type: cosine; add it")
        if least > (base or given or 5e-5):
            raise InputError(f"min_learning_rate: {least} is above the learning rate, {base or given or 5e-5}")


def _check_learning_rate_steps(steps: list[float] | None, training: Mapping[str, Any]) -> None:
    if steps is not None:
        if schedule := training.get("lr_scheduler_type"):
            raise InputError(f"learning_rate_steps: {steps} and lr_scheduler_type: {schedule} exclude each other")
        if steps != sorted(set(steps)):
            raise InputError(f"learning_rate_steps: got {steps}; give epochs in ascending order")
        epochs = training.get("num_train_epochs", 3)
        if steps[-1] >= epochs:
            raise InputError(
                f"learning_rate_steps: {steps[-1]} is not before the end of training, num_train_epochs: {epochs}"
            )


def _check_predict(predict: "PredictArguments") -> None:
    if not predict.model:
        raise InputError("model: missing; give --model with the folder of a run, or a Hub id")
    if not predict.input:
        raise InputError("input: missing; give --input with videos, or folders of videos")
    _check_sampling(predict.sampling, predict.fps, predict.frame_stride)
    window, stride = predict.window_seconds, predict.stride_seconds
    if (window is None) != (stride is None):
        given, missing = ("window", "stride") if stride is None else ("stride", "window")
        raise InputError(f"{missing}_seconds: missing; {given}_seconds needs it, as --{missing}_seconds 1")
    if window is not None and stride is not None:
        _check_stride(window, stride)
    if window is not None and predict.temporal_views > 1:
        raise InputError(f"temporal_views: {predict.temporal_views}: a window is one clip; leave it out")


def _check_features(features: "FeatureArguments") -> None:
    from vidtune.options import PROBES

    if not features.model:
        raise InputError("model: missing; give --model with the folder of a run, a checkpoint, or a Hub id")
    _check_sampling(features.sampling, features.fps, features.frame_stride)
    for name in features.probe:
        if name not in PROBES:
            raise InputError(f"probe: {name}: unknown; choose from {', '.join(PROBES)}")
    if features.probe_folds and not features.probe:
        raise InputError(f"probe_folds: {features.probe_folds} goes with probe; add --probe {' '.join(PROBES)}")


def _check_stride(window_seconds: float, stride_seconds: float) -> None:
    if stride_seconds > window_seconds:
        raise InputError(
            f"stride_seconds: {stride_seconds:g} is more than window_seconds: {window_seconds:g}, so that parts would "
            "not be seen; make it smaller"
        )


def _check_probes(tuning: "TuningArguments", training: Mapping[str, Any]) -> None:
    for name, value in (
        ("base_learning_rate", tuning.base_learning_rate),
        ("min_learning_rate", tuning.min_learning_rate),
        ("learning_rate", training.get("learning_rate")),
        ("weight_decay", training.get("weight_decay")),
    ):
        if value is not None:
            raise InputError(
                f"{name}: {value}: attentive probes have probe_learning_rates and probe_weight_decays; leave it out"
            )
    if training.get("max_grad_norm"):
        raise InputError(
            f"max_grad_norm: {training['max_grad_norm']}: the norm of all attentive probes would make one depend on "
            "the others; leave it out"
        )
