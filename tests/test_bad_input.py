"""The promise of every recipe: bad input ends with exit code 2 and one line, and nothing is written.

The line names the field or the file, the value, and what to do about it. Each row below is one command in a folder of
good and bad files, which `write_world` makes; what the row doesn't give is taken from BASE, and is good.
"""

import hashlib
import io
import json
import logging
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest

from conftest import TINY_VIDEOMAE
from hub_server import TOKEN, Blob, Commit, Repo, hub  # noqa: F401
from run_recipe import exit_code
from video_files import moving_square, write_folder_dataset, write_video

RUN = {"dataset": "videos", "model_name_or_path": "model", "output_dir": "new", "use_cpu": "true"}
BASE = {
    "finetune": RUN,
    "pretrain": RUN,
    "evaluate": {"dataset": "videos", "model": "model", "output_dir": "new", "use_cpu": "true"},
    "predict": {"input": "one.mp4", "model": "model", "output": "new.csv", "use_cpu": "true", "num_workers": "0"},
    "extract_features": {"dataset": "videos", "model": "model", "output_dir": "new", "use_cpu": "true"},
    "prepare_data": {"dataset": "videos", "output_dir": "new"},
    "export": {"dataset": "videos", "model": "model", "output_dir": "new"},
    "convert": {"model": "pickled", "output_dir": "new"},
    "app": {"model": "model"},
    "quickstart": {"model": "model", "video": "one.mp4"},
    "benchmark": {"dataset": "videos", "output_dir": "new"},
}
"""Of each recipe, options that nothing is wrong with."""

LONG = "x" * 300

CONFIGS = {
    "alias.yaml": "config_overrides: &all {a: *all}\n",
    "documents.yaml": "seed: 1\n---\nseed: 2\n",
    "empty.yaml": "model: ''\n",
    "fast.yaml": "learning_rate: fast\n",
    "huge.yaml": "learning_rate: 1.0e+400\n",
    "list.yaml": "- seed\n",
    "long.yaml": f"seed: {LONG}\n",
    "mapping.yaml": "dataset: {name: videos}\n",
    "nan.yaml": "quality: .nan\n",
    "negative.yaml": "batch_size: -4\n",
    "nested.yaml": "data: {dataset: videos}\n",
    "no_number.yaml": "rounds: 1e400\n",
    "nul.yaml": 'output_dir: "new\\0"\n',
    "several.yaml": "model: [a, b]\n",
    "spaces.yaml": "video: '  '\n",
    "tabs.yaml": "seed: 1\n\tmask_ratio: 0.5\n",
    "tag.yaml": "seed: !!python/object/apply:os.system [ls]\n",
    "training.yaml": "learning_rate: 5e-5\n",
    "twice.yaml": "split: test\nsplit: train\n",
}

ANNA, BEN, CORA = "videos/train/run/0000.mp4", "videos/train/walk/0000.mp4", "videos/test/run/0000.mp4"
TABLES = {
    "both.csv": f"video,label,labels\n{ANNA},run,run\n",
    "cut.jsonl": f'{{"video": "{ANNA}", "label": "run"}}\n{{"video": "b',
    "empty_label.csv": f"video,label\n{ANNA},run\n{BEN},\n",
    "folder_as_video.csv": f"video,label\nvideos,run\n{BEN},walk\n",
    "gone.csv": f"video,label\n{ANNA},run\nvideos/gone.mp4,walk\n",
    "header.csv": "video,label\n",
    "leak.csv": f"video,label,split,group\n{ANNA},run,train,anna\n{BEN},walk,train,ben\n{CORA},run,test,anna\n",
    "names.csv": "name\none.mp4\n",
    "no_label.csv": f"video,class\n{ANNA},run\n",
    "only_test.csv": f"video,label,split\n{ANNA},run,test\n{BEN},walk,test\n",
    "other_label.csv": f"video,label,split\n{ANNA},run,train\n{BEN},walk,train\n{CORA},jump,test\n",
    "outside.csv": f"video,label\n{ANNA},run\n../secret.mp4,walk\n",
    "semicolons.csv": f"video;label\n{ANNA};run\n{BEN};walk\n",
    "span.csv": f"video,label,start_seconds,end_seconds\n{ANNA},run,0,1\n{BEN},walk,3,2\n",
    "spans.csv": "video,start_seconds\none.mp4,1\n",
    "split.csv": f"video,label,split\n{ANNA},run,train\n{BEN},walk,holdout\n",
    "twice.csv": f"video,label\n{ANNA},run\n{ANNA},walk\n",
    "two.csv": f"video,label\n{ANNA},run\n{BEN},walk\n",
    "without_title.csv": f"video,label,title\n{ANNA},run,a man runs\n{BEN},walk,\n",
    "word_span.csv": f"video,label,start_seconds\n{ANNA},run,0:30\n{BEN},walk,0\n",
}

Row = tuple[str, str, list[str]]
"""Recipe, command line, and what the one line must hold, the last of it a word of the remedy."""

