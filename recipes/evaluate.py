r"""Score a model by video: accuracy with intervals, calibration, shortcuts, a comparison, and a report to look at.

    python recipes/evaluate.py --model outputs/mine --dataset my_videos --split test --output_dir outputs/mine_test

Views as a paper states them, here VideoMAE's for Kinetics-400; two processes; another model on the same videos:

    torchrun --nproc_per_node 2 recipes/evaluate.py --model MCG-NJU/videomae-base-finetuned-kinetics --dataset k400 \
        --sampling dense --frame_stride 4 --temporal_views 5 --spatial_crops 3
    python recipes/evaluate.py --model outputs/mine --dataset my_videos --compare outputs/other_test --shortcuts

The test folds of a dataset as one, without a model:

    python recipes/evaluate.py --predictions outputs/fold_0 outputs/fold_1 outputs/fold_2 --output_dir outputs/folds
"""

import shlex
import sys
import time
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from vidtune.arguments import parse
from vidtune.card import without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.options import EvaluateArguments, SourceArguments
from vidtune.training.checkpoints import check_writable, is_run, is_unfinished, write_text
from vidtune.training.launch import check_launcher

SECTIONS = {"evaluation": EvaluateArguments, "source": SourceArguments}
TRAINING = (
    "output_dir use_cpu per_device_eval_batch_size dataloader_num_workers dataloader_prefetch_factor bf16_full_eval "
    "fp16_full_eval torch_compile seed"
).split()
FILES = ("report.html", "report.json", "predictions.parquet")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Score and compare; the report is returned, and written by the first process."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS, TRAINING)
    check_launcher()
    evaluation = options.evaluation
    output_dir = Path(options.training.setdefault("output_dir", "outputs/evaluate"))
    check_folder(output_dir, evaluation.overwrite)

    # Score the videos, or take scores that were saved
    from vidtune.evaluation.comparison import check_overlap, compare, read_report
    from vidtune.evaluation.page import write_page
    from vidtune.evaluation.predictions import FILE, write_predictions
    from vidtune.evaluation.report import print_scores, to_json

    other = read_report(evaluation.compare) if evaluation.compare else None
    report = {"recipe": "evaluate", "command": "", "config": options.config, "shortcuts": None, "comparison": None}
    if evaluation.predictions:
        found, predictions, videos = pool(evaluation.predictions)
        is_first_process, launcher = True, ["python"]
    else:
        trainer, clips = build_trainer(options)
        if other is not None:  # before the scores, which may take hours
            check_overlap(clips[evaluation.split].videos["video_id"], other, str(evaluation.compare))
        found, predictions = score(trainer, clips, options)
        videos = clips[evaluation.split].videos
        is_first_process, processes = trainer.is_world_process_zero(), trainer.args.world_size
        launcher = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    report |= found | {"command": shlex.join([*launcher, "recipes/evaluate.py", *argv]), "history": []}
    if other is not None:
        report["comparison"] = compare(predictions, other, str(evaluation.compare))
    report["seconds"] = time.perf_counter() - started
    if not is_first_process:
        return report

    # Write and show
    output_dir.mkdir(parents=True, exist_ok=True)
    write_predictions(output_dir / FILE, predictions)
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    write_page(output_dir, report, predictions, videos, evaluation.decoder)
    print_scores(report, output_dir)
    return report


