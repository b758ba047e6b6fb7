"""Segmentation scores against numpy and hand-made confusion matrices, DDP, and the label palette."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from diffi2i.errors import UserError
from diffi2i.kinds.labels import colour_labels
from diffi2i.metrics.segmentation import SegmentationScores

CLASSES = 6


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """(1, 6, 9, 11) logits that are right more often than not, (1, 9, 11) labels with some ignored; no class 5."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, CLASSES - 1, (1, 9, 11), generator=generator)
    logits = torch.randn(1, CLASSES, 9, 11, generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full((1, 1, 9, 11), 1.5))
    logits[:, CLASSES - 1] = -9
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


SET = [pair(seed) for seed in range(3)]


def logits_of(labels: list[list[int]], classes: int) -> Tensor:
    """Labels -> (1, K, H, W) logits whose arg max they are."""
    return torch.nn.functional.one_hot(torch.tensor([labels]), classes).permute(0, 3, 1, 2).float()


def by_masks(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Every score from masks in float64 numpy, one class after the other."""
    predicted = np.concatenate([p.numpy().argmax(axis=1).ravel() for p, _ in pairs])
    target = np.concatenate([t.numpy().ravel() for _, t in pairs])
    predicted, target = predicted[target != 255], target[target != 255]
    ious, accuracies = [], []
    for k in range(CLASSES):
        union = ((predicted == k) | (target == k)).sum()
        if union:
            ious.append(((predicted == k) & (target == k)).sum() / union)
        if (target == k).any():
            accuracies.append((predicted[target == k] == k).mean())
    return {
        "miou": float(np.mean(ious)),
        "pixel_accuracy": float((predicted == target).mean()),
        "mean_accuracy": float(np.mean(accuracies)),
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_set_scores_pool_the_pixels(batch):
    preds, targets = (torch.cat(parts) for parts in zip(*SET, strict=True))
    scores = SegmentationScores(CLASSES).to("cpu")
    for i in range(0, 3, batch):
        scores.update(preds[i : i + batch], targets[i : i + batch], names=list("abc")[i : i + batch])
    assert scores.compute() == pytest.approx(by_masks(SET), abs=1e-12)
    assert scores.counts() == {"miou": 3, "pixel_accuracy": 3, "mean_accuracy": 3}
    assert scores.reasons() == {}
    for record, name, one in zip(scores.per_image, "abc", SET, strict=True):
        alone = by_masks([one])
        assert record.keys() == {"name", "miou", "pixel_accuracy"}
        assert record["name"] == name
        assert record["miou"] == pytest.approx(alone["miou"], abs=1e-12)
        assert record["pixel_accuracy"] == pytest.approx(alone["pixel_accuracy"], abs=1e-12)
    # The set is chosen so that a mean of the images' own mIoU would show.
    assert abs(np.mean([by_masks([one])["miou"] for one in SET]) - by_masks(SET)["miou"]) > 1e-4


def test_a_confusion_matrix_by_hand():
    # Class 0: 2 of 3 right; class 1: its only pixel right, plus one of 0's; class 2 only predicted, on a 0
    # that is ignored and on a 1; class 3 nowhere.
    target = torch.tensor([[[0, 0, 0, 255], [1, 1, 255, 255]]])
    pred = logits_of([[0, 0, 1, 2], [1, 2, 0, 3]], classes=4)
    scores = SegmentationScores(4)
    scores.update(pred, target, names=["a"])
    assert scores.per_class() == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]
    assert scores.compute() == pytest.approx(
        {"miou": (2 / 3 + 1 / 3 + 0) / 3, "pixel_accuracy": 3 / 5, "mean_accuracy": (2 / 3 + 1 / 2) / 2}
    )


def test_logits_are_resized_before_the_arg_max():
    # Class 1's logit is 0 everywhere. Class 0's falls from 1 to -4 and from 1 to -2.5, and 2 -> 4 columns with
    # half-pixel centres sample at 0, 1/4, 3/4 and 1: 1, -0.25, -2.75, -4 and 1, 0.125, -1.625, -2.5.
    pred = torch.zeros(1, 2, 2, 2)
    pred[0, 0] = torch.tensor([[1.0, -4.0], [1.0, -2.5]])
    scores = SegmentationScores(2)
    # Enlarged labels would be wrong in the first row, align_corners=True (at 1/3) in the second.
    scores.update(pred, torch.tensor([[[0, 1, 1, 1], [0, 0, 1, 1]]]), names=["a"])
    assert scores.compute()["pixel_accuracy"] == 1


def test_autocast_and_precision_change_nothing():
    pred, target = SET[0]
    plain, cast = SegmentationScores(CLASSES), SegmentationScores(CLASSES)
    large = torch.nn.functional.interpolate(target[:, None].double(), (18, 22), mode="nearest")[:, 0].long()
    plain.update(pred, large, names=["a"])
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(pred.double(), large, names=["a"], mask=torch.zeros(1, 1, 18, 22))
    assert plain.compute() == cast.compute()


def test_an_ignored_image_is_not_counted():
    pred, target = SET[0]
    scores = SegmentationScores(CLASSES)
    assert set(scores.compute().values()) == {None}
    assert scores.per_class() == [None] * CLASSES
    assert set(scores.reasons().values()) == {"no image was scored"}
    scores.update(pred, torch.full_like(target, 255), names=["void"])
    assert scores.compute() == {"miou": None, "pixel_accuracy": None, "mean_accuracy": None}
    assert set(scores.reasons().values()) == {"all pixels of all 1 images are ignored (label 255)"}
    assert set(scores.counts().values()) == {0}
    scores.update(pred, target, names=["a"])
    assert scores.per_image[0] == {"name": "void"}
    assert scores.compute() == pytest.approx(by_masks(SET[:1]), abs=1e-12)
    assert scores.counts()["miou"] == 1
    scores.reset()
    assert scores.per_image == []
    assert scores.compute()["miou"] is None
    assert set(scores.reasons().values()) == {"no image was scored"}


def test_bad_input_names_the_image_and_counts_nothing():
    preds, targets = (torch.cat(parts) for parts in zip(*SET[:2], strict=True))
    nan, high, negative = preds.clone(), targets.clone(), targets.clone()
    nan[1, 0, 3, 3] = math.nan
    high[1, 0, 0], negative[1, 0, 0] = CLASSES, -1
    cases = [
        (nan, targets, "bad: the prediction has NaN"),
        (preds, high, "bad: the target has label 6; labels are 0 to 5"),
        (preds, negative, "bad: the target has label -1"),
        (preds[:, 1:], targets, r"good, bad: pred is .* \(B, 6, h, w\)"),
        (preds.argmax(1), targets, "good, bad: pred is .* float logits"),
        (preds, targets[:, None], "good, bad: target is .* int64"),
        (preds, targets.int(), "good, bad: target is .* int64"),
        (preds[:1], targets, "good, bad: 2 names for 1 predictions and 2 targets"),
    ]
    scores = SegmentationScores(CLASSES)
    for pred, target, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            scores.update(pred, target, names=["good", "bad"])
        assert "\n" not in str(caught.value)
    assert scores.per_image == []
    assert scores.counts()["miou"] == 0
    for classes in (1, 256):
        with pytest.raises(UserError, match=f"{classes} classes; give 2 to 255"):
            SegmentationScores(classes)


def test_label_colours_are_fixed_and_well_apart():
    labels = torch.arange(256).reshape(16, 16)
    picture = colour_labels(labels)
    assert picture.shape == (3, 16, 16)
    assert picture.dtype == torch.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture[:, 15, 15].tolist() == [0, 0, 0]
    # The colour of a label does not depend on the other labels in the picture.
    assert torch.equal(colour_labels(labels[3:5]), picture[:, 3:5])
    lab = rgb2lab(picture.reshape(3, 256).T.numpy())
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.diag(np.full(256, np.inf))
    # In CIELAB 2.3 is a just noticeable difference.
    assert distance[:21, :21].min() > 40
    assert distance[:150, :150].min() > 15
    assert distance[255].min() > 10
    for bad in (labels[None], labels.int(), labels - 1, labels + 1):
        with pytest.raises(UserError, match="colours of labels"):
            colour_labels(bad)