CONFIG_ROWS: list[Row] = [
    ("finetune", "--config gone.yaml", ["config: gone.yaml", "No such file", "give a YAML file"]),
    ("finetune", "--config=", ["config: got ''", "give a YAML file"]),
    ("evaluate", "--config videos", ["config: videos", "directory", "give a YAML file"]),
    ("predict", "--config one.mp4", ["config: one.mp4", "not a text file", "give a YAML file"]),
    ("pretrain", "--config tabs.yaml", ["config: tabs.yaml, line 2", "'\\t'", "write one `key: value` a line"]),
    ("evaluate", "--config twice.yaml", ["config: twice.yaml, line 2", "split is given twice", "one `key: value`"]),
    ("export", "--config list.yaml", ["config: list.yaml", "holds a list", "write one `key: value` a line"]),
    ("app", "--config documents.yaml", ["config: documents.yaml, line 2", "another document", "write one"]),
    ("finetune", "--config alias.yaml", ["config: alias.yaml, line 1", "*all", "write one `key: value`"]),
    ("convert", "--config tag.yaml", ["config: tag.yaml, line 1", "python/object/apply:os.system", "write one"]),
    ("finetune", "--config nested.yaml", ["nested.yaml: data: unknown key", "did you mean dataset?"]),
    ("finetune", "--config fast.yaml", ["fast.yaml: learning_rate: got 'fast'", "should be a valid number"]),
    ("pretrain", "--config huge.yaml", ["huge.yaml: learning_rate: got inf", "should be a finite number"]),
    ("prepare_data", "--config nan.yaml", ["nan.yaml: quality: got nan", "should be a finite number"]),
    ("benchmark", "step --config no_number.yaml", ["no_number.yaml: rounds: got '1e400'", "should be a"]),
    ("predict", "--config negative.yaml", ["negative.yaml: batch_size: got -4", "greater than or equal to 1"]),
    ("extract_features", "--config mapping.yaml", ["mapping.yaml: dataset: got {'name': 'videos'}", "string"]),
    ("app", "--config several.yaml", ["several.yaml: model: got ['a', 'b']", "should be a valid string"]),
    ("quickstart", "--config empty.yaml", ["empty.yaml: model: got ''", "at least 1 character"]),
    ("quickstart", "--config spaces.yaml", ["spaces.yaml: video: got '  '", "give a name"]),
    ("export", "--config nul.yaml", ["nul.yaml: output_dir: got 'new\\x00'", "without NUL"]),
    ("predict", "--config training.yaml", ["training.yaml: learning_rate: unknown key", "--help"]),
    ("prepare_data", "--config long.yaml", ["long.yaml: seed: got 'xxx", "...", "should be a valid integer"]),
    ("finetune", "--config fast.yaml --config nan.yaml", ["config is given twice", "nan.yaml", "into one file"]),
]

COMMAND_LINE_ROWS: list[Row] = [
    ("finetune", "--learning-rate 1", ["command line: learning-rate: unknown key", "did you mean learning_rate?"]),
    ("evaluate", "--mod x", ["command line: mod: unknown key", "did you mean model?"]),
    ("export", "-model x", ["command line: model: unknown key", "did you mean model?"]),
    ("predict", "—model x", ["command line: '—model' belongs to no option", "write --OPTION VALUE"]),
    ("app", "stray", ["command line: 'stray' belongs to no option", "write --OPTION VALUE"]),
    ("extract_features", "--model", ["command line", "--model: expected one argument", "write --OPTION VALUE"]),
    ("export", "--probe knn", ["command line: probe: unknown key", "--help"]),
    ("quickstart", "--output_dir new", ["command line: output_dir: unknown key", "--help"]),
    ("predict", "--input one.mp4 --input two.mp4", ["input is given twice", "two.mp4", "write --input ONE TWO"]),
    ("benchmark", "", ["command line: got '--dataset=videos'", "begin with what to measure: input"]),
    ("benchmark", "inputs", ["command line: got 'inputs'", "begin with what to measure: input"]),
    ("finetune", "--num_train_epochs inf", ["num_train_epochs: got 'inf'", "finite number"]),
    ("finetune", "--max_steps 99999999999999999999", ["max_steps: got 99999999999999999999", "less than 2147483648"]),
    ("finetune", "--per_device_train_batch_size 0", ["per_device_train_batch_size: got 0", "or equal to 1"]),
    ("finetune", "--dataloader_num_workers=-1", ["dataloader_num_workers: got -1", "or equal to 0"]),
    ("finetune", "--max_nan_steps 0", ["max_nan_steps: got 0", "or equal to 1"]),
    ("finetune", "--dataloader_timeout=-1", ["dataloader_timeout: got -1", "or equal to 0"]),
    (
        "pretrain",
        "--dataloader_timeout 5 --dataloader_num_workers 0",
        ["dataloader_timeout: 5", "goes with workers", "leave one out"],
    ),
    ("finetune", "--num_frames 8.5", ["num_frames: got 8.5", "valid integer"]),
    ("pretrain", "--mask_ratio 1", ["mask_ratio: got 1", "less than 1"]),
    ("evaluate", "--spatial_crops 2", ["spatial_crops: got 2", "should be 1 or 3"]),
    ("evaluate", "--dataset=", ["dataset: got ''", "at least 1 character"]),
    ("predict", "--top_k five", ["top_k: got 'five'", "valid integer"]),
    ("predict", "--decoder gpu", ["decoder: got 'gpu'", "'torchcodec' or 'pyav'"]),
    ("extract_features", "--pooling max", ["pooling: got 'max'", "'mean' or 'cls'"]),
    ("extract_features", "--num_workers=-1", ["num_workers: got -1", "or equal to 0"]),
    ("prepare_data", "--codec hevc", ["codec: got 'hevc'", "'jpeg' or 'h264'"]),
    ("prepare_data", "--short_side 8", ["short_side: got 8", "or equal to 16"]),
    ("export", "--format tflite", ["format: got 'tflite'", "'onnx' or 'torch_export'"]),
    ("app", "--server_port 70000", ["server_port: got 70000", "less than or equal to 65535"]),
    ("app", "--max_upload_mb 0", ["max_upload_mb: got 0", "or equal to 1"]),
    ("benchmark", "step --batch_size 1e30", ["batch_size: got", "valid integer"]),
    ("finetune", "--log_level shout", ["log_level: got 'shout'", "info"]),
    ("finetune", "--hub_token hf_x", ["hub_token: can't be set", "HF_TOKEN"]),
    ("finetune", "--report_to mtlflow", ["mtlflow is not supported, only", "mend the option, or leave it out"]),
    ("finetune", "--accelerator_config gone.json", ["gone.json", "mend the option, or leave it out"]),
    ("finetune", "--precision fp16", ["precision: fp16 needs a GPU", "use fp32 here"]),
]

