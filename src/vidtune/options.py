"""The options of the recipes as dataclasses: a field is an option, its metadata the help.

Everything here answers at once: neither torch nor transformers is imported.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def option(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class SourceArguments:
    """The videos, and how they are split."""

    dataset: Text = option(
        "demo",
        "demo, demo-success, a folder class/*.mp4 or split/class/*.mp4, a table (.csv, .tsv, .jsonl, .parquet) "
        "with columns video, label and optionally split, group, start_seconds, end_seconds, a prepared dataset, "
        "the folder of a published dataset, or a Hub dataset id",
    )
    dataset_format: Literal["auto", "folder", "table", "hub", "ucf101", "hmdb51", "kinetics", "ssv2", "list"] = option(
        "auto", "how the dataset is laid out; auto: as its files tell"
    )
    streaming: bool = option(
        False,
        "read the videos where they lie, in the tar or Parquet shards of a folder, of a glob (in quotes) or of a Hub "
        "dataset, which is neither fetched nor copied",
    )
    dataset_config: Text | None = option(None, "which configuration of a Hub dataset that has several")
    dataset_revision: Text | None = option(None, "branch, tag or commit of a Hub dataset")
    video_root: Text | None = option(
        None,
        "folder that all videos of a table or list lie below and that their paths are relative to (default: that of "
        "the table)",
    )
    split_number: Literal[1, 2, 3] = option(1, "which of the official splits of UCF101 or HMDB51")
    split_by_group: Text | None = option(None, "column of the dataset that holds the group (default: group)")
    group_pattern: Text | None = option(
        None, r"regular expression that finds a video's group in its id, such as '_g(\d+)_'"
    )
    validation_fraction: Fraction = option(
        0.15, "share of the training videos to validate on, where the dataset has no validation split"
    )
    test_fraction: Fraction = option(
        0.15, "share of the videos to test on, where the dataset has no split at all; folds have their own"
    )
    folds: Annotated[int, Field(ge=2)] | None = option(None, "divide the videos into so many parts of one size")
    fold: Annotated[int, Field(ge=0)] | None = option(None, "which of the folds to test on, from 0")
    allow_leakage: bool = option(False, "accept splits of the dataset's own that share a group, with a warning")


@dataclass
class TaskArguments:
    """What of the videos the model reads."""

    task: Literal["video-classification", "image-classification", "text-classification"] = option(
        "video-classification",
        "video-classification: clips; image-classification: a single frame of each video; text-classification: a text "
        "of each video, such as its title",
    )
    text_column: Text | None = option(None, "text-classification: the column of the dataset that holds the text")


@dataclass
class DataArguments:
    """How clips are made of the videos."""

    num_frames: Count | None = option(None, "frames of a clip (default: the model's)")
    image_size: Count | None = option(None, "height and width of a clip (default: the model's)")
    sampling: Literal["segments", "dense"] | None = option(
        None,
        "segments: one frame of each of num_frames equal parts of the video; dense: consecutive frames at "
        "--fps (default: the model's, else segments)",
    )
    fps: Annotated[float, Field(gt=0)] | None = option(
        None, "frames per second of a dense clip (default: the model's, else 7.5)"
    )
    frame_stride: Count | None = option(None, "a dense clip takes every so many-th frame of the file; instead of fps")
    temporal_views: Count = option(1, "clips of each video that an evaluation averages")
    spatial_crops: Literal[1, 3] = option(1, "crops of each clip that an evaluation averages")
    crop_scale: Annotated[list[Area], Field(min_length=2, max_length=2)] = option(
        [0.5, 1.0], "least and greatest share of the picture that a training crop covers"
    )
    crop_ratio: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] = option(
        [0.75, 1.3333], "least and greatest width over height of a training crop"
    )
    horizontal_flip: Share = option(0.5, "share of the training clips that are mirrored")
    color_jitter: Share = option(0.0, "greatest change of brightness, contrast and saturation in training")
    train_transform: Text | None = option(
        None,
        "module:function that replaces crop, flip and jitter: takes a uint8 clip (C, T, H, W) as "
        "pytorchvideo's transforms do, returns (C, T, image_size, image_size), uint8 or float in [0, 1]",
    )
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    on_error: Literal["raise", "skip"] = option(
        "raise", "what a video that can't be decoded does to training: stop it, or be left out and reported"
    )
    shuffle_buffer: Count = option(
        1000, "streaming: so many videos that lie near are shuffled among each other, and the shards before"
    )


@dataclass
class ModelArguments:
    """The model: a checkpoint, or a configuration to start from scratch."""

    model_name_or_path: Text | None = option(None, "checkpoint to fine-tune: Hub id or folder")
    model_revision: Text | None = option(None, "branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    config_name: Text | None = option(
        None, "train from scratch: a model type such as videomae, a folder or a JSON file"
    )
    config_overrides: dict[str, Any] = option(
        {}, "fields of the model's configuration to change: {use_mean_pooling: true}"
    )
    weights: Text | None = option(
        None, "file of weights that the library of such a configuration publishes: x3d_s.pyth, r3d_18.pth"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "auto: what accelerate was launched with, else bf16 on a GPU that has it, else fp32"
    )


@dataclass
class TuningArguments:
    """What is trained of the model, and the pieces of published recipes."""

    tuning: Literal["full", "lora", "linear_probe", "attentive_probe", "partial"] = option(
        "full",
        "full: all of the model; partial: its last blocks; lora: small matrices beside its weights; linear_probe and "
        "attentive_probe: a head over the frozen rest",
    )
    unfreeze_layers: Count | None = option(None, "partial: how many of the last blocks to train with the head")
    lora_rank: Count = option(8, "rank of the matrices")
    lora_alpha: Positive = option(16.0, "scale of the matrices, times the rank")
    lora_dropout: Fraction = option(0.05, "dropout before the matrices")
    lora_targets: Annotated[list[Text], Field(min_length=1)] | None = option(
        None, "names of the layers that get matrices (default: those of the attention)"
    )
    merge_lora: bool = option(False, "save a plain checkpoint with the matrices added to the weights")
    probe_learning_rates: Annotated[list[Positive], Field(min_length=1)] = option(
        [5e-3, 3e-3, 1e-3, 3e-4, 1e-4], "attentive_probe: one head for each of these and each weight decay"
    )
    probe_weight_decays: Annotated[list[NotNegative], Field(min_length=1)] = option(
        [0.01, 0.1, 0.4, 0.8], "attentive_probe: one head for each of these and each learning rate"
    )
    probe_blocks: Count = option(4, "attentive_probe: attention blocks of a head, the last of which pools")
    probe_heads: Count | None = option(None, "attentive_probe: attention heads of a block (default: the model's)")

    base_learning_rate: Positive | None = option(
        None, "learning rate for a total batch of 256, scaled to this run's; instead of learning_rate"
    )
    min_learning_rate: NotNegative | None = option(
        None, "where cosine ends (default: 0); for a total batch of 256 if base_learning_rate is"
    )
    learning_rate_steps: Annotated[list[Positive], Field(min_length=1)] | None = option(
        None, "epochs at which the learning rate falls to a tenth, instead of lr_scheduler_type"
    )
    layer_decay: Area = option(1.0, "learning rate of each block over that of the next one; 1 is the same for all")

    drop_path: Fraction | None = option(
        None,
        "share of the clips that skip a branch of the last block, earlier blocks have less, linearly (default: the "
        "model's)",
    )
    head_dropout: Fraction | None = option(None, "dropout before the head (default: the model's)")
    head_init_scale: Positive = option(1.0, "factor on the random weights that a new head starts from")
    mixup: NotNegative = option(0.0, "alpha of the share in which two clips are blended; 0 is off")
    cutmix: NotNegative = option(0.0, "alpha of the share of one clip's picture that another's replaces; 0 is off")
    mix_probability: Share = option(1.0, "share of the pairs of clips that are mixed")
    mix_switch_probability: Share = option(0.5, "share of cutmix, where both mixup and cutmix are on")
    random_erasing: Share = option(0.0, "share of the training clips of which a box is replaced by noise")
    rand_augment: Text | None = option(None, "RandAugment, one draw a clip, as rand-m7-n4-mstd0.5-inc1")
    num_sample: Count = option(1, "clips of each training video from one decode, each augmented on its own")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = option(
        None, "share that an average of the weights keeps at each step; the average is what is scored and saved"
    )

    class_weights: Annotated[dict[str, Positive], Field(min_length=1)] | Literal["balanced"] | None = option(
        None, "weight of each label's loss, as {fight: 2, noFight: 1}; balanced: one over its share of the videos"
    )
    balanced_sampling: bool = option(False, "draw videos so that each label is equally likely")
    videos_per_label: Count | None = option(
        None, "train on so many videos of each label only, drawn by the seed (default: on all)"
    )
    focal_gamma: NotNegative = option(0.0, "how much less a video counts that the model is sure of; 0 is off")
    early_stopping_patience: Count | None = option(
        None, "evaluations without a better metric_for_best_model after which training ends"
    )
    flip_guard: bool = option(True, "refuse horizontal_flip where two labels differ by left and right only")


@dataclass
class PretrainArguments:
    """What is hidden of the clips, and how fast the model learns to fill it in."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = option(
        0.9, "share of the patches of a clip that is hidden, the same in all frames"
    )
    num_sample: Count = option(1, "clips of each video from one decode, each cropped and hidden on its own")
    base_learning_rate: Positive | None = option(
        None, "learning rate for a total batch of 256, scaled to this run's; instead of learning_rate"
    )
    min_learning_rate: NotNegative | None = option(
        None, "where cosine ends (default: 0); for a total batch of 256 if base_learning_rate is"
    )


