r"""Write a fine-tuned model as ONNX, or as a program of torch.export, and check it against PyTorch on real clips.

    python recipes/export.py --model outputs/mine --output_dir outputs/mine_onnx
    python recipes/predict.py --model outputs/mine_onnx --input new_video.mp4

The exit code is 1, and nothing is written, where a logit differs by more than 0.001.
"""

import shlex
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.card import markdown, without_secrets
from vidtune.errors import InputError, VideoError, exit_code
from vidtune.options import ExportArguments
from vidtune.training.checkpoints import check_output_dir, is_run, sync, write_text

SECTIONS = {"export": ExportArguments}

MOST_DIFFERENCE = 1e-3
"""Of a logit, between PyTorch and the exported model."""

BATCH_SIZES = (1, 2, 4)
"""Clips that are scored at once, in turn: the exported model takes any number."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Export, check and describe a model; the report is returned. Exits with 1 where logits differ."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv, __doc__, SECTIONS, training=False)
    export, output_dir = options.export, Path(options.export.output_dir)

    # What can be refused is refused here, before the model is read
    check_folder_and_packages(output_dir, export.format)
    videos, split = choose_videos(export.dataset, export.num_videos)

    # Read the model, and a clip of each video
    from transformers.utils import logging

    from vidtune.evaluation.report import environment, to_json
    from vidtune.hub import commit_of

    logging.disable_progress_bar()
    export.model_revision = commit_of(export.model, "model", export.model_revision)
    options.config["model_revision"] = export.model_revision
    model, processors, classifier = load(export.model, export.model_revision, export.trust_remote_code)
    clips, failed = read_clips(videos, classifier.clip, export.decoder)
    check = {"dataset": export.dataset, "split": split, "clips": len(clips), "failed": failed}

    # Export and compare under another name: the folder is whole, or not there
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as temporary:
        folder = Path(temporary) / output_dir.name
        print(f"exporting {export.model} ({model.num_parameters():,} parameters) as {export.format}")
        file = write_model(model, processors, folder, export.format)
        difference = largest_difference(classifier, folder, clips)
        if not difference <= MOST_DIFFERENCE:  # nor NaN
            problem = f"a logit differs by {difference:.3g} from PyTorch's, more than {MOST_DIFFERENCE:g}"
            print(f"export.py: model: {export.model}: as {export.format} {problem}; nothing is saved", file=sys.stderr)
            sys.exit(1)
        report = {
            "recipe": "export",
            "command": shlex.join(["python", "recipes/export.py", *argv]),
            "config": options.config,
            "model": {
                "name": export.model,
                "revision": export.model_revision,
                "type": model.config.model_type,
                "parameters": model.num_parameters(),
            },
            "labels": classifier.labels,
            "clip": vars(classifier.clip),
            "file": file.name,
            "bytes": sum(path.stat().st_size for path in folder.glob(f"{file.name}*")),
            "check": check | {"max_difference": difference, "most_difference": MOST_DIFFERENCE},
            "environment": environment(decoder=export.decoder),
            "seconds": time.perf_counter() - started,
        }
        write_text(folder / "report.json", without_secrets(to_json(report)))
        write_text(folder / "README.md", without_secrets(readme(report, processors[0])))
        sync(folder)
        folder.rename(output_dir)
    print(f"largest difference of a logit from PyTorch's: {difference:.2g}, over {len(clips)} clips")
    print(f"saved:     {output_dir / file.name}, {report['bytes'] / 1e6:,.1f} MB")
    words = ["python", "recipes/predict.py", "--model", str(output_dir), "--input", "new_video.mp4"]
    words += ["--trust_remote_code"] if export.format == "torch_export" else []  # which pickle reads
    print("predict:  ", shlex.join(words))
    return report


def check_folder_and_packages(output_dir: Path, export_format: str) -> None:
    """Check that the folder is new or empty, and that the exporter's packages are installed."""
    if is_run(output_dir):
        raise InputError(f"output_dir: {output_dir}: holds a training run; give another folder")
    check_output_dir(output_dir, resume=False, overwrite=False)
    needed = ("onnx", "onnxscript", "onnxruntime") if export_format == "onnx" else ()
    if missing := [name for name in needed if find_spec(name) is None]:
        raise InputError(f"format: {export_format} needs packages that are missing: pip install {' '.join(missing)}")


def choose_videos(dataset: str, num_videos: int) -> tuple[Any, str]:
    """Choose videos evenly over the test split, or what the dataset has in its place: rows, and the split's name."""
    import numpy as np

    from vidtune.data.sources import load_videos

    splits = load_videos(dataset)
    split = next(name for name in ("test", "validation", "train") if name in splits)
    rows = np.linspace(0, len(splits[split]) - 1, min(num_videos, len(splits[split]))).astype(int)
    return splits[split].select(rows), split


