import json
import socket
import time

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    VivitVideoProcessor,
    set_seed,
)

from conftest import TINY_VIDEOMAE
from run_recipe import refused
from vidtune.evaluation.calibration import save_temperature
from vidtune.hub import locate
from vidtune.models.loading import CLIP_RECORD, clip_settings, load_model, load_trained, read_config
from vidtune.models.processors import load_processors, normalisation, processor_size
from vidtune.models.tuning import apply_tuning
from vidtune.training.weights import complete_adapter

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY = {
    "videomae": TINY_VIDEOMAE,
    "timesformer": TRANSFORMER | {"image_size": 32, "patch_size": 16, "num_frames": 4},
    "vivit": TRANSFORMER | {"image_size": 32, "tubelet_size": [2, 16, 16], "num_frames": 4},
    "vjepa2": {
        "crop_size": 32,
        "patch_size": 16,
        "frames_per_clip": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_pooler_layers": 1,
        "pred_hidden_size": 16,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
    "videoprism_vision_model": {
        "image_size": 36,
        "num_frames": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
    },
}
SIZES = dict.fromkeys(TINY, 32) | {"videoprism_vision_model": 36}


def read(path, labels=("a", "b"), overrides=None, **options):
    return read_config(str(path), None, overrides or {}, labels, **options)


def new_config(model_type, labels=("a", "b"), **overrides):
    return read_config(None, model_type, TINY[model_type] | overrides, labels)


def save_classifier(folder, model_type="videomae", labels=("a", "b")):
    """Train nothing, and save it as a run does."""
    set_seed(1)
    config = new_config(model_type, labels)
    clip_settings(config, None, None)
    model, _ = load_model(config, None)
    with torch.no_grad():  # away from zeros and ones, which any new model has as well
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for processor in load_processors(None, config):
        processor.save_pretrained(folder)
    return model


def logits(model, size=32):
    clips = torch.rand(2, 4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(**{model.main_input_name: clips}).logits


# From scratch


@pytest.mark.parametrize("model_type", TINY)
def test_a_model_of_each_type_starts_from_scratch(model_type):
    config = new_config(model_type, ["a", "b", "c"])
    model, new = load_model(config, None)
    assert logits(model, SIZES[model_type]).flatten(1).shape == (2, 3)
    assert new == sorted(name for name, _ in model.named_parameters())
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.config.label2id["c"] == 2
    assert clip_settings(config, None, None)["image_size"] == SIZES[model_type]
    processors = load_processors(None, config)
    assert [processor_size(processor) for processor in processors] == [SIZES[model_type]]
    mean, std = normalisation(processors[0])
    assert mean == pytest.approx([0.485, 0.456, 0.406]) and std == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize("as_file", [False, True])
def test_a_configuration_may_come_from_a_folder_or_a_json(tmp_path, as_file):
    new_config("videomae").save_pretrained(tmp_path)
    path = tmp_path / "config.json" if as_file else tmp_path
    config = read_config(None, str(path), {"hidden_size": 8}, ["x", "y", "z"])
    assert (config.model_type, config.hidden_size, config.num_frames, config.num_labels) == ("videomae", 8, 4, 3)


def test_a_folder_does_not_hide_a_model_type_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "videomae").mkdir()
    monkeypatch.chdir(tmp_path)
    assert new_config("videomae").model_type == "videomae"


def test_frames_and_size_of_a_new_model_can_be_set():
    config = read_config(None, "videomae", TINY_VIDEOMAE, ["a"], num_frames=8, image_size=48)
    assert (config.num_frames, config.image_size) == (8, 48)
    config = read_config(None, "vjepa2", TINY["vjepa2"], ["a"], num_frames=8, image_size=48)
    assert (config.frames_per_clip, config.crop_size) == (8, 48)


def test_an_unknown_model_type_comes_with_the_nearest():
    assert "did you mean videomae?" in refused(read_config, None, "videomea", {}, ["a"])
    assert "give a model type such as videomae" in refused(read_config, None, "qqqqq", {}, ["a"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hiden_size": 8}, "config_overrides: hiden_size: unknown to videomae; did you mean hidden_size?"),
        ({"hidden_size": "many"}, "config_overrides: hidden_size: got 'many': Field 'hidden_size' expected int"),
        ({"num_attention_heads": 3}, "config_overrides: videomae: can't be loaded: The hidden size 16"),
        ({"hidden_act": "nope"}, "config_overrides: videomae: can't be loaded: KeyError 'nope'"),
        ({"num_frames": 5}, "num_frames: got 5; give a multiple of 2, the tubelet_size of the model"),
        ({"num_frames": 0}, "num_frames: got 0; give a multiple of 2"),
        ({"image_size": 40}, "image_size: got 40; give a multiple of 16, the patch_size of the model"),
        ({"image_size": [32, 48]}, "image_size: got [32, 48]; give a multiple of 16"),
        ({"patch_size": 0}, "patch_size: got 0; give at least 1"),
        ({"tubelet_size": 0}, "tubelet_size: got 0; give at least 1"),
    ],
)
def test_an_override_that_does_not_fit_is_named(overrides, message):
    def build():
        load_model(new_config("videomae", **overrides), None)

    assert refused(build).startswith(message)


def test_the_clip_of_a_vivit_falls_into_its_tubelets():
    assert "multiple of 2, the tubelet_size" in refused(new_config, "vivit", num_frames=3)
    assert "multiple of 16, the patch_size" in refused(new_config, "vivit", image_size=40)


@pytest.mark.parametrize("model_type", ["bert", "videoprism"])
def test_a_model_that_reads_no_clips_is_refused(model_type):
    assert f"a {model_type} model reads no clips" in refused(read_config, None, model_type, {}, ["a"])


# From a checkpoint


def test_a_pretrained_backbone_is_loaded_whole_and_the_head_is_new(tiny_checkpoint):
    config = read(tiny_checkpoint, ["a", "b", "c"])
    model, new = load_model(config, str(tiny_checkpoint))
    assert new == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    saved = load_file(tiny_checkpoint / "model.safetensors")
    # Under their names in the file, which save_pretrained gives.
    model.save_pretrained(tiny_checkpoint / "again")
    again = load_file(tiny_checkpoint / "again" / "model.safetensors")
    backbone = {name for name in again if name.startswith("videomae.")}
    assert len(backbone) == len(again) - 4 > 20
    assert all(torch.equal(again[name], saved[name]) for name in backbone)
    assert any("q_bias" in name or "query.bias" in name for name in backbone)


def test_a_head_for_other_labels_is_new_and_named(tmp_path):
    old = save_classifier(tmp_path)
    model, new = load_model(read(tmp_path, ["a", "b", "c"]), str(tmp_path))
    assert new == ["classifier.bias", "classifier.weight"]
    assert model.classifier.weight.shape == (3, 16)
    assert torch.equal(model.fc_norm.weight, old.fc_norm.weight)


@pytest.mark.parametrize("model_type", TINY)
def test_a_head_for_as_many_other_labels_is_new_and_named(tmp_path, model_type):
    old = save_classifier(tmp_path, model_type)
    model, new = load_model(read(tmp_path, ["a", "x"]), str(tmp_path))
    assert new == ["classifier.bias", "classifier.weight"]
    assert not torch.equal(model.classifier.weight, old.classifier.weight)
    assert not torch.equal(model.classifier.bias, old.classifier.bias)
    assert model.classifier.weight.std() > 0 and model.config.id2label == {0: "a", 1: "x"}
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    assert others and all(torch.equal(value, old.state_dict()[name]) for name, value in others.items())


def test_labels_in_another_order_are_other_labels(tmp_path):
    save_classifier(tmp_path)
    assert load_model(read(tmp_path, ["b", "a"]), str(tmp_path))[1] == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize("model_type", TINY)
def test_a_saved_classifier_of_each_type_comes_back_with_its_head(tmp_path, model_type):
    old = save_classifier(tmp_path, model_type)
    config = read(tmp_path)
    model, new = load_model(config, str(tmp_path))
    assert new == []
    assert torch.equal(logits(model, SIZES[model_type]), logits(old, SIZES[model_type]))
    assert processor_size(load_processors(str(tmp_path), config)[0]) == SIZES[model_type]
    again, clip, mean, std = load_trained(str(tmp_path))
    assert torch.equal(logits(again, SIZES[model_type]), logits(old, SIZES[model_type]))
    assert clip == {"num_frames": 4, "image_size": SIZES[model_type], "sampling": "segments", "fps": 7.5}
    assert mean == pytest.approx([0.485, 0.456, 0.406]) and std == pytest.approx([0.229, 0.224, 0.225])


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = change(load_file(path))
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_backbone_of_another_width_is_refused(tmp_path):
    save_classifier(tmp_path)
    change_config(tmp_path, hidden_size=32)
    message = refused(load_model, read(tmp_path), str(tmp_path))
    assert "weights of the backbone are missing or of another shape, videomae." in message


def test_a_backbone_with_a_missing_weight_is_refused_and_the_weight_named(tmp_path):
    save_classifier(tmp_path)
    lost = "videomae.encoder.layer.1.output.dense.weight"
    change_weights(tmp_path, lambda weights: {name: value for name, value in weights.items() if name != lost})
    message = refused(load_model, read(tmp_path), str(tmp_path))
    assert f": 1 weights of the backbone are missing or of another shape, {lost} first" in message


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_classifier(tmp_path)
    TimesformerForVideoClassification(TimesformerConfig(**TINY["timesformer"])).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    assert "choose a checkpoint of a videomae model" in refused(load_model, read(tmp_path), str(tmp_path))


def test_weights_that_are_cut_off_missing_or_no_weights_are_refused(tmp_path):
    save_classifier(tmp_path)
    config, path = read(tmp_path), tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{tmp_path}: can't be loaded" in refused(load_model, config, str(tmp_path))
    path.write_bytes(b"")
    assert f"{tmp_path}: can't be loaded" in refused(load_model, config, str(tmp_path))
    path.unlink()
    assert "no file named model.safetensors" in refused(load_model, config, str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"abc")
    assert "its weights are a pickle, pytorch_model.bin" in refused(load_model, config, str(tmp_path))


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "videomea"}'])
def test_a_broken_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert refused(read, tmp_path).startswith(f"model_name_or_path: {tmp_path}: can't be loaded")


