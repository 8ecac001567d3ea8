"""Predict the labels of videos with a fine-tuned model.

python recipes/predict.py --model outputs/demo --input video.mp4
python recipes/predict.py --model user/name --input a_folder another_video.mp4 --top_k 3
"""

import argparse
import sys
from pathlib import Path

from vidtune.errors import InputError, VideoError, exit_code


def main(argv: list[str] | None = None) -> None:
    """Print the most probable labels of each video; exits with 1 if any could not be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder of a run, or Hub id")
    parser.add_argument("--input", required=True, nargs="+", help="videos, or folders of videos")
    parser.add_argument("--top_k", type=int, default=5, help="labels to print (default: 5)")
    parser.add_argument("--decoder", default="auto", choices=["auto", "torchcodec", "pyav"])
    options = parser.parse_args(argv)
    if options.top_k < 1:
        raise InputError(f"top_k: got {options.top_k}; give at least 1")
    paths = find_videos(options.input)

    import torch
    from transformers.utils import logging

    from vidtune.data.clips import ClipFormat, evaluation_views
    from vidtune.data.decoding import open_video
    from vidtune.models.auto import load_classifier

    logging.disable_progress_bar()
    model, settings, mean, std = load_classifier(options.model)
    clip = ClipFormat(**settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    mean, std = (255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    failed = 0
    for path in paths:
        try:
            with open_video(path, options.decoder) as video:
                views = evaluation_views(video, clip)
        except VideoError as error:
            failed += 1
            print(error, file=sys.stderr)
            continue
        with torch.inference_mode():
            pixels = views.to(device).sub(mean).div(std)
            logits = model(**{model.main_input_name: pixels}).logits.float().flatten(1)
        probabilities = logits.softmax(-1).mean(0)
        best = probabilities.topk(min(options.top_k, len(probabilities)))
        labels = [f"{model.config.id2label[i]} {p:.3f}" for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
        print(f"{path}: {', '.join(labels)}")
    if failed:
        sys.exit(1)


def find_videos(inputs: list[str]) -> list[Path]:
    """List the videos that files and folders name.

    Raises:
        InputError: If there are none.
    """
    from vidtune.data.files import list_videos, warn_left_out

    paths = []
    for name in inputs:
        path = Path(name)
        if not path.exists():
            raise InputError(f"input: {path}: does not exist; give a video or a folder of videos")
        if not path.is_dir():
            paths.append(path)
            continue
        videos, others = list_videos(path)
        if not videos:
            raise InputError(f"input: {path}: holds no videos; give a folder that does")
        warn_left_out(path, others, "are no videos")
        paths += [path / video for video in videos]
    return paths


if __name__ == "__main__":
    sys.exit(exit_code(main))