def load(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, list[Any], Any]:
    """Load a model to run on the CPU: itself, its processors, and PyTorch's classifier to compare with."""
    import torch

    from vidtune.data.clips import ClipFormat
    from vidtune.evaluation.classifier import Classifier
    from vidtune.models.exported import Logits, exported_file
    from vidtune.models.loading import load_trained
    from vidtune.models.processors import load_processors

    if exported_file(name):
        raise InputError(f"model: {name}: is exported already; give the model that it was made of")
    model, settings, mean, std = load_trained(name, revision, trust_remote_code=trust_remote_code)
    model.eval()
    processors = load_processors(name, model.config, revision, "model", trust_remote_code)
    classifier = Classifier(Logits(model), model.config, ClipFormat(**settings), mean, std, torch.device("cpu"))
    return model, processors, classifier


def read_clips(videos: Any, clip: Any, decoder: str) -> tuple[Any, list[dict[str, str]]]:
    """Decode a clip of each video: uint8 `(N, T, C, H, W)`, and those that failed, by path and reason."""
    import torch

    from vidtune.data.clips import evaluation_views, failure, open_row

    clips, failed = [], []
    for row, video in enumerate(videos):
        try:
            with open_row(video, decoder) as opened:
                clips.append(evaluation_views(opened, clip))
        except VideoError:
            failed.append(failure(videos, row, decoder))
    if not clips:
        raise InputError(f"dataset: {failed[0]['path']}: {failed[0]['reason']}; give videos that can be decoded")
    return torch.cat(clips), failed


def write_model(model: Any, processors: list[Any], folder: Path, export_format: str) -> Path:
    """Write the exported model, its configuration and its processors into a new folder; the model's file."""
    from vidtune.models.exported import FILES, export_model

    folder.mkdir()
    file = folder / FILES[export_format]
    export_model(model, file, export_format)
    model.config.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return file


def largest_difference(classifier: Any, folder: Path, clips: Any) -> float:
    """Compare the logits of PyTorch with those of an exported model that is read as `predict.py` reads it."""
    from itertools import cycle

    from tqdm import tqdm

    from vidtune.evaluation.classifier import load_predictor

    exported, differences, sizes = load_predictor(str(folder), trust_remote_code=True), [], cycle(BATCH_SIZES)
    with tqdm(total=len(clips), desc="Comparing", unit="clip", leave=False) as bar:
        while bar.n < len(clips):
            batch = clips[bar.n : bar.n + next(sizes)]
            differences.append((exported.logits(batch) - classifier.logits(batch)).abs().max().item())
            bar.update(len(batch))
    return max(differences, key=lambda value: (value != value, value))  # NaN is the largest


def readme(report: dict[str, Any], processor: Any) -> str:
    """Say what the file takes and gives, and how to run it without vidtune."""
    from vidtune.models.processors import normalisation

    clip, check = report["clip"], report["check"]
    (mean, std), size = normalisation(processor), clip["image_size"]
    run = {
        "model.onnx": (
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("model.onnx")\n'
            '(logits,) = session.run(["logits"], {"pixel_values": pixels})',
        ),
        "model.pt2": (
            "import torch",
            'program = torch.export.load("model.pt2").module()\nlogits = program(torch.from_numpy(pixels)).numpy()',
        ),
    }[report["file"]]
    trust = " --trust_remote_code" if report["config"]["format"] == "torch_export" else ""
    drawn = "one in the middle of each of as many equal parts of the video"
    if clip["sampling"] == "dense":
        drawn = f"consecutive at {clip['fps']:g} per second, from the middle of the video"
    return f"""# {markdown(Path(report["model"]["name"]).name)}, {report["config"]["format"]}

A {report["model"]["type"]} classifier of videos into {len(report["labels"])} labels. `{report["file"]}` takes clips of
{clip["num_frames"]} frames ({drawn}), resized and cropped to {size} x {size} pixels, any number of clips at once.
On {check["clips"]} clips, its logits differ from PyTorch's by at most {check["max_difference"]:.2g}.

```python
import json

import numpy
{run[0]}

frames = numpy.zeros(({clip["num_frames"]}, {size}, {size}, 3), "uint8")  # RGB: yours
mean, std = numpy.array({mean}), numpy.array({std})
pixels = ((frames / 255 - mean) / std).astype("float32").transpose(0, 3, 1, 2)[None]
{run[1]}
labels = json.load(open("config.json"))["id2label"]
print(labels[str(logits[0].argmax())])
```

With vidtune, from a file: `python recipes/predict.py --model THIS_FOLDER --input video.mp4{trust}`.
"""


if __name__ == "__main__":
    sys.exit(exit_code(main))
