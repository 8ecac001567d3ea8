"""Every config that ships is read as a recipe reads it, says how it is launched, and has what was published."""

import dataclasses
import re
import shlex
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForVideoClassification,
    BertConfig,
    TimesformerConfig,
    VideoMAEConfig,
    ViTConfig,
    VivitConfig,
    VJEPA2Config,
    get_scheduler,
)

from run_recipe import load_recipe
from vidtune.arguments import parse
from vidtune.data.clips import apply_transform, load_transform
from vidtune.models.attentive_probe import probe_groups
from vidtune.models.blocks import find_blocks
from vidtune.models.configurations import FrameClassifierConfig
from vidtune.models.loading import read_config
from vidtune.models.regularisation import scale_head, set_drop_path, set_head_dropout
from vidtune.models.tuning import apply_tuning
from vidtune.options import (
    DataArguments,
    ModelArguments,
    PretrainArguments,
    SourceArguments,
    TaskArguments,
    TuningArguments,
)
from vidtune.training.optimization import layer_ids, parameter_groups, scaled_learning_rate, stepped
from vidtune.training.settings import training_arguments

ROOT = Path(__file__).parents[1]


def shipped(pattern: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


CONFIGS = shipped("recipes/configs/**/*.yaml")
LAUNCHERS = ["accelerate_config.yaml", *shipped("recipes/accelerate/*.yaml")]


def comments(path: str) -> list[str]:
    """The comment that a file opens with, line by line."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line.removeprefix("#").strip() for line in re.match(r"(?:#.*\n)*", text)[0].splitlines()]


def launch_words(path: str) -> list[str]:
    return shlex.split(comments(path)[0])


def recipe_of(path: str) -> str:
    """The script that a config is for, as its launch command names it."""
    (recipe,) = [word for word in launch_words(path) if word.endswith(".py")]
    return recipe


@cache
def read(path: str) -> SimpleNamespace:
    """Parse the launch command of a config as its recipe does."""
    words, recipe = launch_words(path), recipe_of(path)
    words = words[words.index(recipe) + 1 :]
    words[words.index("--config") + 1] = str(ROOT / path)
    sections = load_recipe(Path(recipe).stem).SECTIONS
    return parse(words, "A recipe.", sections, training="model" in sections)


TRAINED = [path for path in CONFIGS if recipe_of(path) == "recipes/finetune.py"]


def total_batch(path: str) -> int:
    """Videos of a step on the machine that a config is launched on."""
    words, training = launch_words(path), read(path).training
    processes = int(words[words.index("--num_processes") + 1]) if "--num_processes" in words else 1
    return training.get("per_device_train_batch_size", 8) * training.get("gradient_accumulation_steps", 1) * processes


def learning_rate(path: str) -> float:
    """The highest learning rate of the head."""
    base, given = read(path).tuning.base_learning_rate, read(path).training.get("learning_rate", 5e-5)
    return given if base is None else scaled_learning_rate(base, total_batch(path))


def relative_rate(path: str, epoch: float) -> float:
    """The learning rate over its highest, after so many epochs of 10,000 steps."""
    options, epochs = read(path), read(path).training["num_train_epochs"]
    args = training_arguments(
        options.training | {"use_cpu": True},
        "fp32",
        base_learning_rate=options.tuning.base_learning_rate,
        min_learning_rate=options.tuning.min_learning_rate,
    )
    step, steps = round(epoch * 10_000), epochs * 10_000
    warmup = args.get_warmup_steps(steps)
    if falls := options.tuning.learning_rate_steps:
        return stepped(step, warmup, [fall * 10_000 for fall in falls])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, args.lr_scheduler_kwargs)
    return scheduler.lr_lambdas[0](step)


# Shapes of the checkpoints that configs start from, as the papers have them. VideoMAE's table of positions is no
# parameter and takes seconds to compute, so that its clips are small here.
SMALL_CLIPS = {"num_frames": 2, "image_size": 32}
FIRST_TOKEN = {"use_mean_pooling": False}  # as the Hub's pre-trained ones have it
VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
VIT_H = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
DEMO = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
CHECKPOINTS: dict[str, Any] = {
    "path/to/videomae_small": (VideoMAEConfig, VIT_S | SMALL_CLIPS),
    "path/to/videomae_small_ssv2": (VideoMAEConfig, VIT_S | SMALL_CLIPS),
    "path/to/videomae_base_ucf101": (VideoMAEConfig, VIT_B | SMALL_CLIPS),
    "path/to/videomae_v2_base": (VideoMAEConfig, VIT_B | SMALL_CLIPS),
    "path/to/videomae_huge": (VideoMAEConfig, VIT_H | SMALL_CLIPS),
    "MCG-NJU/videomae-base": (VideoMAEConfig, VIT_B | SMALL_CLIPS | FIRST_TOKEN),
    "MCG-NJU/videomae-base-short": (VideoMAEConfig, VIT_B | SMALL_CLIPS | FIRST_TOKEN),
    "MCG-NJU/videomae-base-ssv2": (VideoMAEConfig, VIT_B | SMALL_CLIPS | FIRST_TOKEN),
    "MCG-NJU/videomae-base-short-ssv2": (VideoMAEConfig, VIT_B | SMALL_CLIPS | FIRST_TOKEN),
    "MCG-NJU/videomae-base-finetuned-kinetics": (VideoMAEConfig, VIT_B | SMALL_CLIPS),
    "MCG-NJU/videomae-large": (VideoMAEConfig, VIT_L | SMALL_CLIPS | FIRST_TOKEN),
    "MCG-NJU/videomae-large-finetuned-kinetics": (VideoMAEConfig, VIT_L | SMALL_CLIPS),
    "outputs/demo": (VideoMAEConfig, DEMO | SMALL_CLIPS),
    "outputs/demo_pretrain": (VideoMAEConfig, DEMO | SMALL_CLIPS | {"hidden_size": 64, "intermediate_size": 256}),
    "path/to/timesformer_from_vit": (TimesformerConfig, VIT_B),
    "path/to/vivit_from_vit": (VivitConfig, VIT_B),
    "facebook/vjepa2-vitl-fpc64-256": (
        VJEPA2Config,
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4},
    ),
    "google/vit-base-patch16-224-in21k": (ViTConfig, VIT_B),
    "google-bert/bert-base-uncased": (BertConfig, VIT_B),
}


@cache
def build(path: str) -> torch.nn.Module:
    """The model of a config as it is trained, without weights."""
    options = read(path)
    data, model = options.data, options.model
    if model.model_name_or_path:
        kind, shape = CHECKPOINTS[model.model_name_or_path]
        config = kind(**(shape | model.config_overrides))
        if kind is ViTConfig:
            config = FrameClassifierConfig(image_config=config, image_size=224)
    else:
        labels = [str(label) for label in range(10)]
        config = read_config(None, model.config_name, model.config_overrides, labels, data.num_frames, data.image_size)
    tuning = options.tuning
    with torch.device("meta"):
        reads_texts = isinstance(config, BertConfig)
        auto = AutoModelForSequenceClassification if reads_texts else AutoModelForVideoClassification
        network = auto.from_config(config)
        if tuning.drop_path is not None:
            with torch.device("cpu"):  # its rates are computed
                set_drop_path(network, tuning.drop_path)
        if tuning.head_dropout is not None:
            set_head_dropout(network, tuning.head_dropout)
        scale_head(network, tuning.head_init_scale)
        return apply_tuning(
            network,
            tuning.tuning,
            unfreeze_layers=tuning.unfreeze_layers,
            lora_rank=tuning.lora_rank,
            lora_targets=tuning.lora_targets,
            num_probes=len(tuning.probe_learning_rates) * len(tuning.probe_weight_decays),
            probe_blocks=tuning.probe_blocks,
            probe_heads=tuning.probe_heads,
        )


def test_there_are_configs() -> None:
    assert "recipes/configs/demo.yaml" in CONFIGS
    assert len(TRAINED) > 20
    assert len(LAUNCHERS) > 1
    assert not list(ROOT.glob("recipes/**/*.yml"))  # would be passed over here


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_is_accepted_by_its_recipe(path: str) -> None:
    assert read(path).config["output_dir"].startswith("outputs/")


def test_every_config_stands_in_the_guide() -> None:
    guide = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert not [path for path in CONFIGS if f"](../{path})" not in guide]


def test_no_two_configs_write_into_one_folder() -> None:
    folders = [read(path).config["output_dir"] for path in CONFIGS]
    assert sorted(set(folders)) == sorted(folders)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_opens_with_the_command_that_launches_it(path: str) -> None:
    words = launch_words(path)
    assert words[:2] == ["accelerate", "launch"]
    assert words[words.index("--config") + 1] == path
    assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    assert (ROOT / recipe_of(path)).is_file()
    assert ("--multi_gpu" in words) == ("--num_processes" in words)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_says_what_to_expect_where(path: str) -> None:
    header = "\n".join(comments(path))
    if "Expected on " in header:  # run here: the report is in results/
        assert re.search(r"\(results/\S+\.json\)", header)
        return
    assert "\nNot run here." in header
    assert re.search(r"\nPublished: \S", header)
    meant = re.search(r"\nMeant for: (\d+) GPUs? .*total batch (\d+) x (\d+)(?: x (\d+) accumulated)? = (\d+)", header)
    gpus, *factors, product = [int(number or 1) for number in meant.groups()]
    training = read(path).training
    assert factors == [
        gpus,
        training.get("per_device_train_batch_size", 8),
        training.get("gradient_accumulation_steps", 1),
    ]
    assert product == total_batch(path)


@pytest.mark.parametrize("path", TRAINED)
def test_the_model_and_the_groups_of_a_config(path: str) -> None:
    tuning, network = read(path).tuning, build(path)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if tuning.tuning == "attentive_probe":
        groups = probe_groups(network, tuning.probe_learning_rates, tuning.probe_weight_decays)
        grid = set(product(tuning.probe_learning_rates, [0.0, *tuning.probe_weight_decays]))
        assert {(group["lr"], group["weight_decay"]) for group in groups} == grid
        assert sum(len(group["params"]) for group in groups) == len(trained)
        return
    rate, decay = learning_rate(path), read(path).training.get("weight_decay", 0.0)
    groups = parameter_groups(network, rate, decay, tuning.layer_decay)
    assert sum(len(group["params"]) for group in groups) == len(trained)
    assert {group["weight_decay"] for group in groups} == {0.0, decay}
    rates = sorted({group["lr"] for group in groups}, reverse=True)
    if tuning.layer_decay < 1:
        blocks = len(find_blocks(network))
        assert max(layer_ids(network).values()) == blocks + 1
        depths = blocks + 2 if tuning.tuning == "full" else tuning.unfreeze_layers + 1
        assert rates == pytest.approx([rate * tuning.layer_decay**depth for depth in range(depths)])
    else:
        assert rates == [rate]


def test_lora_trains_half_a_percent() -> None:
    network = build("recipes/configs/one_gpu_16gb/lora.yaml")
    matrices = [parameter for name, parameter in network.named_parameters() if "lora_" in name]
    assert sum(parameter.numel() for parameter in matrices) == 24 * 2 * 2 * 1024 * 16  # blocks, q and v, two each
    assert sum(parameter.numel() for parameter in matrices) / network.num_parameters() == pytest.approx(
        0.005, abs=5e-4
    )


# What follows was typed from the papers' tables and the authors' scripts.

# learning rate at the total batch, where it ends, total batch, epochs, clips of a video, layer decay, drop path, head
# dropout, stride of the frames or segments, temporal views x spatial crops, blocks
VIDEOMAE = """
kinetics400/videomae_small                  7.5e-4 1.5e-6 384 150 2 .75 .1 -  4         5x3 12
kinetics400/videomae_base_800               2.0e-3 2.0e-6 512 100 1 .75 .1 -  4         5x3 12
kinetics400/videomae_base                   7.5e-4 1.5e-6 384  75 2 .75 .1 -  4         5x3 12
kinetics400/videomae_large                  1.0e-3 5.0e-7 128  35 2 .75 .1 -  4         5x3 24
kinetics400/videomae_huge                   2.0e-3 2.0e-5 512  50 2 .75 .2 .5 4         5x3 32
something_something_v2/videomae_base_800    1.0e-3 2.0e-6 512  50 1 .75 .1 -  segments  2x3 12
something_something_v2/videomae_base        7.5e-4 1.5e-6 384  30 2 .75 .1 -  segments  2x3 12
something_something_v2/videomae_small       1.5e-3 1.5e-6 384  40 2 .70 .1 -  segments  2x3 12
ucf101/videomae_base_own                    2.5e-4 5.0e-6 128 100 2 .70 .2 .5 4         5x3 12
"""


@pytest.mark.parametrize("row", VIDEOMAE.split("\n")[1:-1], ids=lambda row: row.split()[0])
def test_videomae(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, rate, least, batch, epochs, clips, decay, drop, dropout, sampling, views, blocks = row.split()
    path = f"recipes/configs/{name}.yaml"
    data, tuning, training = read(path).data, read(path).tuning, read(path).training
    assert total_batch(path) == int(batch)
    assert learning_rate(path) == pytest.approx(float(rate))
    assert training["num_train_epochs"] == int(epochs)
    assert (tuning.num_sample, tuning.layer_decay, tuning.drop_path) == (int(clips), float(decay), float(drop))
    assert tuning.head_dropout == (None if dropout == "-" else float(dropout))
    assert f"{data.temporal_views}x{data.spatial_crops}" == views
    assert (data.num_frames, data.sampling) == (16, "segments" if sampling == "segments" else "dense")
    assert data.frame_stride == (None if sampling == "segments" else int(sampling))
    assert data.horizontal_flip == (0 if name.startswith("something") else 0.5)
    assert len(find_blocks(build(path))) == int(blocks)
    assert_common(path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # set again where it is read
    assert relative_rate(path, 0) == 0
    assert relative_rate(path, 2.5) == pytest.approx(0.5, rel=2e-3)
    assert relative_rate(path, 5) == pytest.approx(1, rel=2e-3)
    assert relative_rate(path, int(epochs)) * float(rate) == pytest.approx(float(least))


def assert_common(path: str) -> None:
    """What all recipes of VideoMAE share."""
    data, tuning, training = read(path).data, read(path).tuning, read(path).training
    assert build(path).fc_norm is not None  # of the mean of all tokens
    assert (tuning.mixup, tuning.cutmix, tuning.mix_probability, tuning.mix_switch_probability) == (0.8, 1.0, 1.0, 0.5)
    assert (tuning.random_erasing, tuning.rand_augment) == (0.25, "rand-m7-n4-mstd0.5-inc1")
    assert (data.crop_scale, data.crop_ratio) == ([0.08, 1.0], [0.75, 1.3333])
    assert (tuning.head_init_scale, training["label_smoothing_factor"], training["weight_decay"]) == (0.001, 0.1, 0.05)
    defaults = {"optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999}
    assert {name: training.get(name, value) for name, value in defaults.items()} == defaults


def test_videomae_is_pre_trained_as_published() -> None:
    path = "recipes/configs/ucf101/videomae_base_pretrain.yaml"
    data, pretraining, training = read(path).data, read(path).pretraining, read(path).training
    assert (total_batch(path), training["num_train_epochs"]) == (192, 3200)
    assert (pretraining.base_learning_rate, pretraining.min_learning_rate) == (3e-4, 1e-5)
    assert training["warmup_steps"] * 3200 == 40
    assert (training.get("adam_beta1", 0.9), training["adam_beta2"], training["weight_decay"]) == (0.9, 0.95, 0.05)
    assert (pretraining.mask_ratio, pretraining.num_sample) == (0.75, 1)
    assert (data.num_frames, data.sampling, data.frame_stride, data.horizontal_flip) == (16, "dense", 4, 0)
    model = read(path).model
    config = read_config(None, model.config_name, model.config_overrides, [])
    assert (config.hidden_size, config.num_hidden_layers, config.image_size) == (768, 12, 224)
    decoder = (config.decoder_num_hidden_layers, config.decoder_hidden_size, config.decoder_num_attention_heads)
    assert decoder == (4, 384, 6)


@pytest.mark.parametrize(
    ("name", "rate", "batch", "decay", "epochs", "views"),
    [
        ("kinetics400/videomae_v2_base", 1.4e-3, 512, 0.75, 90, "7x3"),
        ("something_something_v2/videomae_v2_base", 2e-3, 256, 0.65, 25, "2x3"),
    ],
)
def test_videomae_v2(name: str, rate: float, batch: int, decay: float, epochs: int, views: str) -> None:
    path = f"recipes/configs/{name}.yaml"
    assert (learning_rate(path), total_batch(path)) == (pytest.approx(rate), batch)
    assert (read(path).tuning.layer_decay, read(path).training["num_train_epochs"]) == (decay, epochs)
    assert f"{read(path).data.temporal_views}x{read(path).data.spatial_crops}" == views
    assert len(find_blocks(build(path))) == 12
    assert_common(path)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_videomae_from_kinetics_is_published_with_its_views_only(name: str) -> None:
    path = f"recipes/configs/{name}/videomae_base_k400.yaml"
    data = read(path).data
    assert build(path).fc_norm is not None
    assert (data.num_frames, data.sampling, data.frame_stride) == (16, "dense", 4)
    assert (data.temporal_views, data.spatial_crops) == (5, 3)


@pytest.mark.parametrize(("name", "views"), [("something_something_v2", (16, 2, 3)), ("diving48", (32, 4, 3))])
def test_the_attentive_probe_of_v_jepa_2(name: str, views: tuple[int, int, int]) -> None:
    path = f"recipes/configs/{name}/vjepa2_large_probe.yaml"
    data, tuning, training = read(path).data, read(path).tuning, read(path).training
    assert (tuning.tuning, tuning.probe_blocks, tuning.probe_heads) == ("attentive_probe", 4, 16)
    assert tuning.probe_learning_rates == [5e-3, 3e-3, 1e-3, 3e-4, 1e-4]
    assert tuning.probe_weight_decays == [0.01, 0.1, 0.4, 0.8]
    assert (training["num_train_epochs"], read(path).model.precision) == (20, "bf16")
    assert (data.num_frames, data.temporal_views, data.spatial_crops) == views  # of Diving48: ours
    assert len(find_blocks(build(path))) == 24


def test_timesformer() -> None:
    path = "recipes/configs/kinetics400/timesformer_base.yaml"
    data, training = read(path).data, read(path).training
    assert (learning_rate(path), total_batch(path), training["num_train_epochs"]) == (0.005, 8, 15)
    assert (training["optim"], training["weight_decay"]) == ("sgd", 1e-4)
    assert (data.num_frames, data.sampling, data.frame_stride) == (8, "dense", 32)
    assert (data.temporal_views, data.spatial_crops) == (1, 3)
    rates = [relative_rate(path, epoch) for epoch in (0, 10.9, 11, 13.9, 14, 15)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert len(find_blocks(build(path))) == 12


def test_vivit(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "recipes/configs/kinetics400/vivit_base.yaml"
    data, training = read(path).data, read(path).training
    assert (learning_rate(path), total_batch(path), training["num_train_epochs"]) == (0.1, 64, 30)
    assert (training["optim"], training["lr_scheduler_type"]) == ("sgd", "cosine")
    assert (data.num_frames, data.sampling, data.frame_stride) == (32, "dense", 2)
    assert (data.temporal_views, data.spatial_crops) == (4, 3)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert relative_rate(path, 30) == pytest.approx(0)
    assert len(find_blocks(build(path))) == 12


def test_the_guide_of_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "recipes/configs/ucf101_subset/guide.yaml"
    training = read(path).training
    assert (learning_rate(path), total_batch(path), training["num_train_epochs"]) == (5e-5, 8, 4)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    rates = [relative_rate(path, epoch) for epoch in (0, 0.2, 0.4, 2.2, 4)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])
    monkeypatch.chdir(ROOT)
    transform = load_transform(read(path).data.train_transform)
    frames = torch.randint(256, (16, 3, 240, 320), dtype=torch.uint8)
    clip = apply_transform(transform, frames, 224, np.random.default_rng(0))
    assert clip.shape == (16, 3, 224, 224)


# Which videos, which version and which fold a run is for is said when it is launched.
OF_A_RUN = {
    "dataset_config",
    "dataset_revision",
    "model_revision",
    "trust_remote_code",
    "video_root",
    "split_number",
    "split_by_group",
    "group_pattern",
    "folds",
    "fold",
    "allow_leakage",
    "decoder",
}


def test_each_option_is_set_by_some_config() -> None:
    given = set()
    for path in CONFIGS:
        given |= yaml.safe_load((ROOT / path).read_text(encoding="utf-8")).keys()
        given |= {word.removeprefix("--") for word in launch_words(path)}
    sections = (SourceArguments, TaskArguments, DataArguments, ModelArguments, TuningArguments, PretrainArguments)
    options = {field.name for section in sections for field in dataclasses.fields(section)}
    assert options - OF_A_RUN - given == set()


@pytest.mark.parametrize("path", LAUNCHERS)
def test_a_config_of_accelerate_is_read_by_its_own_loader(path: str) -> None:
    config = load_config_from_file(str(ROOT / path))  # an unknown key raises
    assert config.num_processes >= 1
    assert len(comments(path)) > 0
