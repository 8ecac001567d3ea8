"""The model card: what the Hub and a reader want to know of a trained model."""

import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_METRICS = (  # key in a report, the Hub's metric type, title
    ("accuracy", "accuracy", "Accuracy"),
    ("mean_average_precision", "mean_average_precision", "Mean average precision"),
    ("top5_accuracy", "top_5_accuracy", "Top-5 accuracy"),
    ("macro_f1", "f1", "Macro F1"),
)
READS = {
    "video-classification": "videos",
    "image-classification": "single frames of videos",
    "text-classification": "texts that come with videos",
}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SECRET_KEY = re.compile(r"(^|_)(token|secret|password|api_key)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}"
    r"|(?<=://)[^/\s@]+(?=@)"  # user and password of a URL
    r"|(?<=[?&])(?:(?:access_)?token|api_?key|key|sig|signature|X-Amz-\w+)=[^&\s\"']+",
    re.IGNORECASE,
)
_SECRET_VARIABLES = ("TOKEN", "_SECRET", "PASSWORD", "API_KEY", "ACCESS_KEY")
"""Ends of the names of environment variables that hold secrets, as HF_TOKEN and WANDB_API_KEY do."""


def model_card(
    repo_id: str | None,
    report: Mapping[str, Any],
    *,
    base_model: str | None,
    dataset: str,
    dataset_on_hub: bool,
    license: str | None,
    pictures: Sequence[str] | None = None,
    task: str = "video-classification",
) -> str:
    """Write the README.md of a trained model; secrets and the path of the home folder are taken out.

    Args:
        repo_id: Where it will be published, `user/name`; None if it is only saved.
        report: What `report.json` holds: recipe, command, config, model, data, labels, clip, metrics,
            environment, seconds.
        base_model: The checkpoint that it was trained from, Hub id or local folder; None if from scratch.
        dataset: Hub id or path of the dataset.
        dataset_on_hub: Whether `dataset` is a Hub id.
        license: The Hub's name of a license (`apache-2.0`, `cc-by-nc-4.0`), or None to state none.
        pictures: Names of the pictures that stand beside the card, as does `report.html` then; None if neither does.
        task: `video-classification`, `image-classification` of a single frame, or `text-classification`; the Hub's
            name of what the model does.

    Returns:
        The card: YAML metadata, then Markdown.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    metrics, labels, environment = report["metrics"], report["labels"], report["environment"]
    model_type = report["model"]["type"]
    dataset_name = dataset if dataset_on_hub else Path(dataset).name
    name = repo_id.split("/")[-1] if repo_id else f"{model_type}-{Path(dataset).name}"
    scored = next((split for split in ("test", "validation") if split in metrics), None)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset_name,
            dataset_name=dataset_name,
            dataset_split=scored,
            metric_type=metric_type,
            metric_name=title,
            metric_value=float(metrics[scored][key]),
        )
        for key, metric_type, title in _METRICS
        if scored and _is_number(metrics[scored].get(key))
    ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        base_model=base_model if _is_hub_id(base_model) else None,  # the Hub refuses a path
        datasets=[dataset] if dataset_on_hub else None,
        license=license,
        tags=[task, "vidtune", model_type],
        metrics=["accuracy", "f1"],
        model_name=name,
        eval_results=results or None,
    )
    clip = {name: value for name, value in report["clip"].items() if value is not None}
    if clip.get("sampling") == "segments" or "frame_stride" in clip:
        clip.pop("fps", None)  # which is of dense clips, and a stride in its place
    hardware = [(key, environment[key]) for key in ("hardware", "platform", "python", "commit")]
    config = report["config"]
    is_adapter = config.get("tuning") == "lora" and not config.get("merge_lora")
    parts = metrics.values()
    columns = [(key, title) for key, _, title in _METRICS if any(part.get(key) is not None for part in parts)]
    body = [
        f"# {markdown(name)}",
        _summary(report, base_model, dataset_name, task),
        "## Results",
        _table(
            ["split", *(title for _, title in columns), "videos scored", "videos failed"],
            [
                [
                    split,
                    *(_score(part.get(key)) for key, _ in columns),
                    part["videos"],
                    _count(part["failed"]),
                ]
                for split, part in metrics.items()
            ],
        ),
        *([] if pictures is None else _page_and_pictures(pictures)),
        "## Usage",
        _usage(repo_id, model_type, report["clip"]["num_frames"], is_adapter)
        if task == "video-classification"
        else _usage_of_pipeline(repo_id, task),
        *_input(clip, config.get("text_column")),
        "## Data",
        _table(
            ["split", "videos", "failed to decode"],
            [[split, part["videos"], _count(part["failed"])] for split, part in report["data"].items()],
        ),
        _details(f"{len(labels)} labels", _table(["id", "label"], list(enumerate(labels)))),
        "## Training",
        f"It took {report['seconds'] / 60:.1f} minutes with",
        _fenced(report["command"], "bash"),
        _details("Configuration", _fenced(_yaml(config), "yaml")),
        _details("Environment", _table(["what", "value"], [*hardware, *environment["packages"].items()])),
    ]
    return without_secrets(str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")))


def pretraining_card(
    repo_id: str | None,
    report: Mapping[str, Any],
    *,
    base_model: str | None,
    dataset: str,
    dataset_on_hub: bool,
    license: str | None,
) -> str:
    """Write the README.md of a pre-trained model, with its picture `reconstructions.png`.

    The arguments are those of `model_card`; the report has `masking`, and no labels.
    """
    from huggingface_hub import ModelCard, ModelCardData

    model, masking, environment = report["model"], report["masking"], report["environment"]
    dataset_name = dataset if dataset_on_hub else Path(dataset).name
    name = repo_id.split("/")[-1] if repo_id else f"{model['type']}-{Path(dataset).name}"
    metadata = ModelCardData(
        library_name="transformers",
        base_model=base_model if _is_hub_id(base_model) else None,  # the Hub refuses a path
        datasets=[dataset] if dataset_on_hub else None,
        license=license,
        tags=["masked-autoencoding", "video", "vidtune", model["type"]],
        model_name=name,
    )
    started = f"from {markdown(base_model if _is_hub_id(base_model) else Path(base_model).name)}" if base_model else ""
    rows = [[split, part["videos"], _count(part["failed"])] for split, part in report["data"].items()]
    scores = {split: _score(part["loss"]) for split, part in report["metrics"].items()}
    hardware = [(key, environment[key]) for key in ("hardware", "platform", "python", "commit")]
    body = [
        f"# {markdown(name)}",
        f"A {markdown(model['type'])} pre-trained {started or 'from scratch'} on videos of {markdown(dataset_name)},"
        f" of which no label was read, with the vidtune recipe {markdown(report['recipe'])}: it sees"
        f" {masking['patches'] - masking['hidden']} of the {masking['patches']} patches of a clip and fills in the"
        f" rest. It has {model['parameters']:,} parameters, its decoder, which fine-tuning leaves out, among them.",
        "## Fine-tuning",
        _fenced(
            f"python recipes/finetune.py --model_name_or_path {repo_id or 'path/to/this/folder'} --dataset my_videos",
            "bash",
        ),
        "## Reconstructions",
        "Of each video of the validation split: the clip, what the model sees of it, and what it makes of the rest.",
        "![clips, what is seen of them, what is made of the rest](reconstructions.png)",
        "## Data",
        _table(
            ["split", "videos", "failed to decode", "mean squared error"],
            [[*row, scores.get(row[0], "-")] for row in rows],
        ),
        "## Training",
        f"It took {report['seconds'] / 60:.1f} minutes with",
        _fenced(report["command"], "bash"),
        _details("Configuration", _fenced(_yaml(report["config"]), "yaml")),
        _details("Environment", _table(["what", "value"], [*hardware, *environment["packages"].items()])),
    ]
    return without_secrets(str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")))


def _is_hub_id(name: str | None) -> bool:
    """Tell a Hub id from a local folder, which wins as it does in `from_pretrained`, and from a bare name."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _summary(report: Mapping[str, Any], base_model: str | None, dataset: str, task: str) -> str:
    model, origin = report["model"], "trained from scratch"
    if base_model is not None and _is_hub_id(base_model):
        origin = f"fine-tuned from [{markdown(base_model)}](https://huggingface.co/{base_model})"
    elif base_model is not None:
        origin = f"fine-tuned from a local checkpoint, {markdown(Path(base_model).name)},"
    text = (
        f"A {markdown(model['type'])} classifier of {READS[task]} into {len(report['labels'])} labels, {origin} on"
        f" {markdown(dataset)} with the vidtune recipe {markdown(report['recipe'])}."
        f" It has {model['parameters']:,} parameters; {model['trainable_parameters']:,} were trained."
    )
    if base_model is not None and model["newly_initialised"]:
        text += f" Not in that checkpoint, hence new: {markdown(', '.join(model['newly_initialised']))}."
    return text


