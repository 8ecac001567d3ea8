"""Features of every kind of model against what the model itself returns, and recipes/extract_features.py on disk."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    VideoMAEForPreTraining,
    VideoMAEImageProcessor,
    set_seed,
)

from conftest import TINY_VIDEOMAE
from run_recipe import REPOSITORY, exit_code, load_recipe, refused, words
from video_files import write_folder_dataset
from vidtune.data.clips import ClipFormat, evaluation_views
from vidtune.data.decoding import open_video
from vidtune.evaluation.classifier import load_predictor
from vidtune.models.attentive_probe import attentive_probe
from vidtune.models.configurations import FrameClassifierConfig, ZooConfig
from vidtune.models.features import load_features
from vidtune.models.frames import FrameClassifierForVideoClassification

CLASSES = ("blue", "red")
SMALL = {
    "image_size": 32,
    "patch_size": 16,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
IMAGES = {name: value for name, value in SMALL.items() if name != "num_frames"}
KINDS = {
    "videomae": (VideoMAEForPreTraining, TINY_VIDEOMAE),
    "timesformer": (AutoModelForVideoClassification, SMALL),
    "vivit": (AutoModelForVideoClassification, SMALL | {"tubelet_size": [2, 16, 16]}),
    "vjepa2": (
        AutoModelForVideoClassification,
        SMALL
        | {"crop_size": 32, "frames_per_clip": 4, "hidden_size": 24, "mlp_ratio": 2.0, "num_pooler_layers": 1}
        | {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
    ),
    "videoprism_vision_model": (
        AutoModel,
        SMALL
        | {"tubelet_size": [1, 16, 16], "num_spatial_layers": 2, "num_temporal_layers": 2, "num_auxiliary_layers": 1},
    ),
    "vit": (AutoModelForImageClassification, IMAGES),
    "resnet": (AutoModelForImageClassification, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
}
"""By type of model: what its checkpoint was saved by, and a small configuration."""


def save(folder, model):
    model.save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def checkpoint(folder, kind, seed=0):
    auto, fields = KINDS[kind]
    config = CONFIG_MAPPING[kind](**fields, initializer_range=0.3)
    set_seed(seed)
    return save(folder, auto(config) if auto is VideoMAEForPreTraining else auto.from_config(config))


def clips(frames=4):
    return torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three videos of each class and split; one of test is broken."""
    root = write_folder_dataset(tmp_path_factory.mktemp("data"), CLASSES, 3, splits=["train", "validation", "test"])
    (root / "test" / "red" / "0001.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("models") / "videomae", "videomae")


def run(output_dir, *flags, **options):
    quick = {"use_cpu": "true", "num_workers": 0, "batch_size": 2, "videos_per_shard": 2}
    return load_recipe("extract_features").main([*words(**quick | options, output_dir=output_dir), *flags])


@pytest.fixture(scope="module")
def extracted(dataset, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "out"
    return folder, run(folder, model=model, dataset=dataset)


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


# Models


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "vjepa2", "videoprism_vision_model"])
def test_features_are_means_of_the_tokens_of_any_layer(kind, tmp_path):
    source = checkpoint(tmp_path, kind)
    backbone, pixels = AutoModel.from_pretrained(source).eval(), clips()
    output = backbone(
        **{backbone.main_input_name: pixels},
        output_hidden_states=True,
        **({"skip_predictor": True} if kind == "vjepa2" else {}),
    )
    extractor, settings, *_ = load_features(source)
    assert settings == {"num_frames": 4, "image_size": 32, "sampling": "segments", "fps": 7.5}
    assert torch.allclose(extractor(pixels), output.last_hidden_state.mean(1), atol=1e-6)
    for layer in (1, len(output.hidden_states) - 1, -2):
        extractor, *_ = load_features(source, layer=layer)
        hidden = output.hidden_states[layer]
        expected = hidden.reshape(2, -1, hidden.shape[-1]).mean(1)
        assert torch.allclose(extractor(pixels), expected, atol=1e-6)
    if kind in ("timesformer", "vivit"):
        extractor, *_ = load_features(source, pooling="cls")
        assert torch.equal(extractor(pixels), output.last_hidden_state[:, 0])
    else:
        assert "no CLS token; use mean" in refused(load_features, source, pooling="cls")


@torch.inference_mode()
def test_a_model_of_images_gives_the_mean_over_the_frames(tmp_path):
    source, pixels = checkpoint(tmp_path / "vit", "vit"), clips(8)
    tokens = AutoModel.from_pretrained(source).eval()(pixels.flatten(0, 1)).last_hidden_state
    extractor, settings, *_ = load_features(source)
    assert settings["num_frames"] == 8
    assert torch.allclose(extractor(pixels), tokens.reshape(2, -1, 16).mean(1), atol=1e-6)
    extractor, *_ = load_features(source, pooling="cls")
    assert torch.allclose(extractor(pixels), tokens[:, 0].reshape(2, 8, 16).mean(1), atol=1e-6)
    source = checkpoint(tmp_path / "resnet", "resnet")
    maps = AutoModel.from_pretrained(source).eval()(pixels.flatten(0, 1)).last_hidden_state
    assert torch.allclose(load_features(source)[0](pixels), maps.mean((2, 3)).reshape(2, 8, 16).mean(1), atol=1e-6)


