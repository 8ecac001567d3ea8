"""Each cell of the table: the Auto class and the specific class give the same tensors, features and logits."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    VideoMAEImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
    set_seed,
)

from run_recipe import REPOSITORY, finetune, load_recipe, refused, words
from test_loading import TRANSFORMER, save_classifier
from video_files import write_folder_dataset
from vidtune.models.auto import AUTO, SPECIFIC, load_backbone, load_classifier, load_processor
from vidtune.models.loading import load_trained

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "video", "of", "success", "failure"]
COLUMNS = [(task, family, classes) for task, row in SPECIFIC.items() for family, classes in row.items()]
MODEL_TYPES = {
    "VideoMAE": "videomae",
    "TimeSformer": "timesformer",
    "ViViT": "vivit",
    "V-JEPA 2": "vjepa2",
}


def cells(purpose):
    """The cells of a row of the table."""
    ids = [f"{purpose}-{family}".strip("-") for _, family, _ in COLUMNS]
    return pytest.mark.parametrize(("task", "family", "classes"), COLUMNS, ids=ids)


def save_vit(folder):
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=3, **TRANSFORMER)).save_pretrained(
        folder
    )
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)


def save_bert(folder):
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=32, num_labels=3, **TRANSFORMER)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: index for index, word in enumerate(VOCABULARY)}).save_pretrained(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folder of a small random checkpoint of each family, with its processor."""
    folder = tmp_path_factory.mktemp("checkpoints")
    set_seed(0)
    save_vit(folder / "ViT")
    save_bert(folder / "BERT")
    for family, model_type in MODEL_TYPES.items():
        save_classifier(folder / family, model_type)
    return folder


def inputs(task, processor):
    """Tensors of a raw input: 4 frames, a picture, or two texts of different lengths."""
    frames = list(np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8))
    if task == "text-classification":
        return processor(["a video of success", "failure"], padding=True, return_tensors="pt")
    return processor(frames if task == "video-classification" else frames[0], return_tensors="pt")


def outputs(model, **tensors):
    with torch.no_grad():
        return model.eval()(**tensors)


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


@cells("preprocessing")
def test_processors(checkpoints, task, family, classes):
    folder = str(checkpoints / family)
    processor = load_processor(task, folder)
    assert type(processor).__name__ == classes.preprocessing[0]
    # V-JEPA 2 has no processor of pictures, so of the two Auto classes only the last one finds one
    for auto, specific in zip(
        AUTO[task].preprocessing[-len(classes.preprocessing) :], classes.preprocessing, strict=True
    ):
        generic = getattr(transformers, auto).from_pretrained(folder)
        assert type(generic).__name__ == specific
        same(inputs(task, generic), inputs(task, getattr(transformers, specific).from_pretrained(folder)))
    same(
        inputs(task, processor), inputs(task, getattr(transformers, classes.preprocessing[0]).from_pretrained(folder))
    )


@cells("features")
def test_backbones(checkpoints, task, family, classes):
    folder = str(checkpoints / family)
    tensors = inputs(task, load_processor(task, folder))
    specific = outputs(getattr(transformers, classes.features).from_pretrained(folder), **tensors)
    auto = outputs(transformers.AutoModel.from_pretrained(folder), **tensors)
    ours = load_backbone(task, folder)
    assert type(ours).__name__ == classes.features
    features = outputs(ours, **tensors).last_hidden_state
    assert torch.equal(features, auto.last_hidden_state) and torch.equal(features, specific.last_hidden_state)
    assert features.ndim == 3 and features.shape[-1] == 16 and features.std() > 0.1


@cells("task")
def test_task_models(checkpoints, task, family, classes):
    folder = str(checkpoints / family)
    tensors = inputs(task, load_processor(task, folder))
    specific = outputs(getattr(transformers, classes.task).from_pretrained(folder), **tensors)
    auto = outputs(getattr(transformers, AUTO[task].task).from_pretrained(folder), **tensors)
    ours = load_classifier(task, folder)
    assert type(ours).__name__ == classes.task
    logits = outputs(ours, **tensors).logits
    assert torch.equal(logits, auto.logits) and torch.equal(logits, specific.logits)
    assert logits.shape == (2 if family == "BERT" else 1, 2 if family in MODEL_TYPES else 3)