CONTRADICTIONS: list[Row] = [
    ("finetune", "--config_name videomae", ["config_name: 'videomae'", "'model'", "give one of them"]),
    ("finetune", "--model_name_or_path null", ["model_name_or_path: missing", "give a checkpoint"]),
    ("finetune", "--bf16 --fp16", ["bf16: True", "fp16: True", "give one of them"]),
    ("finetune", "--load_best_model_at_end", ["load_best_model_at_end", "no and steps", "set both to epoch"]),
    ("finetune", "--unfreeze_layers 1", ["unfreeze_layers: 1 goes with tuning: partial", "it is full"]),
    ("finetune", "--folds 3 --fold 3", ["fold: got 3", "0 to 2"]),
    ("finetune", "--mixup 1 --per_device_train_batch_size 3", ["per_device_train_batch_size: got 3", "even number"]),
    (
        "finetune",
        "--resume_from_checkpoint auto --overwrite",
        ["overwrite: True", "resume_from_checkpoint: auto", "one out"],
    ),
    ("finetune", "--push_to_hub", ["hub_model_id: missing", "--hub_model_id user/name"]),
    ("finetune", "--model_revision v2", ["model_revision: v2", "model is no model of the Hub", "leave it out"]),
    ("pretrain", "--base_learning_rate 1 --learning_rate 1", ["base_learning_rate: 1.0", "give one of them"]),
    ("pretrain", "--label_smoothing_factor 0.1", ["label_smoothing_factor: 0.1", "leave it out"]),
    ("evaluate", "--predictions a", ["model: model", "give either --model, or --predictions"]),
    ("evaluate", "--fps 5 --frame_stride 2", ["fps: 5.0", "frame_stride: 2", "give one of them"]),
    ("predict", "--window_seconds 1 --stride_seconds 2", ["stride_seconds: 2", "make it smaller"]),
    ("predict", "--window_seconds 1", ["stride_seconds: missing", "window_seconds needs it", "--stride_seconds 1"]),
    ("predict", "--model_revision v2", ["model_revision: v2", "model is no model of the Hub", "leave it out"]),
    ("extract_features", "--probe_folds 3", ["probe_folds: 3 goes with probe", "add --probe"]),
    ("prepare_data", "--push_to_hub", ["hub_dataset_id: missing", "--hub_dataset_id user/name"]),
    ("export", "--model null", ["model: missing", "give --model"]),
    ("app", "--push_to_hub user/page", ["model: model: is here", "publish it first"]),
    ("benchmark", "workers --num_proc 1", ["num_proc: got 1", "2 or more"]),
]