@dataclass
class FaultArguments:
    """What ends a run that can't go on."""

    max_nan_steps: Count = option(
        3, "end after so many steps in a row whose loss is no number; until then such a step changes no weights"
    )
    dataloader_timeout: NotNegative = option(
        600.0, "end when the workers hand over no batch for so many seconds, naming the videos in hand; 0 waits on"
    )


@dataclass
class PublishArguments:
    """Where the finished model goes."""

    push_to_hub: bool = option(False, "publish model, card and report when training is done")
    hub_model_id: Text | None = option(None, "repository to publish to: user/name")
    hub_private_repo: bool | None = option(None, "make that repository private if it is new")
    hub_license: Text | None = option(None, "licence of the model, as the Hub spells it: apache-2.0, mit, ...")
    hub_videos: bool = option(
        False, "publish what shows single videos, too: predictions.parquet, paths and small pictures in report.html"
    )
    overwrite: bool = option(False, "replace the run that output_dir already holds")


@dataclass
class PredictArguments:
    """What is predicted, and how."""

    model: Text | None = option(None, "folder of a run, Hub id, or exported model (model.onnx, or a folder with one)")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    input: list[Text] = option(
        [],
        "videos, folders, patterns such as 'clips/**/*.mp4', lists (.txt, a path a line, or .csv with a column video; "
        "paths relative to the list), or - for paths from standard input",
    )
    output: Text | None = option(
        None, "table to write: .csv, .jsonl or .parquet; without it, labels are printed, and nothing is kept"
    )
    top_k: Count = option(5, "labels to give of each video")
    sampling: Literal["segments", "dense"] | None = option(
        None, "segments or dense, for a model that doesn't say itself (default: segments)"
    )
    fps: Positive | None = option(None, "frames per second of a dense clip, for a model that doesn't say itself")
    frame_stride: Count | None = option(None, "a dense clip takes every so many-th frame of the file; instead of fps")
    temporal_views: Count = option(1, "clips of each video to average")
    spatial_crops: Literal[1, 3] = option(1, "crops of each clip to average")
    window_seconds: Positive | None = option(None, "label windows of this length instead of whole videos")
    stride_seconds: Positive | None = option(None, "from the start of a window to that of the next")
    batch_size: Count = option(8, "clips that the model reads at once")
    num_workers: Annotated[int, Field(ge=0)] | None = option(
        None, "processes that decode (default: one a core); 0 decodes between batches"
    )
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    overwrite: bool = option(False, "replace what output holds instead of adding to it")