def test_frames_and_size_may_differ_from_the_checkpoint(tiny_checkpoint):
    assert clip_settings(read(tiny_checkpoint), None, None)["num_frames"] == 4
    clip = clip_settings(read(tiny_checkpoint, num_frames=8, image_size=48), None, None)
    assert (clip["num_frames"], clip["image_size"]) == (8, 48)
    assert "num_frames: got 5; give a multiple of 2" in refused(read, tiny_checkpoint, num_frames=5)


# Fields of a checkpoint's configuration that are changed


@pytest.fixture
def first_token_checkpoint(tiny_checkpoint):
    """A pre-trained VideoMAE whose configuration says, as the Hub's do, that its first token is classified."""
    set_seed(0)
    config = VideoMAEConfig(**TINY_VIDEOMAE, use_mean_pooling=False)
    VideoMAEForPreTraining(config).save_pretrained(tiny_checkpoint)
    return tiny_checkpoint


def test_tokens_are_averaged_where_an_override_says_so_and_what_is_saved_says_it(first_token_checkpoint, tmp_path):
    path = str(first_token_checkpoint)
    model, new = load_model(read(path, overrides={"use_mean_pooling": True}), path)
    assert new == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    clips = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = model.eval().videomae(clips).last_hidden_state
        expected = model.classifier(torch.nn.functional.layer_norm(tokens.mean(1), (16,)))
    assert tokens.shape == (2, 8, 16) and torch.allclose(logits(model), expected, atol=1e-5)
    plain, new = load_model(read(path), path)
    assert new == ["classifier.bias", "classifier.weight"]
    plain.classifier.load_state_dict(model.classifier.state_dict())
    assert not torch.allclose(logits(plain), expected, atol=1e-3)
    model.save_pretrained(tmp_path / "run")
    assert torch.equal(logits(AutoModelForVideoClassification.from_pretrained(tmp_path / "run")), logits(model))


