import numpy as np
import pytest
import torch

from vidtune.data.rand_augment import RandAugment, rand_augment
from vidtune.data.transforms import augment, crop_views, erase, mirrored_labels, random_box

WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "horizontal_flip": 0.0}
VIDEOMAE = "rand-m7-n4-mstd0.5-inc1"


def as_decoded(num_frames=3, height=24, width=40, seed=0):
    """A noisy clip in the memory layout of the decoders."""
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def still(num_frames=4, height=24, width=40):
    """A clip whose frames are all the same."""
    return as_decoded(1, height, width).expand(num_frames, -1, -1, -1)


def ramp(height, width, along):
    """A clip of one frame; each pixel tells its column or its row."""
    values = torch.arange(width).expand(height, width) if along == "x" else torch.arange(height)[:, None]
    return values.to(torch.uint8).expand(1, 3, height, width)


class Scripted:
    """A generator that gives the draws it was told."""

    def __init__(self, uniforms, integers=()):
        self.uniforms, self.numbers = list(uniforms), list(integers)

    def uniform(self, low, high):
        return self.uniforms.pop(0)

    def integers(self, high):
        self.high = high
        return self.numbers.pop(0)


def test_a_random_box_by_hand():
    # Half of 20 x 40 pixels, as wide as high: 20 x 20; then its place.
    assert random_box(20, 40, (0.1, 1.0), (0.5, 2.0), Scripted([0.5, 0.0], [0, 7])) == (0, 7, 20, 20)


def test_random_boxes_stay_inside_the_picture_and_within_scale_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(120, 160, (0.3, 0.6), (0.75, 4 / 3), rng) for _ in range(1000)])
    top, left, height, width = boxes.T
    assert top.min() == 0 and left.min() == 0
    assert np.all(top + height <= 120) and np.all(left + width <= 160)
    share, ratio = height * width / (120 * 160), width / height
    assert share.min() > 0.29 and share.max() < 0.61 and share.min() < 0.32 and share.max() > 0.58
    assert ratio.min() > 0.74 and ratio.max() < 1.36 and ratio.min() < 0.77 and ratio.max() > 1.3


def test_every_place_of_a_box_can_be_drawn():
    rng = np.random.default_rng(0)
    places = {random_box(4, 6, (1 / 6, 1 / 6), (1.0, 1.0), rng)[:2] for _ in range(500)}
    assert places == {(top, left) for top in range(3) for left in range(5)}


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (1, 1, (0, 0, 1, 1)), (1, 500, (0, 249, 1, 1))],
)
def test_where_no_draw_fits_the_box_is_the_largest_in_the_middle(height, width, box):
    found = random_box(height, width, (1.0, 1.0), (0.75, 1.3333), np.random.default_rng(0))
    # By hand but for the ten draws, of which those for 1 x 1 fit.
    assert found == box


def test_a_box_of_an_extreme_ratio_still_has_an_area():
    for height, width in ((1, 2), (2, 1), (3, 3)):
        top, left, box_height, box_width = random_box(height, width, (1, 1), (10, 10), np.random.default_rng(0))
        assert box_height >= 1 and box_width >= 1 and top + box_height <= height and left + box_width <= width


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (5, 7), (300, 20)])
@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_augmented_clips_are_square_uint8(height, width, color_jitter):
    clip = augment(as_decoded(3, height, width), 16, np.random.default_rng(0), color_jitter=color_jitter)
    assert clip.shape == (3, 3, 16, 16) and clip.dtype == torch.uint8


def test_the_same_generator_gives_the_same_clip_and_another_another():
    clips = [augment(as_decoded(), 16, np.random.default_rng(seed), color_jitter=0.4) for seed in (5, 5, 6)]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_the_clip_that_comes_in_is_left_as_it_was():
    clip = as_decoded(3, 24, 24)  # nothing to resize: a crop of all of it is a view
    before = clip.clone()
    augment(clip, 24, np.random.default_rng(0), (1.0, 1.0), (1.0, 1.0), 1.0, 0.5)
    for seed in range(10):
        augment(clip, 24, np.random.default_rng(seed), **WHOLE, random_erasing=1.0)
        augment(clip, 24, np.random.default_rng(seed), **WHOLE, rand_augment=VIDEOMAE, random_erasing=1.0)
    crop_views(clip, 24, 3)
    assert torch.equal(clip, before)


def test_a_flip_mirrors_exactly():
    plain, mirrored = (
        augment(as_decoded(), 16, np.random.default_rng(0), horizontal_flip=probability) for probability in (0.0, 1.0)
    )
    assert torch.equal(mirrored, plain.flip(-1))
    assert not torch.equal(mirrored, plain)


