"""The demo as a whole: it is learned, and only from the order of the frames."""

import pytest
import torch

from run_recipe import REPOSITORY, load_recipe, words
from vidtune.data.clips import ClipFormat, EvaluationClips, collate
from vidtune.data.sources import load_videos
from vidtune.models.loading import load_trained


@pytest.mark.slow
def test_the_demo_is_learned_and_needs_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = REPOSITORY / "recipes" / "configs" / "demo.yaml"
    report = load_recipe("finetune").main(words(config=config, output_dir=tmp_path / "run"))
    assert {split: part["videos"] for split, part in report["data"].items()} == {
        "train": 480,
        "validation": 120,
        "test": 120,
    }
    assert report["metrics"]["test"]["videos"] == 120
    assert report["metrics"]["test"]["accuracy"] >= 0.95

    model, settings, mean, std = load_trained(str(tmp_path / "run"))
    clips = EvaluationClips(load_videos("demo")["test"], ClipFormat(**settings))
    batch = collate([clips[row] for row in range(len(clips))])
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    pixels = batch["pixel_values"][:, 0].sub(mean).div(std)

    def accuracy(pixels):
        with torch.inference_mode():
            return (model.eval()(pixel_values=pixels).logits.argmax(-1) == batch["labels"]).float().mean().item()

    assert accuracy(pixels) == pytest.approx(report["metrics"]["test"]["accuracy"], abs=0.01)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([clip[torch.randperm(len(clip), generator=generator)] for clip in pixels])
    assert accuracy(shuffled) <= 1 / 6 + 0.15
