r"""Extract the features of videos with a frozen model, and fit probes on them.

    python recipes/extract_features.py --model MCG-NJU/videomae-base --dataset my_videos --output_dir outputs/features

They are a Parquet dataset: `datasets.load_dataset("outputs/features")`. A run that was killed goes on, and one with
probes starts from the features that are there; two processes share the work:

    python recipes/extract_features.py --model outputs/mine --dataset my_videos --output_dir outputs/features \
        --probe knn svm logistic xgboost
    torchrun --nproc_per_node 2 recipes/extract_features.py --model google/vit-base-patch16-224 --pooling cls

A fitted probe is a model for predict.py:

    python recipes/predict.py --model outputs/features/probes/svm --input video.mp4
"""

import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vidtune.arguments import parse
from vidtune.card import without_secrets
from vidtune.errors import InputError, exit_code
from vidtune.options import FeatureArguments, SourceArguments
from vidtune.printing import printable
from vidtune.training.checkpoints import check_writable, close_output_dir, open_output_dir, write_bytes, write_text
from vidtune.training.launch import check_launcher, check_processes, check_sharding, on_cpu

SECTIONS = {"features": FeatureArguments, "source": SourceArguments}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Extract, probe and report; the report is returned, and written by the first process."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS, training=("use_cpu",))
    check_launcher()
    chosen: FeatureArguments = options.features
    output_dir = Path(chosen.output_dir)
    check_writable(output_dir)

    from accelerate import PartialState

    from vidtune.evaluation.extraction import check_folder, list_shards, start_folder
    from vidtune.evaluation.report import to_json

    # Load videos and model
    state = PartialState(cpu=on_cpu(options.training.get("use_cpu")))
    check_processes(state.num_processes)
    check_sharding(fsdp=False, deepspeed=False)
    videos = load_rows(options)
    extractor, network = load_extractor(chosen, str(state.device))
    settings = describe_features(extractor, videos, chosen)
    check_folder(output_dir, settings, chosen.overwrite)
    state.wait_for_everyone()

    # Each process makes its own shards
    lock = open_output_dir(output_dir) if state.is_main_process else None
    if state.is_main_process:
        start_folder(output_dir, settings, chosen.overwrite)
    state.wait_for_everyone()
    shards = list_shards(videos, chosen.videos_per_shard)
    extraction = time.perf_counter()
    made = make_features(extractor, videos, shards[state.process_index :: state.num_processes], chosen, state)
    state.wait_for_everyone()
    seconds = time.perf_counter() - extraction
    if lock is None:
        return {}

    # Gather, fit and report
    launcher = ["python"] if state.num_processes == 1 else ["torchrun", "--nproc_per_node", str(state.num_processes)]
    report = {"recipe": "extract_features", "command": shlex.join([*launcher, "recipes/extract_features.py", *argv])}
    options.config["model_revision"] = chosen.model_revision
    report |= {"config": options.config} | build_report(network, extractor, videos, shards, chosen, state)
    report["throughput"] = {"videos_per_second_of_a_process": made / seconds if made else None}
    if chosen.probe:
        samples = read_samples(videos, shards, output_dir)
        report |= fit_probes(report, samples, extractor, chosen)
        draw(report, samples, output_dir)
    report["seconds"] = time.perf_counter() - started
    write_text(output_dir / "report.json", without_secrets(to_json(report)))
    close_output_dir(lock)
    print_summary(report, output_dir, argv)
    return report


def load_rows(options: SimpleNamespace) -> Any:
    """Load the videos by split, and check that probes can be fitted on them before the model runs."""
    import numpy as np

    from vidtune.data.clips import check_one_readable
    from vidtune.data.loading import load_splits
    from vidtune.data.splits import label_names
    from vidtune.evaluation.probing import Samples, check_packages, check_samples

    chosen = options.features
    if chosen.probe:
        check_packages(chosen.probe)
    videos, _ = load_splits(**asdict(options.source), seed=chosen.seed)
    train = videos["train"]
    if chosen.probe and "labels" in videos["train"].features:
        raise InputError(
            "probe: videos of this dataset have several labels each, which no probe here gives; leave probe out, and "
            "fit on the features"
        )
    if chosen.probe:
        features = np.zeros((len(train), 0), np.float32)
        samples = Samples(features, np.asarray(train["label"][:]), train["group"][:], train["video_id"][:])
        check_samples(samples, label_names(train), folds_to_choose_by(chosen, videos))
    check_one_readable(train, chosen.decoder)
    return videos


