"""Image scores against independent float64 numpy and scikit-image, published anchors, and DDP."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import Tensor

from diffi2i.config.schema import ProtocolConfig
from diffi2i.errors import UserError, WeightsUnavailableError
from diffi2i.metrics import image as image_metrics
from diffi2i.metrics.distribution import DistributionScores
from diffi2i.metrics.image import ImageScores, rgb_to_y
from tests.places import DATA

PLAIN = ["psnr", "psnr_y", "ssim", "ssim_y", "psnr_hole"]
NETWORKS = ["lpips_alex", "lpips_vgg", "dists"]


def pair(height: int, width: int, seed: int, noise: float) -> tuple[Tensor, Tensor]:
    """A smooth random target on 8 bits and a noisy prediction that oversteps [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    target = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").mul(255).round() / 255
    return target + noise * torch.randn(target.shape, generator=generator), target


def as_png(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) -> (H, W, 3) float64 of the 8-bit image."""
    array = np.clip(image[0].numpy().astype(np.float64).transpose(1, 2, 0), 0, 1)
    return np.rint(array * 255).astype(np.uint8) / 255.0


def luma(rgb: np.ndarray) -> np.ndarray:
    return (16 + 65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    axis = -1 if a.ndim == 3 else None
    _, full = structural_similarity(  # type: ignore[no-untyped-call]
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
        channel_axis=axis,
    )  # fmt: skip
    return float(full[5:-5, 5:-5].mean())


SET = [pair(24, 31, 0, 0.02), pair(40, 17, 1, 0.2), pair(19, 64, 2, 0.08)]


@pytest.mark.parametrize("border", [0, 3])
def test_means_are_of_per_image_scores(border):
    scores = ImageScores(ProtocolConfig(border=border, metrics=PLAIN))
    expected: dict[str, list[float]] = {"psnr": [], "psnr_y": [], "ssim": [], "ssim_y": []}
    errors, pixels = 0.0, 0
    for i, (pred, target) in enumerate(SET):
        scores.update(pred, target, names=[f"img{i}"])
        a, b = as_png(pred), as_png(target)
        crop = (slice(border, a.shape[0] - border), slice(border, a.shape[1] - border))
        a, b = a[crop], b[crop]
        expected["psnr"].append(psnr(a, b))
        expected["psnr_y"].append(psnr(luma(a), luma(b)))
        expected["ssim"].append(ssim(a, b))
        expected["ssim_y"].append(ssim(luma(a), luma(b)))
        errors, pixels = errors + float(((a - b) ** 2).sum()), pixels + a.size
    found = scores.compute()
    assert found["psnr"] is not None
    assert found["psnr"] == pytest.approx(np.mean(expected["psnr"]), abs=1e-5)
    assert found["psnr_y"] == pytest.approx(np.mean(expected["psnr_y"]), abs=1e-5)
    assert found["ssim"] == pytest.approx(np.mean(expected["ssim"]), abs=2e-5)
    assert found["ssim_y"] == pytest.approx(np.mean(expected["ssim_y"]), abs=2e-5)
    # The set is chosen so that pooling the error would show.
    assert abs(found["psnr"] - -10 * math.log10(errors / pixels)) > 1
    assert [record["name"] for record in scores.per_image] == ["img0", "img1", "img2"]
    assert [record["psnr"] for record in scores.per_image] == pytest.approx(expected["psnr"], abs=1e-5)
    assert scores.counts() == {"psnr": 3, "psnr_y": 3, "ssim": 3, "ssim_y": 3, "psnr_hole": 0}


def ssim_volume(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two (H, W, 3) volumes, axis by axis, the edge repeated."""

    def smooth(x: np.ndarray) -> np.ndarray:
        for axis in range(3):
            x = ndimage.gaussian_filter1d(x, 1.5, axis=axis, mode="nearest", radius=5)
        return x

    mean_a, mean_b = smooth(a), smooth(b)
    variances = smooth(a**2) - mean_a**2 + smooth(b**2) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return float(np.mean(luminance * (2 * covariance + 9e-4) / (variances + 9e-4)))


@pytest.mark.parametrize("border", [0, 3])
def test_ssim_3d_filters_the_colours_too(border):
    scores = ImageScores(ProtocolConfig(border=border, metrics=["ssim", "ssim_3d"]))
    # Also smaller than the window: MATLAB's takes any size.
    for i, (pred, target) in enumerate([*SET, pair(9, 14, 3, 0.1)]):
        scores.update(pred, target, names=[f"img{i}"])
        height, width = target.shape[-2:]
        crop = (slice(border, height - border), slice(border, width - border))
        expected = ssim_volume(as_png(pred)[crop], as_png(target)[crop])
        assert scores.per_image[-1]["ssim_3d"] == pytest.approx(expected, abs=5e-6)
    assert scores.counts() == {"ssim": 3, "ssim_3d": 4}


def test_ssim_3d_does_not_split_into_channels():
    # Noise that is the same in red and blue, the other way round in green: three channels agree, the volume does not.
    target = pair(24, 24, 0, 0.0)[1]
    sign = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    noise = 0.1 * torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * sign
    scores = ImageScores(ProtocolConfig(metrics=["ssim", "ssim_3d"]))
    scores.update(target + noise, target, names=["a"])
    found = scores.compute()
    assert found["ssim"] is not None
    assert found["ssim_3d"] is not None
    assert found["ssim_3d"] - found["ssim"] > 0.1
    scores.reset()
    scores.update(target, target, names=["same"])
    assert scores.compute()["ssim_3d"] == pytest.approx(1, abs=1e-6)


@pytest.mark.skipif(not (DATA / "gopro_sample").is_dir(), reason="shared/data/gopro_sample is not here")
def test_ssim_of_a_gopro_pair():
    blurred, sharp = (read(next((DATA / "gopro_sample" / side).iterdir())) for side in ("blur", "sharp"))
    scores = ImageScores(ProtocolConfig(metrics=["ssim", "ssim_3d"]))
    scores.update(blurred, sharp, names=["a"])
    assert scores.compute() == {"ssim": pytest.approx(0.8210, abs=5e-5), "ssim_3d": pytest.approx(0.9114, abs=5e-5)}
    expected = ssim_volume(as_png(blurred), as_png(sharp))
    assert scores.compute()["ssim_3d"] == pytest.approx(expected, abs=2e-6)


def test_rgb_to_y():
    y = rgb_to_y(torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.float64).reshape(3, 3, 1, 1))
    assert y.dtype == torch.float64
    assert y.shape == (3, 1, 1, 1)
    assert y.flatten().tolist() == pytest.approx([16 / 255, 235 / 255, 81.481 / 255], abs=1e-12)


