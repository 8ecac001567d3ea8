"""Publishing on the Hugging Face Hub: the right to write, the model card, one commit."""

import html
import json
import logging
import math
import os
import re
import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidtune.errors import InputError, PublishError

logger = logging.getLogger(__name__)

_METRICS = (  # key in a report, the Hub's metric type, title
    ("accuracy", "accuracy", "Accuracy"),
    ("top5_accuracy", "top_5_accuracy", "Top-5 accuracy"),
    ("macro_f1", "f1", "Macro F1"),
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SECRET_KEY = re.compile(r"(^|_)(token|secret|password|api_key)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def check_access(repo_id: str, private: bool | None = None) -> str:
    """Make sure, before training, that its model can be published; create the repository if missing.

    The token comes from the environment (`HF_TOKEN`) or from `hf auth login`, never from a config, which is
    saved and published.

    Args:
        repo_id: `user/name`, or `name` for a repository of the token's own user.
        private: Whether a repository created here is private; None is the Hub's default.

    Returns:
        The full `user/name`.

    Raises:
        InputError: If the id is malformed, the token missing, refused or without the right to write, or the
            Hub out of reach.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    token = get_token()
    if token is None:
        raise InputError(
            f"hub_model_id: no token to publish {repo_id!r}: run `hf auth login` or set HF_TOKEN"
        )
    api = HfApi(token=token)
    try:
        full_id: str = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # `exist_ok` also passes on a repository that the token can only read.
        api.auth_check(full_id, write=True)
    except HFValidationError as error:
        raise InputError(
            f"hub_model_id: {repo_id!r} is not `user/name` ({_reason(error)}): mend it"
        ) from error
    except HfHubHTTPError as error:
        remedy = {
            401: "the token is refused: run `hf auth login` or set HF_TOKEN to a valid one",
            403: "the token may not write there: take a namespace of yours or a token with write access",
        }.get(error.response.status_code, "try again later, or train with push_to_hub: false")
        raise InputError(f"hub_model_id: cannot publish {repo_id!r} ({_reason(error)}): {remedy}") from error
    except Exception as error:  # of the transport, whose library changed between versions of the client
        raise InputError(
            f"hub_model_id: cannot reach {api.endpoint} to publish {repo_id!r} ({_reason(error)}):"
            " check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or train with push_to_hub: false"
        ) from error
    return full_id


def publish(
    folder: Path, repo_id: str, files: Sequence[str], message: str, waits: Sequence[float] = (2, 8, 30)
) -> str:
    """Upload files of a folder in one commit, trying again where a failure may pass.

    A commit of which only the answer got lost is not made twice: the client leaves out files that the
    repository holds already.

    Args:
        folder: Where the files are.
        repo_id: The full `user/name`, as `check_access` returned it.
        files: Names relative to `folder`; nothing else is uploaded.
        message: Title of the commit.
        waits: Seconds before each further attempt.

    Returns:
        The URL of the commit.

    Raises:
        PublishError: After the last attempt or a final refusal; it names the folder and the command that
            publishes it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder, pauses = folder.resolve(), iter(waits)
    while True:
        try:
            additions = [CommitOperationAdd(name, folder / name) for name in files]
            return str(HfApi().create_commit(repo_id, additions, commit_message=message).commit_url)
        except Exception as error:  # whatever failed, the model is trained and saved: say where
            pause = next(pauses, None)
            if pause is None or _is_final(error):
                include = [word for name in files for word in ("--include", name)]
                command = shlex.join(["hf", "upload", repo_id, str(folder), ".", *include])
                raise PublishError(
                    f"publishing to {repo_id} failed ({_reason(error)}); everything is saved in {folder},"
                    f" publish it with: {command}"
                ) from error
            logger.warning("Publishing to %s failed (%s), again in %g s", repo_id, _reason(error), pause)
            time.sleep(pause)


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
        _table(["setting", "value"], [row for row in report["clip"].items() if row[1] is not None]),
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


def _cause(error: BaseException) -> BaseException:
    """Return what the client's `RuntimeError` ("Error while uploading ...") stands for."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Say in one line why a call of the client failed."""
    error = _cause(error)
    response = getattr(error, "response", None)
    if response is None:
        text = str(error) or type(error).__name__
    else:
        text = f"{response.status_code} {getattr(error, 'server_message', None) or response.reason_phrase}"
    return textwrap.shorten(_public(text), 300)  # a gateway answers with a whole page


def _is_final(error: BaseException) -> bool:
    """Tell whether trying again is pointless."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return 400 <= status < 500 and status not in (408, 409, 429)  # timeout, concurrent commit, rate limit
    # A gateway's HTML page in place of the Hub's JSON is a ValueError too, but a passing one.
    return isinstance(error, ValueError | OfflineModeIsEnabled) and not isinstance(
        error, json.JSONDecodeError
    )


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
    text = html.escape(_public(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines)


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{_public(text).strip()}\n{fence}"


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


def _public(text: str) -> str:
    """Take out tokens and the path of the home folder."""
    text, home = _SECRET_VALUE.sub("***", text), os.path.expanduser("~")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text