def _page_and_pictures(pictures: Sequence[str]) -> list[str]:
    link = "More in [report.html](report.html): download it and open it in a browser; it needs nothing else."
    return [link, *(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures)]


def _usage(repo_id: str | None, model_type: str, num_frames: int, is_adapter: bool) -> str:
    from vidtune.models import configurations
    from vidtune.models.registration import MODELS

    own = model_type in {getattr(configurations, name).model_type for name in MODELS}
    model = json.dumps(repo_id or "path/to/this/folder")
    # From a path the pipeline would decode with torchcodec, which needs FFmpeg; PyAV carries its own.
    video = f'video, _ = load_video("video.mp4", num_frames={num_frames}, backend="pyav")'
    if is_adapter:  # the pipeline would take the labels of its base
        code = f"""\
from transformers.video_utils import load_video
from vidtune.evaluation import predict_frames

{video}
print(predict_frames({model}, video).probabilities)"""
    else:
        registered = "import vidtune  # tells transformers of this model\n" if own else ""
        code = f"""\
{registered}from transformers import pipeline
from transformers.video_utils import load_video

classify = pipeline("video-classification", model={model})
{video}
print(classify(video, num_frames={num_frames}))"""
    from_path = "" if is_adapter else ' Where torchcodec finds FFmpeg, `"video.mp4"` can be given as it is.'
    needed = "the library vidtune" if own or is_adapter else "`pip install transformers torch torchvision av`"
    return (
        f"{_fenced(code, 'python')}\n\nThis needs {needed} and takes {num_frames} frames, evenly spread over the"
        f" video. The results above may be means over several clips and crops of each.{from_path}"
    )