def test_batch_size_and_move_change_nothing():
    preds, targets = (torch.cat(images) for images in zip(*(pair(33, 40, s, 0.1) for s in range(5)), strict=True))
    whole, single = ImageScores(ProtocolConfig(metrics=PLAIN)), ImageScores(ProtocolConfig(metrics=PLAIN)).to("cpu")
    whole.update(preds, targets, names=list("abcde"))
    for i, name in enumerate("abcde"):
        single.update(preds[i : i + 1], targets[i : i + 1], names=[name])
    assert whole.compute() == single.compute()
    assert whole.per_image == single.per_image


def test_scores_ignore_autocast_and_input_precision():
    pred, target = pair(32, 32, 0, 0.1)
    plain, cast = ImageScores(ProtocolConfig(metrics=PLAIN)), ImageScores(ProtocolConfig(metrics=PLAIN))
    plain.update(pred, target, names=["a"])
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(pred.double(), target.double(), names=["a"])
    assert plain.compute() == cast.compute()


def test_identical_images_are_infinite_and_pull_the_mean():
    _, target = pair(16, 16, 0, 0.0)
    scores = ImageScores(ProtocolConfig(metrics=PLAIN))
    scores.update(target + 0.001, target, names=["same PNG"])
    scores.update(*pair(16, 16, 1, 0.1), names=["other"])
    assert scores.per_image[0]["psnr"] == math.inf
    assert scores.per_image[0]["ssim"] == pytest.approx(1, abs=1e-6)
    assert scores.compute()["psnr"] == math.inf


def test_psnr_inside_the_hole():
    pred, target = pair(20, 30, 3, 0.1)
    mask = torch.zeros(1, 1, 20, 30)
    mask[..., 4:9, 10:22] = 1
    scores = ImageScores(ProtocolConfig(border=6, metrics=PLAIN))
    scores.update(pred, target, mask=mask, names=["a"])
    # The border crop also crops the hole: rows 6-8 of it are left.
    a, b = as_png(pred)[6:9, 10:22], as_png(target)[6:9, 10:22]
    assert scores.compute()["psnr_hole"] == pytest.approx(psnr(a, b), abs=1e-5)
    scores.update(pred, target, mask=torch.zeros_like(mask), names=["no hole"])
    assert scores.counts()["psnr_hole"] == 1
    assert scores.counts()["psnr"] == 2


