"""What is hidden of a clip, by counts and patches typed by hand."""

import re

import numpy as np
import pytest
import torch

from run_recipe import refused
from vidtune.data.masking import (
    EVALUATION,
    TRAINING,
    draw_masks,
    from_patches,
    masked_per_frame,
    patch_statistics,
    to_patches,
    tube_mask,
)


@pytest.mark.parametrize(
    ("ratio", "grid", "hidden"),
    [
        (0.9, (8, 14, 14), 176),  # VideoMAE ViT-B, 16 frames of 224 px: 1408 of 1568, as the paper's scripts have it
        (0.75, (8, 14, 14), 147),
        (0.9, (4, 4, 4), 14),
        (0.5, (2, 1, 2), 1),
    ],
)
def test_a_mask_hides_its_share_of_each_frame(ratio, grid, hidden):
    assert masked_per_frame(ratio, grid) == hidden
    mask = tube_mask(grid, ratio, np.random.default_rng(0)).reshape(grid)
    assert (mask.sum((1, 2)) == hidden).all()


def test_a_mask_is_the_same_in_every_tubelet_and_another_in_every_draw():
    masks = [tube_mask((4, 4, 4), 0.9, np.random.default_rng(seed)).reshape(4, 16) for seed in range(200)]
    assert all((mask == mask[0]).all() for mask in masks)
    often = np.mean([mask[0] for mask in masks], axis=0)
    assert (abs(often - 14 / 16) < 0.1).all()  # every place is as likely


def test_the_masks_of_a_batch_depend_on_seed_epoch_row_and_draw_alone():
    grid = (2, 3, 3)
    both = draw_masks([3, 7], 2, grid, 0.5, seed=1, epoch=4)
    assert both.shape == (4, 18)
    assert both.dtype == torch.bool
    assert (both.sum(1) == 8).all()
    assert torch.equal(both[2:], draw_masks([7], 2, grid, 0.5, seed=1, epoch=4))  # of whatever process or batch
    assert torch.equal(both[0], draw_masks([3], 1, grid, 0.5, seed=1, epoch=4)[0])
    others = [
        draw_masks([3], 1, grid, 0.5, seed=2, epoch=4),
        draw_masks([3], 1, grid, 0.5, seed=1, epoch=5),
        draw_masks([4], 1, grid, 0.5, seed=1, epoch=4),
        draw_masks([3], 2, grid, 0.5, seed=1, epoch=4)[1:],
        draw_masks([3], 1, grid, 0.5, seed=1, epoch=4, purpose=EVALUATION),
    ]
    assert TRAINING != EVALUATION
    assert all(not torch.equal(both[:1], other) for other in others)


@pytest.mark.parametrize(
    ("ratio", "hint"), [(0.05, "hides 0 of the 16 .*; give more"), (1.0, "hides 16 of .*; give less")]
)
def test_a_mask_that_hides_nothing_or_all_is_refused(ratio, hint):
    assert re.match(f"mask_ratio: got {ratio}, which {hint}$", refused(masked_per_frame, ratio, (2, 4, 4)))


def test_patches_hold_the_pixels_of_a_box_of_some_frames():
    # 4 frames of 2 x 4 pixels; the value tells frame, row, column and channel.
    frames = torch.tensor(
        [
            [
                [[[1000 * t + 100 * y + 10 * x + c for x in range(4)] for y in range(2)] for c in range(3)]
                for t in range(4)
            ]
        ]
    )
    patches = to_patches(frames, (2, 1, 2))
    assert patches.shape == (1, 4, 8, 3)
    assert patches[0, 0, :, 0].tolist() == [0, 10, 100, 110, 1000, 1010, 1100, 1110]
    assert patches[0, 1, :, 1].tolist() == [21, 31, 121, 131, 1021, 1031, 1121, 1131]
    assert patches[0, 2, 0].tolist() == [2000, 2001, 2002]


def test_patches_make_the_clip_again():
    frames = torch.rand(2, 4, 3, 12, 12)
    assert torch.equal(from_patches(to_patches(frames, (2, 3, 3)), (2, 3, 3), 12), frames)


def test_the_statistics_of_a_patch():
    patches = torch.tensor([[[[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]]])  # three pixels of two channels
    mean, std = patch_statistics(patches)
    assert mean.tolist() == [[[[3.0, 5.0]]]]
    assert std[0, 0, 0].tolist() == pytest.approx([2.0, 0.0], abs=2e-6)  # by n - 1
