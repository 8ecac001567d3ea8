"""The baselines: a model of a single frame, and one of a title, fine-tuned by the same recipe on the same videos."""

# ruff: noqa: F811
import csv
import json
import re
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, Video
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
    set_seed,
)

from hub_server import hub  # noqa: F401
from run_recipe import exit_code, finetune, load_recipe, words
from video_files import moving_square, write_folder_dataset, write_video
from vidtune.arguments import parse
from vidtune.data.clips import FAILED, PADDING
from vidtune.data.decoding import open_video
from vidtune.data.sources import load_videos
from vidtune.data.texts import Texts, collate_texts
from vidtune.errors import InputError
from vidtune.evaluation.predictions import read_predictions
from vidtune.models.texts import most_tokens
from vidtune.options import DataArguments, ModelArguments, SourceArguments, TaskArguments, TuningArguments
from vidtune.training.mixing import Mix, mix_clips

VIT = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a goal miss kick the ball corner".split()
TITLES = {"miss": ["a miss", "the ball kick miss", "miss"], "goal": ["goal", "a goal the", "kick goal"]}

IMAGE = {
    "task": "image-classification",
    "config_name": "vit",
    "config_overrides": json.dumps(VIT | {"intermediate_size": 32}),
}
TEXT = {"task": "text-classification", "text_column": "title", "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twelve videos of two labels in a table, whose titles say the label."""
    folder = tmp_path_factory.mktemp("videos")
    with open(folder / "videos.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "label", "title", "note"])
        for number in range(24):
            label = ("goal", "miss")[number % 2]
            write_video(folder / f"{number}.mp4", moving_square(6, 40, 48, seed=number))
            rows.writerow([f"{number}.mp4", label, TITLES[label][number % 3], "" if number == 2 else "x"])
    return folder / "videos.csv"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A checkpoint as the Hub has them: no head, no pooler, and a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    set_seed(0)
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=12, **BERT)
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images_run(table, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("runs") / "images"
    return output_dir, finetune(**IMAGE, dataset=table, output_dir=output_dir, num_train_epochs=1)


@pytest.fixture(scope="module")
def texts_run(table, bert, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("runs") / "texts"
    never = {"eval_strategy": "no", "save_strategy": "no", "num_train_epochs": 10}
    return output_dir, finetune(**TEXT, **never, dataset=table, model_name_or_path=bert, output_dir=output_dir)


def probabilities(answer):
    """What a pipeline says, by label."""
    return {item["label"]: item["score"] for item in answer}


def test_a_frame_model_is_a_plain_checkpoint_whose_pipeline_says_what_was_scored(images_run, table):
    output_dir, report = images_run
    assert json.loads((output_dir / "config.json").read_text())["architectures"] == ["ViTForImageClassification"]
    assert report["clip"]["num_frames"] == 1
    classify = pipeline("image-classification", model=str(output_dir))
    predictions = read_predictions(output_dir)
    right = 0
    for video in predictions.to_pylist():
        with open_video(str(table.parent / video["video_id"])) as opened:
            (frame,) = opened.frames_at([opened.duration_seconds / 2])
        said = probabilities(classify(Image.fromarray(frame.permute(1, 2, 0).numpy())))
        assert [said["goal"], said["miss"]] == pytest.approx(video["probabilities"], abs=2e-3)
        right += video["prediction"] == video["label"]
    assert report["metrics"]["test"]["accuracy"] == pytest.approx(right / len(predictions))


def test_a_frame_model_is_evaluated_as_one_of_videos_and_compared_with_titles(images_run, texts_run, table, tmp_path):
    output_dir, report = images_run
    options = {"compare": texts_run[0], "use_cpu": "true", "dataloader_num_workers": 0}
    again = load_recipe("evaluate").main(
        words(model=output_dir, dataset=table, output_dir=tmp_path / "test", **options)
    )
    assert again["metrics"]["test"] == report["metrics"]["test"]
    assert again["clip"]["num_frames"] == 1
    difference = report["metrics"]["test"]["accuracy"] - texts_run[1]["metrics"]["test"]["accuracy"]
    assert (again["comparison"]["videos"], again["comparison"]["difference"]) == (4, difference)


def test_a_title_that_says_the_label_is_enough(texts_run):
    output_dir, report = texts_run
    assert report["metrics"]["test"]["accuracy"] == report["metrics"]["validation"]["accuracy"] == 1.0
    new = set(report["model"]["newly_initialised"])
    assert new == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert report["clip"] == {}
    model = BertForSequenceClassification.from_pretrained(output_dir)
    assert model.config.id2label == {0: "goal", 1: "miss"}


def test_a_text_model_is_a_plain_checkpoint_whose_pipeline_says_what_was_scored(texts_run, table):
    output_dir, _ = texts_run
    with open(table, newline="") as file:
        titles = {row["video"]: row["title"] for row in csv.DictReader(file)}
    classify = pipeline("text-classification", model=str(output_dir), top_k=None)
    for video in read_predictions(output_dir).to_pylist():
        said = probabilities(*classify([titles[video["video_id"]]]))
        assert [said["goal"], said["miss"]] == pytest.approx(video["probabilities"], abs=1e-5)


def test_all_tasks_see_the_same_splits(images_run, texts_run):
    of_images, of_texts = (
        read_predictions(output_dir)["video_id"].to_pylist() for output_dir, _ in (images_run, texts_run)
    )
    assert of_images == of_texts
    assert images_run[1]["split"] == texts_run[1]["split"]


@pytest.mark.parametrize("task", ["image-classification", "text-classification"])
def test_the_card_names_the_task_and_its_snippet_runs(task, images_run, texts_run, tmp_path, monkeypatch, capsys):
    output_dir = (images_run if task == "image-classification" else texts_run)[0]
    card = ModelCard.load(output_dir / "README.md")
    assert card.data.pipeline_tag == task
    assert card.data.tags[0] == task
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    Image.new("RGB", (60, 40)).save(tmp_path / "frame.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("path/to/this/folder", str(output_dir)), {})
    assert "'score': " in capsys.readouterr().out


def test_a_published_text_model_has_its_tokenizer(table, bert, tmp_path, hub):
    options = {"push_to_hub": "true", "hub_model_id": "tester/titles", "max_steps": 1}
    finetune(**TEXT, dataset=table, model_name_or_path=bert, output_dir=tmp_path / "run", **options)
    published = hub.repos["tester/titles"].commits[-1].files
    assert {"tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"} <= published.keys()


def test_a_text_run_that_is_resumed_ends_like_an_uninterrupted_one(table, bert, tmp_path):
    options = TEXT | {"dataset": table, "model_name_or_path": bert, "num_train_epochs": 2}
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    finetune(**options, output_dir=straight)
    shutil.copytree(straight, halted)
    last = max(halted.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    finetune(**options, output_dir=halted, resume_from_checkpoint="auto")
    first, second = (BertForSequenceClassification.from_pretrained(path).state_dict() for path in (straight, halted))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_checkpoint_of_images_keeps_its_normalisation_and_mixes_its_frames(table, tmp_path):
    set_seed(0)
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    ViTForImageClassification(ViTConfig(**VIT, intermediate_size=32, **labels)).save_pretrained(tmp_path / "vit")
    size = {"height": 32, "width": 32}
    processor = ViTImageProcessor(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    processor.save_pretrained(tmp_path / "vit")
    options = {"mixup": 0.8, "cutmix": 1.0, "num_sample": 2, "temporal_views": 2, "layer_decay": 0.7, "max_steps": 2}
    start = {"task": "image-classification", "model_name_or_path": tmp_path / "vit", "dataset": table}
    report = finetune(**start, output_dir=tmp_path / "run", **options)
    assert report["model"]["newly_initialised"] == ["classifier.bias", "classifier.weight"]  # of other labels
    assert ViTImageProcessor.from_pretrained(tmp_path / "run").image_mean == pytest.approx([0.4, 0.5, 0.6])
    assert report["metrics"]["test"]["videos"] > 0
    with pytest.raises(InputError, match="image_size: 48: the model reads single frames of 32 px only"):
        finetune(**start, output_dir=tmp_path / "larger", image_size=48)


def test_pictures_are_mixed_as_clips_of_one_frame_are():
    pixels, targets = torch.rand(2, 3, 8, 8), torch.eye(2)
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.25, 1.0]), torch.tensor([[0, 0, 0, 0], [2, 6, 2, 6]]))
    mixed, mixed_targets = mix_clips(pixels, targets, mix)
    clips, clip_targets = mix_clips(pixels[:, None], targets, mix)
    assert torch.equal(mixed, clips[:, 0])
    assert torch.equal(mixed_targets, clip_targets)
    torch.testing.assert_close(mixed[0], 0.25 * pixels[0] + 0.75 * pixels[1])


def test_texts_are_padded_and_what_is_cut_is_said(bert, caplog):
    tokenizer = BertTokenizer.from_pretrained(bert)
    features = Features(
        {"video": Video(decode=False), "label": ClassLabel(names=["goal", "miss"]), "text": Value("string")}
    )
    columns = {
        "video": [{"path": "a.mp4", "bytes": None}] * 2,
        "label": [1, 0],
        "text": ["a goal", "the ball kick goal"],
    }
    videos = Dataset.from_dict(columns, features=features)
    texts = Texts(videos, tokenizer, 5)
    assert "1 of 2 texts have more than the 5 tokens" in caplog.text
    batch = collate_texts([texts[0, 0], texts[0, 1]], tokenizer)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 0], [2, 9, 10, 8, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert collate_texts([texts[0, 0, PADDING], texts[0, 1]], tokenizer)["labels"].tolist() == [0]
    assert collate_texts([texts[0, 0, PADDING]] * 2, tokenizer)["labels"].tolist() == [FAILED]
    assert collate_texts([texts[0]], tokenizer)["input_ids"].shape == (1, 1, 4)  # a video, its one view, tokens
    caplog.clear()
    Texts(videos, tokenizer, 6)
    assert not caplog.text
    assert most_tokens(BertConfig(max_position_embeddings=12), tokenizer) == 12


def test_texts_of_a_dataset_of_the_hub(table, tmp_path):
    content = (table.parent / "0.mp4").read_bytes()
    columns = {
        "video": [{"path": f"{number}.mp4", "bytes": content} for number in range(2)],
        "label": ["goal", "miss"],
        "title": ["kick ", "corner"],
        "views": [1, 2],
        "tags": ["x", None],
    }
    features = Features(
        {"video": Video(), **{name: Value("string") for name in ("label", "title", "tags")}}
        | {"views": Value("int64")}
    )
    (tmp_path / "data").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert load_videos(str(tmp_path), text_column="title")["train"]["text"][:] == ["kick", "corner"]
    assert "text" not in load_videos(str(tmp_path))["train"].column_names
    for column, message in {
        "name": r"text_column: 'name' is no column of .* \(it has video, label, title, ",
        "views": "text_column: 'views' of .* holds no texts",
        "tags": "tags of train/1 is empty",
    }.items():
        with pytest.raises(InputError, match=message):
            load_videos(str(tmp_path), text_column=column)


def bad_input(table, bert, tmp_path):
    """Options that a run refuses, and what it says."""
    (tmp_path / "untokenized").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bert / name, tmp_path / "untokenized")
    text = {"task": "text-classification", "text_column": "title", "dataset": table, "model_name_or_path": bert}
    image = IMAGE | {"dataset": table}
    folder = write_folder_dataset(tmp_path / "folder", ["a", "b"], 2)
    return [
        (
            text | {"text_column": "titel"},
            r"text_column: 'titel' is no column of .* \(it has video, label, title, note\)",
        ),
        (text | {"text_column": "note"}, r"row 3: note is empty; fill it in, or delete the row"),
        (text | {"dataset": folder}, "text_column: 'title' goes with a table or a dataset of the Hub, .* no texts"),
        (text | {"model_name_or_path": tmp_path / "untokenized"}, "untokenized: has no tokenizer; give a checkpoint"),
        (
            {**text, "model_name_or_path": None, "config_name": "bert"},
            "config_name: bert: a new model has no tokenizer",
        ),
        (
            {**text, "model_name_or_path": None, "config_name": "vit"},
            "vit: a vit model reads no texts; give one that does",
        ),
        (
            image | {"config_name": "videomae", "config_overrides": "{}"},
            "videomae: a videomae model reads no single frames",
        ),
        (
            image | {"task": "video-classification", "config_name": "bert", "config_overrides": "{}"},
            "a bert model reads no clips",
        ),
    ]


def test_what_does_not_fit_the_task_is_refused_in_one_line(table, bert, tmp_path, capsys):
    for options, message in bad_input(table, bert, tmp_path):
        given = {name: value for name, value in options.items() if value is not None}
        assert exit_code("finetune", words(**given, output_dir=tmp_path / "run", use_cpu="true")) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.search(message, line), line
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task text-classification", "text_column: missing; name the column"),
        ("--text_column title", "text_column: title goes with task: text-classification; it is video-class"),
        (
            "--task image-classification --num_frames 8",
            "num_frames: 8: task: image-classification reads single frames",
        ),
        ("--task image-classification --fps 5", "fps: 5.0: task: image-classification reads single frames only"),
        ("--task image-classification --tuning attentive_probe", "attentive_probe pools the patches of a clip"),
        ("--task image-classification --tuning lora", "merge_lora: False: .* saves no adapters; add --merge_lora"),
        (
            "--task text-classification --text_column t --mixup 0.8",
            "mixup: 0.8: task: text-classification reads texts",
        ),
        ("--task text-classification --text_column t --crop_scale 0.6 1", "crop_scale: .* reads texts only; leave it"),
        ("--task text-classification --text_column t --image_size 64", "image_size: 64: .* reads texts only; leave"),
    ],
)
def test_options_that_mean_nothing_for_a_task_are_refused(options, message):
    sections = {
        "source": SourceArguments,
        "task": TaskArguments,
        "data": DataArguments,
        "model": ModelArguments,
        "tuning": TuningArguments,
    }
    with pytest.raises(InputError, match=message):
        parse([*options.split(), "--model_name_or_path", "x"], "A recipe.", sections)
