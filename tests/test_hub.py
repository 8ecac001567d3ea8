"""The real Hub client against a Hub in memory: access, card, publishing, download."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import ast
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download

from hub_server import HubServer, hub  # noqa: F401
from vidtune.card import model_card
from vidtune.errors import InputError, PublishError
from vidtune.evaluation.report import to_json
from vidtune.hub import check_access, publish, publish_run

FILES = [
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "report.json",
    "config.yaml",
]
LABELS = ["ride_bike", "a|b", "<script>alert(1)</script>"]
REPORT = {
    "recipe": "finetune",
    "command": "accelerate launch recipes/finetune.py --config recipes/configs/ucf/videomae.yaml",
    "config": {"model": "tester/base", "learning_rate": 5e-5, "note": "```\nfence"},
    "model": {
        "name_or_path": "tester/base",
        "type": "videomae",
        "parameters": 94_000_000,
        "trainable_parameters": 1_538,
        "newly_initialised": ["classifier.weight", "classifier.bias"],
    },
    "data": {
        "train": {"videos": 40, "failed": []},
        "test": {"videos": 10, "failed": [{"path": "patients/anna.mp4", "reason": "no video stream"}]},
    },
    "labels": LABELS,
    "clip": {"num_frames": 4, "image_size": 32, "sampling": "uniform", "fps": None},
    "metrics": {
        split: {
            "accuracy": accuracy,
            "top5_accuracy": None,
            "macro_f1": 0.75,
            "videos": videos,
            "failed": failed,
            "per_class": {},
            "confusion_matrix": [],
        }
        for split, accuracy, videos, failed in (("validation", 0.5, 8, 0), ("test", 0.8125, 9, 1))
    },
    "throughput": {},
    "environment": {
        "python": "3.11.9",
        "platform": "Linux",
        "hardware": "1 x L40S",
        "packages": {"transformers": "5.23.0", "torch": "2.14.0"},
        "commit": "48f1377",
    },
    "seconds": 90.0,
}


def card(repo_id="tester/clips", base_model="tester/base", dataset="tester/data", on_hub=True, **changes) -> str:
    report = copy.deepcopy(REPORT) | changes
    return model_card(
        repo_id, report, base_model=base_model, dataset=dataset, dataset_on_hub=on_hub, license="apache-2.0"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves: a tiny model with its processor, card, report and config, and what stays at home."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor

    folder = tmp_path_factory.mktemp("runs") / "my run"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = VideoMAEConfig(
        **sizes,
        image_size=32,
        patch_size=16,
        num_frames=4,
        id2label=dict(enumerate(LABELS)),
        initializer_range=0.5,
    )
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    VideoMAEImageProcessor(**size).save_pretrained(folder)
    (folder / "README.md").write_text(card())
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "config.yaml").write_text("model: tester/base\n")
    (folder / "training_args.bin").write_bytes(b"not for the Hub")
    return folder


def write_video(path: Path) -> None:
    """Write 20 frames that grow brighter."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for brightness in range(0, 240, 12):
            pixels = np.full((48, 48, 3), brightness, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


# Access


def test_a_repository_is_created_and_its_full_id_returned(hub: HubServer) -> None:
    assert check_access("clips") == "tester/clips"
    assert check_access("tester/clips") == "tester/clips"  # it exists now
    assert not hub.repos["tester/clips"].private
    check_access("tester/secret", private=True)
    assert hub.repos["tester/secret"].private


@pytest.mark.parametrize("value", ["a/b/c", "two words", "https://huggingface.co/tester/x", "", "tester/x..y"])
def test_a_malformed_id_is_refused_before_any_request(hub: HubServer, value: str) -> None:
    with pytest.raises(InputError, match=r"^hub_model_id: .*is not `user/name`") as caught:
        check_access(value)
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)
    assert not hub.requests


def test_no_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"^hub_model_id: no token to publish 'x': run `hf auth login`.*HF_TOKEN$"):
        check_access("x")