def test_half_of_the_clips_are_mirrored():
    clip = ramp(8, 8, "x")
    flips = [
        bool(augment(clip, 8, np.random.default_rng(seed), (1.0, 1.0), (1.0, 1.0))[0, 0, 0, 0] == 7)
        for seed in range(400)
    ]
    assert 160 < sum(flips) < 240


def test_without_crop_flip_and_jitter_the_clip_is_what_it_was():
    clip = as_decoded(3, 32, 32)
    assert torch.equal(augment(clip, 32, np.random.default_rng(0), (1.0, 1.0), (1.0, 1.0), 0.0, 0.0), clip)


def test_jitter_changes_colours_within_its_bound():
    grey = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    # Of plain grey only brightness changes anything: by at most a fifth.
    means = [augment(grey, 8, np.random.default_rng(seed), color_jitter=0.2).float().mean() for seed in range(200)]
    assert 79 <= min(means) < 85 and 115 < max(means) <= 120


@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_all_frames_are_treated_alike(color_jitter):
    for seed in range(5):
        clip = augment(still(), 16, np.random.default_rng(seed), color_jitter=color_jitter)
        assert torch.equal(clip, clip[:1].expand_as(clip))


def test_rand_augment_treats_all_frames_alike():
    for seed in range(20):
        clip = augment(still(), 16, np.random.default_rng(seed), rand_augment=VIDEOMAE)
        assert torch.equal(clip, clip[:1].expand_as(clip))


def test_all_frames_are_cropped_alike_in_every_view():
    for view in crop_views(still(), 16, 3):
        assert torch.equal(view, view[:1].expand_as(view))


def test_clips_stay_in_channels_last_memory():
    clip = as_decoded()
    assert clip.is_contiguous(memory_format=torch.channels_last)
    augmented = augment(clip, 16, np.random.default_rng(0), horizontal_flip=1.0)
    assert augmented.stride()[1] == 1
    everything = augment(clip, 16, np.random.default_rng(0), rand_augment=VIDEOMAE, random_erasing=1.0)
    assert everything.shape == (3, 3, 16, 16) and everything.stride()[1] == 1
    assert erase(clip[..., 2:20, 3:30], np.random.default_rng(0)).stride()[1] == 1
    assert crop_views(clip, 16, 1)[0].stride()[1] == 1


def test_views_of_a_landscape_are_left_middle_and_right():
    left, middle, right = (view[0, 0, 0] for view in crop_views(ramp(16, 40, "x"), 16, 3))
    assert left.tolist() == list(range(16))
    assert middle.tolist() == list(range(12, 28))
    assert right.tolist() == list(range(24, 40))


def test_views_of_a_portrait_are_top_middle_and_bottom():
    top, middle, bottom = (view[0, 0, :, 0] for view in crop_views(ramp(40, 16, "y"), 16, 3))
    assert top.tolist() == list(range(16))
    assert middle.tolist() == list(range(12, 28))
    assert bottom.tolist() == list(range(24, 40))


def test_one_view_is_the_middle_of_three():
    clip = as_decoded(2, 24, 60)
    assert torch.equal(crop_views(clip, 16, 1)[0], crop_views(clip, 16, 3)[1])


def test_all_views_of_a_square_are_the_same():
    first, *others = crop_views(as_decoded(2, 24, 24), 16, 3)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (7, 5), (3, 90)])
@pytest.mark.parametrize("crops", [1, 3])
def test_views_are_square_uint8(height, width, crops):
    views = crop_views(as_decoded(2, height, width), 16, crops)
    assert [view.shape for view in views] == [(2, 3, 16, 16)] * crops
    assert all(view.dtype == torch.uint8 for view in views)


# RandAugment: its operations are tested in test_rand_augment


def test_rand_augment_is_done_to_the_cropped_and_mirrored_clip():
    options = {"crop_scale": (0.3, 0.6), "horizontal_flip": 1.0, "color_jitter": 0.2}
    for seed in range(5):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        clip = augment(as_decoded(), 16, rng, **options, rand_augment=VIDEOMAE)
        # Of the generator, crop, flip and colour are drawn first, as without RandAugment.
        frames = augment(as_decoded(), 16, again, **options).permute(0, 2, 3, 1).numpy()
        again = np.random.default_rng(seed)
        random_box(24, 40, (0.3, 0.6), (0.75, 1.3333), again), again.random(), again.uniform(size=3)
        assert np.array_equal(clip.permute(0, 2, 3, 1), rand_augment(frames, RandAugment(7, 4, 0.5), again))


def test_rand_augment_changes_most_clips_and_leaves_the_rest_of_the_draws_alone():
    plain, augmented = (
        [augment(as_decoded(), 16, np.random.default_rng(seed), rand_augment=text) for seed in range(50)]
        for text in (None, VIDEOMAE)
    )
    unchanged = sum(torch.equal(one, other) for one, other in zip(plain, augmented, strict=True))
    assert unchanged < 12  # in expectation 1 of 16, where none of the four is done


