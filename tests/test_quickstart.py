import re

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from run_recipe import REPOSITORY, exit_code, load_recipe, words
from test_loading import TRANSFORMER, save_classifier
from video_files import counting_frames, frame_indices, moving_square, write_video

NUMBER = r"-?\d+\.\d+"


@pytest.fixture
def printed(capsys):
    """Run the recipe: the lines it printed."""

    def run(**options):
        load_recipe("quickstart").main(words(**options))
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "mine.mp4", moving_square(12), 12)


def losses(line):
    before, after = re.fullmatch(
        rf"one step of AdamW at 5e-5: loss ({NUMBER}) before, ({NUMBER}) after", line
    ).groups()
    return float(before), float(after)


def test_the_documents_show_what_it_prints(printed):
    lines = printed()
    before, after = losses(lines[-1])
    assert after < before
    for name in ("autoclass.md", "autoclass.zh-TW.md"):
        (shown,) = re.findall(r"```text\n(.*?)```", (REPOSITORY / "docs" / name).read_text(), re.DOTALL)
        assert [re.sub(NUMBER, "*", line) for line in shown.splitlines()] == [
            re.sub(NUMBER, "*", line) for line in lines
        ]
        # Another CPU or version of PyTorch rounds otherwise
        numbers = [[float(number) for number in re.findall(NUMBER, text)] for text in (shown, "\n".join(lines))]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.01)


def test_a_checkpoint_and_a_video(printed, tiny_checkpoint, video):
    lines = printed(model=tiny_checkpoint, video=video)
    assert lines[:3] == [
        "VideoMAEImageProcessor, VideoMAEForVideoClassification with labels ['failure', 'success']",
        "4 frames of 224 x 224 as NumPy arrays -> pixel_values (1, 4, 3, 32, 32)",
        "4 frames of 224 x 224 as PIL images -> pixel_values (1, 4, 3, 32, 32)",
    ]
    assert [line.split(":")[0] for line in lines[3:5]] == ["dummy clip", "mine.mp4"]
    before, after = losses(lines[5])
    assert after < before


def test_a_model_whose_input_has_another_name(printed, tmp_path, video):
    save_classifier(tmp_path, "vjepa2")
    lines = printed(model=tmp_path, video=video)
    assert lines[0].startswith("VJEPA2VideoProcessor, VJEPA2ForVideoClassification")
    assert lines[1] == "4 frames of 224 x 224 as NumPy arrays -> pixel_values_videos (1, 4, 3, 32, 32)"
    before, after = losses(lines[-1])
    assert after < before


def test_arrays_and_pictures_give_the_same_tensors(tiny_checkpoint):
    from PIL import Image

    processor, _ = load_recipe("quickstart").load(str(tiny_checkpoint))
    frames = list(moving_square(4))
    arrays, pictures = (
        processor(clip, return_tensors="pt")["pixel_values"]
        for clip in (frames, [Image.fromarray(frame) for frame in frames])
    )
    assert torch.equal(arrays, pictures)


def test_a_long_video_is_read_over_its_whole_length(tmp_path):
    """Of 12 frames that grow brighter, 4 clip frames lie in the middles of the quarters."""
    frames = counting_frames(12)
    path = write_video(tmp_path / "counting.mp4", frames, 12)
    name, clip = load_recipe("quickstart").read_video(str(path), 4)
    assert name == "counting.mp4" and clip[0].shape == (32, 32, 3)
    indices = frame_indices(torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in clip]), 12)
    assert indices == [1, 4, 7, 10]


def test_bad_input_is_told_in_one_line(tmp_path, tiny_checkpoint, video, capsys):
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **TRANSFORMER)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor().save_pretrained(tmp_path / "vit")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(video.read_bytes()[:500])
    (tiny_checkpoint / "empty").mkdir()
    for options, message in (
        ({"model": tmp_path / "vit"}, "is a vit model, which is for image-classification; choose one for video-class"),
        ({"model": tiny_checkpoint / "empty"}, "can't be loaded"),
        ({"model": tmp_path / "none"}, "does not exist"),
        ({"model": tiny_checkpoint, "video": torn}, "torn.mp4"),
        ({"model": tiny_checkpoint, "video": tmp_path / "none.mp4"}, "none.mp4"),
        ({"modle": "x"}, "modle"),
    ):
        assert exit_code("quickstart", words(**options)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("quickstart.py: ") and message in line
