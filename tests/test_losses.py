"""Losses against numbers worked out by hand, and against torch's own where it has them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidtune.data.clips import FAILED
from vidtune.errors import InputError
from vidtune.training.losses import classification_loss, label_weights, row_weights, soft_targets


def loss(logits, labels, count=None, **options):
    return classification_loss({"logits": torch.as_tensor(logits)}, torch.as_tensor(labels), count, **options)


def random_logits(videos=6, labels=4, seed=0):
    return torch.randn(videos, labels, generator=torch.Generator().manual_seed(seed))


# One label a video


def test_the_loss_by_hand():
    logits, labels = [[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]], [0, 0, FAILED]
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]
    assert loss(logits, labels).item() == pytest.approx(sum(losses) / 2)
    assert loss(logits, labels, torch.tensor(8)).item() == pytest.approx(sum(losses) / 8)


def test_the_loss_takes_logits_with_a_dimension_between():
    logits, labels = random_logits(4, 3), [0, 1, 2, 0]
    assert torch.equal(loss(logits, labels), loss(logits[:, None], labels))


@pytest.mark.parametrize("count", [None, 7])
@pytest.mark.parametrize("several", [False, True])
def test_the_losses_of_several_heads_are_added(several, count):
    logits = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, FAILED, 2, 1])
    if several:
        labels = soft_targets(labels, 3)
    each = [loss(logits[:, head], labels, count, multi_label=several) for head in range(5)]
    assert loss(logits, labels, count, multi_label=several).item() == pytest.approx(sum(each).item())


def test_smoothing_by_hand():
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    found = loss([[2.0, 0.0], [3.0, 3.0]], [0, FAILED], label_smoothing=0.2)
    assert found.item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_weights_by_hand():
    found = loss([[0.0, math.log(3)], [math.log(3), 0.0]], [0, 0], weights=torch.tensor([4.0, 1.0]))
    # The label has 1/4 of the first video and 3/4 of the second one.
    assert found.item() == pytest.approx(4 * (math.log(4) + math.log(4 / 3)) / 2)


def test_focal_loss_by_hand():
    found = loss([[0.0, math.log(3)], [math.log(3), 0.0]], [0, 0], focal_gamma=2.0)
    # Probability 1/4: doubt 3/4; probability 3/4: doubt 1/4.
    assert found.item() == pytest.approx((0.75**2 * math.log(4) + 0.25**2 * math.log(4 / 3)) / 2)


def test_soft_targets_by_hand():
    found = loss([[0.0, math.log(3)]], [[0.3, 0.7]])
    assert found.item() == pytest.approx(0.3 * math.log(4) + 0.7 * math.log(4 / 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.1])])
def test_hard_and_soft_labels_are_those_of_torch(smoothing, weights):
    logits, labels = random_logits(), torch.tensor([0, 1, 2, 3, 0, 1])
    shares = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    for target in (labels, shares):
        theirs = F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing, reduction="sum") / 6
        assert loss(logits, target, label_smoothing=smoothing, weights=weights).item() == pytest.approx(theirs.item())


def test_labels_as_shares():
    targets = soft_targets(torch.tensor([1, FAILED, 0]), 3)
    assert targets.tolist() == [[0, 1, 0], [FAILED] * 3, [1, 0, 0]]
    assert soft_targets(targets, 3) is targets


# Several labels a video


def test_binary_cross_entropy_by_hand():
    found = loss([[0.0, math.log(3)], [1.0, 1.0]], [[1.0, 0.0], [FAILED, FAILED]], multi_label=True)
    assert found.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_binary_cross_entropy_is_that_of_torch():
    logits, labels = random_logits(), torch.randint(2, (6, 4), generator=torch.Generator().manual_seed(1)).float()
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1])
    theirs = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    assert loss(logits, labels, weights=weights, multi_label=True).item() == pytest.approx(theirs.item())
    smoothed = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1)
    assert loss(logits, labels, label_smoothing=0.2, multi_label=True).item() == pytest.approx(smoothed.item())


def test_focal_binary_cross_entropy_by_hand():
    found = loss([[math.log(3), math.log(3)]], [[1.0, 0.0]], focal_gamma=2.0, multi_label=True)
    assert found.item() == pytest.approx((0.25**2 * math.log(4 / 3) + 0.75**2 * math.log(4)) / 2)


# Whatever the loss

KINDS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weights": torch.tensor([0.5, 1.0, 2.0])},
    "focal": {"focal_gamma": 1.5},
    "barely focal": {"focal_gamma": 0.3},
    "all": {"label_smoothing": 0.1, "weights": torch.tensor([0.5, 1.0, 2.0]), "focal_gamma": 1.5},
}
LABELS = {
    "hard": torch.tensor([0, FAILED, 2, 1]),
    "soft": torch.tensor([[0.2, 0.3, 0.5], [FAILED] * 3, [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]),
    "several": torch.tensor([[0.0, 1.0, 1.0], [FAILED] * 3, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LABELS)
def test_a_failed_video_changes_neither_loss_nor_gradient(form, kind):
    options = KINDS[kind] | {"multi_label": form == "several"}
    logits, labels = random_logits(4, 3).requires_grad_(), LABELS[form]
    whole = loss(logits, labels, **options)
    (gradient,) = torch.autograd.grad(whole, logits)
    kept = [0, 2, 3]
    assert whole.item() == pytest.approx(loss(logits[kept], labels[kept], **options).item())
    assert not gradient[1].any() and gradient[kept].any(1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LABELS)
def test_a_step_in_two_batches_has_the_loss_of_one(form, kind):
    """Trainer counts labels that are not FAILED, of all batches of a step."""
    options = KINDS[kind] | {"multi_label": form == "several"}
    logits, labels = random_logits(4, 3), LABELS[form]
    count = (labels != FAILED).sum() if form != "soft" else torch.tensor(3)  # counted before they are mixed
    parts = [loss(logits[part], labels[part], count, **options) for part in (slice(0, 2), slice(2, 4))]
    assert sum(parts).item() == pytest.approx(loss(logits, labels, **options).item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LABELS)
@pytest.mark.parametrize("count", [None, torch.tensor(0), 0])
def test_a_batch_of_failed_videos_has_no_loss_and_no_gradient(form, kind, count):
    logits = random_logits(2, 3).requires_grad_()
    labels = torch.full((2,) if form == "hard" else (2, 3), FAILED)
    found = loss(logits, labels, count, **KINDS[kind], multi_label=form == "several")
    found.backward()
    assert found.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LABELS)
def test_certain_predictions_have_finite_losses_and_gradients(form, kind):
    logits = (random_logits(4, 3) * 1e4).requires_grad_()
    found = loss(logits, LABELS[form], **KINDS[kind], multi_label=form == "several")
    found.backward()
    assert math.isfinite(found.item()) and logits.grad.isfinite().all()


# Weights of labels and rows

TRUTH = np.eye(3, dtype=bool)[[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]


def test_balanced_weights_by_hand():
    # Six, three and one of ten videos: 1/6, 1/3 and 1, scaled so that the mean over the videos, 3/10, is 1.
    assert label_weights("balanced", TRUTH, "abc") == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_given_weights_are_scaled_to_a_mean_of_1_over_the_videos():
    # (6 * 1 + 3 * 1 + 1 * 11) / 10 = 2; b is left out, which is 1.
    assert label_weights({"c": 11.0, "a": 1.0}, TRUTH, "abc") == pytest.approx([0.5, 0.5, 5.5])


def test_weights_of_several_labels_by_hand():
    truth = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=bool)
    assert label_weights("balanced", truth, "ab", multi_label=True) == pytest.approx([1 / 3, 3.0])
    assert label_weights({"b": 4.0}, truth, "ab", multi_label=True) == [1.0, 4.0]


def test_a_label_without_videos_has_a_finite_weight():
    assert np.isfinite(label_weights("balanced", TRUTH[:6], "abc")).all()
    assert np.isfinite(label_weights("balanced", TRUTH[:6], "abc", multi_label=True)).all()


def test_weights_of_labels_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="^class_weights: d is no label of the dataset; it has a, b, c$"):
        label_weights({"a": 1.0, "d": 2.0}, TRUTH, "abc")


def test_rows_are_drawn_so_that_labels_are_equally_likely():
    weights = row_weights(TRUTH)
    assert weights == pytest.approx([1 / 6] * 6 + [1 / 3] * 3 + [1])


def test_rows_of_several_labels_and_of_none():
    # Two videos with a, one with b, two without: of the video with both, the mean.
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], dtype=bool)
    assert row_weights(truth) == pytest.approx([1 / 2, (1 / 2 + 1) / 2, 1 / 2, 1 / 2])
