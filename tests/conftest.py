"""What all tests share: no network, one thread, and tiny models."""

import os
import shutil
import tempfile

# Before any library reads them.
os.environ["HF_DATASETS_CACHE"] = os.path.join(tempfile.gettempdir(), f"vidtune-tests-{os.getpid()}")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


TINY_VIDEOMAE = {
    "image_size": 32,
    "patch_size": 16,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
"""A VideoMAE that trains in milliseconds: fields of its configuration."""


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """A pre-trained checkpoint as the Hub has them: a tiny VideoMAE without a head, and its processor."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEImageProcessor, set_seed

    set_seed(0)
    folder = tmp_path / "checkpoint"
    VideoMAEForPreTraining(VideoMAEConfig(**TINY_VIDEOMAE)).save_pretrained(folder)
    VideoMAEImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    ).save_pretrained(folder)
    return folder
