"""What data, checkpoints and words of strangers can't do: run code, read elsewhere, or be taken for ours."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import csv
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Features, Video
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    set_seed,
)

from conftest import TINY_VIDEOMAE
from hub_server import Blob, Commit, Handler, HubServer, Repo, hub  # noqa: F401
from run_recipe import REPOSITORY, TINY, exit_code, finetune, load_recipe, refused, words
from video_files import moving_square, write_folder_dataset, write_video
from vidtune import app
from vidtune.card import without_secrets
from vidtune.data.cells import from_cell, to_cell
from vidtune.data.decoding import open_video
from vidtune.data.files import is_video
from vidtune.data.probe import probe_file
from vidtune.data.sources import load_videos
from vidtune.errors import VideoError
from vidtune.evaluation.classifier import load_predictor
from vidtune.hub import commit_of, locate
from vidtune.models.loading import load_model, load_trained, read_config
from vidtune.printing import printable

LABELS = ["blue", "red"]


class Trap:
    """A pickle of it makes a file when it is opened, as a stranger's would run anything."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_folder_dataset(tmp_path_factory.mktemp("data") / "videos", LABELS, 6)


def write_model(folder, seed=0):
    set_seed(seed)
    config = VideoMAEConfig(**TINY_VIDEOMAE, id2label=dict(enumerate(LABELS)), initializer_range=0.5)
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def put(hub, name, folder, message="Add files"):
    """Commit all files of a folder to a repository of the Hub; the commit."""
    files = {
        path.relative_to(folder).as_posix(): Blob(path.read_bytes(), path.suffix in (".safetensors", ".bin"))
        for path in folder.rglob("*")
        if path.is_file()
    }
    repo = hub.repos.setdefault(name, Repo(False, []))
    repo.commits.append(Commit(message, repo.commits[-1].oid if repo.commits else "", files))
    return repo.commits[-1].oid


# Code of a checkpoint

CONFIGURATION = """
import os
import re
from transformers import PretrainedConfig

os.makedirs({mark!r}, exist_ok=True)

class TintConfig(PretrainedConfig):
    model_type = "tint"

    def __init__(self, num_frames=4, image_size=32, scale=1.0, **kwargs):
        self.num_frames, self.image_size, self.scale = num_frames, image_size, scale
        super().__init__(**kwargs)
"""
MODEL = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from .configuration_tint import TintConfig

class TintForVideoClassification(PreTrainedModel):
    config_class = TintConfig
    main_input_name = "pixel_values"
    base_model_prefix = "tint"

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(3, config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values, labels=None, **kwargs):
        logits = {scale} * self.classifier(pixel_values.mean((1, 3, 4)))
        return ImageClassifierOutput(logits=logits)