def test_the_head_reads_the_features_of_the_backbone(checkpoints):
    """ViT's head is one linear layer on the first token: both models hold the same backbone."""
    folder = str(checkpoints / "ViT")
    tensors = inputs("image-classification", load_processor("image-classification", folder))
    features = outputs(load_backbone("image-classification", folder), **tensors).last_hidden_state
    model = load_classifier("image-classification", folder)
    with torch.no_grad():
        assert torch.allclose(model.classifier(features[:, 0]), model(**tensors).logits, atol=1e-6)


@cells("")
def test_a_head_for_other_labels_is_new_on_the_same_backbone(checkpoints, task, family, classes):
    folder = str(checkpoints / family)
    old = load_classifier(task, folder).state_dict()
    model = load_classifier(task, folder, ["one", "two", "three", "four"])
    assert model.config.id2label == {0: "one", 1: "two", 2: "three", 3: "four"}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, old[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_pooler_without_weights_is_left_out(checkpoints, tmp_path):
    folder = str(checkpoints / "ViT")
    assert load_backbone("image-classification", folder).pooler is None
    ViTModel.from_pretrained(folder).save_pretrained(tmp_path)
    assert load_backbone("image-classification", str(tmp_path)).pooler is not None


# Checkpoints of transformers 4


def save_as_4(folder, weights_file):
    """Write a VideoMAE as transformers 4 did: its names of weights and of files; return the model."""
    model = save_classifier(folder).eval()
    (folder / "model.safetensors").unlink()
    weights = {
        name.replace("attention.query.bias", "attention.q_bias").replace(
            "attention.value.bias", "attention.v_bias"
        ): value
        for name, value in model.state_dict().items()
    }
    assert "videomae.encoder.layer.1.attention.attention.q_bias" in weights
    if weights_file == "pytorch_model.bin":
        torch.save(weights, folder / weights_file)
    else:
        save_file(weights, folder / weights_file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"transformers_version": "4.22.0", "torch_dtype": config.pop("dtype", "float32")}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def save_old_processor(folder, key, name):
    values = {key: name, "size": 32, "do_resize": True, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("weights_file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_transformers_4_give_the_same_logits(tmp_path, weights_file):
    model = save_as_4(tmp_path, weights_file)
    if weights_file == "pytorch_model.bin":
        load_recipe("convert").main(words(model=tmp_path, output_dir=tmp_path / "converted"))
        tmp_path /= "converted"
    tensors = inputs("video-classification", load_processor("video-classification", str(tmp_path)))
    expected = outputs(model, **tensors).logits
    assert torch.equal(outputs(load_classifier("video-classification", str(tmp_path)), **tensors).logits, expected)
    trained, *_ = load_trained(str(tmp_path))
    assert torch.equal(outputs(trained, **tensors).logits, expected)
    features = outputs(load_backbone("video-classification", str(tmp_path)), **tensors).last_hidden_state
    assert torch.equal(features, outputs(model.videomae, **tensors).last_hidden_state)


def test_names_of_bert_s_first_weights_are_read(checkpoints, tmp_path):
    """Norms were called gamma and beta, and positions were stored, too."""
    shutil.copytree(checkpoints / "BERT", tmp_path / "old")
    weights = load_file(tmp_path / "old" / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value + 0.1
        for name, value in weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(old, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    new = load_classifier("text-classification", str(tmp_path / "old")).state_dict()
    assert all(torch.equal(new[name], value + 0.1) for name, value in weights.items())


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
def test_a_processor_called_feature_extractor_is_read(checkpoints, tmp_path, key):
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        shutil.copytree(checkpoints / "VideoMAE", folder)
    save_old_processor(old, key, "VideoMAEFeatureExtractor")
    VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]
    ).save_pretrained(new)
    processors = [load_processor("video-classification", str(folder)) for folder in (old, new)]
    assert [type(processor).__name__ for processor in processors] == ["VideoMAEImageProcessor"] * 2
    same(*(inputs("video-classification", processor) for processor in processors))


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
def test_vit_s_feature_extractor_makes_squares(checkpoints, tmp_path, key):
    shutil.copytree(checkpoints / "ViT", tmp_path / "old")
    save_old_processor(tmp_path / "old", key, "ViTFeatureExtractor")
    processor = load_processor("image-classification", str(tmp_path / "old"))
    expected = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    same(inputs("image-classification", processor), inputs("image-classification", expected))


def test_fine_tuning_starts_from_a_checkpoint_of_transformers_4(tmp_path):
    save_as_4(tmp_path / "old", "pytorch_model.bin")
    save_old_processor(tmp_path / "old", "image_processor_type", "VideoMAEFeatureExtractor")
    load_recipe("convert").main(words(model=tmp_path / "old", output_dir=tmp_path / "new"))
    dataset = write_folder_dataset(tmp_path / "videos", ["a", "b"], 6)
    report = finetune(
        dataset=dataset, model_name_or_path=tmp_path / "new", output_dir=tmp_path / "run", num_train_epochs=1
    )
    assert report["metrics"]["test"]["videos"] > 0
    processor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "VideoMAEImageProcessor" and processor["image_mean"] == [0.1, 0.2, 0.3]


# Bad input


@pytest.mark.parametrize("load", [load_processor, load_backbone, load_classifier])
def test_a_model_of_another_task_is_refused(checkpoints, load):
    folder = checkpoints / "BERT"
    assert refused(load, "video-classification", str(folder)) == (
        f"model: {folder}: is a bert model, which is for text-classification; choose one for video-classification"
    )


def test_an_unknown_task_is_refused(checkpoints):
    message = refused(load_backbone, "audio-classification", str(checkpoints / "BERT"))
    assert message.startswith("task: audio-classification: ") and "text-classification" in message


def test_a_checkpoint_without_a_tokenizer_is_refused(checkpoints, tmp_path):
    BertForSequenceClassification.from_pretrained(checkpoints / "BERT").save_pretrained(tmp_path)
    assert refused(load_processor, "text-classification", str(tmp_path)) == (
        f"model: {tmp_path}: has no tokenizer; put its tokenizer.json or vocab.txt beside the weights"
    )


def test_a_checkpoint_without_a_head_needs_labels(checkpoints, tmp_path):
    BertModel.from_pretrained(checkpoints / "BERT").save_pretrained(tmp_path)
    message = refused(load_classifier, "text-classification", str(tmp_path))
    assert message == f"model: {tmp_path}: has no weights for classifier.bias; give the labels of a new head"
    assert load_classifier("text-classification", str(tmp_path), ["a", "b"]).num_labels == 2


def test_a_backbone_without_all_of_its_weights_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "ViT", tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layer.1." not in name},
        tmp_path / "torn" / "model.safetensors",
        {"format": "pt"},
    )
    for load in (load_backbone, load_classifier):
        assert "has no weights for" in refused(load, "image-classification", str(tmp_path / "torn"))
    assert "choose a checkpoint that is whole" in refused(
        load_classifier, "image-classification", str(tmp_path / "torn"), ["a"]
    )


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    assert refused(load_backbone, "text-classification", str(tmp_path)).startswith(
        f"model: {tmp_path}: can't be loaded"
    )


# The documents


DOCUMENTS = [REPOSITORY / "docs" / name for name in ("autoclass.md", "autoclass.zh-TW.md")]


def code_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_code_of_the_documents_runs(checkpoints, capsys):
    code = "\n".join(code_blocks(DOCUMENTS[0]))
    for name, family in (
        ("MCG-NJU/videomae-base", "VideoMAE"),
        ("google/vit-base-patch16-224-in21k", "ViT"),
        ("google-bert/bert-base-uncased", "BERT"),
    ):
        assert name in code
        code = code.replace(name, str(checkpoints / family))
    variables = {}
    exec(code.replace("(16, 224, 224, 3)", "(4, 40, 50, 3)"), variables)
    assert capsys.readouterr().out.strip() in ("failure", "success")
    assert variables["loss"] > 0
    assert variables["inputs"]["input_ids"].shape == (1, 8) and variables["vector"].shape == (1, 16)


def test_both_documents_hold_the_same_code():
    english, chinese = (
        [re.sub(r"(^|  )#.*", "", block, flags=re.MULTILINE) for block in code_blocks(path)] for path in DOCUMENTS
    )
    assert english == chinese and len(english) == 4


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_of_the_documents_are_the_table(path):
    lines = [line.strip("| ").split("|") for line in path.read_text().splitlines() if line.startswith("| ")]
    tables = [lines[:4], lines[4:]]  # each a line of titles and three purposes
    shown = {
        title.strip(): [re.findall(r"`(\w+)`", line[column]) for line in purposes]
        for titles, *purposes in tables
        for column, title in enumerate(titles[1:], 1)
    }
    auto = shown.pop("Auto class", None) or shown.pop("Auto 類別")
    assert auto == [
        list(dict.fromkeys(name for classes in AUTO.values() for name in classes.preprocessing)),
        ["AutoModel"],
        [classes.task for classes in AUTO.values()],
    ]
    assert shown == {
        family: [list(classes.preprocessing), [classes.features], [classes.task]] for _, family, classes in COLUMNS
    }
