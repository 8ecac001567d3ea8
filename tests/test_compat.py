import importlib
import pkgutil
import subprocess
import sys

import pytest
import torch

import vidtune.compat

OLD_NAME = "torchvision.transforms.functional_tensor"


def module_names() -> list[str]:
    import pytorchvideo

    return [found.name for found in pkgutil.walk_packages(pytorchvideo.__path__, "pytorchvideo.")]


def test_importing_vidtune_imports_neither_torch_nor_torchvision():
    program = "import sys, vidtune; print({'torch', 'torchvision', 'pytorchvideo'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"


def test_the_old_name_is_the_renamed_module():
    old = importlib.import_module(OLD_NAME)
    new = importlib.import_module("torchvision.transforms._functional_tensor")
    assert old is new
    assert new.__spec__.name == "torchvision.transforms._functional_tensor"


def test_other_missing_modules_stay_missing():
    with pytest.raises(ModuleNotFoundError, match="functional_sensor"):
        importlib.import_module("torchvision.transforms.functional_sensor")


def test_a_script_called_evaluate_does_not_hide_the_package(tmp_path):
    (tmp_path / "evaluate.py").write_text("import vidtune\nimport evaluate\nprint(evaluate.Metric.__name__)\n")
    command = [sys.executable, str(tmp_path / "evaluate.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "Metric"


def test_mending_twice_changes_nothing():
    before = list(sys.meta_path)
    vidtune.compat.mend_imports()
    assert sys.meta_path == before


def test_every_module_of_pytorchvideo_imports():
    names = module_names()
    assert len(names) >= 96
    for name in names:
        importlib.import_module(name)


@pytest.fixture
def clip() -> torch.Tensor:
    """uint8 `(C, T, H, W)`, pytorchvideo's order."""
    return torch.randint(0, 256, (3, 8, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("ShortSideScale", {"size": 32}, (3, 8, 32, 42)),
        ("RandomShortSideScale", {"min_size": 32, "max_size": 32}, (3, 8, 32, 42)),
        ("UniformTemporalSubsample", {"num_samples": 4}, (3, 4, 48, 64)),
        (
            "RandomResizedCrop",
            {"target_height": 32, "target_width": 40, "scale": (0.3, 1.0), "aspect_ratio": (0.75, 1.3)},
            (3, 8, 32, 40),
        ),
        ("Normalize", {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}, (3, 8, 48, 64)),
    ],
)
def test_transforms_of_float_clips_run(clip, name, arguments, shape):
    transforms = importlib.import_module("pytorchvideo.transforms")
    output = getattr(transforms, name)(**arguments)(clip / 255)
    assert output.shape == shape
    assert output.isfinite().all()


@pytest.mark.parametrize("name", ["RandAugment", "AugMix"])
def test_augmentations_of_uint8_clips_run(clip, name):
    transforms = importlib.import_module("pytorchvideo.transforms")
    augment = getattr(transforms, name)()
    frames = clip.permute(1, 0, 2, 3)
    for _ in range(20):  # Each draws other operations.
        output = augment(frames)
        assert (output.shape, output.dtype) == (frames.shape, torch.uint8)


def test_every_operation_of_the_augmentations_runs(clip):
    augmentations = importlib.import_module("pytorchvideo.transforms.augmentations")
    for name in augmentations._NAME_TO_TRANSFORM_FUNC:
        operation = augmentations.AugmentTransform(name, magnitude=5, prob=1.0)
        assert operation(clip.permute(1, 0, 2, 3)).shape == (8, 3, 48, 64), name


def test_crops_of_uint8_clips_are_views(clip):
    functional = importlib.import_module("pytorchvideo.transforms.functional")
    crop = functional.uniform_crop(clip, 48, spatial_idx=2)
    assert torch.equal(crop, clip[..., 16:])
    assert crop.untyped_storage().data_ptr() == clip.untyped_storage().data_ptr()


@pytest.mark.parametrize("augmentation", ["default", "randaug", "augmix"])
def test_the_ready_made_training_transform_runs(clip, augmentation):
    transforms = importlib.import_module("pytorchvideo.transforms")
    transform = transforms.create_video_transform(
        mode="train", num_samples=4, crop_size=32, min_size=36, max_size=40, aug_type=augmentation
    )
    assert transform(clip).shape == (3, 4, 32, 32)


def test_mixing_runs(clip):
    transforms = importlib.import_module("pytorchvideo.transforms")
    clips, labels = transforms.MixVideo(num_classes=3)(torch.stack([clip / 255] * 2), torch.tensor([0, 2]))
    assert clips.shape == (2, 3, 8, 48, 64)
    assert labels.sum(1) == pytest.approx(torch.ones(2))
