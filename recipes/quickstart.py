"""The walk-through: a processor, a model with a fresh head for two labels, a prediction, one step of training.

python recipes/quickstart.py                                                      # offline, a small new model
python recipes/quickstart.py --model MCG-NJU/videomae-base --video my_video.mp4   # a checkpoint of the Hub
"""

import sys
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.errors import InputError, exit_code, first_line
from vidtune.options import QuickstartArguments


def main(argv: list[str] | None = None) -> None:
    """Take a dummy clip, then a real one, from frames to a loss that falls."""
    options = parse(argv, __doc__, {"quickstart": QuickstartArguments}, training=False).quickstart

    import numpy as np
    import torch
    from PIL import Image

    torch.manual_seed(0)
    # A processor turns frames into tensors; a model is a backbone and a head, here of two labels
    processor, model = load_checkpoint(options.model) if options.model else new_model()
    print(f"{type(processor).__name__}, {type(model).__name__} with labels {list(model.config.label2id)}")
    num_frames = model.config.num_frames

    # A dummy clip, as NumPy arrays and as PIL images
    dummy = list(np.random.default_rng(0).integers(0, 256, (num_frames, 224, 224, 3), dtype=np.uint8))
    for kind, frames in (("NumPy arrays", dummy), ("PIL images", [Image.fromarray(frame) for frame in dummy])):
        pixels = processor(frames, return_tensors="pt")["pixel_values"]
        print(f"{len(frames)} frames of 224 x 224 as {kind} -> pixel_values {tuple(pixels.shape)}")

    # A real one: as many frames, spread over a video
    name, real = read_video(options.video, num_frames)
    clips = {"dummy clip": pixels, name: processor(real, return_tensors="pt")["pixel_values"]}

    # Predict. The head is new, so this is a guess
    model.eval()
    for name, pixels in clips.items():
        with torch.no_grad():
            logits = model(pixel_values=pixels).logits
        best = int(logits.argmax())
        print(f"{name}: logits {[round(value, 3) for value in logits[0].tolist()]} -> {model.config.id2label[best]}")

    # One step of training on the real clip, whose label is success
    labels, optimizer = torch.tensor([1]), torch.optim.AdamW(model.parameters(), lr=5e-5)
    model.train()
    before = model(pixel_values=pixels, labels=labels).loss
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after = model(pixel_values=pixels, labels=labels).loss
    print(f"one step of AdamW at 5e-5: loss {before:.4f} before, {after:.4f} after")


LABELS = {"id2label": {0: "failure", 1: "success"}, "label2id": {"failure": 0, "success": 1}}


def load_checkpoint(name: str) -> tuple[Any, Any]:
    """Load the processor and the model of a checkpoint, with a fresh head."""
    from transformers import AutoImageProcessor, AutoModelForVideoClassification

    from vidtune.hub import locate

    name = locate(name, "model")
    try:
        processor = AutoImageProcessor.from_pretrained(name)
        model = AutoModelForVideoClassification.from_pretrained(name, **LABELS, ignore_mismatched_sizes=True)
    except (OSError, ValueError) as error:
        raise InputError(f"model: {name}: can't be loaded: {first_line(error)}; give a VideoMAE model") from None
    return processor, model


def new_model() -> tuple[Any, Any]:
    """Make a processor, and a model of two small blocks from scratch."""
    from transformers import AutoModelForVideoClassification, VideoMAEConfig, VideoMAEImageProcessor

    size = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 2}
    config = VideoMAEConfig(**size, **LABELS)
    return VideoMAEImageProcessor(), AutoModelForVideoClassification.from_config(config)


def read_video(path: str | None, num_frames: int) -> tuple[str, list[Any]]:
    """Read frames, evenly spread over a video, or over one of the demo's: its name, and arrays `(H, W, 3)`."""
    from vidtune.data.decoding import open_video
    from vidtune.data.demo import draw_video
    from vidtune.data.sampling import segment_views

    if path is None:
        frames, _ = draw_video("demo-success", "test", "success", 0)
        return "demo video", [frames[(2 * part + 1) * len(frames) // (2 * num_frames)] for part in range(num_frames)]
    with open_video(path) as video:
        (times,) = segment_views(video.duration_seconds, num_frames, views=1)
        return Path(path).name, list(video.frames_at(times.tolist()).permute(0, 2, 3, 1).numpy())


if __name__ == "__main__":
    sys.exit(exit_code(main))
