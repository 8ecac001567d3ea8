"""Mixup and cutmix against a few lines that follow timm's, and by hand."""

import numpy as np
import pytest
import torch

from vidtune.data.clips import FAILED
from vidtune.training.losses import soft_targets
from vidtune.training.mixing import Mix, Mixing, draw_mix, draw_pair, mix_clips

SIZE = (8, 12)
BOTH = Mixing(mixup=0.8, cutmix=1.0)


def clips(count=4, size=SIZE):
    return torch.rand(count, 3, 2, *size, generator=torch.Generator().manual_seed(0))


def targets(count=4, labels=3):
    return soft_targets(torch.arange(count) % labels, labels)


def draw(rows, mixing=BOTH, failed=None, samples=1, seed=1, epoch=2, size=SIZE):
    failed = [False] * len(rows) * samples if failed is None else failed
    return draw_mix(mixing, rows, failed, size, seed=seed, epoch=epoch)


def mixed(mix, count=4):
    return mix_clips(clips(count), targets(count), mix)


# What is drawn


def pairs(mixing, count=4000):
    return [draw_pair(mixing, SIZE, np.random.default_rng(seed)) for seed in range(count)]


def test_shares_follow_the_distribution_of_mixup():
    shares, boxes = zip(*pairs(Mixing(mixup=0.8)), strict=True)
    assert set(boxes) == {(0, 0, 0, 0)}
    # A Beta(a, a) has mean 1/2 and variance 1 / (4 * (2 * a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), abs=0.01)


