"""Exported models: every family, any number of clips, read by predict.py's own loader, whole or not there."""

import contextlib
import io
import json
import os
import re

import pytest
import torch
from transformers import VideoMAEForVideoClassification, set_seed

import test_loading
import test_zoo
from run_recipe import exit_code, load_recipe, refused, words
from video_files import write_folder_dataset
from vidtune.data.clips import evaluation_views
from vidtune.data.decoding import open_video
from vidtune.evaluation.classifier import load_predictor
from vidtune.models import exported
from vidtune.models.exported import export_model, load_exported
from vidtune.models.loading import CLIP_RECORD, clip_settings, load_model, read_config
from vidtune.models.processors import load_processors

LABELS = ["a", "b", "c"]
ZOO = {name: {"num_frames": f, "image_size": s, "arguments": a} for name, (f, s, a) in test_zoo.TINY.items()}
TINY = test_loading.TINY | {name: ZOO[name] for name in ("x3d_xs", "slowfast_r50")} | {"vit": test_zoo.VIT}


def build(name):
    """A tiny model of random weights, in evaluation mode."""
    set_seed(0)
    config = read_config(None, name, TINY[name], LABELS, num_frames=TINY[name].get("num_frames", 4))
    return load_model(config, None)[0].eval()


def score(model, pixels):
    with torch.no_grad():
        return model(**{model.main_input_name: pixels}).logits.flatten(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_folder_dataset(tmp_path_factory.mktemp("data"), LABELS, per_class=2, splits=["train", "test"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves of a model: its weights, clips, temperature and processor."""
    folder = tmp_path_factory.mktemp("run") / "mine"
    model = build("videomae")
    torch.nn.init.normal_(model.classifier.weight)  # far apart, for a difference to show
    clip_settings(model.config, "segments", None)
    getattr(model.config, CLIP_RECORD)["temperature"] = 2.5
    model.save_pretrained(folder)
    for processor in load_processors(None, model.config):
        processor.save_pretrained(folder)
    return folder


def export(run, dataset, output_dir, **options):
    return load_recipe("export").main(words(model=run, dataset=dataset, output_dir=output_dir, **options))


@pytest.fixture(scope="module")
def onnx(run, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return folder, export(run, dataset, folder, num_videos=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name != "videomae"])  # the one that the other tests export
def test_every_family_gives_the_logits_of_pytorch_for_any_number_of_clips(name, tmp_path):
    model = build(name)
    export_model(model, tmp_path / "model.onnx", "onnx")
    model.config.save_pretrained(tmp_path)
    loaded = load_exported(tmp_path / "model.onnx")
    for count in (1, 3):
        size = test_loading.SIZES.get(name, 32)
        pixels = torch.randn(count, TINY[name].get("num_frames", 4), 3, size, size)
        torch.testing.assert_close(loaded(pixels), score(model, pixels), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_folder_holds_all_that_another_program_needs(onnx, run, dataset):
    folder, report = onnx
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.onnx", "config.json", "preprocessor_config.json", "README.md", "report.json"}
    assert not [name for name in os.listdir(folder.parent) if name != "onnx"]
    assert report["file"] == "model.onnx" and report["bytes"] == (folder / "model.onnx").stat().st_size
    assert 0 <= report["check"]["max_difference"] <= 1e-5
    assert (report["check"]["clips"], report["check"]["split"], report["check"]["failed"]) == (4, "test", [])
    assert json.loads((folder / "report.json").read_text())["check"] == report["check"]
    assert f"{report['check']['max_difference']:.2g}" in (folder / "README.md").read_text()


def test_the_readme_runs_without_vidtune(onnx, run, monkeypatch):
    folder, _ = onnx
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    black = load_predictor(str(run), device="cpu").logits(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))
    assert printed.getvalue().strip() == LABELS[black.argmax()]


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_it_is_read_as_the_run_is(name, onnx, run, dataset):
    loaded, original = load_predictor(str(onnx[0] / name)), load_predictor(str(run), device="cpu")
    assert (loaded.labels, loaded.clip, loaded.temperature) == (LABELS, original.clip, 2.5)
    with open_video(next(dataset.glob("test/*/*.mp4"))) as video:
        views = evaluation_views(video, original.clip, temporal_views=3)
    torch.testing.assert_close(loaded.logits(views), original.logits(views), rtol=1e-4, atol=1e-5)
    assert loaded.fingerprint


@pytest.mark.slow
def test_predict_takes_it(onnx, dataset, tmp_path):
    (video,) = dataset.glob("test/a/0000.mp4")
    assert exit_code("predict", words(model=onnx[0], input=video, output=tmp_path / "labels.csv")) == 0
    assert str(video) in (tmp_path / "labels.csv").read_text()


def test_a_program_of_torch_export_is_read_likewise(run, dataset, tmp_path):
    report = export(run, dataset, tmp_path / "program", format="torch_export", num_videos=2)
    assert report["file"] == "model.pt2" and report["check"]["max_difference"] <= 1e-5
    assert "add --trust_remote_code" in refused(load_predictor, str(tmp_path / "program"))
    loaded = load_predictor(str(tmp_path / "program"), trust_remote_code=True)
    original = load_predictor(str(run), device="cpu")
    clips = torch.randint(256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.logits(clips), original.logits(clips))
    assert refused(export, tmp_path / "program", dataset, tmp_path / "again").endswith("that it was made of")


@pytest.mark.slow
def test_weights_too_large_for_one_file_stand_beside_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "MOST_WEIGHTS_INSIDE", 0)
    model = build("videomae")
    export_model(model, tmp_path / "model.onnx", "onnx")
    model.config.save_pretrained(tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    pixels = torch.randn(1, 4, 3, 32, 32)
    torch.testing.assert_close(load_exported(tmp_path / "model.onnx")(pixels), score(model, pixels))


def test_logits_that_differ_leave_nothing_and_exit_with_1(run, dataset, tmp_path, monkeypatch, capsys):
    recipe = load_recipe("export")
    recipe.MOST_DIFFERENCE = -1.0
    with pytest.raises(SystemExit) as caught:
        options = {"output_dir": tmp_path / "new" / "program", "format": "torch_export", "num_videos": 1}
        recipe.main(words(model=run, dataset=dataset, **options))
    assert caught.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1].split("\r")[-1]  # after the progress bar
    assert line.lstrip().startswith(f"export.py: model: {run}: as torch_export a logit differs by ")
    assert not list((tmp_path / "new").iterdir())


def test_a_model_that_cannot_be_followed_is_refused_in_one_line(run, dataset, tmp_path, monkeypatch):
    forward = VideoMAEForVideoClassification.forward

    def forward_by_content(self, pixel_values):
        return forward(self, pixel_values if pixel_values.sum() > 0 else -pixel_values)

    monkeypatch.setattr(VideoMAEForVideoClassification, "forward", forward_by_content)
    message = refused(export, run, dataset, tmp_path / "onnx")
    assert message.startswith("model: videomae: can't be exported as onnx: ") and "data-dependent" in message
    assert not list(tmp_path.iterdir())


def test_broken_videos_are_left_out_and_named(run, dataset, tmp_path):
    videos = write_folder_dataset(tmp_path / "data", LABELS, per_class=1, splits=["train", "test"])
    (videos / "test" / "b" / "0000.mp4").write_text("no video")
    check = export(run, videos, tmp_path / "onnx", format="torch_export")["check"]
    assert check["clips"] == 2 and [problem["path"] for problem in check["failed"]] == [
        str(videos / "test" / "b" / "0000.mp4")
    ]


def test_what_cannot_be_done_is_refused_at_once(run, dataset, onnx, tmp_path, monkeypatch):
    assert refused(load_recipe("export").main, []).startswith("model: missing")
    assert "give a new or an empty folder" in refused(export, run, dataset, onnx[0])
    assert "model: " in refused(export, tmp_path, dataset, tmp_path / "onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(export, run, dataset, tmp_path / "onnx")
    assert message.endswith("pip install onnx onnxscript onnxruntime")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_exported_model(onnx, tmp_path):
    broken = tmp_path / "model.onnx"
    broken.write_text("no model")
    assert refused(load_predictor, str(broken)).startswith(f"model: {broken}: has no config.json beside it")
    broken.with_name("config.json").write_text((onnx[0] / "config.json").read_text())
    assert refused(load_predictor, str(tmp_path)).startswith(f"model: {broken}: can't be loaded: ")
