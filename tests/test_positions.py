"""Models for other clips than their checkpoint's."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from run_recipe import finetune, load_recipe, refused, words
from test_loading import SIZES, TINY, logits, new_config, read, save_classifier
from video_files import write_folder_dataset
from vidtune.models import positions
from vidtune.models.loading import load_model, load_trained
from vidtune.models.positions import (
    TABLES,
    InterpolatedVideoMAEForVideoClassification,
    clip_grid,
    clip_shape,
    interpolate_positions,
    with_clips,
)
from vidtune.models.processors import load_processors, processor_size
from vidtune.training.weights import load_weights

HALF_AS_LARGE_AGAIN = {32: 48, 36: 54}
TABLES_OF = {
    "videomae": ["videomae.embeddings.position_embeddings"],
    "timesformer": ["timesformer.embeddings.position_embeddings", "timesformer.embeddings.time_embeddings"],
    "vivit": ["vivit.embeddings.position_embeddings"],
    "vjepa2": [],
    "videoprism_vision_model": [
        "vision_model.spatial_embeddings.position_embeddings",
        "vision_model.temporal_embeddings.position_embeddings",
    ],
}


def table(grid, extra=0, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, extra + math.prod(grid), width, generator=generator).to(dtype)


def cubic(distance):
    """Keys' kernel with a = -0.75, which PyTorch and OpenCV use."""
    a, d = -0.75, abs(distance)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def resampling(old, new, kernel, reach):
    """Matrix (new, old) that resamples between the centres of cells, the outermost cells going on at the borders."""
    matrix = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        for cell in range(math.floor(place) - reach + 1, math.floor(place) + reach + 1):
            matrix[row, min(max(cell, 0), old - 1)] += kernel(place - cell)
    return matrix


def linear(distance):
    return max(0.0, 1 - abs(distance))


# The function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("grid", "extra"), [((8, 14, 14), 0), ((2, 3, 3), 1), ((1, 4, 4), 1), ((5, 1, 1), 0)])
def test_the_same_grid_changes_nothing_to_the_bit(grid, extra, dtype):
    positions = table(grid, extra, dtype=dtype)
    same = interpolate_positions(positions, grid, grid)
    assert same.dtype == dtype and torch.equal(same, positions)


def test_doubled_frames_by_hand():
    first, second = torch.tensor([0.0, 8.0]), torch.tensor([4.0, 0.0])
    doubled = interpolate_positions(torch.stack([first, second])[None], (2, 1, 1), (4, 1, 1))
    assert doubled.tolist() == [[[0, 8], [1, 6], [3, 2], [4, 0]]]


def test_halved_frames_by_hand():
    halved = interpolate_positions(torch.tensor([0.0, 2.0, 8.0, 10.0]).view(1, 4, 1), (4, 1, 1), (2, 1, 1))
    assert halved.flatten().tolist() == [1, 9]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((4, 3, 3), (8, 3, 3)),
        ((4, 3, 3), (3, 3, 3)),
        ((2, 4, 4), (2, 7, 7)),
        ((2, 4, 4), (2, 3, 3)),
        ((3, 4, 5), (7, 6, 3)),
        ((1, 1, 1), (2, 3, 3)),
    ],
)
@pytest.mark.parametrize("extra", [0, 1])
def test_space_is_bicubic_and_time_linear(old, new, extra):
    positions = table(old, extra)
    result = interpolate_positions(positions, old, new)
    grid = positions[0, extra:].double().numpy().reshape(*old, -1)
    kernels = ((linear, 1), (cubic, 2), (cubic, 2))
    time, rows, columns = (resampling(*lengths, *kernel) for *lengths, kernel in zip(old, new, kernels, strict=True))
    expected = np.einsum("at,by,cx,tyxd->abcd", time, rows, columns, grid)
    assert result.shape == (1, extra + math.prod(new), 5)
    assert torch.equal(result[:, :extra], positions[:, :extra])
    assert np.allclose(result[0, extra:].numpy().reshape(expected.shape), expected, atol=1e-5)


def test_other_frames_leave_the_mean_over_time_as_it_was():
    positions = table((4, 3, 3))
    doubled = interpolate_positions(positions, (4, 3, 3), (8, 3, 3))
    means = [value.reshape(-1, 9, 5).mean(0) for value in (positions, doubled)]
    assert torch.allclose(*means, atol=1e-6)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"a table of 8 positions has no grid of \(3, 2, 2\)"):
        interpolate_positions(table((2, 2, 2)), (3, 2, 2), (4, 2, 2))


# Models