@dataclass
class EvaluateArguments:
    """What is scored, and how."""

    model: Text | None = option(None, "folder of a run, or Hub id")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    predictions: Annotated[list[Text], Field(min_length=1)] | None = option(
        None, "instead of a model: predictions.parquet of one run or more, as of the folds of a dataset, scored as one"
    )
    split: Text = option("test", "which split of the dataset to score: train, validation or test")
    temporal_views: Count = option(1, "clips of each video that are averaged")
    spatial_crops: Literal[1, 3] = option(1, "crops of each clip that are averaged")
    sampling: Literal["segments", "dense"] | None = option(
        None,
        "for a model that doesn't say: segments, one frame of each of num_frames equal parts of the video (default), "
        "or dense, consecutive frames at --fps",
    )
    fps: Annotated[float, Field(gt=0)] | None = option(
        None, "frames per second of a dense clip (default: the model's, else 7.5)"
    )
    frame_stride: Count | None = option(None, "a dense clip takes every so many-th frame of the file; instead of fps")
    average: Literal["probabilities", "logits"] = option("probabilities", "what is averaged over the views of a video")
    calibrate: bool = option(
        False, "fit the temperature on the validation split anew, also where the model has one, and keep it there"
    )
    shortcuts: bool = option(False, "score frames shuffled, reversed and frozen as well: does the model use time?")
    compare: Text | None = option(None, "folder or report.json of another model to compare with on the same videos")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    overwrite: bool = option(False, "replace the evaluation that output_dir already holds")