def folds_to_choose_by(chosen: FeatureArguments, splits: Any) -> int | None:
    """Say by how many parts of train a probe's options are chosen; None: by the validation split."""
    from vidtune.evaluation.probing import FOLDS

    return chosen.probe_folds or (None if {"validation", "test"} <= splits.keys() else FOLDS)


def load_extractor(chosen: FeatureArguments, device: str) -> tuple[Any, Any]:
    """Load the model: a Classifier whose logits are features, and the network in it."""
    import torch
    from transformers import PretrainedConfig
    from transformers.utils import logging

    from vidtune.data.clips import ClipFormat
    from vidtune.evaluation.classifier import Classifier, weights_digest
    from vidtune.hub import commit_of
    from vidtune.models.features import load_features

    chosen.model_revision = commit_of(str(chosen.model), "model", chosen.model_revision)
    logging.disable_progress_bar()  # that of reading weights
    network, settings, mean, std = load_features(
        str(chosen.model),
        chosen.model_revision,
        chosen.pooling,
        chosen.layer,
        chosen.sampling,
        chosen.fps,
        chosen.frame_stride,
        chosen.trust_remote_code,
    )
    fingerprint = weights_digest(network.model)
    network.to(device)
    clip = ClipFormat(**settings)
    return Classifier(network, PretrainedConfig(), clip, mean, std, torch.device(device), fingerprint), network


def describe_features(extractor: Any, videos: Any, chosen: FeatureArguments) -> dict[str, Any]:
    """Gather what features depend on: those of one folder have it all in common."""
    from vidtune.evaluation.extraction import videos_digest

    names = ("pooling", "layer", "temporal_views", "spatial_crops", "keep_clips", "videos_per_shard")
    return {
        "model": extractor.fingerprint,
        "videos": videos_digest(videos),
        "clip": asdict(extractor.clip),
        "normalisation": [extractor.image_mean, extractor.image_std],
        **{name: getattr(chosen, name) for name in names},
    }


