"""The walk-through: a processor, a model with a new head for two labels, a prediction, one step of training.

python recipes/quickstart.py                                                      # offline, a small new model
python recipes/quickstart.py --model MCG-NJU/videomae-base --video my_video.mp4   # a checkpoint of the Hub
"""

import sys
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.errors import InputError, VideoError, exit_code
from vidtune.options import QuickstartArguments

SECTIONS = {"quickstart": QuickstartArguments}
LABELS = ["failure", "success"]


def main(argv: list[str] | None = None) -> None:
    """Take a dummy clip, then a real one, from frames to a loss that falls."""
    options = parse(argv, __doc__, SECTIONS, training=False).quickstart

    import numpy as np
    import torch
    from PIL import Image

    from vidtune.models.shape import frames_key

    # A processor turns frames into tensors; a model is a backbone and a head, here of two labels
    torch.manual_seed(0)
    processor, model = load(options.model, options.trust_remote_code)
    print(f"{type(processor).__name__}, {type(model).__name__} with labels {list(model.config.id2label.values())}")
    num_frames = getattr(model.config, frames_key(model.config))

    # A dummy clip, as NumPy arrays and as PIL images
    arrays = list(np.random.default_rng(0).integers(0, 256, (num_frames, 224, 224, 3), dtype=np.uint8))
    for kind, frames in (("NumPy arrays", arrays), ("PIL images", [Image.fromarray(frame) for frame in arrays])):
        inputs = processor(frames, return_tensors="pt")
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        print(f"{num_frames} frames of 224 x 224 as {kind} -> {shapes}")
    clips = {"dummy clip": inputs}

    # A real one: as many frames, spread over a video
    name, frames = read_video(options.video, num_frames)
    clips[name] = processor(frames, return_tensors="pt")

    # Predict; the head is new, so this is a guess
    model.eval()
    for name, inputs in clips.items():
        with torch.no_grad():
            logits = model(**inputs).logits.flatten().tolist()
        best = model.config.id2label[int(np.argmax(logits))]
        print(f"{name}: logits {[round(logit, 3) for logit in logits]} -> {best}")

    # One step of training on the real clip, whose label is success
    labels, optimizer = torch.tensor([1]), torch.optim.AdamW(model.parameters(), lr=5e-5)
    model.train()
    before = model(**inputs, labels=labels).loss
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after = model(**inputs, labels=labels).loss
    print(f"one step of AdamW at 5e-5: loss {before:.4f} before, {after:.4f} after")


def load(name: str | None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load the processor and the model of a checkpoint, or make a small one from scratch."""
    from transformers import AutoModelForVideoClassification, VideoMAEConfig, VideoMAEImageProcessor

    from vidtune.models.auto import load_classifier, load_processor

    if name:
        task = "video-classification"
        return (
            load_processor(task, name, trust_remote_code=trust_remote_code),
            load_classifier(task, name, LABELS, trust_remote_code=trust_remote_code),
        )
    size = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 2}
    config = VideoMAEConfig(**size, id2label=dict(enumerate(LABELS)), label2id={"failure": 0, "success": 1})
    return VideoMAEImageProcessor(), AutoModelForVideoClassification.from_config(config)


def read_video(path: str | None, num_frames: int) -> tuple[str, list[Any]]:
    """Read frames, evenly spread over a video, or over one of the demo's: its name, and arrays `(H, W, 3)`."""
    from vidtune.data.decoding import open_video
    from vidtune.data.demo import draw_video
    from vidtune.data.sampling import segment_views

    if path is None:
        frames, _ = draw_video("demo-success", "test", "success", 0)
        return "demo video", [frames[(2 * part + 1) * len(frames) // (2 * num_frames)] for part in range(num_frames)]
    try:
        with open_video(path) as video:
            (times,) = segment_views(video.duration_seconds, num_frames, views=1)
            return Path(path).name, list(video.frames_at(times.tolist()).permute(0, 2, 3, 1).numpy())
    except VideoError as error:
        raise InputError(f"video: {error}; give another") from None


if __name__ == "__main__":
    sys.exit(exit_code(main))