@dataclass
class PrepareArguments:
    """How the videos are inspected and stored."""

    output_dir: Text = option("outputs/prepared", "folder of the findings and of the prepared dataset")
    inspect_only: bool = option(False, "look at the videos, and store none")
    num_frames: Count = option(16, "frames of a clip; a video with fewer is reported")
    time_limit_seconds: Annotated[float, Field(gt=0)] = option(120.0, "longest that one file may take to inspect")
    codec: Literal["jpeg", "h264"] = option("jpeg", "jpeg: fastest to read; h264: smallest")
    short_side: Annotated[int, Field(ge=16)] = option(
        256, "pixels of the shorter side; smaller videos keep their size"
    )
    fps: Annotated[float, Field(gt=0)] | None = option(None, "frames per second to store (default: the source's)")
    quality: Annotated[int, Field(ge=1, le=100)] = option(90, "of the stored pictures, 100 is best")
    container: Literal["parquet", "webdataset"] = option(
        "parquet", "parquet: files for load_dataset; webdataset: tar shards, of key.mp4 and key.json, for --streaming"
    )
    videos_per_shard: Count = option(128, "videos of one file")
    num_proc: Count | None = option(None, "worker processes (default: one a core)")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    on_error: Literal["raise", "skip"] = option(
        "raise", "what a video that can't be decoded does: stop, or be left out and reported"
    )
    seed: Seed = option(42, "seed of the split")
    overwrite: bool = option(False, "replace the dataset that output_dir already holds")
    push_to_hub: bool = option(False, "publish the prepared dataset")
    hub_dataset_id: Text | None = option(None, "repository to publish to: user/name")
    hub_private_repo: bool | None = option(None, "make that repository private if it is new")
    hub_license: Text | None = option(None, "licence of the dataset, as the Hub spells it: cc-by-4.0, mit, ...")


@dataclass
class BenchmarkArguments:
    """What is measured, and on which videos."""

    dataset: Text = option("demo", "the videos, as finetune takes them: whole files of one label each")
    prepared: Text | None = option(None, "a prepared dataset of the same videos (default: it is made)")
    output_dir: Text | None = option(None, "folder of the report (default: outputs/benchmark/COMMAND)")
    num_videos: Count = option(60, "videos to measure on, evenly spread over the dataset")
    rounds: Count = option(5, "times that everything is measured; the median counts")
    num_frames: Count = option(16, "frames of a clip")
    image_size: Count | None = option(None, "height and width of a clip (default: 224, of epoch and step 112)")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    batch_size: Count = option(4, "clips of a batch of epoch, step, workers, memory and predict")
    num_proc: Count | None = option(
        None,
        "data-loader workers, and processes that make the prepared dataset (default: one a core; predict: one less)",
    )
    num_clips: Count = option(10_000, "clips of memory")
    seed: Seed = option(42, "seed of the choice of videos, of the augmentation and of the model")