def make_features(extractor: Any, videos: Any, shards: list[Any], chosen: FeatureArguments, state: Any) -> int:
    """Make the shards that are not there yet, under a progress bar; returns how many videos that were."""
    from tqdm import tqdm

    from vidtune.data.isolation import available_cores
    from vidtune.evaluation.extraction import extract

    folder = Path(chosen.output_dir)
    left = [shard for shard in shards if not (folder / shard.file).exists()]
    total, missing = (sum(len(shard.rows) for shard in some) for some in (shards, left))
    workers = max(1, available_cores() // state.num_processes) if chosen.num_workers is None else chosen.num_workers
    shown = state.is_main_process and missing
    with tqdm(
        desc="features", total=total, initial=total - missing, unit="video", disable=None if shown else True
    ) as bar:
        extract(
            extractor,
            videos,
            left,
            folder,
            batch_size=chosen.batch_size,
            num_workers=workers,
            keep_clips=chosen.keep_clips,
            on_video=bar.update,
            temporal_views=chosen.temporal_views,
            spatial_crops=chosen.spatial_crops,
            decoder=chosen.decoder,
        )
    return missing


def build_report(
    network: Any, extractor: Any, videos: Any, shards: list[Any], chosen: FeatureArguments, state: Any
) -> dict[str, Any]:
    """Gather what the features are of, and which videos have none."""
    from vidtune.data.clips import failure
    from vidtune.data.splits import label_names
    from vidtune.evaluation.extraction import read_shards
    from vidtune.evaluation.report import environment

    data, width = {}, None
    for split, rows in videos.items():
        table = read_shards(Path(chosen.output_dir), [shard for shard in shards if shard.split == split])
        done = set(table["video_id"].to_pylist())
        failed = [row for row, video_id in enumerate(rows["video_id"]) if video_id not in done]
        data[split] = {"videos": len(rows), "failed": [failure(rows, row, chosen.decoder) for row in failed]}
        width = len(table["features"][0]) if len(table) else width
    config = network.model.config
    decoder = "pyav" if chosen.decoder == "auto" else chosen.decoder
    names = ("pooling", "layer", "temporal_views", "spatial_crops", "keep_clips")
    return {
        "model": {
            "name_or_path": chosen.model,
            "revision": chosen.model_revision,
            "type": getattr(config, "architecture", None) or config.model_type,
            "parameters": network.model.num_parameters(),
        },
        "labels": label_names(videos["train"]),
        "clip": {name: value for name, value in asdict(extractor.clip).items() if value is not None},
        "features": {"width": width} | {name: getattr(chosen, name) for name in names},
        "data": data,
        "environment": environment(state.num_processes, "fp32", decoder),
    }


def read_samples(videos: Any, shards: list[Any], folder: Path) -> dict[str, Any]:
    """Read the features of each split as arrays; splits of which no video could be read are left out."""
    import numpy as np

    from vidtune.evaluation.extraction import read_shards
    from vidtune.evaluation.probing import Samples

    samples = {}
    for split in videos:
        table = read_shards(folder, [shard for shard in shards if shard.split == split])
        if len(table):
            values = table["features"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            labels = np.asarray(table["label"].to_numpy(), np.int64)
            samples[split] = Samples(values, labels, table["group"].to_pylist(), table["video_id"].to_pylist())
    return samples


def fit_probes(
    report: dict[str, Any], samples: dict[str, Any], extractor: Any, chosen: FeatureArguments
) -> dict[str, Any]:
    """Fit each probe on train, score it, and save it; returns what the report says of them."""
    from tqdm import tqdm

    from vidtune.data.isolation import available_cores
    from vidtune.evaluation.probing import check_samples, fit_probe, score_probe
    from vidtune.evaluation.saved_probe import save_probe

    names, scored_on = report["labels"], "test" if "test" in report["data"] else "validation"
    if "train" not in samples or scored_on not in samples:
        raise InputError(f"probe: no video of train, or none of {scored_on}, could be read; see {chosen.output_dir}")
    validation = samples.get("validation") if scored_on == "test" else None
    folds = folds_to_choose_by(chosen, samples)
    check_samples(samples["train"], names, folds)
    # A rate of its own or the file's, as load_features takes it
    clip = {
        key: value for key, value in report["clip"].items() if key != "fps" or "frame_stride" not in report["clip"]
    }
    fitted = {}
    for name in tqdm(chosen.probe, desc="probes", unit="probe", disable=None):
        probe = fit_probe(name, samples["train"], validation, folds, chosen.seed, available_cores())
        num_failed = len(report["data"][scored_on]["failed"])
        fitted[name] = {
            "parameters": probe.parameters,
            "tried": probe.tried,
            "metrics": score_probe(probe, samples[scored_on], names, num_failed),
        }
        record = {
            "probe": name,
            "model": chosen.model,
            "revision": chosen.model_revision,
            "fingerprint": extractor.fingerprint,
            "pooling": chosen.pooling,
            "layer": chosen.layer,
            "labels": names,
            "clip": clip,
        }
        save_probe(Path(chosen.output_dir) / "probes" / name, probe, record)
    chosen_by = f"{folds} folds of train, by group" if folds else "the validation split"
    return {"probes": {"scored_on": scored_on, "chosen_by": chosen_by, "fitted": fitted}}


def draw(report: dict[str, Any], samples: dict[str, Any], output_dir: Path) -> None:
    """Draw the map of the features, and write the page around it."""
    from vidtune.evaluation.probe_page import draw_map, probe_page

    picture = draw_map({split: samples[split] for split in ("train", report["probes"]["scored_on"])}, report["labels"])
    write_bytes(output_dir / "probes.png", picture)
    write_text(output_dir / "probes.html", without_secrets(probe_page(report, picture)))


def print_summary(report: dict[str, Any], output_dir: Path, argv: list[str]) -> None:
    """Print the scores of the probes, which videos failed, and what to do next."""
    from vidtune.evaluation.probe_page import print_probes

    if "probes" in report:
        print_probes(report)
    for split, part in report["data"].items():
        for problem in part["failed"][:5]:
            print(printable(f"failed in {split}: {problem['path']}: {problem['reason']}"))
        if len(part["failed"]) > 5:
            print(f"failed in {split}: {len(part['failed']) - 5} more, see report.json")
    videos = sum(part["videos"] - len(part["failed"]) for part in report["data"].values())
    print(f"saved:     {output_dir} ({videos} videos, {report['features']['width']} numbers each)")
    print(f"load:      datasets.load_dataset({str(output_dir)!r})")
    if "probes" not in report:
        print(f"probe:     {shlex.join(['python', 'recipes/extract_features.py', *argv])} --probe knn svm logistic")
        return
    fitted = report["probes"]["fitted"]
    best = max(fitted, key=lambda name: fitted[name]["metrics"]["accuracy"])
    predict = ["python", "recipes/predict.py", "--model", str(output_dir / "probes" / best), "--input", "video.mp4"]
    print(f"look:      xdg-open {shlex.quote(str(output_dir / 'probes.html'))}")
    print(f"predict:   {shlex.join(predict)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