PATH_ROWS: list[Row] = [
    ("finetune", "--output_dir file", ["output_dir: file", "Not a directory", "give another folder"]),
    ("pretrain", "--output_dir file/below", ["output_dir: file/below", "Not a directory", "give another folder"]),
    ("evaluate", "--output_dir notes", ["output_dir: notes", "holds mine.txt", "give a new or an empty folder"]),
    ("finetune", "--output_dir run", ["output_dir: run", "holds another run", "--overwrite"]),
    ("finetune", "--output_dir videos/new", ["output_dir: videos/new", "lies in dataset: videos", "outside of it"]),
    ("prepare_data", "--output_dir videos --overwrite", ["output_dir: videos", "dataset: videos", "outside of it"]),
    ("prepare_data", "--output_dir .", ["output_dir: .", "holds dataset: videos", "give another folder"]),
    ("extract_features", "--output_dir model", ["output_dir: model", "holds model: model", "give another folder"]),
    ("finetune", "--model_name_or_path run --output_dir run --overwrite", ["output_dir: run", "give another folder"]),
    ("export", "--output_dir /", ["output_dir: /", "give another folder"]),
    ("export", "--output_dir run", ["output_dir: run", "holds a training run", "give another folder"]),
    ("finetune", f"--output_dir {LONG}", ["output_dir: got 'xxx", "too long a name", "give a shorter one"]),
    ("extract_features", "--output_dir ~nobody99/new", ["output_dir: ~nobody99/new", "folder without ~"]),
    ("convert", "--output_dir notes", ["output_dir: notes", "something else", "give a new or an empty folder"]),
    ("benchmark", "step --output_dir file", ["output_dir: file", "Not a directory", "give another folder"]),
    ("predict", "--output labels.xlsx", ["output: labels.xlsx", "ends in .csv"]),
    ("predict", "--output names.csv", ["output: names.csv", "is there", "--overwrite"]),
    ("predict", "--output names.csv --input names.csv --overwrite", ["output: names.csv", "is an input", "another"]),
    ("predict", "--output file/new.csv", ["output: file", "Not a directory", "give another folder"]),
    ("predict", "--output /proc/new.csv", ["output: /proc", "can't be written", "give another folder"]),
    ("predict", "--input gone.mp4", ["input: gone.mp4", "does not exist", "give a video or a folder"]),
    ("predict", "--input 'clips/**/*.mp4'", ["input: clips/**/*.mp4", "matches no video", "mend the pattern"]),
    ("predict", "--input empty", ["input: empty", "holds no videos", "give a folder that does"]),
    ("predict", "--input -", ["input: standard input", "names no video", "write one path a line"]),
    ("predict", "--input names.csv", ["input: names.csv", "'video' is missing", "add it"]),
    ("predict", "--input spans.csv", ["input: spans.csv", "'start_seconds'", "remove it"]),
    ("predict", "--input noise.csv", ["input: noise.csv", "can't be read as text", "give a list of paths"]),
    ("predict", f"--input {LONG}", ["input: got 'xxx", "too long a name", "give a shorter one"]),
    ("quickstart", "--video gone.mp4", ["video: gone.mp4", "no such file", "give another"]),
    ("quickstart", "--video text.mp4", ["video: text.mp4", "cannot decode", "give another"]),
    ("evaluate", f"--compare {LONG}", ["compare: got 'xxx", "too long a name", "give a shorter one"]),
    ("evaluate", "--compare gone", ["compare: gone", "does not exist", "give the folder of a run"]),
    ("evaluate", "--model null --predictions noise.parquet", ["predictions: noise.parquet", "give a"]),
]