@pytest.mark.parametrize("num_frames", [4, 8])
def test_an_adapter_remembers_what_was_changed_of_its_base(first_token_checkpoint, tmp_path, num_frames):
    path = str(first_token_checkpoint)
    config = read(path, overrides={"use_mean_pooling": True}, num_frames=num_frames)
    processor = load_processors(path, config)[0]
    model, new = load_model(config, path)
    model = apply_tuning(model, "lora", new=new, base_model=path)
    model.save_pretrained(tmp_path)
    complete_adapter(model, tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, clip, *_ = load_trained(str(tmp_path))
    assert loaded.config.use_mean_pooling and clip["num_frames"] == num_frames
    assert f"{tmp_path}: is an adapter of {path}" in refused(load_model, read(tmp_path), str(tmp_path))
    clips = torch.rand(2, num_frames, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(clips).logits, model.eval()(clips).logits, atol=1e-6)


def test_the_model_of_images_may_be_changed_too(tmp_path):
    ViTForImageClassification(ViTConfig(**TRANSFORMER, image_size=32)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, _ = load_model(read(tmp_path, overrides={"hidden_dropout_prob": 0.25}), str(tmp_path))
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25} and model.config.image_config.hidden_dropout_prob == 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"use_mean_poling": True}, "config_overrides: use_mean_poling: unknown to videomae; did you mean use_mean_"),
        ({"use_mean_pooling": "often"}, "config_overrides: use_mean_pooling: got 'often': Field 'use_mean_pooling' "),
        ({"id2label": {0: "x"}}, "config_overrides: id2label: unknown to videomae"),
        ({"hidden_size": 32}, "; leave hidden_size out of config_overrides"),
        (
            {"num_attention_heads": 3},
            "can't be loaded: The hidden size 16 is not a multiple of the number of attention",
        ),
        (
            {"num_hidden_layers": 1},
            "config_overrides: num_hidden_layers: 15 weights of the checkpoint would be left out",
        ),
    ],
)
def test_a_change_that_does_not_fit_the_checkpoint_is_refused(tiny_checkpoint, overrides, message):
    assert message in refused(lambda: load_model(read(tiny_checkpoint, overrides=overrides), str(tiny_checkpoint)))