"""


def write_tint(folder, mark, scale=1):
    """A checkpoint whose configuration and model are code of its own: the mean colour, times `scale`."""
    folder.mkdir(exist_ok=True)
    (folder / "configuration_tint.py").write_text(CONFIGURATION.format(mark=str(mark)))
    (folder / "modeling_tint.py").write_text(MODEL.replace("{scale}", str(scale)))
    config = {
        "model_type": "tint",
        "architectures": ["TintForVideoClassification"],
        "auto_map": {
            "AutoConfig": "configuration_tint.TintConfig",
            "AutoModelForVideoClassification": "modeling_tint.TintForVideoClassification",
        },
        "num_frames": 4,
        "image_size": 32,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import save_file

    weights = {"classifier.weight": torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), "classifier.bias": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


RECIPES = {
    "predict": {"input": "VIDEOS"},
    "evaluate": {"dataset": "VIDEOS"},
    "export": {"dataset": "VIDEOS", "output_dir": "OUT"},
    "extract_features": {"dataset": "VIDEOS", "output_dir": "OUT"},
    "finetune": {"dataset": "VIDEOS", "output_dir": "OUT"},
    "pretrain": {"dataset": "VIDEOS", "output_dir": "OUT"},
    "quickstart": {},
    "app": {},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_code_of_a_checkpoint_is_not_run_unasked(recipe, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask on the terminal
    checkpoint = write_tint(tmp_path / "tint", tmp_path / "ran")
    field = "model_name_or_path" if recipe in ("finetune", "pretrain") else "model"
    places = {"VIDEOS": videos, "OUT": tmp_path / "out"}
    options = {name: places[value] for name, value in RECIPES[recipe].items()} | {field: checkpoint}
    message = refused(load_recipe(recipe).main, words(**options))
    assert message == (
        f"{field}: {checkpoint}: needs code of its own, configuration_tint.py, as its config.json says, and that is "
        "not run; read it, and if you trust it add --trust_remote_code"
    )
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_code_beside_a_configuration_is_not_run_unasked(tmp_path):
    checkpoint = write_tint(tmp_path / "tint", tmp_path / "ran")
    for name in (checkpoint, checkpoint / "config.json"):
        assert "--trust_remote_code" in refused(read_config, None, str(name), {}, LABELS)
    assert not (tmp_path / "ran").exists()
    read_config(None, str(checkpoint), {}, LABELS, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["preprocessor_config.json", "tokenizer_config.json"])
def test_code_of_a_processor_or_tokenizer_is_not_run_unasked(tmp_path, file):
    checkpoint = write_model(tmp_path / "model")
    (checkpoint / "processing_x.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    values = {"image_processor_type": "X", "tokenizer_class": "X"}
    values["auto_map"] = {"AutoTokenizer": ["processing_x.X", None]}
    (checkpoint / file).write_text(json.dumps(values))
    assert "processing_x.py" in refused(load_trained, str(checkpoint)) and not (tmp_path / "ran").exists()


def test_code_is_not_run_where_transformers_has_the_class(tmp_path):
    checkpoint = write_model(tmp_path / "model")
    (checkpoint / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForVideoClassification": "evil.M"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    model, *_ = load_trained(str(checkpoint))
    assert isinstance(model, VideoMAEForVideoClassification) and not (tmp_path / "ran").exists()


def test_trusted_code_predicts_and_is_fine_tuned(videos, tmp_path):
    checkpoint = write_tint(tmp_path / "tint", tmp_path / "ran")
    trusted = {"trust_remote_code": "true"}
    argv = words(model=checkpoint, use_cpu="true", num_workers=0, output=tmp_path / "a.jsonl", **trusted)
    assert exit_code("predict", [*argv, "--input", str(videos)]) == 0
    finetune(dataset=videos, model_name_or_path=checkpoint, output_dir=tmp_path / "run", **trusted)
    assert "needs code of its own" in refused(load_predictor, str(tmp_path / "run"))
    assert load_predictor(str(tmp_path / "run"), trust_remote_code=True).labels == LABELS


def test_trusted_code_is_of_the_commit_that_was_asked_for(hub: HubServer, tmp_path):
    first = put(hub, "tester/tint", write_tint(tmp_path / "tint", tmp_path / "ran"))
    put(hub, "tester/tint", write_tint(tmp_path / "tint", tmp_path / "ran", scale=1000), "Another scale")
    assert "--trust_remote_code" in refused(load_predictor, "tester/tint")
    assert hub.count(r"\.py$") == 0 and not (tmp_path / "ran").exists()  # not even fetched
    clips = torch.full((1, 4, 3, 32, 32), 200, dtype=torch.uint8)
    old, new = (
        load_predictor("tester/tint", revision=revision, trust_remote_code=True).logits(clips)
        for revision in (first, "main")
    )
    assert torch.allclose(new, 1000 * old)


@pytest.mark.parametrize("is_known", [False, True])
def test_code_of_another_repository_is_refused_even_if_trusted(tmp_path, is_known):
    """Also where transformers has the class itself: code that is trusted is taken before it."""
    checkpoint = write_model(tmp_path / "m") if is_known else write_tint(tmp_path / "tint", tmp_path / "ran")
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoModelForVideoClassification": "other/repo--modeling_tint.TintForVideoClassification"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    message = refused(load_trained, str(checkpoint), trust_remote_code=True)
    assert "names code of another repository, other/repo" in message


def test_a_dataset_s_script_is_not_run(hub: HubServer, videos, tmp_path):
    script = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n"
    folder = tmp_path / "dataset"
    shutil.copytree(videos, folder)
    (folder / "dataset.py").write_text(script)
    finetune(dataset=folder, output_dir=tmp_path / "run", num_train_epochs=1)  # its videos are read, the script not
    hub.add_dataset("someone/scripted", {"scripted.py": script.encode(), "data.parquet": b"PAR1"})
    argv = words(dataset="someone/scripted", config_name="videomae", output_dir=tmp_path / "x")
    assert "dataset: someone/scripted: can't be loaded" in refused(load_recipe("finetune").main, argv)
    assert not (tmp_path / "ran").exists()


# Pickles


def pickled(folder, name="pytorch_model.bin", extra=None):
    """Have the weights of a checkpoint in a pickle only."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | (extra or {}), folder / name)
    return folder