def test_a_refused_token_is_named_by_its_remedy_and_never_shown(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stolen")
    with pytest.raises(InputError, match=r"^hub_model_id: cannot publish 'x' \(401 .*hf auth login") as caught:
        check_access("x")
    assert "\n" not in str(caught.value) and "hf_stolen" not in str(caught.value)


def test_another_namespace(hub: HubServer) -> None:
    with pytest.raises(InputError, match=r"^hub_model_id: cannot publish 'google/x' \(403 .*write access$"):
        check_access("google/x")


def test_a_repository_that_can_only_be_read(hub: HubServer) -> None:
    check_access("x")
    hub.repos["google/x"] = hub.repos["tester/x"]
    with pytest.raises(InputError, match=r"^hub_model_id: cannot publish 'google/x' \(403 .*write access$"):
        check_access("google/x")


def test_a_hub_out_of_order(hub: HubServer) -> None:
    hub.fail("POST /api/repos/create", 503)
    with pytest.raises(
        InputError, match=r"^hub_model_id: cannot publish 'x' \(503 injected fault .*\): try again later"
    ):
        check_access("x")


def test_a_hub_out_of_reach(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"^hub_model_id: cannot reach http://127.0.0.1:1 .*HF_ENDPOINT") as caught:
        check_access("x")
    assert "\n" not in str(caught.value)


def test_offline_mode(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^hub_model_id: cannot reach .*HF_HUB_OFFLINE"):
        check_access("x")


def test_importing_the_module_is_fast() -> None:
    code = "import sys, vidtune.hub; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Publishing


def test_publish_makes_one_commit_of_the_named_files(hub: HubServer, saved: Path) -> None:
    repo_id = check_access("clips")
    url = publish(saved, repo_id, FILES, "Publish a run")
    _, commit = hub.repos[repo_id].commits
    assert url == f"{hub.url}/{repo_id}/commit/{commit.oid}"
    assert commit.message == "Publish a run"
    assert {name: blob.data for name, blob in commit.files.items()} == {n: (saved / n).read_bytes() for n in FILES}
    assert [name for name, blob in commit.files.items() if blob.lfs] == ["model.safetensors"]


def test_a_published_model_scores_as_the_saved_one(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, pipeline
    from transformers.video_utils import load_video

    repo_id = publish_clips(saved)
    clip = torch.rand(1, 4, 3, 32, 32)
    there = AutoModelForVideoClassification.from_pretrained(repo_id).eval()
    here = AutoModelForVideoClassification.from_pretrained(saved).eval()
    with torch.no_grad():
        assert torch.equal(there(clip).logits, here(clip).logits)
    snapshot = Path(snapshot_download(repo_id))
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(FILES)
    assert AutoVideoProcessor.from_pretrained(repo_id).crop_size.height == 32

    # The pipeline's scores are those of the frames 0, 5, 10, 15 of 20, prepared by hand.
    write_video(tmp_path / "video.mp4")
    classify = pipeline("video-classification", model=repo_id)
    video, metadata = load_video(str(tmp_path / "video.mp4"), num_frames=4, backend="pyav")
    assert list(metadata.frames_indices) == [0, 5, 10, 15]
    prepared = AutoImageProcessor.from_pretrained(repo_id)(list(video), return_tensors="pt")
    with torch.no_grad():
        expected = here(**prepared).logits[0].softmax(-1)
    scores = {answer["label"]: answer["score"] for answer in classify(video)}
    assert scores == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-4)
    assert max(scores.values()) - min(scores.values()) > 0.01  # else any answer would pass


def test_a_published_adapter_is_loaded_onto_its_base(hub: HubServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from vidtune.models.loading import load_model, load_trained, read_config
    from vidtune.models.processors import load_processors
    from vidtune.models.tuning import apply_tuning
    from vidtune.training.weights import complete_adapter

    config = read_config(str(tiny_checkpoint), None, {}, LABELS)
    model, new = load_model(config, str(tiny_checkpoint))
    model = apply_tuning(model, "lora", new=new, base_model=str(tiny_checkpoint)).eval()
    model.save_pretrained(tmp_path)
    complete_adapter(model, tmp_path)
    load_processors(str(tiny_checkpoint), config)[0].save_pretrained(tmp_path)
    repo_id = check_access("clips")
    names = ["config.json", "adapter_config.json", "adapter_model.safetensors", "video_preprocessor_config.json"]
    publish(tmp_path, repo_id, [name for name in names if (tmp_path / name).is_file()], "Publish an adapter")
    clip = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        loaded = load_trained(repo_id)[0].eval()
        assert torch.allclose(loaded(clip).logits, model(clip).logits, atol=1e-6)
    assert list(loaded.config.id2label.values()) == LABELS


def test_the_usage_snippet_runs(
    hub: HubServer,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repo_id = publish_clips(saved)
    write_video(tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)\n```", ModelCard.load(repo_id).text, flags=re.DOTALL)
    exec(snippet, {})
    answers = ast.literal_eval(capsys.readouterr().out)
    assert {answer["label"] for answer in answers} == set(LABELS)
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def publish_clips(saved: Path) -> str:
    repo_id = check_access("clips")
    publish(saved, repo_id, FILES, "Publish a run")
    return repo_id


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429}, {"status": 0}, {"status": 504, "after": True}], ids=str
)
def test_a_passing_failure_is_tried_again(
    hub: HubServer, saved: Path, caplog: pytest.LogCaptureFixture, fault: dict
) -> None:
    repo_id = check_access("clips")
    hub.fail("POST .*/commit/main", times=1, **fault)
    with caplog.at_level("WARNING", logger="vidtune"):
        url = publish(saved, repo_id, FILES, "Publish a run", waits=(0,))
    _, commit = hub.repos[repo_id].commits  # one, even where only the answer was lost
    assert url.endswith(commit.oid)
    assert [record.name for record in caplog.records if "again in 0 s" in record.message] == ["vidtune.hub"]


def test_a_gateways_page_in_place_of_an_answer_is_tried_again(hub: HubServer, saved: Path) -> None:
    repo_id = check_access("clips")
    hub.fail("POST /api/validate-yaml", 502, times=1)
    publish(saved, repo_id, FILES, "Publish a run", waits=(0,))
    assert hub.count("POST /api/validate-yaml") == 2


def test_a_lasting_failure_names_the_folder_and_a_command_that_publishes(hub: HubServer, saved: Path) -> None:
    repo_id = check_access("clips")
    hub.fail("POST .*/commit/main", 500)
    started = time.monotonic()
    with pytest.raises(PublishError) as caught:
        publish(saved, repo_id, FILES, "Publish a run", waits=(0, 0.2))
    message = str(caught.value)
    assert hub.count("POST .*/commit/main") == 3 and time.monotonic() - started > 0.2
    assert f"everything is saved in {saved}," in message and "(500 injected fault" in message
    assert "\n" not in message and os.environ["HF_TOKEN"] not in message

    hub.faults.clear()
    hf, *arguments = shlex.split(message.split("publish it with: ")[1])
    assert [hf, *arguments[:2]] == ["hf", "upload", repo_id]
    cli = shutil.which("hf", path=Path(sys.executable).parent)
    subprocess.run([cli, *arguments], check=True, capture_output=True)
    assert set(hub.repos[repo_id].commits[-1].files) == set(FILES)


@pytest.mark.parametrize("of_videos", [False, True])
def test_paths_of_failed_videos_are_published_if_that_is_wanted(
    hub: HubServer, tmp_path: Path, of_videos: bool
) -> None:
    failed = {"path": "patients/Anna Smith.mp4", "reason": "the file is empty"}
    report = {"data": {"train": {"videos": 3, "failed": [failed]}, "test": {"videos": 1, "failed": []}}}
    (tmp_path / "report.json").write_text(to_json(report))
    (tmp_path / "predictions.parquet").write_bytes(b"rows")
    hub.fail("POST .*/commit/main", 403, times=1)
    with pytest.raises(PublishError) as caught:
        publish_run(tmp_path, check_access("clips"), report, "Publish a run", of_videos)
    assert ("report.json" in str(caught.value)) is of_videos
    publish_run(tmp_path, check_access("clips"), report, "Publish a run", of_videos)
    files = hub.repos["tester/clips"].commits[-1].files
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert ("predictions.parquet" in files) is of_videos
    if not of_videos:
        failed["path"] = ""
    assert json.loads(files["report.json"].data) == report


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_final_refusal_is_not_tried_again(hub: HubServer, saved: Path, status: int) -> None:
    repo_id = check_access("clips")
    hub.fail("POST .*/commit/main", status)
    with pytest.raises(PublishError, match=rf"\({status} injected fault .*\); everything is saved in "):
        publish(saved, repo_id, FILES, "Publish a run", waits=(0, 0))
    assert hub.count("POST .*/commit/main") == 1


def test_a_refused_upload_of_weights_is_told_by_its_cause(hub: HubServer, saved: Path) -> None:
    repo_id = check_access("clips")
    hub.fail("PUT /lfs/", 403)
    with pytest.raises(PublishError, match=r"\(403 injected fault .*\)"):
        publish(saved, repo_id, FILES, "Publish a run", waits=(0, 0))
    assert hub.count("PUT /lfs/") == 1


def test_a_missing_file_is_not_tried_again(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"README.md.*everything is saved in "):
        publish(tmp_path, "tester/clips", ["README.md"], "Publish a run")
    assert not hub.requests


def test_metadata_that_the_hub_refuses(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nbase_model: ../runs/1\n---\n")
    with pytest.raises(PublishError, match=r'\(Invalid metadata in README.md. - "base_model" is not valid\)'):
        publish(tmp_path, check_access("clips"), ["README.md"], "Publish a run")


# Card


def test_the_metadata_are_those_of_the_run(hub: HubServer, saved: Path) -> None:
    data = ModelCard.load(publish_clips(saved)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "video-classification"
    assert data.base_model == "tester/base"
    assert data.datasets == ["tester/data"]
    assert data.license == "apache-2.0"
    assert data.tags == ["video-classification", "vidtune", "videomae"]
    assert data.model_name == "clips"
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in data.eval_results] == [
        ("accuracy", 0.8125, "test"),
        ("f1", 0.75, "test"),
    ]


def test_validation_stands_in_for_a_missing_test_split() -> None:
    metrics = {"validation": REPORT["metrics"]["validation"] | {"top5_accuracy": 1.0, "macro_f1": float("nan")}}
    data = ModelCard(card(metrics=metrics)).data
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in data.eval_results] == [
        ("accuracy", 0.5, "validation"),
        ("top_5_accuracy", 1.0, "validation"),
    ]
    assert ModelCard(card(metrics={})).data.eval_results is None


@pytest.mark.parametrize("path", ["folder", "./folder", "../runs/best", "/data/runs/best", "x3d_m", None])
def test_only_a_hub_id_is_a_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert ModelCard(card(base_model=path)).data.base_model is None


def test_a_local_folder_shaped_like_an_id_is_no_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "best").mkdir(parents=True)
    text = card(base_model="runs/best", dataset=str(tmp_path / "clips"), on_hub=False)
    data = ModelCard(text).data
    assert data.base_model is None and data.datasets is None
    assert data.eval_results[0].dataset_name == "clips"
    assert "from a local checkpoint, best, on clips" in text and str(tmp_path) not in text


def test_the_clips_of_a_card_have_what_draws_them_and_nothing_else() -> None:
    dense = {"sampling": "dense", "fps": 7.5, "frame_stride": None}
    assert "| sampling | dense |\n| fps | 7.5 |\n\n" in card(clip=REPORT["clip"] | dense)
    text = card(clip=REPORT["clip"] | dense | {"frame_stride": 4})
    assert "| sampling | dense |\n| frame\\_stride | 4 |\n\n" in text


def test_results_table() -> None:
    text = card()
    assert "| validation | 0.5000 | 0.7500 | 8 | 0 |\n| test | 0.8125 | 0.7500 | 9 | 1 |" in text
    assert "anna.mp4" not in text  # names of videos stay in the report


def test_several_labels_a_video_have_a_mean_average_precision() -> None:
    metrics = {"test": REPORT["metrics"]["test"] | {"mean_average_precision": 0.625}}
    text = card(metrics=metrics)
    assert "| test | 0.8125 | 0.6250 | 0.7500 | 9 | 1 |" in text
    assert "| Accuracy | Mean average precision | Macro F1 |" in text
    assert ("mean_average_precision", 0.625) in [
        (result.metric_type, result.metric_value) for result in ModelCard(text).data.eval_results
    ]


def test_names_cannot_break_tables_or_html() -> None:
    labels = [
        "a|b",
        "<script>",
        "</details>",
        "line\nbreak | c",
        "`code`",
        "[x](http://y)",
        "**bold**",
        "R&D",
        "_é_",
    ]
    text = card(labels=labels)
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text, flags=re.MULTILINE)
    assert [row for _, row in rows] == [
        r"a\|b",
        "&lt;script&gt;",
        "&lt;/details&gt;",
        r"line break \| c",
        r"\`code\`",
        r"\[x\](http://y)",
        r"\*\*bold\*\*",
        "R&amp;D",
        r"\_é\_",
    ]
    assert text.count("<details>") == text.count("</details>") == 3


def test_a_fence_is_longer_than_those_in_its_text() -> None:
    (config,) = re.findall(r"^````yaml\n(.*?)\n````$", card(), flags=re.DOTALL | re.MULTILINE)
    assert "learning_rate: 5.0e-05" in config and "```" in config


def test_a_card_holds_no_secret_and_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    token = "hf_" + "aB3" * 11
    text = card(
        command=f"recipes/finetune.py --hub_token {token} --data_dir /home/anna/data --other /home/annabel",
        config={
            "hub_token": "hf_short",
            "tracking": [{"wandb_api_key": "123"}],
            "tokenizer": "x",
            "token": None,
        }
        | {"data_dir": Path("/home/anna/data")},
    )
    assert token not in text and "hf_short" not in text and "123" not in text
    assert "/home/anna/" not in text and "--data_dir ~/data --other /home/annabel" in text
    assert "tokenizer: x\ntoken: null\ndata_dir: ~/data" in text


def test_a_card_for_a_model_that_is_only_saved() -> None:
    text = card(repo_id=None, base_model=None)
    assert text.startswith("---\n") and "# videomae-data" in text
    assert "trained from scratch" in text and 'model="path/to/this/folder"' in text


# Datasets


def test_a_dataset_has_a_repository_of_its_own_kind(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    files = ["README.md", "data/train-00000-of-00001.parquet"]
    repo_id = check_access("clips", private=True, repo_type="dataset")
    assert repo_id == "tester/clips" and list(hub.repos) == ["datasets/tester/clips"]
    assert hub.repos["datasets/tester/clips"].private
    url = publish(tmp_path, repo_id, files, "Prepare with vidtune", repo_type="dataset")
    _, commit = hub.repos["datasets/tester/clips"].commits
    assert url.endswith(commit.oid)
    assert {name: blob.data for name, blob in commit.files.items()} == {n: (tmp_path / n).read_bytes() for n in files}


def test_errors_of_a_dataset_name_its_option_and_a_command_for_it(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^hub_dataset_id: cannot publish 'google/x' \(403 .*write access$"):
        check_access("google/x", repo_type="dataset")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    repo_id = check_access("clips", repo_type="dataset")
    hub.fail("POST .*/commit/main", 403)
    with pytest.raises(PublishError) as caught:
        publish(tmp_path, repo_id, ["README.md"], "Prepare with vidtune", repo_type="dataset")
    hub.faults.clear()
    _, *arguments = shlex.split(str(caught.value).split("publish it with: ")[1])
    cli = shutil.which("hf", path=Path(sys.executable).parent)
    subprocess.run([cli, *arguments], check=True, capture_output=True)
    assert set(hub.repos["datasets/tester/clips"].commits[-1].files) == {"README.md"}