def test_tiny_images_are_left_out_of_ssim_and_nothing_scored_is_none():
    scores = ImageScores(ProtocolConfig(border=2, metrics=PLAIN))
    assert set(scores.compute().values()) == {None}
    assert set(scores.reasons().values()) == {"no image was scored"}
    scores.update(*pair(14, 40, 0, 0.1), names=["tiny"])
    found = scores.compute()
    assert found["psnr"] is not None
    assert found["ssim"] is None
    assert found["psnr_hole"] is None
    assert set(scores.reasons()) == {"ssim", "ssim_y", "psnr_hole"}
    assert scores.per_image[0].keys() == {"name", "psnr", "psnr_y"}
    scores.update(*pair(15, 40, 1, 0.1), names=["just enough"])
    assert scores.counts() == {"psnr": 2, "psnr_y": 2, "ssim": 1, "ssim_y": 1, "psnr_hole": 0}
    scores.reset()
    assert scores.counts()["psnr"] == 0
    assert scores.per_image == []


def test_bad_input_names_the_image_and_counts_nothing():
    preds, targets = (torch.cat(images) for images in zip(pair(16, 16, 0, 0.1), pair(16, 16, 1, 0.1), strict=True))
    scores = ImageScores(ProtocolConfig(metrics=PLAIN))
    names = ["good", "bad"]
    nan, high, bytes_range = preds.clone(), targets.clone(), preds.clone()
    nan[1, 0, 3, 3] = math.nan
    nan_target = torch.where(nan.isnan(), nan, targets)
    high[1] *= 1.5
    bytes_range[1] *= 255
    soft = torch.zeros(2, 1, 16, 16)
    soft[1, 0, 0, 0] = 0.5
    cases = [
        (nan, targets, None, "bad: the prediction has NaN"),
        (preds, nan_target, None, "bad: the target has NaN"),
        (preds, high, None, "bad: the target spans"),
        (bytes_range, targets, None, "bad: the prediction spans"),
        (preds, targets, soft, "bad: the mask has other values"),
        (preds[..., :15], targets, None, "good, bad: pred is .* they must agree"),
        (preds[:, :1], targets[:, :1], None, "good, bad: .* float RGB"),
        (preds, (targets * 255).byte(), None, "good, bad: .* float RGB"),
        (preds, targets, soft[..., :8], "good, bad: mask is"),
    ]
    for pred, target, mask, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            scores.update(pred, target, mask=mask, names=names)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="1 names for a batch of 2"):
        scores.update(preds, targets, names=["good"])
    with pytest.raises(UserError, match="border of 8 pixels leaves nothing"):
        ImageScores(ProtocolConfig(border=8, metrics=PLAIN)).update(preds, targets, names=names)
    assert scores.counts()["psnr"] == 0
    assert scores.per_image == []


def network_scores(*metrics: str) -> ImageScores:
    scores = ImageScores(ProtocolConfig(metrics=list(metrics)))
    for reason in scores.reasons().values():
        if reason != "no image was scored":
            pytest.skip(reason)
    return scores


def test_scores_are_those_asked_for_in_one_order():
    scores = ImageScores(ProtocolConfig(metrics=["fd_lite0", "psnr_hole", "ssim_y", "kid", "psnr", "fid"]))
    scores.update(*pair(16, 16, 0, 0.1), names=["a"])
    asked = ["psnr", "ssim_y", "psnr_hole", "fid", "kid", "fd_lite0"]
    assert list(scores.compute()) == list(scores.counts()) == asked
    assert list(scores.per_image[0]) == ["name", "psnr", "ssim_y"]
    reasons = scores.reasons()
    assert list(reasons) == asked[2:]
    assert reasons["psnr_hole"] == "no image came with a mask that has a hole"


@pytest.mark.parametrize("key", NETWORKS)
def test_networks_see_the_border_that_psnr_leaves_out(key):
    pred, target = pair(48, 48, 0, 0.1)
    found = []
    for border in (0, 4):
        network_scores(key)
        scores = ImageScores(ProtocolConfig(border=border, metrics=["psnr", key]))
        scores.update(pred, target, names=["a"])
        found.append(scores.compute())
    assert found[0][key] == found[1][key]
    assert found[0]["psnr"] != found[1]["psnr"]


def test_scores_of_the_whole_set_see_the_same_rounded_images(monkeypatch):
    pytest.importorskip("torch_fidelity")
    seen = []
    monkeypatch.setattr(DistributionScores, "update", lambda self, *pair, names: seen.append((*pair, names)))
    scores = ImageScores(ProtocolConfig(metrics=["psnr", "fd_lite0"], border=2))
    pred, target = pair(16, 20, 0, 0.1)
    scores.update(pred, target, names=["a"])
    ((one, other, names),) = seen
    assert names == ["a"]
    for given, kept in ((pred, one), (target, other)):
        expected = (given.clamp(0, 1) * 255).round() / 255
        torch.testing.assert_close(kept, expected.double(), atol=1e-7, rtol=0)