@torch.inference_mode()
def test_models_of_ours_give_what_their_backbone_does(tmp_path):
    source, pixels = checkpoint(tmp_path / "vit", "vit"), clips(8)
    image_model = AutoModelForImageClassification.from_pretrained(source)
    config = FrameClassifierConfig(image_config=image_model.config, image_size=32)
    frames = save(tmp_path / "frames", FrameClassifierForVideoClassification(config, image_model))
    assert torch.equal(load_features(frames)[0](pixels), load_features(source)[0](pixels))
    source = checkpoint(tmp_path / "videomae", "videomae")
    model = AutoModelForVideoClassification.from_pretrained(source)
    probe = save(tmp_path / "probe", attentive_probe(model, num_probes=1, probe_blocks=1))
    for layer in (-1, 1):
        expected = load_features(source, layer=layer)[0](clips())
        assert torch.equal(load_features(probe, layer=layer)[0](clips()), expected)


@torch.inference_mode()
def test_a_network_of_the_zoo_gives_what_its_classifier_reads(tmp_path):
    network = AutoModelForVideoClassification.from_config(ZooConfig(architecture="motion_cnn", image_size=32)).eval()
    source, read = save(tmp_path, network), []
    network.classifier.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    network(clips(16))
    assert torch.equal(load_features(source)[0](clips(16)), read[0])
    assert refused(load_features, source, layer=1).endswith("gives features at its end only; leave layer out")
    assert (
        refused(load_features, source, pooling="cls") == "pooling: cls: a motion_cnn model has no CLS token; use mean"
    )


def test_a_layer_that_the_model_lacks_is_refused(model):
    message = "layer: 3: the model has 2 layers; give 0 (what goes into the first) to 2, or -1, the end, and down"
    assert refused(load_features, model, layer=3) == message
    assert refused(load_features, model, layer=-4).startswith("layer: -4: the model has 2 layers")


# On disk


