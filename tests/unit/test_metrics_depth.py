"""Depth scores against BTS's formulas in float64 numpy, caps, crop and DDP; the depth colours."""

import math

import numpy as np
import pytest
import torch
from kornia.color import ColorMap
from torch import Tensor

from diffi2i.errors import UserError
from diffi2i.kinds.depth import colour_depth
from diffi2i.metrics.depth import DepthScores

LOW, HIGH = 1e-3, 10.0


def triple(seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, target and validity, each (1, 1, 13, 17); some targets beyond the cap, some predictions too."""
    generator = torch.Generator().manual_seed(seed)
    target = 0.5 + 11 * torch.rand(1, 1, 13, 17, generator=generator)
    pred = target * (1.1 + noise * torch.randn(target.shape, generator=generator))
    # The later the image, the fewer valid pixels: pooling the pixels of the set would show.
    valid = (torch.rand(target.shape, generator=generator) < 0.9 / (seed + 1)).float()
    return pred, target * valid, valid


SET = [triple(0, 0.05), triple(1, 0.5), triple(2, 0.2)]


def errors(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """BTS's `compute_errors`, written again from its formulas, on 1-D float64."""
    ratio = np.where(gt > pred, gt / pred, pred / gt)
    log = np.log(pred / gt)
    return {
        "abs_rel": float(np.mean(np.abs(gt - pred) / gt)),
        "rmse": float(np.sqrt(np.mean((gt - pred) ** 2))),
        "log10": float(np.mean(np.abs(log)) / np.log(10)),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.5625)),
        "delta3": float(np.mean(ratio < 1.953125)),
        "silog": float(100 * np.sqrt(np.mean(log**2) - np.mean(log) ** 2)),
        "rmse_log": float(np.sqrt(np.mean(log**2))),
    }


def of_image(pred: Tensor, target: Tensor, valid: Tensor) -> dict[str, float]:
    p, t = (image.numpy().astype(np.float64).ravel() for image in (pred, target))
    counted = (valid.numpy().ravel() == 1) & (t > LOW) & (t < HIGH)
    return errors(np.clip(p, LOW, HIGH)[counted], t[counted])


def mean_of(images: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([image[key] for image in images])) for key in images[0]}


@pytest.mark.parametrize("batch", [1, 3])
def test_means_are_of_per_image_errors(batch):
    preds, targets, valids = (torch.cat(parts) for parts in zip(*SET, strict=True))
    scores = DepthScores(LOW, HIGH, None).to("cpu")
    for i in range(0, 3, batch):
        part = slice(i, i + batch)
        scores.update(preds[part], targets[part], names=list("abc")[part], mask=valids[part])
    images = [of_image(*one) for one in SET]
    found = scores.compute()
    assert found == pytest.approx(mean_of(images), abs=1e-9)
    assert set(scores.counts().values()) == {3}
    assert scores.reasons() == {}
    for record, name, image in zip(scores.per_image, "abc", images, strict=True):
        assert record.pop("name") == name
        assert record == pytest.approx(image, abs=1e-9)
    pooled = of_image(preds, targets, valids)
    assert found["rmse"] is not None
    assert abs(found["rmse"] - pooled["rmse"]) > 0.01


def test_formulas_by_hand():
    # Ratios 1.2, 1.5, 1.9 and 2: of four pixels 1, 2 and 3 are within 1.25, 1.25^2 and 1.25^3.
    target = torch.tensor([[[[1.0, 2.0, 1.0, 4.0]]]])
    scores = DepthScores(LOW, HIGH, None)
    scores.update(torch.tensor([[[[1.2, 3.0, 1.9, 2.0]]]]), target, names=["a"])
    found = scores.compute()
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0.25, 0.5, 0.75)
    assert found["abs_rel"] == pytest.approx((0.2 + 0.5 + 0.9 + 0.5) / 4, abs=1e-7)
    assert found["rmse"] == pytest.approx(math.sqrt((0.04 + 1 + 0.81 + 4) / 4), abs=1e-7)
    # One wrong factor everywhere: no scale-invariant error at all, and |ln 1.5| of the other kind.
    scores.reset()
    scores.update(target * 1.5, target, names=["a"])
    found = scores.compute()
    assert found["silog"] == pytest.approx(0, abs=1e-6)
    assert found["rmse_log"] == pytest.approx(math.log(1.5))
    assert found["log10"] == pytest.approx(math.log10(1.5))


def test_caps():
    # At the caps and beyond a target does not count; in float32 the lower cap is above 1e-3 of float64.
    target = torch.tensor([[[[2.0, 5.0, 10.0, 11.0, 1e-3, 0.0]]]])
    pred = torch.tensor([[[[-3.0, 40.0, 1.0, 1.0, 5.0, 5.0]]]])
    scores = DepthScores(LOW, HIGH, None)
    scores.update(pred, target, names=["a"])
    # Predictions are clamped to the caps instead.
    assert scores.compute() == pytest.approx(errors(np.array([1e-3, 10.0]), np.array([2.0, 5.0])))