@pytest.mark.parametrize("file", ["pytorch_model.bin", "weights.pt", "best.pth"])
def test_weights_in_a_pickle_are_refused_with_the_command_that_converts_them(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    expected = load_predictor(str(write_model(tmp_path / "model"))).fingerprint
    pickled(tmp_path / "model", file)
    message = refused(load_predictor, str(tmp_path / "model"))
    assert message.startswith(f"model: {tmp_path / 'model'}: its weights are a pickle, {file}, which could run code")
    command = shlex.split(message.split("convert them with: ")[1].split(" and give ")[0])
    assert command[:2] == ["python", "recipes/convert.py"] and exit_code("convert", command[2:]) == 0
    assert load_predictor("outputs/model-safetensors").fingerprint == expected


def test_a_pickle_that_runs_code_is_not_converted(tmp_path):
    folder = pickled(write_model(tmp_path / "model"), extra={"trap": Trap(tmp_path / "ran")})
    message = refused(load_recipe("convert").main, words(model=folder, output_dir=tmp_path / "out"))
    assert "it holds more than weights" in message
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_pickle_on_the_hub_is_not_even_fetched(hub: HubServer, tmp_path):
    commit = put(hub, "tester/old", pickled(write_model(tmp_path / "old")))
    message = refused(load_predictor, "tester/old", revision=commit)
    assert f"recipes/convert.py --model tester/old --model_revision {commit} --output_dir" in message
    assert hub.count("pytorch_model.bin") == 0
    load_recipe("convert").main(words(model="tester/old", model_revision=commit, output_dir=tmp_path / "new"))
    assert load_predictor(str(tmp_path / "new")).labels == LABELS


def test_published_weights_that_run_code_are_refused(tmp_path):
    torch.save({"model_state": {"a": torch.ones(1), "trap": Trap(tmp_path / "ran")}}, tmp_path / "x3d_xs.pyth")
    config = read_config(None, "x3d_xs", {}, LABELS)
    message = refused(load_model, config, None, weights=str(tmp_path / "x3d_xs.pyth"))
    assert "x3d_xs.pyth: can't be read: it holds more than weights" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_files_of_a_checkpoint_that_run_code_are_refused_on_resume(videos, tmp_path, file):
    finetune(dataset=videos, output_dir=tmp_path / "run", num_train_epochs=1)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert (checkpoint / file).is_file()
    torch.save({"trap": Trap(tmp_path / "ran")}, checkpoint / file)
    options = {"dataset": videos, "output_dir": tmp_path / "run", "num_train_epochs": 2}
    if file == "training_args.bin":  # is never read
        finetune(**options, resume_from_checkpoint="auto")
    else:
        assert "holds more than tensors" in refused(finetune, **options, resume_from_checkpoint="auto")
    assert not (tmp_path / "ran").exists()


def test_a_program_that_pickle_reads_is_not_loaded_unasked(tmp_path):
    folder = write_model(tmp_path / "model")
    torch.save(Trap(tmp_path / "ran"), folder / "model.pt2")
    assert "add --trust_remote_code, or export the model as onnx" in refused(load_predictor, str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_saved_probe_holds_no_types_that_run_code(tmp_path):
    import skops.io

    from vidtune.evaluation.saved_probe import _read_pipeline

    skops.io.dump({"pipeline": os.system}, tmp_path / "probe.skops")
    assert "which no probe of ours does; it is not loaded" in refused(_read_pipeline, tmp_path / "probe.skops", "svm")


# Revisions


def test_all_of_a_model_is_of_the_commit_that_its_branch_was_at(hub: HubServer, videos, tmp_path):
    first = put(hub, "tester/base", write_model(tmp_path / "base"))
    base = {"model_name_or_path": "tester/base", "model_revision": "main"}
    report = finetune(dataset=videos, output_dir=tmp_path / "a", **base)
    assert report["model"]["revision"] == report["config"]["model_revision"] == first
    assert f"model_revision: {first}" in (tmp_path / "a" / "config.yaml").read_text()
    assert json.loads((tmp_path / "a" / "report.json").read_text())["model"]["revision"] == first
    assert commit_of("tester/base", revision="main") == first
    second = put(hub, "tester/base", write_model(tmp_path / "base", seed=1), "Other weights")
    assert commit_of("tester/base") == second and locate("tester/base").endswith(second)
    assert locate("tester/base", revision=first).endswith(first)
    old, new = (load_predictor("tester/base", revision=revision).fingerprint for revision in (first, second))
    assert old != new


def test_a_hub_that_answers_with_another_commit_is_refused(hub: HubServer, tmp_path, monkeypatch):
    first = put(hub, "tester/base", write_model(tmp_path / "base"))
    second = put(hub, "tester/base", write_model(tmp_path / "base", seed=1), "Other weights")
    repo = hub.repos["tester/base"]
    monkeypatch.setattr(Handler, "commit_at", lambda *_: repo.commits[-1])
    message = refused(load_predictor, "tester/base", revision=first)
    assert message.startswith(f"model_revision: {first}: the Hub answers with another commit of tester/base, {second}")


def test_files_that_are_sent_of_another_commit_are_refused(hub: HubServer, tmp_path, monkeypatch):
    first = put(hub, "tester/base", write_model(tmp_path / "base"))
    put(hub, "tester/base", write_model(tmp_path / "base", seed=1), "Other weights")
    commit_at = Handler.commit_at

    def commit(self, repo, revision):
        return commit_at(self, repo, "main" if "/resolve/" in self.path else revision)

    monkeypatch.setattr(Handler, "commit_at", commit)
    message = refused(load_predictor, "tester/base", revision=first)
    assert message.startswith(f"model_revision: {first}: the Hub sent ") and "at another commit" in message


def test_a_folder_has_no_revision(tmp_path):
    folder = write_model(tmp_path / "model")
    assert refused(load_predictor, str(folder), revision="v1") == (
        f"model_revision: v1: {folder} is here, and not on the Hub; leave it out"
    )


# Paths


def test_what_a_row_of_a_table_may_not_name(videos, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(videos, folder)
    shutil.copyfile(videos / "red" / "0000.mp4", tmp_path / "secret.mp4")
    shutil.copytree(folder, tmp_path / "data-of-another")
    for name, problem in {
        f"{tmp_path}/secret.mp4": "lies outside of",
        "../secret.mp4": "lies outside of",
        "red/../../secret.mp4": "lies outside of",
        f"{folder}/../secret.mp4": "lies outside of",
        "../data-of-another/red/0000.mp4": "lies outside of",
        "~/secret.mp4": "lies outside of",
        "~nobody-of-this-name/secret.mp4": "does not exist",
        f"file://{tmp_path}/secret.mp4": "is a URL",
        "https://example.org/secret.mp4": "is a URL",
        f"concat:{tmp_path}/secret.mp4": "does not exist",
        "red/0000.mp4\0.mp4": "holds a null byte",
    }.items():
        rows = [{"video": "blue/0000.mp4", "label": "blue"}, {"video": name, "label": "red"}]
        table = folder / "table.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        message = refused(load_videos, str(table))
        assert message.startswith(f"dataset: {table}: ") and problem in message, name
        assert problem == "does not exist" or f"row 2: video {name!r}" in message
        assert ("--video_root" in message) == (problem == "lies outside of")
        if "\0" not in name:
            (folder / "train.txt").write_text(f"blue/0000.mp4 0\n{name} 1\n")
            assert problem in refused(load_videos, str(folder)), name
            (folder / "train.txt").unlink()


def test_another_root_is_where_videos_lie_below(videos, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"video,label\nblue/0000.mp4,blue\n{videos}/red/0000.mp4,red\n")
    rows = load_videos(str(table), video_root=str(videos))["train"]
    assert [row["path"] for row in rows["video"]] == [f"{videos}/blue/0000.mp4", f"{videos}/red/0000.mp4"]
    assert list(rows["video_id"]) == ["blue/0000.mp4", "red/0000.mp4"]
    assert "lies outside of" in refused(load_videos, str(table), video_root=str(videos / "blue"))
    assert refused(load_videos, str(table), video_root=str(table)).endswith("give the one that all videos lie below")
    assert "video_root" in refused(load_videos, str(videos), video_root=str(videos))


def test_a_link_inside_the_folder_is_its_owners_business(videos, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(videos)
    (tmp_path / "data" / "table.csv").write_text("video,label\nlinked/blue/0000.mp4,blue\nlinked/red/0000.mp4,red\n")
    assert len(load_videos(str(tmp_path / "data" / "table.csv"))["train"]) == 2
    # What is checked is what is opened: `linked/..` is the folder itself, not that of the link's target
    (tmp_path / "data" / "table.csv").write_text("video,label\nlinked/../a.mp4,blue\nlinked/red/0000.mp4,red\n")
    shutil.copyfile(videos / "red" / "0000.mp4", videos.parent / "a.mp4")
    assert "does not exist" in refused(load_videos, str(tmp_path / "data" / "table.csv"))


def parquet(folder, *rows):
    """A dataset in Parquet, as the Hub has them; of each row the path, the bytes and the label."""
    features = Features({"video": Video(decode=False), "label": ClassLabel(names=LABELS)})
    values = [{"video": {"path": str(path), "bytes": content}, "label": label} for path, content, label in rows]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(values, features.arrow_schema), folder / "train.parquet")
    return folder


def test_a_path_in_a_downloaded_dataset_reads_nothing_of_this_machine(hub: HubServer, videos, tmp_path):
    secret = videos / "red" / "0000.mp4"
    content = (videos / "blue" / "0000.mp4").read_bytes()
    named = parquet(tmp_path / "named", (secret, content, 0), ("../../x.mp4", content, 1))
    rows = load_videos(str(named))["train"]  # beside bytes, a path is a name
    assert [row["bytes"] == content for row in rows["video"]] == [True, True]
    foreign = parquet(tmp_path / "foreign", ("a.mp4", None, 0), (secret, None, 1))
    hub.add_dataset("someone/foreign", {"train.parquet": (foreign / "train.parquet").read_bytes()})
    for name in (str(foreign), "someone/foreign"):
        message = refused(load_videos, name)
        assert f"dataset: {name}: train: row 2: video {str(secret)!r} lies outside of" in message
        assert "--video_root" in message
    mixed = parquet(tmp_path / "mixed", ("a.mp4", content, 0), (secret, None, 1))
    assert "row 1: video is bytes, and others are paths" in refused(load_videos, str(mixed))
    relative = parquet(tmp_path / "relative", ("blue/0000.mp4", None, 0), ("red/0000.mp4", None, 1))
    rows = load_videos(str(relative), video_root=str(videos))["train"]
    assert [row["path"] for row in rows["video"]] == [f"{videos}/{label}/0000.mp4" for label in LABELS]


def test_a_file_that_leads_to_others_is_no_video(videos, tmp_path):
    """FFmpeg would follow these texts to other files, whatever they are called."""
    secret = videos / "red" / "0000.mp4"
    for text in (
        f"ffconcat version 1.0\nfile '{secret}'\n",
        "ffconcat version 1.0\nfile 'secret.mp4'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"\n#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"file '{secret}'\n",
        f'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{secret}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
    ):
        shutil.copyfile(secret, tmp_path / "secret.mp4")
        (tmp_path / "x.mp4").write_text(text)
        (tmp_path / "x.unknown").write_text(text)
        assert not is_video(tmp_path / "x.unknown")
        (facts,) = probe_file(str(tmp_path / "x.mp4"), [(None, None)])
        assert facts["error"], text
        for source in (tmp_path / "x.mp4", text.encode()):
            with pytest.raises(VideoError):
                open_video(source)


# Labels and names that are more than text

EVIL = [
    "<img src=x onerror=alert(1)>",
    '=HYPERLINK("http://evil","x")',
    "${HOME} $\\bad{$",
    "[x](javascript:alert(1)) ![y](http://evil)",
    "\x1b]0;title\x07\x1b[2Jred",
    "..\\..",
]


class Elements(HTMLParser):
    """What a browser would make of a page: its elements with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def is_harmless(page):
    """Whether nothing of a page comes from elsewhere or runs, but for its own script."""
    elements = Elements(page).found
    assert len(elements) > 5
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    values = [(name, value or "") for _, attributes in elements for name, value in attributes.items()]
    return (
        scripts in ([], [{}])
        and not any(name.startswith("on") for name, _ in values)
        and not any("javascript:" in value for name, value in values if name in ("href", "src"))
        and not any(tag == "img" and "evil" in str(attributes.get("src")) for tag, attributes in elements)
        and ("src", "x") not in values
    )


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A run on videos whose names and labels are EVIL, one of them broken: the folder of all, and what was printed."""
    root = tmp_path_factory.mktemp("evil")
    (root / "data").mkdir()
    rows = []
    for number, label in enumerate(["../../escaped", *EVIL]):
        for index in range(5):
            name = f"{label.replace('/', '')}{index}.mp4"
            write_video(root / "data" / name, moving_square(8, seed=number * 5 + index), 12)
            rows.append({"video": name, "label": label, "group": name})
    (root / "data" / f"{EVIL[4]}0.mp4").write_bytes(b"no video")
    (root / "data" / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        finetune(
            dataset=root / "data" / "table.jsonl",
            output_dir=root / "run",
            on_error="skip",
            num_train_epochs=1,
            dataloader_num_workers=0,
        )
    return root, out.getvalue() + err.getvalue()


def test_a_run_with_evil_names_writes_into_its_folder_only(evil):
    root, _ = evil
    assert {path.name for path in root.iterdir()} == {"data", "run"}
    assert not list(root.parent.glob("escaped*")) and not list(root.glob("data/*.png"))


def test_evil_names_are_shown_and_not_obeyed(evil):
    _, printed = evil
    printed = printed.replace("\x1b[A", "")  # tqdm's own, which moves between its bars
    assert "\x1b" not in printed and "\x07" not in printed
    assert r"\x1b]0;title\x07" in printed  # the broken one, as it was left out
    assert printable("a\tb\nc\x1b[0m\u202e") == "a\tb\nc\\x1b[0m\\u202e"


def test_evil_names_do_nothing_in_pages_and_cards(evil):
    root, _ = evil
    page = (root / "run" / "report.html").read_text()
    assert is_harmless(page) and "&lt;img src=x onerror=alert(1)&gt;" in page
    card = (root / "run" / "README.md").read_text().split("\n---\n", 1)[1]
    assert is_harmless(MarkdownIt("commonmark", {"html": True}).enable("table").render(card))
    assert not is_harmless("<p><b><i><u><s><img src=x onerror=alert(1)>")  # the check checks


def test_evil_names_do_nothing_in_a_spreadsheet_and_are_read_back(evil, tmp_path, capfd, monkeypatch):
    root, _ = evil
    shutil.copytree(root / "data", tmp_path / "data")
    broken = tmp_path / "data" / f"{EVIL[4]}0.mp4"
    output = tmp_path / "data" / "labels.csv"
    argv = words(model=root / "run", use_cpu="true", num_workers=0, output=output)
    monkeypatch.chdir(tmp_path / "data")  # so that names begin the cells
    inputs = sorted(path.name for path in Path().glob("*.mp4"))
    assert exit_code("predict", [*argv, "--input", *inputs]) == 1
    broken.unlink()
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not any(value.startswith(tuple("=+-@\t\r")) for row in rows for value in row.values())
    assert [from_cell(row["video"]) for row in rows] == inputs
    assert {from_cell(row[column]) for row in rows for column in ("label", "label_2")} <= {*EVIL, "../../escaped", ""}
    names = [row["video"] for row in rows if not row["error"]]
    assert any(name.startswith("'=HYPERLINK") for name in names)
    assert load_recipe("predict").read_list(output) == [tmp_path / "data" / name for name in inputs]
    good = [row for row in rows if not row["error"]]
    with (tmp_path / "data" / "pseudo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["video", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | {"label": "'=a" if index % 2 else "b"} for index, row in enumerate(good))
    videos = load_videos(str(tmp_path / "data" / "pseudo.csv"))["train"]
    assert sorted(videos["video_id"]) == sorted(map(from_cell, names))
    assert videos.features["label"].names == ["=a", "b"]
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra", "'=1", "''=1", "'a", "a", "", "'", "a=1"])
def test_a_cell_is_no_formula_and_is_read_back(text):
    assert not to_cell(text).startswith(tuple("=+-@\t\r")) and from_cell(to_cell(text)) == text


def test_evil_names_do_nothing_in_the_page_of_probes(evil, tmp_path, capsys):
    root, _ = evil
    argv = words(model=root / "run", dataset=root / "data" / "table.jsonl", output_dir=tmp_path / "out", num_workers=0)
    load_recipe("extract_features").main([*argv, "--use_cpu", "--probe", "knn"])
    assert is_harmless((tmp_path / "out" / "probes.html").read_text())
    assert "\x1b" not in "".join(capsys.readouterr())


def test_an_error_that_quotes_evil_names_is_no_escape_sequence(evil, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("video,label\n\x1b[2Jx.mp4,a\n")
    assert "\\x1b[2Jx.mp4" in refused(load_videos, str(table))


# The page that takes uploads


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("gradio")
    page = app.launch(str(write_model(tmp_path_factory.mktemp("models") / "page")), max_upload_mb=1, block=False)
    yield page.local_url
    page.close()


def ask(page, path):
    """What the page answers to a file that it is said to have."""
    data = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]}
    event = httpx.post(f"{page}gradio_api/call/predict", json=data).json()["event_id"]
    return httpx.get(f"{page}gradio_api/call/predict/{event}", timeout=60).text


def send(page, name, content):
    """Upload a file: the answer of the server."""
    return httpx.post(f"{page}gradio_api/upload", files={"files": (name, content)}, timeout=60)


def test_an_upload_is_limited_in_size(page):
    assert send(page, "small.mp4", bytes(900_000)).status_code == 200
    assert send(page, "large.mp4", bytes(1_100_000)).status_code == 413


def test_an_upload_is_a_video_whatever_its_name_says(page, videos, tmp_path):
    good = send(page, "good.mp4", (videos / "red" / "0000.mp4").read_bytes()).json()[0]
    assert "event: complete" in ask(page, good)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    for content in (
        (tmp_path / "picture.png").read_bytes(),
        b"<svg onload=alert(1)></svg>",
        b"ffconcat version 1.0\nfile 'good.mp4'\n",
        b"#!/bin/sh\necho\n",
    ):
        answer = ask(page, send(page, "named.mp4", content).json()[0])
        assert "event: error" in answer and "named.mp4" not in answer


def test_a_picture_that_would_fill_memory_is_refused(page, videos, monkeypatch):
    video = send(page, "large.mp4", (videos / "red" / "0000.mp4").read_bytes()).json()[0]
    monkeypatch.setattr(app, "MOST_PIXELS", 32 * 32)
    assert "event: complete" in ask(page, video)
    monkeypatch.setattr(app, "MOST_PIXELS", 32 * 32 - 1)
    assert "event: error" in ask(page, video)
    assert "have 32 x 32 pixels" in refused(app.check_upload, videos / "red" / "0000.mp4")


def test_the_page_reads_no_other_file_of_its_machine(page, videos):
    answer = ask(page, videos / "red" / "0000.mp4")
    assert "event: error" in answer and "event: complete" not in answer
    assert httpx.get(f"{page}gradio_api/file={videos}/red/0000.mp4").status_code in (403, 404)


# Tokens


def test_a_token_is_written_and_printed_nowhere(hub: HubServer, videos, tmp_path, monkeypatch, capfd):
    token, key = "hf_" + "QzX7" * 9, "0123456789abcdef" * 2
    monkeypatch.setattr("hub_server.TOKEN", token)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("WANDB_API_KEY", key)
    folder = tmp_path / f"videos-{key}"  # as a careless command line would show it
    shutil.copytree(videos, folder)
    hub.fail(r"POST /api/models/tester/mine/commit", 500, times=1)
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    options = {"dataset": folder, "output_dir": tmp_path / "run", "num_train_epochs": 1, "run_name": key}
    argv = words(**{**TINY, **options}, push_to_hub="true", hub_model_id="tester/mine", hub_videos="true")
    assert exit_code("finetune", argv) == 0
    hub.fail(r"POST /api/models/tester/mine/commit", 403)
    argv[argv.index("--output_dir") + 1] = str(tmp_path / "again")
    assert exit_code("finetune", argv) == 1  # the error is printed
    printed = "".join(capfd.readouterr())
    assert "published:" in printed and "publishing to tester/mine failed" in printed
    files = [path for run in ("run", "again") for path in (tmp_path / run).rglob("*") if path.is_file()]
    written = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files}
    assert {"run/report.json", "run/report.html", "run/config.yaml", "run/training_args.bin"} <= written.keys()
    published = {path: blob.data for commit in hub.repos["tester/mine"].commits for path, blob in commit.files.items()}
    assert {"README.md", "report.html", "config.yaml"} <= published.keys()
    for name, content in {**written, **published, "printed": printed.encode()}.items():
        assert token.encode() not in content, name
        assert key.encode() not in content or name == "printed" or name.endswith("training_args.bin"), name


@pytest.mark.parametrize("recipe", ["finetune", "predict", "evaluate", "app", "prepare_data", "export"])
@pytest.mark.parametrize("option", ["--hub_token", "--token", "--hub_token=", "--wandb_api_key"])
def test_no_token_is_taken_on_the_command_line(recipe, option):
    argv = [f"{option}hf_secret"] if option.endswith("=") else [option, "hf_secret"]
    message = refused(load_recipe(recipe).main, argv)
    assert message.startswith(f"{option[2:].rstrip('=')}: can't be set") and "HF_TOKEN" in message
    assert "hf_secret" not in message


def test_no_token_is_taken_from_a_config(tmp_path):
    (tmp_path / "run.yaml").write_text("hub_token: hf_secret\n")
    message = refused(load_recipe("finetune").main, ["--config", str(tmp_path / "run.yaml")])
    assert message.startswith("hub_token: can't be set") and "hf_secret" not in message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf_" + "a1" * 17, "***"),
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://host/x?token=abc&y=1", "https://host/x?***&y=1"),
        ("https://host/x?y=1&X-Amz-Signature=abc", "https://host/x?y=1&***"),
        ("mail@host", "mail@host"),
        ("my-own-secret", "***"),
        ("hf_transfer", "hf_transfer"),
    ],
)
def test_what_is_taken_for_a_secret(text, shown, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "my-own-secret")
    monkeypatch.setenv("SHORT_TOKEN", "mail")
    assert without_secrets(f"'{text}'") == f"'{shown}'"


# make audit


def test_bandit_finds_nothing():
    pytest.importorskip("bandit")
    command = [sys.executable, "-m", "bandit", "-q", "-r", "src", "recipes"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for path in (*REPOSITORY.glob("src/**/*.py"), *REPOSITORY.glob("recipes/*.py")):  # each exception has its reason
        for line in re.findall(r"# ?nosec.*", path.read_text()):
            assert re.fullmatch(r"# nosec B\d+ # \w.+", line), (path, line)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "0 vulnerabilities in 1 packages"),
        (
            {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]},
            1,
            "a 1: PYSEC-1, mended in 2",
        ),
        ({"dependencies": [{"name": "a", "skip_reason": "not found"}]}, 0, "SKIPPED, its database can't be reached"),
        (None, 0, "SKIPPED, its database can't be reached: no network"),
    ],
)
def test_an_audit_that_could_not_be_made_says_so(answer, code, said, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("audit", REPOSITORY / ".ci" / "audit.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    program = "import sys; sys.exit('no network')" if answer is None else f"print({json.dumps(answer)!r})"
    monkeypatch.setattr(audit, "COMMAND", [sys.executable, "-c", program])
    assert audit.main() == code and said in "".join(capsys.readouterr())