DATA_ROWS: list[Row] = [
    ("finetune", "--dataset 'my videos'", ["dataset: my videos", "does not exist", "give a folder, a table"]),
    ("pretrain", "--dataset empty", ["dataset: empty", "holds no videos", "put them into class/*.mp4"]),
    ("evaluate", "--dataset text.mp4", ["dataset: text.mp4", "is none of these", "give a folder, a table"]),
    ("finetune", "--dataset flat", ["dataset: flat/0.mp4", "outside of a class folder", "put it into one"]),
    ("finetune", "--dataset one_class", ["dataset: one_class", "one class only, 'run'", "needs two or more"]),
    ("extract_features", "--dataset dangling", ["dataset: dangling/run/0.mp4", "does not exist", "fetch it"]),
    ("finetune", "--dataset broken", ["dataset: broken/run/", "file is empty", "--on_error skip"]),
    ("pretrain", "--dataset broken", ["dataset: broken/run/", "file is empty", "--on_error skip"]),
    ("evaluate", "--dataset broken", ["dataset: broken/run/", "file is empty", "mend them"]),
    ("extract_features", "--dataset broken", ["dataset: broken/", "file is empty", "mend them"]),
    ("export", "--dataset broken", ["dataset: broken/run/", "file is empty", "give videos that can be decoded"]),
    ("benchmark", "views --dataset broken", ["dataset: broken/run/", "file is empty", "leave it out"]),
    ("finetune", "--dataset turns", ["horizontal_flip: 0.5", "'turn_left' is 'turn_right'", "set horizontal_flip: 0"]),
    ("finetune", "--dataset no_label.csv", ["dataset: no_label.csv", "'label' is missing", "give `video` and"]),
    ("export", "--dataset semicolons.csv", ["dataset: semicolons.csv", "semicolons", "save it with commas"]),
    ("finetune", "--dataset header.csv", ["dataset: header.csv", "holds no rows", "give one a video"]),
    ("evaluate", "--dataset both.csv", ["dataset: both.csv", "`label` and `labels`", "give one of them"]),
    ("finetune", "--dataset empty_label.csv", ["empty_label.csv: row 2: label is empty", "fill it in"]),
    ("prepare_data", "--dataset span.csv", ["span.csv: row 2: end_seconds is 2", "give a time after the start, 3"]),
    ("benchmark", "input --dataset word_span.csv", ["row 1: start_seconds is '0:30'", "give seconds"]),
    ("evaluate", "--dataset split.csv", ["split.csv: row 2: split is 'holdout'", "give train, validation or test"]),
    ("extract_features", "--dataset gone.csv", ["gone.csv: video videos/gone.mp4 does not exist", "mend the paths"]),
    ("finetune", "--dataset folder_as_video.csv", ["video videos is a folder", "mend the paths"]),
    ("prepare_data", "--dataset outside.csv", ["outside.csv: row 2", "'../secret.mp4'", "give --video_root FOLDER"]),
    ("finetune", "--dataset twice.csv", [f"twice.csv: {ANNA} is listed twice", "list each video once"]),
    ("finetune", "--dataset only_test.csv", ["dataset: only_test.csv", "no split `train`", "name one"]),
    ("finetune", "--dataset other_label.csv", ["other_label.csv: label 'jump'", "in test", "add videos"]),
    ("finetune", "--dataset leak.csv", ["group: 1 in more than one split: 'anna'", "--allow_leakage"]),
    ("prepare_data", "--dataset leak.csv", ["group: 1 in more than one split: 'anna'", "--allow_leakage"]),
    ("finetune", "--dataset two.csv", ["validation_fraction, test_fraction: 0.15, 0.15", "change them"]),
    ("prepare_data", "--dataset classes --folds 9", ["folds: 9 are too many for 4 groups", "give fewer"]),
    ("extract_features", "--probe knn --probe_folds 9", ["probe_folds: 9 are too many", "'run' has 1 groups", "add"]),
    ("evaluate", "--dataset cut.jsonl", ["dataset: cut.jsonl", "can't be read as .jsonl", "mend the file"]),
    ("pretrain", "--dataset noise.csv", ["dataset: noise.csv", "can't be read as .csv", "mend the file"]),
    ("finetune", "--dataset noise.parquet", ["dataset: noise.parquet", "can't be read as .parquet", "mend the file"]),
    ("finetune", "--dataset numbers", ["dataset: numbers", "no column of type Video", "choose another"]),
    ("prepare_data", "--dataset noise", ["dataset: noise", "can't be loaded", "mend its files"]),
    ("evaluate", "--split holdout", ["split: holdout", "choose from train, validation, test"]),
    ("finetune", "--dataset_format ucf101", ["dataset: videos", "classInd.txt", "give another dataset_format"]),
    ("finetune", "--split_by_group actor", ["split_by_group: 'actor'", "give its videos in a table"]),
    ("finetune", "--group_pattern '('", ["group_pattern: got '('", "mend it"]),
    ("finetune", "--videos_per_label 9", ["videos_per_label: got 9", "give that or fewer"]),
    ("finetune", "--class_weights '{jump: 2}'", ["class_weights: jump is no label", "it has run, walk"]),
    ("finetune", "--train_transform transforms:gone", ["train_transform: transforms:gone", "write module:function"]),
    ("finetune", "--train_transform broken_code:x", ["train_transform: broken_code:x", "write module:function"]),
    ("finetune", "--train_transform transforms:narrow", ["train_transform: returned shape", "return (3, 4, 32, 32)"]),
    (
        "finetune",
        "--task text-classification --text_column title --dataset without_title.csv",
        ["without_title.csv: row 2: title is empty", "fill it in"],
    ),
    ("benchmark", "input --prepared classes", ["prepared: classes", "lacks train/run/0000.mp4", "prepare the same"]),
    ("benchmark", "input --prepared gone", ["prepared: gone", "does not exist", "give a folder"]),
    ("benchmark", "epoch --num_videos 1", ["num_videos: 1 don't fill one batch", "give at least 4"]),
]