@pytest.mark.parametrize("model_type", TINY)
def test_weights_of_half_precision_become_whole(tmp_path, model_type):
    save_classifier(tmp_path, model_type).to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_model(read(tmp_path), str(tmp_path))[0], load_trained(str(tmp_path))[0]
    longer = read(tmp_path, num_frames=8)
    for model in (
        *loaded,
        load_model(longer, str(tmp_path))[0],
        load_model(read_config(None, str(tmp_path), {}, "ab"), None)[0],
    ):
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_a_size_of_two_equal_numbers_is_one_number(tmp_path):
    save_classifier(tmp_path)
    change_config(tmp_path, image_size=[32, 32])
    config = read(tmp_path, image_size=32)
    assert clip_settings(config, None, None)["image_size"] == 32


# How clips are sampled


def test_the_sampling_is_kept_in_the_configuration_and_read_from_it(tmp_path):
    config = new_config("videomae")
    assert clip_settings(config, "dense", 5.0) == {"num_frames": 4, "image_size": 32, "sampling": "dense", "fps": 5.0}
    load_model(config, None)[0].save_pretrained(tmp_path)
    config = read(tmp_path)
    assert clip_settings(config, None, None)["sampling"] == "dense"
    assert clip_settings(config, "dense", 5.0)["fps"] == 5.0
    assert "sampling: got segments, but the model was trained with dense" in refused(
        clip_settings, config, "segments", None
    )
    assert "fps: got 7.5, but the model was trained with 5.0" in refused(clip_settings, config, None, 7.5)