def test_missing_weights_are_a_reason_and_not_a_crash(monkeypatch):
    def missing(net):
        raise WeightsUnavailableError(f"LPIPS {net} trunk unavailable: test")

    monkeypatch.setattr(image_metrics, "_trunk", missing)
    scores = ImageScores(ProtocolConfig(metrics=["psnr", *NETWORKS]))
    scores.update(*pair(32, 32, 0, 0.1), names=["a"])
    found = scores.compute()
    assert found.pop("psnr") is not None
    assert found == dict.fromkeys(NETWORKS)
    nets = ("alex", "vgg", "vgg")
    assert scores.reasons() == {
        key: f"LPIPS {net} trunk unavailable: test" for key, net in zip(NETWORKS, nets, strict=True)
    }


@pytest.mark.parametrize(("key", "side"), [("lpips_alex", 31), ("lpips_vgg", 16), ("dists", 16)])
def test_sizes_that_networks_take_and_their_zero(key, side):
    scores = network_scores(key)
    scores.update(*pair(side - 1, 64, 0, 0.1), names=["too small"])
    assert scores.compute() == {key: None}
    assert scores.reasons() == {key: f"no image has {side} pixels on each side"}
    scores.update(*pair(64, side, 0, 0.1), names=["just enough"])
    assert scores.counts() == {key: 1}
    just_enough = scores.compute()[key]
    assert just_enough is not None
    assert 0 < just_enough < 1
    _, target = pair(64, 64, 0, 0)
    scores.reset()
    scores.update(target, target, names=["same"])
    assert scores.compute()[key] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("key", NETWORKS)
def test_networks_are_built_once_without_training_noticing(key):
    image_metrics._network.cache_clear()
    state = torch.random.get_rng_state()
    first, second = network_scores(key), network_scores(key)
    pred, target = pair(64, 48, 0, 0.1)
    with torch.inference_mode():  # as Lightning validates
        first.update(pred, target, names=["a"])
    second.update(pred, target, names=["a"])
    assert first.compute() == second.compute()
    assert image_metrics._network.cache_info().currsize == 1
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("key", ["psnr_hole", *NETWORKS])
def test_batch_size_changes_nothing(key):
    preds, targets = (torch.cat(images) for images in zip(*(pair(40, 33, s, 0.1) for s in range(3)), strict=True))
    masks = torch.zeros(3, 1, 40, 33)
    masks[..., 5:20, 7:15] = 1
    names = ["a", "b", "c"]
    whole, single = network_scores(key), network_scores(key)
    whole.update(preds, targets, names=names, mask=masks)
    for i, name in enumerate(names):
        one = slice(i, i + 1)
        single.update(preds[one], targets[one], names=[name], mask=masks[one])
    together, alone = whole.compute()[key], single.compute()[key]
    assert together is not None
    assert together == pytest.approx(alone, abs=1e-9)


def read(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255


@pytest.mark.skipif(not (DATA / "lpips_ref").is_dir(), reason="shared/data/lpips_ref is not here")
@pytest.mark.parametrize(("name", "published"), [("ex_p0", 0.722), ("ex_p1", 0.138)])
def test_lpips_of_the_reference_images(name, published):
    scores = network_scores("lpips_alex")
    folder = DATA / "lpips_ref"
    scores.update(read(folder / f"{name}.png"), read(folder / "ex_ref.png"), names=[name])
    found = scores.compute()["lpips_alex"]
    assert found is not None
    assert round(found, 3) == published


@pytest.mark.skipif(not (DATA / "set5").is_dir(), reason="shared/data/set5 is not here")
def test_bicubic_set5_has_the_published_scores():
    imresize = pytest.importorskip("diffi2i.data.resize").imresize
    scores = ImageScores(ProtocolConfig(border=4, metrics=PLAIN))
    for path in sorted((DATA / "set5" / "HR").glob("*.png")):
        target, low = read(path), read(DATA / "set5" / "LRx4" / path.name)
        pred = imresize(low[0], 4)[None]
        scores.update(pred, target[..., : pred.shape[-2], : pred.shape[-1]], names=[path.stem])
    found = scores.compute()
    assert scores.counts()["psnr_y"] == 5
    assert found["psnr_y"] == pytest.approx(28.42, abs=0.02)
    assert found["ssim_y"] == pytest.approx(0.8104, abs=0.002)