MODEL_ROWS: list[Row] = [
    (
        "finetune",
        "--model_name_or_path 'my model'",
        ["model_name_or_path: my model", "does not exist", "give a folder"],
    ),
    ("predict", "--model one.mp4", ["model: one.mp4", "is a file", "give the folder that holds config.json"]),
    ("finetune", "--model_name_or_path not_json", ["model_name_or_path: not_json", "not a valid JSON", "anew"]),
    ("export", "--model empty", ["model: empty", "config.json", "give a whole checkpoint"]),
    ("finetune", "--model_name_or_path cut", ["model_name_or_path: cut", "not fully covered", "copy this one anew"]),
    ("evaluate", "--model noise_weights", ["model: noise_weights", "header too large", "copy this one anew"]),
    ("predict", "--model no_weights", ["model: no_weights", "model.safetensors", "give a whole checkpoint"]),
    ("quickstart", "--model wide", ["model: wide", "no weights for videomae", "choose a checkpoint that is whole"]),
    ("extract_features", "--model unknown_type", ["model: unknown_type", "`megavideo`", "give a whole checkpoint"]),
    ("evaluate", "--model bert", ["model: bert", "a bert model reads no videos", "give a fine-tuned one"]),
    ("quickstart", "--model bert", ["model: bert", "is a bert model", "choose one for video-classification"]),
    ("pretrain", "--model_name_or_path bert", ["bert", "give a videomae"]),
    (
        "predict",
        "--model pretrained",
        ["model: pretrained", "no weights for classifier.bias", "give a fine-tuned model"],
    ),
    ("evaluate", "--model cats", ["none of the model's: run, walk", "those of the model: cat, dog"]),
    ("evaluate", "--model several", ["dataset: its videos have one label each", "give a model that was trained on"]),
    ("predict", "--model gap", ["model: gap", "{0: 'run', 2: 'walk'}", "number the labels from 0 on"]),
    ("evaluate", "--model three_labels", ["model: three_labels", "other shapes", "copy this one anew"]),
    ("extract_features", "--model bad_record", ["config.json: vidtune: ", "'fps': -1", "copy the file anew"]),
    ("export", "--model no_processor", ["model: no_processor", "has no processor", "preprocessor_config.json beside"]),
    ("evaluate", "--model bad_processor", ["model: bad_processor/preprocessor_config.json", "copy the file anew"]),
    (
        "finetune",
        "--model_name_or_path adapter",
        ["model_name_or_path: adapter", "adapter of gone_base", "give that one"],
    ),
    ("predict", "--model adapter", ["model: adapter: its base model: gone_base", "no folder here", "hf download"]),
    ("evaluate", "--model bad_adapter", ["model: bad_adapter/adapter_config.json", "copy the file anew"]),
    (
        "finetune",
        "--model_name_or_path features",
        ["model_name_or_path: features", "features of videos", "give the model"],
    ),
    ("predict", "--model features", ["model: features", "features of videos", "probes/svm"]),
    ("evaluate", "--model probe", ["model: probe", "is a probe", "give a model"]),
    ("predict", "--model probe", ["model: probe/probe.json", "no record of a probe", "fit the probe again"]),
    ("predict", "--model onnx", ["model: onnx/model.onnx", "can't be loaded", "export it again"]),
    ("predict", "--model bare.onnx", ["model: bare.onnx", "no config.json", "keep the files"]),
    ("export", "--model onnx", ["model: onnx", "is exported already", "give the model that it was made of"]),
    ("convert", "--model model", ["model: model", "no pickle to convert", "as it is"]),
    ("evaluate", "--model pickled", ["model: pickled", "pytorch_model.bin", "convert"]),
    ("app", "--model evil", ["model: evil", "needs code of its own, evil.py", "--trust_remote_code"]),
    ("extract_features", "--layer 99", ["layer: 99", "the model has 2 layers", "give 0"]),
    ("extract_features", "--pooling cls", ["pooling: cls", "has no CLS token", "use mean"]),
    ("finetune", "--num_frames 3", ["num_frames: got 3", "give a multiple of 2"]),
    ("benchmark", "step --image_size 17", ["image_size: got 17", "give a multiple of 16"]),
    ("finetune", "--config_overrides '{no_such: 1}'", ["config_overrides: no_such", "unknown", "it has"]),
    ("finetune", "--tuning partial --unfreeze_layers 99", ["unfreeze_layers: got 99", "give 1 to 2"]),
    ("finetune", "--tuning lora --lora_targets nothing", ["lora_targets: nothing", "it has dense, key"]),
    (
        "finetune",
        "--model_name_or_path null --config_name x3d_s --weights noise.parquet",
        ["weights: noise.parquet", "can't be read", "give a file"],
    ),
    ("finetune", "--resume_from_checkpoint auto", ["resume_from_checkpoint: new holds no run", "leave it out"]),
    (
        "finetune",
        "--resume_from_checkpoint auto --output_dir run",
        ["resume_from_checkpoint: run holds no", "checkpoint", "start afresh"],
    ),
    (
        "pretrain",
        "--resume_from_checkpoint run/checkpoint-2 --output_dir run",
        ["resume_from_checkpoint: run/checkpoint-2", "give"],
    ),
]