def check_folder(output_dir: Path, overwrite: bool) -> None:
    """Check that a folder is new, empty, or an evaluation that may be replaced.

    Raises:
        InputError: If it holds something else, or can't be written.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"output_dir: {output_dir}: is a file; give a new or an empty folder")
    found = [path for path in output_dir.iterdir() if not is_unfinished(path)] if output_dir.exists() else []
    others = sorted(path.name for path in found if path.name not in FILES)
    if others:
        raise InputError(
            f"output_dir: {output_dir}: holds {others[0]}, of something else; give a new or an empty folder"
        )
    if found and not overwrite:
        raise InputError(f"output_dir: {output_dir}: holds another evaluation; give another folder, or --overwrite")
    check_writable(output_dir)


def pool(paths: list[str]) -> tuple[dict[str, Any], Any, None]:
    """Score saved predictions as one; returns what the report says of them, and their table."""
    from vidtune.evaluation.predictions import label_order, pool_predictions, to_arrays
    from vidtune.evaluation.report import environment
    from vidtune.evaluation.scoring import Scores, split_metrics

    table = pool_predictions(paths)
    names, groups = label_order(table), table["group"].to_pylist()
    failed = [path for path, bad in zip(table["path"].to_pylist(), table["failed"].to_pylist(), strict=True) if bad]
    report = {
        "config": {"predictions": paths},
        "model": {},
        "labels": names,
        "clip": {},
        "data": {
            "pooled": {
                "videos": len(table),
                "failed": [{"path": path, "reason": "failed when it was scored"} for path in failed],
            }
        },
        "metrics": {"pooled": split_metrics(Scores(*to_arrays(table)), groups, names, temperature=None)},
        "throughput": {},
        "environment": environment(),
    }
    return report, table, None


def build_trainer(options: SimpleNamespace) -> tuple[Any, dict[str, Any]]:
    """Load the model, and the clips of the split to score and, where it is needed and there, of validation."""
    from transformers.utils import logging

    from vidtune.data.clips import ClipFormat, EvaluationClips, check_one_readable
    from vidtune.data.loading import load_splits
    from vidtune.data.splits import label_names
    from vidtune.evaluation.scoring import model_labels
    from vidtune.hub import commit_of
    from vidtune.models.exported import exported_file
    from vidtune.models.loading import CLIP_RECORD, load_trained
    from vidtune.training.settings import training_arguments
    from vidtune.training.trainer import VideoTrainer

    logging.disable_progress_bar()  # those of reading weights; scoring keeps its own
    evaluation = options.evaluation
    if exported_file(evaluation.model):
        raise InputError(f"model: {evaluation.model}: is exported; give the model that it was made of")
    videos, split = load_splits(**asdict(options.source), seed=options.training.get("seed", 42))
    if evaluation.split not in videos:
        raise InputError(f"split: {evaluation.split}: is none of the dataset's; choose from {', '.join(videos)}")
    if not len(videos[evaluation.split]):
        raise InputError(f"split: {evaluation.split}: holds no video; choose another, or mend the dataset")
    evaluation.model_revision = commit_of(evaluation.model, "model", evaluation.model_revision)
    options.config["model_revision"] = evaluation.model_revision
    check_one_readable(videos[evaluation.split], evaluation.decoder)
    views = {"sampling": evaluation.sampling, "fps": evaluation.fps, "frame_stride": evaluation.frame_stride}
    views |= {"trust_remote_code": evaluation.trust_remote_code}
    model, settings, mean, std = load_trained(evaluation.model, evaluation.model_revision, **views)
    several = model.config.problem_type == "multi_label_classification"
    names = model_labels(model.config)
    check_labels(label_names(videos["train"]), names)
    check_kind("labels" in videos["train"].features, several)
    trainer = VideoTrainer(
        model,
        training_arguments(options.training),
        image_mean=mean,
        image_std=std,
        label_names=names,
        multi_label=several,
    )
    if trainer.is_world_process_zero() and evaluation.split in split["how"]:
        warn_of_other_split(Path(evaluation.model), asdict(options.source) | {"seed": split["seed"]})
    splits = {evaluation.split}
    if evaluation.calibrate or "temperature" not in getattr(model.config, CLIP_RECORD):
        splits |= {"validation"} & videos.keys()
    if evaluation.calibrate and "validation" not in splits:
        raise InputError("calibrate: the dataset has no validation split to fit a temperature on; leave it out")
    clips = {
        split: EvaluationClips(
            videos[split],
            ClipFormat(**settings),
            temporal_views=evaluation.temporal_views,
            spatial_crops=evaluation.spatial_crops,
            decoder=evaluation.decoder,
        )
        for split in sorted(splits)
    }
    return trainer, clips


def warn_of_other_split(model: Path, split: dict[str, Any]) -> None:
    """Warn where a run was trained on other parts of the same dataset: these videos may be among them."""
    if not is_run(model):
        return
    trained = {"seed": 42} | yaml.safe_load((model / "config.yaml").read_text(encoding="utf-8"))
    if Path(str(trained["dataset"])).expanduser().resolve() != Path(split["dataset"]).resolve():
        return
    for name, value in split.items():
        if name not in ("dataset", "allow_leakage") and name in trained and trained[name] != value:
            print(
                f"evaluate.py: {name}: {value}, and {model} was trained with {trained[name]}: it may know these "
                "videos; give the options of its config.yaml",
                file=sys.stderr,
            )


def check_labels(own: list[str], names: list[str]) -> None:
    """Check that a model knows the labels of a dataset; it may know more.

    Raises:
        InputError: If it doesn't.
    """
    unknown = [name for name in own if name not in names]
    if unknown:
        others, known = (", ".join([*some[:5], *["..."] * (len(some) > 5)]) for some in (unknown, names))
        raise InputError(
            f"dataset: {len(unknown)} of its {len(own)} labels are none of the model's: {others}; give a dataset with "
            f"those of the model: {known}"
        )


def check_kind(several: bool, model_several: bool) -> None:
    """Check that a model gives as many labels as a dataset's videos have: one, or several.

    Raises:
        InputError: If it doesn't.
    """
    if several != model_several:
        raise InputError(
            f"dataset: its videos have {'several labels each' if several else 'one label each'}, and the model gives "
            f"{'several' if model_several else 'one'}; give a model that was trained on such a dataset"
        )


def score(trainer: Any, clips: dict[str, Any], options: SimpleNamespace) -> tuple[dict[str, Any], Any]:
    """Score the videos, once or for each shortcut; returns what the report says of them, and their predictions."""
    import numpy as np

    from vidtune.data.clips import failure
    from vidtune.evaluation.predictions import predictions_table
    from vidtune.evaluation.report import environment
    from vidtune.evaluation.scoring import model_labels, score_videos, split_metrics

    evaluation, config = options.evaluation, trainer.model.config
    names, chosen = model_labels(config), clips[evaluation.split]
    groups = chosen.videos["group"]
    scores = score_videos(trainer, chosen, evaluation.split, evaluation.average)
    temperature = find_temperature(trainer, clips, options, scores)
    args, failed = trainer.args, np.flatnonzero(scores.failed).tolist()
    precision = next((name for name in ("bf16", "fp16") if getattr(args, f"{name}_full_eval")), args.mixed_precision)
    decoder = "pyav" if evaluation.decoder == "auto" else evaluation.decoder
    report = {
        "model": {
            "name_or_path": evaluation.model,
            "revision": evaluation.model_revision,
            "type": config.model_type,
            "parameters": trainer.model.num_parameters(),
        },
        "labels": names,
        "clip": {name: value for name, value in asdict(chosen.clip).items() if value is not None},
        "data": {
            evaluation.split: {
                "videos": len(chosen),
                "failed": [failure(chosen.videos, row, chosen.decoder) for row in failed],
            }
        },
        "metrics": {evaluation.split: split_metrics(scores, groups, names, temperature)},
        "shortcuts": find_shortcuts(trainer, chosen, options, scores) if evaluation.shortcuts else None,
        "throughput": {f"{evaluation.split}_videos_per_second": scores.videos_per_second},
        "environment": environment(args.world_size, {"no": "fp32"}.get(precision, precision), decoder),
    }
    return report, predictions_table(chosen.videos, scores, names)


def find_temperature(trainer: Any, clips: dict[str, Any], options: SimpleNamespace, scores: Any) -> float | None:
    """Give the model's temperature; where it has none, fit it on validation, and keep it in the model's folder."""
    from vidtune.evaluation.calibration import fit_temperature, save_temperature
    from vidtune.evaluation.scoring import score_videos
    from vidtune.models.loading import CLIP_RECORD

    evaluation = options.evaluation
    known: float | None = getattr(trainer.model.config, CLIP_RECORD).get("temperature")
    if (known and not evaluation.calibrate) or "validation" not in clips:
        return known
    if evaluation.split != "validation":
        scores = score_videos(trainer, clips["validation"], "validation", evaluation.average)
    temperature = fit_temperature(scores.probabilities, scores.labels)
    if trainer.is_world_process_zero() and Path(evaluation.model).is_dir():
        try:
            save_temperature(Path(evaluation.model), temperature)
        except OSError as error:
            print(f"evaluate.py: {evaluation.model}: can't keep its temperature ({error.strerror})", file=sys.stderr)
    return temperature


def find_shortcuts(trainer: Any, clips: Any, options: SimpleNamespace, scores: Any) -> dict[str, Any]:
    """Score the videos with their frames in other orders, and say whether the model uses time."""
    from vidtune.evaluation.scoring import model_labels, score_videos
    from vidtune.evaluation.shortcuts import FRAME_ORDERS, frame_order, use_of_time

    by_order = {"normal": scores}
    for order in FRAME_ORDERS:
        reordered = copy(clips)
        reordered.frame_order = partial(frame_order, order)
        by_order[order] = score_videos(trainer, reordered, order, options.evaluation.average)
    return use_of_time(by_order, clips.videos["group"], model_labels(trainer.model.config))


if __name__ == "__main__":
    sys.exit(exit_code(main))