def test_a_fine_tuned_checkpoint_keeps_its_record(tiny_checkpoint, tmp_path):
    config = read(tiny_checkpoint)
    clip_settings(config, "dense", 4.0)
    load_model(config, str(tiny_checkpoint))[0].save_pretrained(tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved[CLIP_RECORD] == {"sampling": "dense", "fps": 4.0}


def test_a_frame_stride_stands_in_the_place_of_a_rate(tmp_path):
    config = new_config("videomae")
    expected = {"num_frames": 4, "image_size": 32, "sampling": "dense", "frame_stride": 4}
    assert clip_settings(config, None, None, 4) == expected
    load_model(config, None)[0].save_pretrained(tmp_path)
    config = read(tmp_path)
    assert clip_settings(config, None, None) == expected == clip_settings(config, "dense", None, 4)
    assert "fps: got 7.5, but the model was trained with frame_stride 4" in refused(clip_settings, config, None, 7.5)
    assert "frame_stride: got 2, but the model was trained with 4" in refused(clip_settings, config, None, None, 2)
    by_rate = new_config("videomae")
    clip_settings(by_rate, "dense", 5.0)
    message = refused(clip_settings, by_rate, None, None, 4)
    assert "frame_stride: got 4, but the model was trained with fps 5.0; leave frame_stride out" in message


def test_a_temperature_does_not_outlive_the_weights_that_it_was_fitted_for(tmp_path):
    config = new_config("videomae")
    clip_settings(config, None, None)
    load_model(config, None)[0].save_pretrained(tmp_path)
    load_processors(None, config)[0].save_pretrained(tmp_path)
    save_temperature(tmp_path, 1.5)
    model, *_ = load_trained(str(tmp_path))
    assert getattr(model.config, CLIP_RECORD)["temperature"] == 1.5
    assert "temperature" not in getattr(read(tmp_path), CLIP_RECORD)


@pytest.mark.parametrize(
    ("sampling", "fps", "expected"),
    [
        (None, None, ("segments", 7.5)),
        ("dense", None, ("dense", 7.5)),
        (None, 3.0, ("dense", 3.0)),
        ("segments", None, ("segments", 7.5)),
    ],
)
def test_what_is_left_out_has_a_default(sampling, fps, expected):
    settings = clip_settings(new_config("videomae"), sampling, fps)
    assert (settings["sampling"], settings["fps"]) == expected


# Processors


def test_a_checkpoint_keeps_mean_std_and_size_of_its_processor(tiny_checkpoint):
    processors = load_processors(str(tiny_checkpoint), read(tiny_checkpoint))
    for processor in processors:
        assert list(processor.image_mean) == [0.4, 0.5, 0.6] and list(processor.image_std) == [0.2, 0.25, 0.3]
        assert processor_size(processor) == 32


@pytest.mark.parametrize("model_type", TINY)
def test_saved_processors_load_with_the_auto_classes_and_agree(tmp_path, model_type):
    save_classifier(tmp_path, model_type)
    processors = load_processors(str(tmp_path), read(tmp_path))
    for processor in processors:
        processor.save_pretrained(tmp_path / "again")
    autos = [AutoVideoProcessor] if model_type == "vjepa2" else [AutoVideoProcessor, AutoImageProcessor]
    assert len(processors) == len(autos)
    for auto in autos:
        mean, std = normalisation(auto.from_pretrained(tmp_path / "again"))
        assert mean == pytest.approx([0.485, 0.456, 0.406]) and std == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize("model_type", TINY)
def test_our_normalisation_is_the_processors(tmp_path, model_type):
    save_classifier(tmp_path, model_type)
    size = SIZES[model_type]
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    for processor in load_processors(str(tmp_path), read(tmp_path)):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalisation(processor))
        ours = (torch.from_numpy(frames) / 255 - mean) / std
        whole = {"do_resize": False, "do_center_crop": False}
        if "Video" in type(processor).__name__ and "Image" not in type(processor).__name__:
            theirs = processor(videos=[torch.from_numpy(frames)], return_tensors="pt", **whole)
        else:
            theirs = processor(list(frames.transpose(0, 2, 3, 1)), return_tensors="pt", **whole)
        values = next(iter(theirs.values())).reshape(4, 3, size, size)
        assert torch.allclose(ours, values, atol=1e-5)


def test_a_processor_that_leaves_steps_out_is_followed():
    processor = VivitVideoProcessor(do_normalize=False)
    assert normalisation(processor) == (pytest.approx([0.5] * 3), pytest.approx([0.5] * 3))
    processor = VivitVideoProcessor(do_rescale=False, offset=False, image_mean=[51.0] * 3, image_std=[102.0] * 3)
    assert normalisation(processor) == (pytest.approx([0.2] * 3), pytest.approx([0.4] * 3))


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize(
    "size",
    [
        {"size": 32},
        {"size": 32, "crop_size": 32},
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ],
    ids=["number", "numbers", "sides"],
)
def test_a_processor_of_transformers_4_is_read_as_its_successor(tiny_checkpoint, key, size):
    old = {key: "VideoMAEFeatureExtractor", "do_normalize": True, "do_resize": True, "do_center_crop": True}
    old |= size | {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 2}
    (tiny_checkpoint / "preprocessor_config.json").write_text(json.dumps(old))
    config = read(tiny_checkpoint)
    processors = load_processors(str(tiny_checkpoint), config)
    assert [type(processor).__name__ for processor in processors] == [
        "VideoMAEVideoProcessor",
        "VideoMAEImageProcessor",
    ]
    for processor in processors:
        assert list(processor.image_mean) == [0.1, 0.2, 0.3] and processor_size(processor) == 32
        processor.save_pretrained(tiny_checkpoint / "new")
    assert list(AutoImageProcessor.from_pretrained(tiny_checkpoint / "new").image_std) == [0.5, 0.6, 0.7]
    assert list(AutoVideoProcessor.from_pretrained(tiny_checkpoint / "new").image_std) == [0.5, 0.6, 0.7]