HUB_ROWS: list[tuple[str, str, str, list[str]]] = [
    (TOKEN, "finetune", "--model_name_or_path tester/gone", ["model_name_or_path: tester/gone", "check the spelling"]),
    (TOKEN, "predict", "--model tester/tiny --model_revision v9", ["model_revision: v9", "of tester/tiny", "another"]),
    ("", "evaluate", "--model other/secret", ["model: other/secret", "hf auth login"]),
    (TOKEN, "export", "--model 'tester/my model'", ["model: tester/my model", "does not exist", "give a folder"]),
    (TOKEN, "app", "--model tester/pickled", ["model: tester/pickled", "pytorch_model.bin", "convert"]),
    (TOKEN, "finetune", "--dataset tester/gone", ["dataset: tester/gone", "404", "hf download"]),
    (
        TOKEN,
        "pretrain",
        "--dataset tester/clips --dataset_revision v9",
        ["dataset_revision: v9", "of tester/clips", "another"],
    ),
    ("", "prepare_data", "--dataset other/secret", ["dataset: other/secret", "401", "hf auth login"]),
    (TOKEN, "extract_features", "--dataset tester/clips", ["tester/clips", "no column of type Video", "another"]),
    (TOKEN, "finetune", "--push_to_hub --hub_model_id other/x", ["hub_model_id", "'other/x'", "namespace of yours"]),
    (
        "",
        "finetune",
        "--push_to_hub --hub_model_id tester/x",
        ["hub_model_id: no token", "'tester/x'", "hf auth login"],
    ),
    (
        "hf_x",
        "pretrain",
        "--push_to_hub --hub_model_id tester/x",
        ["hub_model_id", "'tester/x'", "401", "a valid one"],
    ),
    (TOKEN, "pretrain", "--push_to_hub --hub_model_id a/b/c", ["hub_model_id: 'a/b/c'", "user/name", "mend it"]),
    (TOKEN, "prepare_data", "--push_to_hub --hub_dataset_id other/x", ["hub_dataset_id", "'other/x'", "of yours"]),
    (TOKEN, "app", "--model tester/tiny --push_to_hub other/x", ["push_to_hub", "'other/x'", "namespace of yours"]),
]
"""The token, and what Row has."""


LOCKED_ROWS: list[Row] = [
    ("finetune", "--dataset locked", ["locked/run", "Permission denied", "mend its permissions"]),
    ("predict", "--input locked", ["locked/run", "Permission denied", "mend its permissions"]),
    ("finetune", "--output_dir read_only/new", ["output_dir: read_only/new", "Permission denied", "another folder"]),
    ("predict", "--output read_only/new.csv", ["output: read_only", "Permission denied", "another folder"]),
]


def identified(rows):
    """The rows as parameters of a test, named by their commands."""
    return [pytest.param(*row, id=f"{row[-3]} {row[-2]}"[:90]) for row in rows]


def words_of(recipe: str, command: str) -> list[str]:
    """The words of a command line, and of BASE what it doesn't give."""
    words = shlex.split(command)
    given = {word.lstrip("-").split("=")[0] for word in words if word.startswith("--")}
    return words + [f"--{name}={value}" for name, value in BASE[recipe].items() if name not in given]


def state_of(folder: Path) -> dict[str, str | None]:
    """Every file and folder below a folder, hidden ones too, with a digest of what a file holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in folder.rglob("*")
    }


def write_world(folder: Path) -> None:
    """Write configs, videos, tables and models, good ones and bad ones."""
    for name, text in (CONFIGS | TABLES).items():
        (folder / name).write_text(text, encoding="utf-8")
    write_videos(folder)
    write_models(folder)
    (folder / "file").write_text("a file")
    (folder / "noise.csv").write_bytes(bytes(range(256)))
    (folder / "noise.parquet").write_bytes(b"PAR1" + b"\7" * 50)
    (folder / "broken_code.py").write_text("def (:\n")
    (folder / "transforms.py").write_text("def narrow(clip):\n    return clip[:, :1]\n")
    for name in ("empty", "notes", "temporary", "locked", "read_only"):
        (folder / name).mkdir()
    (folder / "locked" / "run").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    (folder / "run" / "checkpoint-2").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text("dataset: videos\nconfig_overrides: {}\nhub_model_id: null\n")
    (folder / "run" / "config.json").write_bytes((folder / "model" / "config.json").read_bytes())
    weights = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "run" / "checkpoint-2" / "model.safetensors").write_bytes(weights[:1000])


def write_videos(folder: Path) -> None:
    """Write datasets in folders, and single files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = {"num_frames": 6, "fps": 6}
    write_folder_dataset(folder / "videos", ["run", "walk"], 1, ["train", "validation", "test"], **size)
    write_folder_dataset(folder / "classes", ["run", "walk"], 2, **size)
    write_folder_dataset(folder / "turns", ["turn_left", "turn_right"], 1, ["train", "validation", "test"], **size)
    write_folder_dataset(folder / "one_class", ["run"], 1, **size)
    write_video(folder / "one.mp4", moving_square(6))
    write_video(folder / "flat" / "0.mp4", moving_square(6))
    (folder / "text.mp4").write_text("no video at all")
    for name in ("run", "walk"):
        for index in range(3):
            path = folder / "broken" / name / f"{index}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    write_video(folder / "dangling" / "walk" / "0.mp4", moving_square(6))
    (folder / "dangling" / "run").mkdir()
    (folder / "dangling" / "run" / "0.mp4").symlink_to("gone.mp4")
    for name in ("numbers", "noise"):
        (folder / name).mkdir()
    pq.write_table(pa.table({"number": [1, 2]}), folder / "numbers" / "train.parquet")
    (folder / "noise" / "train.parquet").write_bytes(b"PAR1" + b"\7" * 50)