def test_boxes_follow_the_distribution_of_cutmix():
    height, width = 100, 60
    found = [draw_pair(Mixing(cutmix=1.0), (height, width), np.random.default_rng(seed)) for seed in range(4000)]
    assert {share for share, _ in found} == {1.0}
    top, bottom, left, right = np.array([box for _, box in found]).T
    assert (top >= 0).all() and (top <= bottom).all() and (bottom <= height).all()
    assert (left >= 0).all() and (left <= right).all() and (right <= width).all()
    inside = (top > 0) & (bottom < height) & (left > 0) & (right < width)
    ratio = ((bottom - top) / height)[inside] - ((right - left) / width)[inside]
    assert np.abs(ratio).max() < 0.05  # as high as wide, for the picture
    centres = (top + bottom)[inside] / 2
    assert centres.min() < 20 and centres.max() > 80
    # timm's `rand_bbox`, written out: the mean of what is cut must be the same.
    rng, areas = np.random.default_rng(0), []
    for _ in range(4000):
        side = np.sqrt(1 - rng.beta(1.0, 1.0))
        cut_height, cut_width = int(height * side), int(width * side)
        y, x = rng.integers(height), rng.integers(width)
        rows = np.clip(y + cut_height // 2, 0, height) - np.clip(y - cut_height // 2, 0, height)
        columns = np.clip(x + cut_width // 2, 0, width) - np.clip(x - cut_width // 2, 0, width)
        areas.append(rows * columns)
    assert np.mean((bottom - top) * (right - left)) == pytest.approx(np.mean(areas), rel=0.05)


def test_half_of_the_pairs_are_cut_where_both_are_on():
    assert np.mean([share == 1 for share, _ in pairs(BOTH)]) == pytest.approx(0.5, abs=0.03)
    often = Mixing(0.8, 1.0, switch_probability=0.9)
    assert np.mean([share == 1 for share, _ in pairs(often)]) == pytest.approx(0.9, abs=0.03)


def test_a_share_of_the_pairs_is_mixed():
    found = pairs(Mixing(mixup=0.8, probability=0.3))
    assert np.mean([share < 1 for share, _ in found]) == pytest.approx(0.3, abs=0.03)


def test_neighbours_are_mixed_with_each_other_by_the_same_draw():
    mix = draw([7, 3, 9, 4])
    assert mix.partners.tolist() == [1, 0, 3, 2]
    assert mix.shares[0] == mix.shares[1] and mix.boxes[2].tolist() == mix.boxes[3].tolist()
    assert (mix.shares[0] == 1) == bool(mix.boxes[0].any())


def test_several_clips_of_a_video_are_never_mixed_with_each_other():
    mix = draw([7, 3, 9, 4], Mixing(mixup=0.8), samples=3)
    assert mix.partners.tolist() == [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]
    assert len(set(mix.shares[:3].tolist())) == 3  # each clip has a draw of its own
    assert mix.shares[:3].tolist() == mix.shares[3:6].tolist()


@pytest.mark.parametrize("samples", [1, 2])
def test_the_same_rows_are_mixed_the_same_in_any_batches_of_even_size(samples):
    """So in 1 or 2 processes, and accumulated or not."""
    rows = [7, 3, 9, 4, 0, 1, 8, 2]
    whole = draw(rows, samples=samples)
    for length in (2, 4):
        parts = [draw(rows[start : start + length], samples=samples) for start in range(0, 8, length)]
        assert torch.equal(torch.cat([part.shares for part in parts]), whole.shares)
        assert torch.equal(torch.cat([part.boxes for part in parts]), whole.boxes)
        offsets = torch.arange(8 // length).repeat_interleave(length * samples) * length * samples
        assert torch.equal(torch.cat([part.partners for part in parts]) + offsets, whole.partners)


def test_seed_epoch_and_rows_change_the_draw():
    first = draw([7, 3], Mixing(mixup=0.8)).shares[0]
    assert draw([7, 3], Mixing(mixup=0.8)).shares[0] == first
    others = [draw([7, 3], Mixing(mixup=0.8), seed=5), draw([7, 3], Mixing(mixup=0.8), epoch=3)]
    others += [draw([7, 4], Mixing(mixup=0.8)), draw([3, 7], Mixing(mixup=0.8))]
    assert all(other.shares[0] != first for other in others)


# What becomes of clips and labels


def test_mixup_by_hand():
    mix = Mix(torch.tensor([1, 0, 2]), torch.tensor([0.25, 0.25, 1.0]), torch.zeros(3, 4, dtype=torch.int64))
    x = clips(3)
    pixels, shares = mix_clips(x, targets(3), mix)
    assert torch.allclose(pixels[0], 0.25 * x[0] + 0.75 * x[1])
    assert torch.allclose(pixels[1], 0.25 * x[1] + 0.75 * x[0])
    assert torch.equal(pixels[2], x[2])
    assert torch.allclose(shares, torch.tensor([[0.25, 0.75, 0], [0.75, 0.25, 0], [0, 0, 1.0]]))


def test_cutmix_by_hand():
    box = [2, 5, 0, 6]  # 3 of 8 rows, 6 of 12 columns: 18 of 96 pixels
    mix = Mix(torch.tensor([1, 0]), torch.ones(2), torch.tensor([box, box]))
    x = clips(2)
    pixels, shares = mix_clips(x, targets(2), mix)
    expected = x.clone()
    expected[0, :, :, 2:5, 0:6] = x[1, :, :, 2:5, 0:6]
    expected[1, :, :, 2:5, 0:6] = x[0, :, :, 2:5, 0:6]
    assert torch.equal(pixels, expected)
    own = 1 - 18 / 96
    assert torch.allclose(shares, torch.tensor([[own, 1 - own, 0], [1 - own, own, 0]]))


def test_drawn_mixes_are_those_of_timm_in_its_mode_pair():
    x, y = clips(12), targets(12)
    mix = draw(list(range(12)))
    pixels, shares = mix_clips(x, y, mix)
    for index, partner in enumerate(mix.partners.tolist()):
        share, (top, bottom, left, right) = mix.shares[index].item(), mix.boxes[index].tolist()
        if share < 1:
            expected = x[index] * share + x[partner] * (1 - share)
        else:
            expected = x[index].clone()
            expected[..., top:bottom, left:right] = x[partner][..., top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (SIZE[0] * SIZE[1])
        assert torch.allclose(pixels[index], expected, atol=1e-6)
        assert torch.allclose(shares[index], y[index] * share + y[partner] * (1 - share), atol=1e-6)
    assert torch.allclose(shares.sum(1), torch.ones(12))


def test_a_failed_clip_and_its_partner_stay_as_they_are():
    y = soft_targets(torch.tensor([0, FAILED, 2, 1]), 3)
    mix = draw([7, 3, 9, 4], Mixing(mixup=0.8), failed=[False, True, False, False])
    pixels, shares = mix_clips(clips(), y, mix)
    assert torch.equal(pixels[:2], clips()[:2]) and torch.equal(shares[:2], y[:2])
    assert mix.partners.tolist() == [0, 1, 3, 2] and not torch.equal(shares[2], y[2])


def test_the_last_of_an_odd_batch_stays_as_it_is():
    mix = draw([7, 3, 9], Mixing(mixup=0.8))
    assert mix.partners.tolist() == [1, 0, 2]
    pixels, shares = mixed(mix, 3)
    assert torch.equal(pixels[2], clips(3)[2]) and torch.equal(shares[2], targets(3)[2])


def test_labels_of_videos_with_several_are_mixed_as_well():
    y = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.25, 0.25]), torch.zeros(2, 4, dtype=torch.int64))
    assert mix_clips(clips(2), y, mix)[1].tolist() == [[0.25, 1.0, 0.75], [0.75, 1.0, 0.25]]
