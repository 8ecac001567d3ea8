"""A trained model as predictions need it: from frames to logits to calibrated probabilities."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    BertConfig,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    pipeline,
    set_seed,
)

import vidtune.evaluation
from conftest import TINY_VIDEOMAE
from run_recipe import refused
from vidtune.data.clips import ClipFormat
from vidtune.data.transforms import crop_views
from vidtune.evaluation import predict_frames
from vidtune.evaluation.classifier import Classifier, load_predictor

LABELS = {0: "blue", 1: "green", 2: "red"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with weights that tell clips apart, and its processor."""
    set_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    config = VideoMAEConfig(**TINY_VIDEOMAE, id2label=LABELS, initializer_range=0.5)
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    VideoMAEImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    ).save_pretrained(folder)
    return folder


def pictures(count, height=32, width=32):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def classifier_of(forward, **fields):
    """A classifier of two labels around a function of normalised clips."""
    config = VideoMAEConfig(id2label={0: "no", 1: "yes"}, **fields)
    clip = ClipFormat(num_frames=4, image_size=8)
    return Classifier(forward, config, clip, [0.5] * 3, [0.5] * 3, torch.device("cpu"))


# Frames in, label and logits out


def test_frames_give_what_the_model_gives_for_the_same_pixels(folder):
    frames = pictures(4)
    found = predict_frames(str(folder), frames)
    pixels = AutoImageProcessor.from_pretrained(folder)(frames, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModelForVideoClassification.from_pretrained(folder).eval()(**pixels).logits[0]
    assert found.logits == pytest.approx(expected.tolist(), abs=1e-5)
    assert list(found.probabilities) == list(LABELS.values())
    assert list(found.probabilities.values()) == pytest.approx(expected.softmax(-1).tolist(), abs=1e-6)
    assert found.label == LABELS[int(expected.argmax())]


def test_frames_give_what_the_pipeline_gives(folder):
    frames = pictures(4)
    found = predict_frames(load_predictor(str(folder)), frames)
    for result in pipeline("video-classification", model=str(folder))(np.stack(frames), num_frames=4):
        assert result["score"] == pytest.approx(found.probabilities[result["label"]], abs=1e-5)


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (6, [0, 2, 3, 5]), (8, [1, 3, 5, 7])]
)
def test_of_more_or_fewer_frames_the_middle_of_each_part_is_taken(folder, count, chosen):
    model, frames = load_predictor(str(folder)), pictures(count)
    assert predict_frames(model, frames) == predict_frames(model, [frames[index] for index in chosen])


def test_frames_of_another_size_are_cropped_as_an_evaluation_does(folder):
    model, frames = load_predictor(str(folder)), pictures(4, 48, 80)
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    (cropped,) = crop_views(clip, 32, 1)
    assert predict_frames(model, frames).logits == model.logits(cropped[None])[0].tolist()
    assert predict_frames(model, [Image.fromarray(frame) for frame in frames]) == predict_frames(model, frames)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "frames: there are none"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
            r"frames: number 1 has shape \(9, 8, 3\), not",
        ),
        ([np.zeros((8, 8, 3))], "frames: number 0 is float64 of shape"),
        ([np.zeros((8, 8), np.uint8)], r"frames: number 0 is uint8 of shape \(8, 8\)"),
    ],
)
def test_frames_that_are_no_clip_are_refused(frames, words):
    model = classifier_of(lambda pixels: torch.zeros(len(pixels), 2))
    with pytest.raises(ValueError, match=words):
        predict_frames(model, frames)


def test_nothing_else_is_imported_by_name():
    with pytest.raises(AttributeError, match="no attribute 'predict_video'"):
        _ = vidtune.evaluation.predict_video


# Logits to probabilities


def test_pixels_are_normalised_and_logits_flattened_as_videoprism_has_them():
    model = classifier_of(
        lambda pixels: torch.stack([pixels.amin((1, 2, 3, 4)), pixels.amax((1, 2, 3, 4))], 1)[:, None]
    )
    views = torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8)
    views[1] = 255
    assert torch.allclose(model.logits(views), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def test_probabilities_of_views_are_averaged_and_then_calibrated():
    # Views say 0.75 and 0.25 of "no", then 0.5 and 0.5: the average is 5/8 to 3/8
    logits = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    plain = classifier_of(None)
    assert plain.probabilities(logits).tolist() == pytest.approx([5 / 8, 3 / 8])
    # A temperature of 1/2 squares the odds, 25 to 9
    sharp = classifier_of(None, vidtune={"temperature": 0.5})
    assert sharp.temperature == 0.5
    assert sharp.probabilities(logits).tolist() == pytest.approx([25 / 34, 9 / 34])


def test_several_labels_have_probabilities_of_their_own():
    model = classifier_of(None, problem_type="multi_label_classification", vidtune={"temperature": 0.5})
    logits = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    # 3/4 and 1/2 average to 5/8, odds of 5 to 3; 1/2 stays
    assert model.probabilities(logits).tolist() == pytest.approx([25 / 34, 0.5])
    extreme = torch.tensor([[1000.0, -1000.0]])
    assert model.probabilities(extreme).tolist() == [1.0, 0.0]


# Loading


def test_the_temperature_that_is_saved_is_used(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    record = {"sampling": "dense", "fps": 5.0, "temperature": 2.0}
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "config.json").write_text(json.dumps(config | {"vidtune": record}))
    model, plain = load_predictor(str(copy)), load_predictor(str(folder))
    assert (model.temperature, model.clip.sampling, model.clip.fps) == (2.0, "dense", 5.0)
    assert model.fingerprint == plain.fingerprint
    found, expected = (predict_frames(loaded, pictures(4)) for loaded in (model, plain))
    assert found.logits == expected.logits
    odds = {label: value**0.5 for label, value in expected.probabilities.items()}
    assert found.probabilities == pytest.approx({label: value / sum(odds.values()) for label, value in odds.items()})


@pytest.mark.parametrize("record", [{"temperature": -3}, {"temperature": "x"}, {"sampling": "x"}, "x"])
def test_a_damaged_record_of_the_clips_is_refused(folder, tmp_path, record):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    config = json.loads((folder / "config.json").read_text()) | {"vidtune": record}
    (model / "config.json").write_text(json.dumps(config))
    assert "is not what a run saves; copy the file anew" in refused(load_predictor, str(model))


def test_other_weights_have_another_fingerprint(folder, tmp_path):
    network = AutoModelForVideoClassification.from_pretrained(folder)
    network.classifier.bias.data[0] += 1
    network.save_pretrained(tmp_path / "model")
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "model")
    assert load_predictor(str(tmp_path / "model")).fingerprint != load_predictor(str(folder)).fingerprint


def test_what_is_no_model_of_videos_is_refused(folder, tiny_checkpoint, tmp_path):
    BertConfig().save_pretrained(tmp_path / "bert")
    assert "a bert model reads no videos" in refused(load_predictor, str(tmp_path / "bert"))
    assert "give a fine-tuned model" in refused(load_predictor, str(tiny_checkpoint))
    assert refused(load_predictor, str(tmp_path / "gone")).startswith("model: ")
    bare = tmp_path / "bare"
    bare.mkdir()
    assert refused(load_predictor, str(bare)).startswith(f"model: {bare}: can't be loaded")
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert refused(load_predictor, str(bare)).startswith(f"model: {bare}: has no processor")