# Erasing


def erased(clip, result):
    """The box in which a clip was changed, the same in all frames: top, left, height and width."""
    boxes = set()
    for changed in (clip != result).any(1):
        rows, columns = torch.nonzero(changed.any(1)).flatten(), torch.nonzero(changed.any(0)).flatten()
        top, left = rows.min().item(), columns.min().item()
        boxes.add((top, left, rows.max().item() + 1 - top, columns.max().item() + 1 - left))
        assert changed[top : top + 4, left : left + 4].float().mean() > 0.9  # all of it, but for equal values
    (box,) = boxes
    return box


def test_boxes_of_noise_have_the_published_sizes_and_shapes():
    clip = torch.full((2, 3, 60, 80), 200, dtype=torch.uint8)
    boxes = np.array([erased(clip, erase(clip, np.random.default_rng(seed))) for seed in range(300)])
    _, _, height, width = boxes.T
    share, ratio = height * width / (60 * 80), width / height
    assert 0.015 < share.min() < 0.03 and 0.31 < share.max() < 0.345
    assert 0.26 < ratio.min() < 0.36 and 2.8 < ratio.max() < 3.7
    assert len({(top, left) for top, left in boxes[:, :2].tolist()}) > 250


def test_noise_is_standard_normal_once_normalised():
    clip = torch.zeros(4, 3, 200, 200, dtype=torch.uint8)
    rng = np.random.default_rng(1)
    result = erase(clip, rng)
    top, left, height, width = erased(clip, result)
    box = result[..., top : top + height, left : left + width].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    noise = ((box.permute(0, 2, 3, 1) - mean) / std).flatten(0, 2)
    assert noise.mean(0).abs().max() < 0.03  # a little of it is cut off at 0 and 255
    assert (noise.std(0) - 1).abs().max() < 0.04
    ends = ((box == 0) | (box == 1)).float().mean()
    assert 0.015 < ends < 0.06
    correlation = torch.corrcoef(box.flatten(1))
    assert correlation[0, 1:].abs().max() < 0.05  # another noise in each frame


def test_as_many_clips_are_erased_as_asked_for():
    clip = as_decoded(2, 16, 16)
    for probability, least, most in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)):
        changed = sum(
            not torch.equal(augment(clip, 16, np.random.default_rng(seed), **WHOLE, random_erasing=probability), clip)
            for seed in range(400)
        )
        assert least <= changed <= most


def test_erasing_is_the_last_step_and_leaves_the_rest_of_the_clip():
    for seed in range(5):
        plain = augment(as_decoded(), 32, np.random.default_rng(seed), rand_augment=VIDEOMAE)
        result = augment(as_decoded(), 32, np.random.default_rng(seed), rand_augment=VIDEOMAE, random_erasing=1.0)
        _, _, height, width = erased(plain, result)
        assert height * width < 0.36 * 32 * 32
        again = augment(as_decoded(), 32, np.random.default_rng(seed), rand_augment=VIDEOMAE, random_erasing=1.0)
        assert torch.equal(result, again)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 2)])
def test_tiny_clips_can_be_erased(height, width):
    clip = as_decoded(2, height, width)
    assert erase(clip, np.random.default_rng(0)).shape == clip.shape


# Labels in the mirror


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        (["turn left", "turn right", "stop"], [("turn left", "turn right")]),
        (["turnRight", "stop", "turn_left"], [("turnRight", "turn_left")]),
        (["LEFT", "Right"], [("LEFT", "Right")]),
        (["to-the-left", "toTheRight"], [("to-the-left", "toTheRight")]),
        (["lean leftwards", "lean rightwards"], [("lean leftwards", "lean rightwards")]),
        (
            ["Pushing something from left to right", "Pushing something from right to left"],
            [("Pushing something from left to right", "Pushing something from right to left")],
        ),
        (["clockwise", "counterclockwise"], [("clockwise", "counterclockwise")]),
        (["spin counter-clockwise", "spin_clockwise"], [("spin counter-clockwise", "spin_clockwise")]),
        (["spin anticlockwise", "spinClockwise"], [("spin anticlockwise", "spinClockwise")]),
        (
            ["left punch", "left kick", "right kick", "right punch"],
            [("left kick", "right kick"), ("left punch", "right punch")],
        ),
        (["turn left", "turn right", "Turn Right"], [("turn left", "turn right"), ("turn left", "Turn Right")]),
        (["turn left", "look right"], []),
        (["turn left", "turn"], []),
        (["left or right", "stop"], []),
        (["bright light", "dim light"], []),
        (["spin anticlockwise", "spin counterclockwise"], []),
        (["links abbiegen", "rechts abbiegen"], []),
        ([], []),
    ],
)
def test_labels_that_a_mirror_would_swap(labels, pairs):
    assert mirrored_labels(labels) == pairs