def test_a_processor_of_another_size_is_refused(tiny_checkpoint):
    path = tiny_checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": {"height": 224, "width": 224}}))
    message = refused(load_processors, str(tiny_checkpoint), read(tiny_checkpoint))
    assert "makes pictures of 224 px, its model reads 32 px" in message


def test_a_checkpoint_without_a_processor_is_refused(tiny_checkpoint):
    (tiny_checkpoint / "preprocessor_config.json").unlink()
    message = refused(load_processors, str(tiny_checkpoint), read(tiny_checkpoint))
    assert "has no processor" in message and "put its preprocessor_config.json beside the weights" in message


@pytest.mark.parametrize("content", ["{", "[1]", '"text"', "[]", ""])
def test_a_broken_processor_is_refused(tiny_checkpoint, content):
    (tiny_checkpoint / "preprocessor_config.json").write_text(content)
    assert str(tiny_checkpoint) in refused(load_processors, str(tiny_checkpoint), read(tiny_checkpoint))


def test_a_model_without_a_trained_head_is_no_classifier(tiny_checkpoint):
    message = refused(load_trained, str(tiny_checkpoint))
    assert message == f"model: {tiny_checkpoint}: has no weights for classifier.bias; give a fine-tuned model"


# The Hub


def test_a_name_that_is_no_folder_is_refused_at_once_when_offline():
    start = time.perf_counter()
    message = refused(read, "someone/videomae")
    assert message.startswith("model_name_or_path: someone/videomae: is no folder here, and the Hub can't be reached")
    assert "hf download someone/videomae" in message
    assert time.perf_counter() - start < 3


def test_a_hub_that_does_not_answer_is_told_in_seconds(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.perf_counter()
    message = refused(load_trained, "someone/videomae")
    assert message.startswith("model: someone/videomae: is no folder here, and the Hub can't be reached")
    assert "refused" in message
    assert time.perf_counter() - start < 3


def test_what_is_neither_a_folder_nor_a_hub_id_is_said_not_to_exist(tmp_path):
    assert "does not exist; give a folder or a Hub id" in refused(read, tmp_path / "missing")


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "is a file; give the folder" in refused(read, tmp_path / "model.safetensors")


def hub_error(name):
    kind = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind, "404\nnot found")  # what its constructor asks for differs between versions


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "is no folder here and not on the Hub, or private"),
        ("GatedRepoError", "is no folder here and not on the Hub, or private"),
        ("RevisionNotFoundError", "model_revision: v2: is no branch, tag or commit of "),
    ],
)
def test_what_the_hub_does_not_have_is_told_apart(monkeypatch, error, message):
    def model_info(self, name, revision=None, timeout=None):
        assert (name, revision, timeout) == ("someone/videomae", "v2", 10)
        raise hub_error(error)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    assert message in refused(locate, "someone/videomae", revision="v2")


@pytest.mark.parametrize("revision", [None, "main", 40 * "a"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_checkpoint_in_the_cache_needs_no_hub(tmp_path, monkeypatch, tiny_checkpoint, offline, revision):
    repository = tmp_path / "cache" / "models--someone--videomae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(40 * "a")
    (repository / "snapshots").mkdir()
    tiny_checkpoint.rename(repository / "snapshots" / (40 * "a"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    config = read("someone/videomae", revision=revision)
    assert len(load_model(config, "someone/videomae", revision)[1]) == 4
    assert processor_size(load_processors("someone/videomae", config, revision)[0]) == 32
    assert time.perf_counter() - start < 3


def test_a_folder_is_loaded_from_there(tmp_path):
    assert locate(str(tmp_path)) == str(tmp_path)


def test_the_saved_model_is_one_of_the_auto_class(tmp_path):
    old = save_classifier(tmp_path)
    assert torch.equal(logits(AutoModelForVideoClassification.from_pretrained(tmp_path)), logits(old))