def _usage_of_pipeline(repo_id: str | None, task: str) -> str:
    reads_texts = task == "text-classification"
    packages = "transformers torch" if reads_texts else "transformers torch torchvision pillow"
    code = f"""\
from transformers import pipeline

classify = pipeline({json.dumps(task)}, model={json.dumps(repo_id or "path/to/this/folder")})
print(classify({json.dumps("A title" if reads_texts else "frame.jpg")}))"""
    return f"{_fenced(code, 'python')}\n\nThis needs `pip install {packages}`."


def _input(clip: Mapping[str, Any], text_column: str | None) -> list[str]:
    if text_column:
        return ["## Texts", f"The column {markdown(text_column)} of the dataset; no video is looked at."]
    return ["## Clips", "How frames are drawn from a video:", _table(["setting", "value"], list(clip.items()))]


def markdown(value: object) -> str:
    """Escape a value for a sentence or a table cell of Markdown: it shows as written and changes nothing around it."""
    text = html.escape(without_secrets(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _score(value: float | None) -> str:
    return f"{value:.4f}" if _is_number(value) else "-"


def _count(failed: int | Sequence[object]) -> int:
    return failed if isinstance(failed, int) else len(failed)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(markdown(cell) for cell in line)} |" for line in lines)


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{without_secrets(text).strip()}\n{fence}"


def _details(summary: str, content: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    # By way of JSON: paths and enums become text, tuples lists, which is what safe_dump writes.
    return yaml.safe_dump(json.loads(json.dumps(_masked(config), default=str)), sort_keys=False)


def _masked(value: Any) -> Any:
    """Hide what stands under a key that names a secret, at any depth."""
    if isinstance(value, Mapping):
        hidden = {key for key in value if _SECRET_KEY.search(str(key)) and value[key] is not None}
        return {key: "***" if key in hidden else _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list | tuple) else value


def without_secrets(text: str) -> str:
    """Take out tokens, those of the environment too whatever they look like, and the path of the home folder."""
    for name, value in os.environ.items():
        if name.endswith(_SECRET_VARIABLES) and len(value) >= 8:  # a shorter one would be found in any text
            text = text.replace(value, "***")
    text, home = _SECRET_VALUE.sub("***", text), os.path.expanduser("~")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text
