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
    ("top5_accuracy", "top_5_accuracy", "Top-5 accuracy"),
    ("macro_f1", "f1", "Macro F1"),
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SECRET_KEY = re.compile(r"(^|_)(token|secret|password|api_key)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def model_card(
    repo_id: str | None,
    report: Mapping[str, Any],
    *,
    base_model: str | None,
    dataset: str,
    dataset_on_hub: bool,
    license: str | None,
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
            task_type="video-classification",
            dataset_type=dataset_name,
            dataset_name=dataset_name,
            dataset_split=scored,
            metric_type=metric_type,
            metric_name=title,
            metric_value=float(metrics[scored][key]),
        )
        for key, metric_type, title in _METRICS
        if scored and _is_number(metrics[scored][key])
    ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        base_model=base_model if _is_hub_id(base_model) else None,  # the Hub refuses a path
        datasets=[dataset] if dataset_on_hub else None,
        license=license,
        tags=["video-classification", "vidtune", model_type],
        metrics=["accuracy", "f1"],
        model_name=name,
        eval_results=results or None,
    )
    clip = dict(report["clip"])
    if clip.get("sampling") == "segments":
        clip.pop("fps", None)  # of dense clips only
    hardware = [(key, environment[key]) for key in ("hardware", "platform", "python", "commit")]
    body = [
        f"# {_inline(name)}",
        _summary(report, base_model, dataset_name),
        "## Results",
        _table(
            ["split", *(title for _, _, title in _METRICS), "videos scored", "videos failed"],
            [
                [
                    split,
                    *(_score(part[key]) for key, _, _ in _METRICS),
                    part["videos"],
                    _count(part["failed"]),
                ]
                for split, part in metrics.items()
            ],
        ),
        "## Usage",
        _usage(repo_id, report["clip"]["num_frames"]),
        "## Clips",
        "How frames are drawn from a video:",
        _table(["setting", "value"], list(clip.items())),
        "## Data",
        _table(
            ["split", "videos", "failed to decode"],
            [[split, part["videos"], _count(part["failed"])] for split, part in report["data"].items()],
        ),
        _details(f"{len(labels)} labels", _table(["id", "label"], list(enumerate(labels)))),
        "## Training",
        f"It took {report['seconds'] / 60:.1f} minutes with",
        _fenced(report["command"], "bash"),
        _details("Configuration", _fenced(_yaml(report["config"]), "yaml")),
        _details("Environment", _table(["what", "value"], [*hardware, *environment["packages"].items()])),
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n"))


def _is_hub_id(name: str | None) -> bool:
    """Tell a Hub id from a local folder, which wins as it does in `from_pretrained`, and from a bare name."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _summary(report: Mapping[str, Any], base_model: str | None, dataset: str) -> str:
    model, origin = report["model"], "trained from scratch"
    if base_model is not None and _is_hub_id(base_model):
        origin = f"fine-tuned from [{_inline(base_model)}](https://huggingface.co/{base_model})"
    elif base_model is not None:
        origin = f"fine-tuned from a local checkpoint, {_inline(Path(base_model).name)},"
    text = (
        f"A {_inline(model['type'])} classifier of videos into {len(report['labels'])} labels, {origin} on"
        f" {_inline(dataset)} with the vidtune recipe {_inline(report['recipe'])}."
        f" It has {model['parameters']:,} parameters; {model['trainable_parameters']:,} were trained."
    )
    if base_model is not None and model["newly_initialised"]:
        text += f" Not in that checkpoint, hence new: {_inline(', '.join(model['newly_initialised']))}."
    return text


def _usage(repo_id: str | None, num_frames: int) -> str:
    # From a path the pipeline would decode with torchcodec, which needs FFmpeg; PyAV carries its own.
    code = f"""\
from transformers import pipeline
from transformers.video_utils import load_video

classify = pipeline("video-classification", model={json.dumps(repo_id or "path/to/this/folder")})
video, _ = load_video("video.mp4", num_frames={num_frames}, backend="pyav")
print(classify(video, num_frames={num_frames}))"""
    return (
        f"{_fenced(code, 'python')}\n\nThis needs `pip install transformers torch torchvision av` and takes"
        f" {num_frames} frames, evenly spread over the video. The results above may be means over several"
        ' clips and crops of each. Where torchcodec finds FFmpeg, `"video.mp4"` can be given as it is.'
    )


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _score(value: float | None) -> str:
    return f"{value:.4f}" if _is_number(value) else "-"


def _count(failed: int | Sequence[object]) -> int:
    return failed if isinstance(failed, int) else len(failed)


def _inline(value: object) -> str:
    """Escape a value for a sentence or a table cell: it shows as written and changes nothing around it."""
    text = html.escape(without_secrets(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines)


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
    """Take out tokens and the path of the home folder."""
    text, home = _SECRET_VALUE.sub("***", text), os.path.expanduser("~")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text