def test_features_are_a_dataset_of_all_videos_that_could_be_read(extracted, dataset, model):
    folder, report = extracted
    rows = load_dataset(str(folder))
    assert {split: len(part) for split, part in rows.items()} == {"train": 6, "validation": 6, "test": 5}
    first = rows["train"][0]
    assert set(first) == {"video_id", "label", "group", "path", "features"} and len(first["features"]) == 16
    assert rows["train"].features["label"].names == ["blue", "red"]
    assert first["video_id"] == "train/blue/0000.mp4" and first["label"] == 0
    extractor, settings, mean, std = load_features(model)
    with open_video(dataset / "train" / "blue" / "0000.mp4") as video:
        views = evaluation_views(video, ClipFormat(**settings))
    pixels = (views / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        assert np.allclose(first["features"], extractor(pixels)[0], atol=1e-5)
    (failed,) = report["data"]["test"]["failed"]
    assert failed["path"].endswith("test/red/0001.mp4") and report["data"]["test"]["videos"] == 6
    assert json.loads((folder / "report.json").read_text())["features"]["width"] == 16


def test_clips_are_averaged_or_kept(dataset, model, tmp_path):
    views = {"model": model, "dataset": dataset, "temporal_views": 2, "spatial_crops": 3}
    run(tmp_path / "mean", **views)
    run(tmp_path / "kept", "--keep_clips", **views)
    kept = pq.read_table(tmp_path / "kept" / "data" / "test-00000-of-00003.parquet").to_pydict()
    mean = pq.read_table(tmp_path / "mean" / "data" / "test-00000-of-00003.parquet").to_pydict()
    assert kept["clip"] == [*range(6), *range(6)] and len(mean["features"]) == 2
    assert np.allclose(np.mean(kept["features"][:6], axis=0), mean["features"][0], atol=1e-6)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(extracted, dataset, model, tmp_path, monkeypatch):
    from vidtune.evaluation import extraction

    write, done = extraction.write_shard, []

    def write_two(path, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write(path, *arguments)

    folder, options = tmp_path / "out", {"model": model, "dataset": dataset}
    monkeypatch.setattr(extraction, "write_shard", write_two)
    with pytest.raises(KeyboardInterrupt):
        run(folder, **options)
    assert sorted(contents(folder)) == sorted(path.name for path in done)
    times = {path: path.stat().st_mtime_ns for path in done}
    monkeypatch.setattr(extraction, "write_shard", write)
    run(folder, **options)
    assert contents(folder) == contents(extracted[0])
    assert times == {path: path.stat().st_mtime_ns for path in done}  # what was done stays


def test_an_output_of_something_else_is_kept(extracted, dataset, model, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(extracted[0], folder)
    options = {"model": model, "dataset": dataset}
    message = refused(run, folder, **options, layer=1)
    assert message.endswith("holds features of other settings (layer); give another folder, or --overwrite")
    assert contents(folder) == contents(extracted[0])
    run(folder, "--overwrite", **options, layer=1)
    assert contents(folder) != contents(extracted[0])
    (folder / "features.json").unlink()
    assert "files of something else" in refused(run, folder, "--overwrite", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "model: missing"),
        ({"model": "x", "probe": "knn,forest"}, "probe: forest: unknown; choose from knn, svm, logistic, xgboost"),
        ({"model": "x", "probe_folds": 3}, "probe_folds: 3 goes with probe"),
        ({"model": "x", "sampling": "segments", "fps": 2}, "fps: 2.0 goes with sampling: dense"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, tmp_path):
    assert refused(run, tmp_path / "out", **options).startswith(message)
    assert not (tmp_path / "out").exists()


def test_several_labels_have_features_and_no_probes(dataset, model, tmp_path):
    lines = ["video,labels,split"]
    for split in ("train", "validation"):
        lines += [f"{dataset}/{split}/blue/0000.mp4,blue|round,{split}", f"{dataset}/{split}/red/0000.mp4,red,{split}"]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    source = {"model": model, "dataset": table, "video_root": dataset}
    assert "several labels each" in refused(run, tmp_path / "out", probe="knn", **source)
    report = run(tmp_path / "out", **source)
    rows = load_dataset(str(tmp_path / "out"))["train"]
    assert rows["labels"][:] == [[0, 2], [1]] and report["labels"] == ["blue", "red", "round"]


def test_probes_are_scored_drawn_and_loaded_by_predict(extracted, dataset, model, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(extracted[0], folder)
    report = run(folder, model=model, dataset=dataset, probe="knn,logistic")
    assert contents(folder) == contents(extracted[0])  # made before
    fitted = report["probes"]["fitted"]
    assert list(fitted) == ["knn", "logistic"] and report["probes"]["scored_on"] == "test"
    metrics = fitted["logistic"]["metrics"]
    assert (metrics["videos"], metrics["failed"]) == (5, 1) and "accuracy" in metrics["intervals"]
    assert (folder / "probes.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (folder / "probes.html").read_text()
    assert f"predict.py --model {folder}/probes/" in capsys.readouterr().out

    import skops.io
    from scipy.special import softmax

    probe = skops.io.load(folder / "probes" / "logistic" / "probe.skops")
    record = json.loads((folder / "probes" / "logistic" / "probe.json").read_text())
    row = load_dataset(str(folder))["test"][0]
    logs = probe.predict_log_proba(np.array([row["features"]], np.float32))[0]
    expected = softmax(logs / (record["temperature"] or 1))
    argv = words(model=folder / "probes" / "logistic", input=row["path"], output=tmp_path / "o.jsonl", use_cpu="true")
    assert exit_code("predict", [*argv, "--num_workers", "0"]) == 0
    found = json.loads((tmp_path / "o.jsonl").read_text())
    assert found["label"] == CLASSES[expected.argmax()]
    assert found["probability"] == pytest.approx(expected.max(), abs=1e-4)


def test_a_probe_keeps_its_clips_and_its_backbone(dataset, model, tmp_path):
    source, folder = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model, source)
    run(folder, model=source, dataset=dataset, frame_stride=2, probe="svm", probe_folds=3)
    probe = str(folder / "probes" / "svm")
    classifier = load_predictor(probe, device="cpu")
    assert (classifier.clip.sampling, classifier.clip.frame_stride, classifier.labels) == ("dense", 2, [*CLASSES])
    assert "is a probe, which predict.py takes" in refused(load_features, probe)
    message = "sampling: got segments, but the model was trained with dense; leave sampling out"
    assert refused(load_predictor, probe, device="cpu", sampling="segments") == message
    checkpoint(source, "videomae", seed=1)
    assert "was fitted on features of another model than" in refused(load_predictor, probe, device="cpu")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(extracted, dataset, model, tmp_path):
    options = {"model": model, "dataset": dataset, "output_dir": tmp_path / "out", "use_cpu": "true"}
    options |= {"num_workers": 0, "batch_size": 2, "videos_per_shard": 2}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "recipes/extract_features.py"]
    done = subprocess.run([*command, *words(**options)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(tmp_path / "out") == contents(extracted[0])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["environment"]["processes"] == 2 and len(report["data"]["test"]["failed"]) == 1