def write_models(folder: Path) -> None:
    """Write a fine-tuned model, what can be broken of it, and what is taken for one."""
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
    )

    def model(name: str, **fields: object) -> Path:
        copy = Path(shutil.copytree(folder / "model", folder / name))
        values = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        (copy / "config.json").write_text(json.dumps(values | fields))
        return copy

    config = VideoMAEConfig(**TINY_VIDEOMAE, id2label={0: "run", 1: "walk"}, label2id={"run": 0, "walk": 1})
    VideoMAEForVideoClassification(config).save_pretrained(folder / "model")
    processor = VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for name, network in (("model", VideoMAEForVideoClassification), ("pretrained", VideoMAEForPreTraining)):
        network(config).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    weights = (folder / "model" / "model.safetensors").read_bytes()

    (model("not_json") / "config.json").write_text("{")
    (model("cut") / "model.safetensors").write_bytes(weights[:-100])
    (model("noise_weights") / "model.safetensors").write_bytes(b"\7" * 1000)
    (model("no_weights") / "model.safetensors").unlink()
    (model("no_processor") / "preprocessor_config.json").unlink()
    (model("bad_processor") / "preprocessor_config.json").write_text("[]")
    (model("bad_adapter") / "adapter_config.json").write_text("[]")
    adapter = {"base_model_name_or_path": "gone_base", "peft_type": "LORA"}
    (model("adapter") / "adapter_config.json").write_text(json.dumps(adapter))
    model("unknown_type", model_type="megavideo")
    model("bert", model_type="bert")
    model("evil", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    model("wide", hidden_size=32)
    model("cats", id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1})
    model("gap", id2label={"0": "run", "2": "walk"}, label2id={"run": 0, "walk": 2})
    model("three_labels", id2label={"0": "run", "1": "walk", "2": "jump"})
    model("several", problem_type="multi_label_classification")
    model("bad_record", vidtune={"sampling": "dense", "fps": -1})
    (model("onnx") / "model.onnx").write_bytes(b"\7" * 100)
    (folder / "bare.onnx").write_bytes(b"\7" * 100)
    pickled = model("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for name in ("features", "probe"):
        (folder / name).mkdir()
        (folder / name / f"{name}.json").write_text("{}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of all files, and its state."""
    import datasets

    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    datasets.disable_progress_bars()
    yield folder, state_of(folder)
    datasets.enable_progress_bars()


def assert_refused(recipe, command, says, world, monkeypatch, capfd):
    """Run a recipe in the folder of all files: exit code 2, one line that says it, and nothing written."""
    folder, state = world
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # of the user's transforms
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [])  # what it logs is not ours
    capfd.readouterr()
    code = exit_code(recipe, words_of(recipe, command))
    line = capfd.readouterr().err.rstrip("\n")
    assert code == 2, line
    assert line.startswith(f"{recipe}.py: ") and len(line.splitlines()) == 1, line
    assert [words for words in says if words not in line] == [], line
    assert state_of(folder) == state


@pytest.mark.parametrize(
    ("recipe", "command", "says"),
    identified([*CONFIG_ROWS, *COMMAND_LINE_ROWS, *CONTRADICTIONS, *PATH_ROWS, *DATA_ROWS, *MODEL_ROWS]),
)
def test_bad_input_is_refused_in_one_line(recipe, command, says, world, monkeypatch, capfd):
    assert_refused(recipe, command, says, world, monkeypatch, capfd)


@pytest.mark.parametrize(("recipe", "command", "says"), identified(LOCKED_ROWS))
def test_what_may_not_be_read_or_written_is_refused_in_one_line(recipe, command, says, world, monkeypatch, capfd):
    folder, _ = world
    modes = {"locked/run": 0o000, "read_only": 0o500}
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    try:
        if os.access(folder / "locked" / "run", os.R_OK):
            pytest.skip("this user may read and write everything")
        assert_refused(recipe, command, says, world, monkeypatch, capfd)
    finally:
        for name in modes:
            (folder / name).chmod(0o700)


@pytest.mark.parametrize(("token", "recipe", "command", "says"), identified(HUB_ROWS))
def test_bad_input_of_the_hub_is_refused_in_one_line(
    token,
    recipe,
    command,
    says,
    world,
    hub,  # noqa: F811
    monkeypatch,
    capfd,
):
    folder, _ = world
    for name, kind in (("tester/tiny", "model"), ("tester/pickled", "pickled"), ("other/secret", "model")):
        files = {path.name: Blob(path.read_bytes(), lfs=False) for path in (folder / kind).iterdir()}
        hub.repos[name] = Repo(name == "other/secret", [Commit("Add files", "", files)])
    hub.add_dataset("tester/clips", {"train.csv": b"number\n1\n2\n"})
    hub.add_dataset("other/secret", {"train.csv": b"number\n1\n2\n"}, private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    assert_refused(recipe, command, says, world, monkeypatch, capfd)
    assert not {"tester/x", "other/x", "datasets/other/x", "spaces/other/x"} & hub.repos.keys()