@pytest.mark.parametrize("model_type", TINY)
def test_all_other_weights_are_kept_and_the_tables_told(tmp_path, model_type, caplog):
    old = save_classifier(tmp_path, model_type)
    size = HALF_AS_LARGE_AGAIN[SIZES[model_type]]
    config = read(tmp_path, num_frames=8, image_size=size)
    model, new = load_model(config, str(tmp_path))
    assert new == [] and clip_shape(model.config) == (8, size)
    tables = ", ".join(TABLES_OF[model_type]) or "nothing, it has no position tables"
    was = f"8 frames of {size} px instead of 4 of {SIZES[model_type]} px"
    assert caplog.messages == [f"model: reads {was}; interpolated: {tables}"]
    weights = model.state_dict()
    assert weights.keys() == old.state_dict().keys()
    for name, weight in old.state_dict().items():
        if name not in TABLES:
            assert torch.equal(weights[name], weight), name
    assert model.config._attn_implementation == old.config._attn_implementation
    assert logits_of(model).isfinite().all()


def logits_of(model):
    frames, size = clip_shape(model.config)
    clips = torch.rand(2, frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(**{model.main_input_name: clips}).logits


def test_each_table_is_interpolated_along_its_axes(tmp_path):
    for model_type, name, old, new in (
        ("vivit", "vivit.embeddings.position_embeddings", (2, 2, 2), (4, 3, 3)),
        ("timesformer", "timesformer.embeddings.position_embeddings", (1, 2, 2), (1, 3, 3)),
        ("timesformer", "timesformer.embeddings.time_embeddings", (4, 1, 1), (8, 1, 1)),
        ("videoprism_vision_model", "vision_model.spatial_embeddings.position_embeddings", (1, 2, 2), (1, 3, 3)),
        ("videoprism_vision_model", "vision_model.temporal_embeddings.position_embeddings", (4, 1, 1), (8, 1, 1)),
    ):
        model = save_classifier(tmp_path / model_type, model_type)
        other = with_clips(model, 8, HALF_AS_LARGE_AGAIN[SIZES[model_type]])
        assert torch.equal(other.get_parameter(name), interpolate_positions(model.get_parameter(name), old, new)), name


def test_the_sinusoids_of_a_videomae_are_those_of_its_checkpoint_interpolated(tmp_path):
    model = save_classifier(tmp_path)
    other = with_clips(model, 8, 48)
    sinusoids = get_sinusoid_encoding_table(8, 16)
    assert torch.equal(model.videomae.embeddings.position_embeddings, sinusoids)
    expected = interpolate_positions(sinusoids, (2, 2, 2), (4, 3, 3))
    assert torch.equal(other.videomae.embeddings.position_embeddings, expected)
    assert list(other.config.position_grid) == [2, 2, 2] and clip_grid(other.config) == (4, 3, 3)


@pytest.mark.parametrize("model_type", TINY)
def test_the_clips_of_the_checkpoint_leave_the_model_as_it_is(tmp_path, model_type, caplog):
    old = save_classifier(tmp_path, model_type)
    model, new = load_model(read(tmp_path, num_frames=4, image_size=SIZES[model_type]), str(tmp_path))
    assert new == [] and not caplog.messages and type(model) is type(old)
    assert torch.equal(logits_of(model), logits_of(old))
    assert torch.equal(logits_of(with_clips(old, 4, SIZES[model_type])), logits_of(old))


def smooth(grid, width, generator):
    """A table as training leaves it: neighbours in time and space are alike."""
    axes = torch.meshgrid(*(torch.arange(length) / length for length in grid), indexing="ij")
    places = torch.stack(axes, dim=-1).reshape(-1, 3)
    return torch.sin(3 * places @ torch.randn(3, width, generator=generator) + torch.randn(width, generator=generator))


@pytest.mark.parametrize("model_type", TINY)
def test_16_to_32_frames_keep_the_prediction_on_a_static_video(model_type):
    set_seed(3)
    frames_key = "frames_per_clip" if model_type == "vjepa2" else "num_frames"
    model, _ = load_model(new_config(model_type, list("abcde"), **{frames_key: 16}), None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            if name in TABLES:
                grid = [
                    length if axis in TABLES[name] else 1
                    for axis, length in zip("THW", clip_grid(model.config), strict=True)
                ]
                parameter[0, -math.prod(grid) :] = smooth(grid, parameter.shape[-1], generator)
    size = SIZES[model_type]
    videos = torch.randn(8, 1, 3, size, size, generator=generator)

    def probabilities(model, num_frames):
        with torch.no_grad():
            clips = videos.expand(-1, num_frames, -1, -1, -1)
            return model.eval()(**{model.main_input_name: clips}).logits.flatten(1).softmax(-1)

    before, after = probabilities(model, 16), probabilities(with_clips(model, 32, size), 32)
    assert before.std(0).mean() > 0.03  # the videos are told apart
    assert (before - after).abs().max() < 0.02

    # What transformers makes of the tables: anew from random numbers, or with numbers that were never seen
    if TABLES_OF[model_type]:
        config = new_config(model_type, list("abcde"), **{frames_key: 32})
        anew = AutoModelForVideoClassification.from_config(config)
        weights = anew.state_dict()
        fitting = {name: value for name, value in model.state_dict().items() if value.shape == weights[name].shape}
        anew.load_state_dict(weights | fitting)
        assert (before - probabilities(anew, 32)).abs().max() > 5 * (before - after).abs().max()


@pytest.mark.parametrize("model_type", TINY)
def test_a_model_for_other_clips_comes_back_from_its_folder(tmp_path, model_type):
    save_classifier(tmp_path / "old", model_type)
    size = HALF_AS_LARGE_AGAIN[SIZES[model_type]]
    config = read(tmp_path / "old", num_frames=8, image_size=size)
    model, _ = load_model(config, str(tmp_path / "old"))
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "new")
    for processor in load_processors(str(tmp_path / "old"), config):
        assert processor_size(processor) == size
        processor.save_pretrained(tmp_path / "new")
    loaded, info = type(model).from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info.values()) and torch.equal(logits_of(loaded), expected)
    auto = AutoModelForVideoClassification.from_pretrained(tmp_path / "new")
    assert type(auto) is type(model) and torch.equal(logits_of(auto), expected)
    again, new = load_model(read(tmp_path / "new"), str(tmp_path / "new"))
    assert new == [] and torch.equal(logits_of(again), expected)
    classifier, clip, *_ = load_trained(str(tmp_path / "new"))
    assert torch.equal(logits_of(classifier), expected) and (clip["num_frames"], clip["image_size"]) == (8, size)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    load_weights(loaded, str(tmp_path / "new"))
    assert torch.equal(logits_of(loaded), expected)