def test_pixels_outside_the_eigen_crop_do_not_matter():
    target = torch.full((1, 1, 480, 640), 4.0)
    pred = torch.full_like(target, 1.0)
    pred[..., 45:471, 41:601] = 4.0
    scores = DepthScores(LOW, HIGH, "eigen")
    scores.update(pred, target, names=["a"])
    found = scores.compute()
    assert found["rmse"] == 0
    assert found["delta1"] == 1
    # And all four corners inside it do.
    for row, column in ((45, 41), (45, 600), (470, 41), (470, 600)):
        one = target.clone()
        one[..., row, column] = 2.0
        scores.reset()
        scores.update(one, target, names=["a"])
        assert scores.compute()["rmse"] == pytest.approx(math.sqrt(4 / (426 * 560)))
    outside = torch.ones_like(target)
    outside[..., 45:471, 41:601] = 0
    scores.reset()
    scores.update(pred, target, names=["a"], mask=outside)
    assert scores.compute()["rmse"] is None
    assert (
        scores.reasons()["rmse"] == "none of 1 images has a valid depth between 0.001 and 10.0 m inside the eigen crop"
    )


def test_prediction_is_resized_bilinearly():
    generator = torch.Generator().manual_seed(5)
    pred, target = (1 + 5 * torch.rand(1, 1, *size, generator=generator) for size in ((4, 6), (10, 9)))

    def weights(small: int, large: int) -> np.ndarray:
        """(large, small): half-pixel centres, edges repeated."""
        place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
        return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(small))))

    enlarged = weights(4, 10) @ pred[0, 0].numpy().astype(np.float64) @ weights(6, 9).T
    scores = DepthScores(LOW, HIGH, None)
    with torch.autocast("cpu", torch.bfloat16):
        scores.update(pred, target, names=["a"])
    expected = errors(enlarged.ravel(), target.numpy().astype(np.float64).ravel())
    assert scores.compute() == pytest.approx(expected, abs=1e-7)


def test_an_image_without_counted_pixels_is_left_out():
    pred, target, valid = SET[0]
    scores = DepthScores(LOW, HIGH, None)
    assert set(scores.compute().values()) == {None}
    assert set(scores.reasons().values()) == {"no image was scored"}
    # Where nothing is valid the target may hold anything.
    scores.update(pred, torch.full_like(target, math.nan), names=["void"], mask=torch.zeros_like(valid))
    scores.update(pred, target + 20, names=["far"])
    assert set(scores.compute().values()) == {None}
    assert set(scores.reasons().values()) == {"none of 2 images has a valid depth between 0.001 and 10.0 m"}
    scores.update(pred, target, names=["a"], mask=valid)
    assert scores.compute() == pytest.approx(of_image(*SET[0]), abs=1e-9)
    assert set(scores.counts().values()) == {1}
    assert scores.per_image[:2] == [{"name": "void"}, {"name": "far"}]
    scores.reset()
    assert scores.per_image == []
    assert set(scores.reasons().values()) == {"no image was scored"}


def test_bad_input_names_the_image_and_counts_nothing():
    preds, targets, valids = (torch.cat(parts) for parts in zip(*SET[:2], strict=True))
    nan, negative, soft = preds.clone(), targets.clone(), valids.clone()
    nan[1, 0, 0, 0], soft[1, 0, 0, 0] = math.nan, 0.5
    negative[1] -= 1
    nan_target = torch.where(nan.isnan(), nan, targets)
    cases = [
        (nan, targets, valids, "bad: the prediction has NaN"),
        (preds, negative, valids, "bad: the target has negative"),
        (preds, nan_target, None, "bad: the target has negative, NaN"),
        (preds, targets, soft, "bad: the mask has other values"),
        (preds, targets, valids[..., :5], "good, bad: mask is"),
        (preds[:, 0], targets, valids, "good, bad: pred is .* float metres"),
        (preds, targets.long(), valids, "good, bad: target is .* float metres"),
        (preds[:1], targets, valids, "good, bad: 2 names for 1 predictions and 2 targets"),
    ]
    scores = DepthScores(LOW, HIGH, None)
    for pred, target, mask, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            scores.update(pred, target, names=["good", "bad"], mask=mask)
        assert "\n" not in str(caught.value)
    assert scores.per_image == []
    assert set(scores.counts().values()) == {0}
    with pytest.raises(UserError, match=r"good, bad: the eigen crop is for targets of 480 x 640 pixels.* 13 x 17"):
        DepthScores(LOW, HIGH, "eigen").update(preds, targets, names=["good", "bad"])
    with pytest.raises(UserError, match="unknown crop 'garg'; write one of eigen"):
        DepthScores(LOW, HIGH, "garg")
    for low, high in ((0.0, 10.0), (2.0, 1.0)):
        with pytest.raises(UserError, match="0 < min < max"):
            DepthScores(low, high, None)


def test_depth_colours_are_viridis_and_black_where_there_is_none():
    colormap = ColorMap("viridis", 256)
    depth = torch.linspace(2, 6, 256, dtype=torch.float64)[None, None]
    picture = colour_depth(depth, 2, 6)
    assert picture.shape == (3, 1, 256)
    assert picture.dtype == torch.float32
    # Kornia's table has 64 colours, ours 16 anchors.
    assert torch.allclose(picture[:, 0], colormap.colors, atol=0.03)
    odd = colour_depth(torch.tensor([[[0.0, -1, math.nan, math.inf, 1, 7]]]), 2, 6)
    assert torch.equal(odd[:, 0, :4], torch.zeros(3, 4))
    assert torch.equal(odd[:, :, 4:], picture[:, :, [0, -1]])
    for bad, low, high in ((depth[0], 2, 6), (depth.long(), 2, 6), (depth, 6, 6)):
        with pytest.raises(UserError, match="colours of depth"):
            colour_depth(bad, low, high)