@dataclass
class QuickstartArguments:
    """What the walk-through takes."""

    model: Text | None = option(None, "checkpoint of the Hub or folder (default: a small new model, no network)")
    video: Text | None = option(None, "a video file (default: one of the demo's)")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )


@dataclass
class ExportArguments:
    """What is exported, and on which videos it is checked."""

    model: Text | None = option(None, "folder of a run, or Hub id")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    output_dir: Text = option("outputs/export", "new folder of the exported model")
    format: Literal["onnx", "torch_export"] = option(
        "onnx", "onnx: model.onnx, for onnxruntime and others; torch_export: model.pt2, for PyTorch without this code"
    )
    dataset: Text = option("demo", "videos to check on, as finetune takes them; best those the model is for")
    num_videos: Count = option(8, "videos to check on, evenly spread over the test split")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")


@dataclass
class ConvertArguments:
    """Which weights become safetensors."""

    model: Text | None = option(None, "folder or Hub id of a checkpoint whose weights are a pickle")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    output_dir: Text = option("outputs/converted", "new folder of the converted checkpoint")


@dataclass
class AppArguments:
    """What the page shows, and where."""

    model: Text | None = option(None, "folder of a run, Hub id, or exported model")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    window_seconds: Positive = option(2.0, "length of the windows of which longer videos get a timeline")
    stride_seconds: Positive = option(1.0, "from the start of a window to that of the next")
    max_upload_mb: Count = option(100, "largest file that the page takes, megabytes")
    server_port: Annotated[int, Field(ge=1, le=65535)] | None = option(
        None, "port of this machine (default: the first free one from 7860 on)"
    )
    push_to_hub: Text | None = option(None, "publish the page as a Space, user/name, instead of serving it here")
    hub_private_repo: bool | None = option(None, "make that Space private if it is new")


PROBES = ("knn", "svm", "logistic", "xgboost")
"""Classifiers of features, by the names that --probe gives them."""


@dataclass
class FeatureArguments:
    """Features of what, and what is done with them."""

    model: Text | None = option(None, "folder of a run, Hub id, or any pre-trained checkpoint")
    model_revision: Text | None = option(None, "branch, tag or commit of a model on the Hub")
    trust_remote_code: bool = option(
        False, "run the code that comes with the model, where it has some: read it first, it can do all that you can"
    )
    output_dir: Text = option("outputs/features", "folder of the features, the report and the probes")
    pooling: Literal["mean", "cls"] = option("mean", "mean of all tokens, or the CLS token of models that have one")
    layer: int = option(-1, "hidden layer: 0 goes into the first block, 1 comes out of it; -1 is the model's end")
    temporal_views: Count = option(1, "clips of each video")
    spatial_crops: Literal[1, 3] = option(1, "crops of each clip")
    keep_clips: bool = option(False, "a row a clip, in place of the average over the clips of a video")
    sampling: Literal["segments", "dense"] | None = option(
        None, "segments or dense, for a model that doesn't say itself (default: segments)"
    )
    fps: Positive | None = option(None, "frames per second of a dense clip, for a model that doesn't say itself")
    frame_stride: Count | None = option(None, "a dense clip takes every so many-th frame of the file; instead of fps")
    probe: list[Text] = option([], f"classifiers to fit on the features: {', '.join(PROBES)}")
    probe_folds: Annotated[int, Field(ge=2)] | None = option(
        None, "choose a probe's options by so many folds of train, by group, in place of the validation split"
    )
    batch_size: Count = option(8, "clips that the model reads at once")
    num_workers: Annotated[int, Field(ge=0)] | None = option(
        None, "processes that decode (default: one a core); 0 decodes between batches"
    )
    videos_per_shard: Count = option(128, "videos of one Parquet file, which one process makes at once")
    decoder: Literal["auto", "torchcodec", "pyav"] = option("auto", "auto: PyAV, which brings its own FFmpeg")
    seed: Seed = option(42, "seed of the split, and of the probes")
    overwrite: bool = option(False, "replace the features that output_dir already holds, in place of adding to them")

    def __post_init__(self) -> None:
        """Take `knn,svm` for two words."""
        self.probe = list(dict.fromkeys(name for word in self.probe for name in word.replace(",", " ").split()))