def test_a_videomae_for_other_clips_is_never_read_as_an_ordinary_one(tmp_path):
    with_clips(save_classifier(tmp_path), 8, 32).save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["model_type"] not in CONFIG_MAPPING_NAMES and config["position_grid"] == [2, 2, 2]
    saved = load_file(tmp_path / "new" / "model.safetensors")
    assert not [name for name in saved if "position" in name]


def test_a_videomae_goes_back_to_the_clips_of_its_checkpoint(tmp_path):
    model = save_classifier(tmp_path)
    back = with_clips(with_clips(with_clips(model, 8, 48), 16, 64), 4, 32)
    assert torch.equal(logits(back), logits(model))


def test_a_new_head_and_other_clips_go_together(tiny_checkpoint):
    config = read(tiny_checkpoint, ["a", "b", "c"], num_frames=8)
    model, new = load_model(config, str(tiny_checkpoint))
    assert new == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    assert logits_of(model).shape == (2, 3) and model.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("videomae", {"num_frames": 5}, "num_frames: got 5; give a multiple of 2, the tubelet_size of the model"),
        ("vivit", {"num_frames": 5}, "num_frames: got 5; give a multiple of 2, the tubelet_size of the model"),
        ("vjepa2", {"num_frames": 5}, "num_frames: got 5; give a multiple of 2, the tubelet_size of the model"),
        ("timesformer", {"image_size": 40}, "image_size: got 40; give a multiple of 16, the patch_size of the model"),
        ("videoprism_vision_model", {"image_size": 40}, "image_size: got 40; give a multiple of 18, the patch_size"),
    ],
)
def test_clips_that_do_not_fall_into_patches_are_refused(tmp_path, model_type, options, message):
    save_classifier(tmp_path, model_type)
    assert refused(read, tmp_path, **options).startswith(message)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"num_frames": 8}, "num_frames"),
        ({"image_size": 48}, "image_size"),
        ({"num_frames": 8, "image_size": 48}, "num_frames and image_size"),
    ],
)
def test_a_weight_that_cannot_be_interpolated_is_named(tmp_path, monkeypatch, options, fields):
    save_classifier(tmp_path, "vivit")
    monkeypatch.delitem(positions.TABLES, "vivit.embeddings.position_embeddings")
    message = refused(load_model, read(tmp_path, **options), str(tmp_path))
    assert message == (
        f"{fields}: vivit.embeddings.position_embeddings of a vivit model depends on it and can't be interpolated; "
        f"leave {fields} out"
    )


# The recipe


def test_the_recipe_trains_for_other_clips_than_the_checkpoints(tmp_path, tiny_checkpoint, caplog, capsys):
    dataset = write_folder_dataset(tmp_path / "data", ("blue", "red"), 4)
    options = {"dataset": dataset, "max_steps": 1, "num_frames": 8, "image_size": 48}
    report = finetune(output_dir=tmp_path / "run", model_name_or_path=tiny_checkpoint, **options)
    assert [
        message for message in caplog.messages if message.startswith("model: reads 8 frames of 48 px instead of 4")
    ]
    assert (report["clip"]["num_frames"], report["clip"]["image_size"]) == (8, 48)
    assert report["model"]["type"] == "videomae_interpolated"
    assert processor_size(AutoVideoProcessor.from_pretrained(tmp_path / "run")) == 48
    capsys.readouterr()
    load_recipe("predict").main(words(model=tmp_path / "run", input=dataset / "blue"))
    assert capsys.readouterr().out.count(".mp4") == 4
    classify = pipeline("video-classification", model=str(tmp_path / "run"))
    assert type(classify.model) is InterpolatedVideoMAEForVideoClassification
    clip = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    assert {result["label"] for result in classify(clip, num_frames=8)} == {"blue", "red"}
