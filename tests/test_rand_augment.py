import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vidtune.data.rand_augment
from vidtune.data.rand_augment import (
    OPERATIONS,
    RandAugment,
    apply_operation,
    draw_operations,
    parse_rand_augment,
    rand_augment,
)
from vidtune.errors import InputError

VIDEOMAE = RandAugment(7, 4, 0.5)
GREY = 128


def noise(num_frames=3, height=24, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def changed(values, name, magnitude):
    """What an operation makes of a grey picture, given as rows of numbers."""
    picture = np.repeat(np.array(values, dtype=np.uint8)[..., None], 3, axis=-1)
    result = np.asarray(apply_operation(Image.fromarray(picture), name, magnitude))
    assert result.dtype == np.uint8 and result.shape == picture.shape
    assert np.all(result == result[..., :1])  # still grey
    return result[..., 0].tolist()


# The text


def test_the_text_of_videomae_is_read():
    assert parse_rand_augment("rand-m7-n4-mstd0.5-inc1") == VIDEOMAE


def test_parts_come_in_any_order_and_the_deviation_may_be_left_out():
    assert parse_rand_augment("rand-inc1-n2-m9") == RandAugment(9, 2, 0)
    assert parse_rand_augment("rand-m0-n1-mstd0-inc1") == RandAugment(0, 1, 0)
    assert parse_rand_augment("rand-m10-n15-mstd10-inc1") == RandAugment(10, 15, 10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with rand"),
        ("augmix-m7-n4-inc1", "does not begin with rand"),
        ("rand", r"m is missing \(a magnitude from 0 to 10\)"),
        ("rand-m7-inc1", r"n is missing \(1 to 15 operations\)"),
        ("rand-m7-n4", "inc is missing"),
        ("rand-m7-n4-inc0", "inc is 0; give inc1: here all operations grow with the magnitude"),
        ("rand-m11-n4-inc1", "m is 11; give a magnitude from 0 to 10"),
        ("rand-m7-n0-inc1", "n is 0; give 1 to 15 operations"),
        ("rand-m7-n16-inc1", "n is 16; give 1 to 15 operations"),
        ("rand-m7-n2.5-inc1", "n is 2.5; give 1 to 15 operations"),
        ("rand-m7-n4-mstd11-inc1", "mstd is 11; give a standard deviation of the magnitude from 0 to 10"),
        ("rand-m7-m8-n4-inc1", "'m8' is given twice"),
        ("rand-m7-n4-w0-inc1", "'w0' is none of m7, n4, mstd0.5 and inc1"),
        ("rand-m-7-n4-inc1", "'m' is none of"),
        ("rand-m7-n4-mstdinf-inc1", "'mstdinf' is none of"),
        ("rand-m7-n4-inc1-", "'' is none of"),
        ("rand m7 n4\ninc1", "does not begin with rand"),
    ],
)
def test_what_is_no_such_text_is_refused_in_one_line(text, reason):
    with pytest.raises(InputError, match=f"^rand_augment: .*{reason}") as caught:
        parse_rand_augment(text)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_options_are_checked_without_torch():
    tree = ast.parse(Path(vidtune.data.rand_augment.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert modules == {"re", "dataclasses", "numpy", "numpy.typing", "PIL", "vidtune.errors"}


# What is drawn


def test_half_of_the_drawn_operations_are_done_all_alike_often():
    rng = np.random.default_rng(0)
    drawn = [draw_operations(VIDEOMAE, rng) for _ in range(3000)]
    lengths = Counter(len(operations) for operations in drawn)
    for length, share in enumerate((1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)):
        assert abs(lengths[length] / 3000 - share) < 0.03
    names = Counter(name for operations in drawn for name, _ in operations)
    assert set(names) == set(OPERATIONS) and len(OPERATIONS) == 15
    assert all(abs(count / 6000 - 1 / 15) < 0.015 for count in names.values())


def test_magnitudes_are_normal_and_half_of_them_negative():
    rng = np.random.default_rng(0)
    magnitudes = np.array([value for _ in range(2000) for _, value in draw_operations(VIDEOMAE, rng)])
    assert abs(np.abs(magnitudes).mean() - 7) < 0.05 and abs(np.abs(magnitudes).std() - 0.5) < 0.05
    assert abs((magnitudes < 0).mean() - 0.5) < 0.03


@pytest.mark.parametrize(("magnitude", "bounds"), [(10, (7, 10)), (0, (0, 3))])
def test_magnitudes_stay_in_range(magnitude, bounds):
    rng = np.random.default_rng(0)
    policy = RandAugment(magnitude, 15, 1)
    values = np.abs([value for _ in range(50) for _, value in draw_operations(policy, rng)])
    assert values.min() >= bounds[0] and values.max() <= bounds[1] and np.any(values == magnitude)
    assert np.any(values != magnitude)


def test_without_deviation_the_magnitude_is_the_one_given():
    drawn = draw_operations(RandAugment(9, 15, 0), np.random.default_rng(0))
    assert drawn and {abs(value) for _, value in drawn} == {9}


# Operations, by hand

WHOLE = range(11)


def test_posterize_keeps_fewer_bits_the_stronger_it_is():
    bits = [4, 4, 4, 3, 3, 2, 2, 2, 1, 1, 0]
    kept = {4: [0b10100000, 240], 3: [0b10100000, 224], 2: [0b10000000, 192], 1: [0b10000000, 128], 0: [0, 0]}
    for magnitude in WHOLE:
        for sign in (1, -1):
            assert changed([[0b10101010, 255]], "PosterizeIncreasing", sign * magnitude) == [kept[bits[magnitude]]]


def test_solarize_inverts_what_is_as_bright_as_its_threshold():
    thresholds = [256, 231, 205, 180, 154, 128, 103, 77, 52, 26, 0]
    for magnitude in WHOLE:
        expected = [value if value < thresholds[magnitude] else 255 - value for value in range(256)]
        assert changed([range(256)], "SolarizeIncreasing", -magnitude) == [expected]


def test_solarize_add_brightens_the_dark_half():
    assert changed([[0, 50, 127, 128, 255]], "SolarizeAdd", 7) == [[77, 127, 204, 128, 255]]
    for magnitude, added in zip(WHOLE, (0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 110), strict=True):
        assert changed([[10, 200]], "SolarizeAdd", magnitude) == [[10 + added, 200]]


def test_invert():
    assert changed([[0, 1, 100, 255]], "Invert", 3) == [[255, 254, 155, 0]]


def test_autocontrast_stretches_to_the_whole_range():
    assert changed([[50, 100, 150]], "AutoContrast", 3) == [[0, 127, 255]]


def test_equalize_spreads_the_values_over_the_range():
    # 255 pixels each of three values; steps of (765 - 255) / 255 = 2: the ranks 1, 256 and 511 halved.
    assert changed([[10, 20, 30]] * 255, "Equalize", 3) == [[0, 128, 255]] * 255


@pytest.mark.parametrize(("magnitude", "factor"), [(10, 1.9), (5, 1.45), (0, 1.0), (-5, 0.55), (-10, 0.1)])
def test_brightness_and_contrast_grow_and_shrink_by_at_most_nine_tenths(magnitude, factor):
    (bright,) = changed([[0, 60, 100, 200]], "BrightnessIncreasing", magnitude)
    assert bright == pytest.approx([0, 60 * factor, 100 * factor, min(255, 200 * factor)], abs=1)
    (contrast,) = changed([[50, 150]], "ContrastIncreasing", magnitude)
    assert contrast == pytest.approx([100 - 50 * factor, 100 + 50 * factor], abs=1)


def test_color_moves_from_grey_and_to_it():
    picture = Image.fromarray(np.array([[[100, 50, 0]]], dtype=np.uint8))
    # Its grey is 0.299 * 100 + 0.587 * 50 = 59.
    assert apply_operation(picture, "ColorIncreasing", 10).getpixel((0, 0)) == (136, 41, 0)
    assert apply_operation(picture, "ColorIncreasing", -10).getpixel((0, 0)) == (63, 58, 53)


def test_sharpness_moves_from_the_smoothed_picture_and_to_it():
    dot = [[0, 0, 0], [0, 130, 0], [0, 0, 0]]
    # Smoothed, the dot is 130 * 5 / 13 = 50; Pillow leaves the border as it is.
    assert changed(dot, "SharpnessIncreasing", 10) == [[0, 0, 0], [0, 202, 0], [0, 0, 0]]
    assert changed(dot, "SharpnessIncreasing", -10) == [[0, 0, 0], [0, 58, 0], [0, 0, 0]]


def test_shears_by_hand():
    # Row y moves by 0.3 * level * (y + 1/2) pixels: row 3 by one, at a level of 2/2.1.
    picture = np.arange(25).reshape(5, 5) * 10
    assert changed(picture, "ShearX", 20 / 2.1)[3] == [160, 170, 180, 190, GREY]
    assert changed(picture, "ShearX", -20 / 2.1)[3] == [GREY, 150, 160, 170, 180]
    columns = np.array(changed(picture.T, "ShearY", 20 / 2.1))
    assert columns[:, 3].tolist() == [160, 170, 180, 190, GREY]


def test_translations_by_hand():
    # By at most 0.45 of the side: 18 of 40 columns, 9 of 20 rows.
    picture = np.arange(800).reshape(20, 40) % 256
    right, left, down = (
        np.array(changed(picture, f"Translate{way}Rel", m)) for way, m in (("X", 10), ("X", -5), ("Y", 10))
    )
    assert np.array_equal(right[:, :22], picture[:, 18:]) and np.all(right[:, 22:] == GREY)
    assert np.array_equal(left[:, 9:], picture[:, :31]) and np.all(left[:, :9] == GREY)
    assert np.array_equal(down[:11], picture[9:]) and np.all(down[11:] == GREY)


@pytest.mark.parametrize(("magnitude", "degrees"), [(10, 30), (7, 21), (-10, -30)])
def test_rotation_turns_a_dot_around_the_centre(magnitude, degrees):
    picture = np.zeros((41, 41), dtype=np.uint8)
    picture[19:22, 29:32] = 255  # ten right of the centre, (20, 20)
    turned = np.array(changed(picture, "Rotate", magnitude), dtype=float)[8:33, 8:33]  # without the grey corners
    y, x = np.indices(turned.shape) + 8
    centre = (turned * x).sum() / turned.sum(), (turned * y).sum() / turned.sum()
    angle = np.deg2rad(degrees)
    assert centre == pytest.approx((20 + 10 * np.cos(angle), 20 - 10 * np.sin(angle)), abs=0.1)
    assert changed(picture, "Rotate", magnitude)[0][0] == GREY


def test_geometry_is_bicubic():
    # Half a pixel from an edge between 0 and 160, where Pillow weighs four pixels by -1, 5, 5 and -1 eighths.
    picture = [[0, 0, 0, 0, 160, 160, 160, 160, 160, 160]]
    (row,) = changed(picture, "TranslateXRel", 10 / 9)  # 0.45 / 9 * 10 pixels
    assert row[:7] == [0, 0, 0, 80, 180, 160, 160]


@pytest.mark.parametrize(
    "name", sorted({*OPERATIONS} - set("AutoContrast Equalize Invert PosterizeIncreasing".split()))
)
def test_no_magnitude_changes_nothing(name):
    picture = noise(1)[0]
    result = np.asarray(apply_operation(Image.fromarray(picture), name, 0.0))
    assert np.array_equal(result, picture)


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="name: got 'Cutout'; give one of AutoContrast"):
        apply_operation(Image.new("RGB", (2, 2)), "Cutout", 1)


# Clips


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (1, 1)])
def test_a_clip_keeps_its_shape_and_type_and_the_one_that_came_in_its_pixels(height, width):
    frames = noise(2, height, width)
    before = frames.copy()
    for seed in range(30):
        result = rand_augment(frames, RandAugment(9, 15, 0.5), np.random.default_rng(seed))
        assert result.shape == frames.shape and result.dtype == np.uint8 and result.flags.c_contiguous
        assert np.array_equal(frames, before)


def test_all_frames_are_treated_alike():
    frames = noise(3)
    still = np.repeat(frames[:1], 4, axis=0)
    for seed in range(20):
        results = rand_augment(still, VIDEOMAE, np.random.default_rng(seed))
        assert np.all(results == results[:1])
        whole = rand_augment(frames, VIDEOMAE, np.random.default_rng(seed))
        assert np.array_equal(whole[2:], rand_augment(frames[2:], VIDEOMAE, np.random.default_rng(seed)))


def test_the_generator_alone_decides():
    first, again, other = (rand_augment(noise(), VIDEOMAE, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_operations_are_done_in_the_order_they_were_drawn():
    policy, frames = RandAugment(7, 2, 0), noise(1)
    for seed in range(20_000):
        drawn = draw_operations(policy, np.random.default_rng(seed))
        if [name for name, _ in drawn] == ["Invert", "SolarizeAdd"]:
            break
    else:
        pytest.fail("no such draw")
    inverted = 255 - frames.astype(int)
    expected = np.where(inverted < 128, np.minimum(255, inverted + 77), inverted)
    assert np.array_equal(rand_augment(frames, policy, np.random.default_rng(seed)), expected)
