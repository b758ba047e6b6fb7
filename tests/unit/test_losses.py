"""Pixel, label and depth objectives against numpy in float64, and the weighted terms of a task."""

import copy
import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from diffi2i.losses.adversarial import RealESRGANAdversary
from diffi2i.losses.dense import CrossEntropy, SILog
from diffi2i.losses.pixel import L1, L2, HolePSNR, KnownL1
from diffi2i.losses.task import TaskLoss
from tests.examples import quick, seeds


def images(seed: int = 0, size: tuple[int, ...] = (2, 3, 6, 5)) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    hole = (rng.random((size[0], 1, *size[2:])) < 0.4).astype(np.float32)
    return {
        "output": torch.from_numpy(rng.normal(0.5, 0.5, size).astype(np.float32)),
        "target": torch.from_numpy(rng.random(size, dtype=np.float32)),
        "mask": torch.from_numpy(hole),
    }


def labels(seed: int = 0, classes: int = 4) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (2, 6, 5))
    target[rng.random(target.shape) < 0.3] = 255
    return {
        "output": torch.from_numpy(3 * rng.standard_normal((2, classes, 6, 5)).astype(np.float32)),
        "target": torch.from_numpy(target),
    }


def depths(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.5, 10, (2, 1, 6, 5)).astype(np.float32)
    target[rng.random(target.shape) < 0.2] = 0
    return {
        "output": torch.from_numpy(rng.uniform(0.1, 10, target.shape).astype(np.float32)),
        "target": torch.from_numpy(target),
        "valid": torch.from_numpy((rng.random(target.shape) < 0.8).astype(np.float32)),
    }


def double(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.double().numpy() for key, value in batch.items()}


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    total, count = 0.0, 0
    for b, i, j in np.ndindex(target.shape):
        if target[b, i, j] != 255:
            scores = logits[b, :, i, j]
            total += np.log(np.exp(scores).sum()) - scores[int(target[b, i, j])]
            count += 1
    return total / count


def silog(output: np.ndarray, target: np.ndarray, valid: np.ndarray, focus: float) -> float:
    d = np.log(output[valid]) - np.log(target[valid])
    return float(10 * np.sqrt(np.mean(d**2) - focus * np.mean(d) ** 2))


@given(seed=seeds)
@quick
def test_l1_is_the_mean_absolute_difference(seed: int):
    batch = images(seed)
    x = double(batch)
    np.testing.assert_allclose(L1()(batch["output"], batch), np.abs(x["output"] - x["target"]).mean(), rtol=1e-5)
    np.testing.assert_allclose(L2()(batch["output"], batch), ((x["output"] - x["target"]) ** 2).mean(), rtol=1e-5)


@given(seed=seeds)
@quick
def test_known_l1_sums_the_known_pixels_and_divides_by_all(seed: int):
    batch = images(seed)
    x = double(batch)
    known = np.broadcast_to(x["mask"] == 0, x["output"].shape)
    expected = np.abs(x["output"] - x["target"])[known].sum() / known.size
    np.testing.assert_allclose(KnownL1()(batch["output"], batch), expected, rtol=1e-5, atol=1e-7)


def test_known_l1_ignores_the_hole():
    batch = images()
    changed = batch["output"] + 100 * batch["mask"]
    torch.testing.assert_close(KnownL1()(changed, batch), KnownL1()(batch["output"], batch))


@given(seed=seeds)
@quick
def test_cross_entropy_averages_over_the_labelled_pixels(seed: int):
    batch = labels(seed)
    x = double(batch)
    np.testing.assert_allclose(
        CrossEntropy()(batch["output"], batch), cross_entropy(x["output"], x["target"]), rtol=1e-5
    )


def test_cross_entropy_resizes_small_logits_bilinearly():
    batch = labels(0)
    ramp = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2).expand(2, 1, 3, 2)
    small = torch.cat([ramp, torch.zeros(2, 3, 3, 2)], dim=1)
    # Half-pixel centres: five output pixels fall at -0.3, 0.1, 0.5, 0.9, 1.3 between the two, the ends are held.
    row = np.array([0, 0.4, 2, 3.6, 4])
    large = np.zeros((2, 4, 6, 5))
    large[:, 0] = row
    np.testing.assert_allclose(CrossEntropy()(small, batch), cross_entropy(large, batch["target"].numpy()), rtol=1e-5)


def test_ignored_pixels_get_no_gradient_and_another_label_can_be_ignored():
    batch = labels(0)
    logits = batch["output"].requires_grad_()
    (slope,) = torch.autograd.grad(CrossEntropy()(logits, batch), logits)
    per_pixel = slope.abs().sum(1)
    assert (per_pixel[batch["target"] == 255] == 0).all()
    assert (per_pixel[batch["target"] != 255] > 0).all()
    moved = {"target": torch.where(batch["target"] == 255, -1, batch["target"])}
    torch.testing.assert_close(CrossEntropy(ignore=-1)(logits, moved), CrossEntropy()(logits, batch))


@given(seed=seeds, focus=st.floats(0, 1))
@quick
def test_silog_is_its_formula_over_the_valid_pixels(seed: int, focus: float):
    batch = depths(seed)
    x = double(batch)
    expected = silog(x["output"], x["target"], (x["target"] > 0) & (x["valid"] == 1), focus)
    np.testing.assert_allclose(SILog(focus)(batch["output"], batch), expected, rtol=1e-4)
    del batch["valid"]
    expected = silog(x["output"], x["target"], x["target"] > 0, focus)
    np.testing.assert_allclose(SILog(focus)(batch["output"], batch), expected, rtol=1e-4)


def test_silog_of_a_scaled_depth_is_known():
    target = depths()["target"]
    output = torch.where(target > 0, 2 * target, 1)
    expected = 10 * np.log(2) * np.sqrt(0.15)
    np.testing.assert_allclose(SILog()(output, {"target": target}), expected, rtol=1e-5)
    np.testing.assert_allclose(SILog(variance_focus=1)(output, {"target": target}), 0, atol=1e-4)


def test_silog_has_a_bounded_gradient_up_to_the_perfect_output():
    target = 1 + torch.rand(1, 1, 8, 8)
    for distance in (0.0, 1e-7, 1e-4, 1e-1):
        output = (target * (1 + distance * torch.randn_like(target))).requires_grad_()
        (slope,) = torch.autograd.grad(SILog()(output, {"target": target}), output)
        # With respect to log output the norm is at most 10 / sqrt(64 pixels); outputs are about 1 or more.
        assert slope.norm() < 2
    perfect = target.clone().requires_grad_()
    (slope,) = torch.autograd.grad(SILog()(perfect, {"target": target}), perfect)
    assert (slope == 0).all()


@pytest.mark.parametrize(
    ("loss", "output", "batch"),
    [
        (CrossEntropy(), torch.randn(2, 3, 4, 4), {"target": torch.full((2, 4, 4), 255)}),
        (SILog(), torch.rand(2, 1, 4, 4) + 1, {"target": torch.zeros(2, 1, 4, 4)}),
        (SILog(), torch.rand(2, 1, 4, 4) + 1, {"target": torch.ones(2, 1, 4, 4), "valid": torch.zeros(2, 1, 4, 4)}),
    ],
)
def test_nothing_to_count_gives_zero_with_a_graph(loss, output, batch):
    output.requires_grad_()
    value = loss(output, batch)
    assert value == 0
    (slope,) = torch.autograd.grad(value, output)
    assert (slope == 0).all()


@pytest.mark.parametrize(
    ("loss", "batch"), [(L1(), images()), (KnownL1(), images()), (CrossEntropy(), labels()), (SILog(), depths())]
)
def test_losses_are_float32_under_bfloat16_autocast(loss, batch):
    output = batch["output"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(output, batch)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(output.float(), batch))


def test_terms_are_weighted_and_one_by_default():
    batch = images()
    loss = TaskLoss({"l1": L1(), "known": KnownL1()}, {"known": 10})
    terms = loss(batch["output"], batch)
    assert list(terms) == ["l1", "known"]
    torch.testing.assert_close(terms["l1"], L1()(batch["output"], batch))
    torch.testing.assert_close(terms["known"], 10 * KnownL1()(batch["output"], batch))
    assert loss.adversary is None


def test_weight_without_a_term_is_refused():
    with pytest.raises(ValueError, match=r"\['l2'\]; the terms are \['l1'\]"):
        TaskLoss({"l1": L1()}, {"l2": 1})


class Mean(nn.Module):
    """A discriminator that answers with the image's mean times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return self.factor * image.mean(dim=(1, 2, 3), keepdim=True), []


def test_adversary_adds_its_terms_and_its_discriminator_alone_is_saved():
    batch = images()
    loss = TaskLoss({"l1": L1()}, adversary=RealESRGANAdversary(Mean()))
    terms = loss(batch["output"], batch)
    assert list(terms) == ["l1", "adversarial"]
    assert all(term.ndim == 0 and term.dtype == torch.float32 for term in terms.values())
    assert list(loss.state_dict()) == ["adversary.discriminator.factor"]
    assert isinstance(copy.deepcopy(loss).adversary, RealESRGANAdversary)


def test_hydra_builds_a_task_loss():
    config = OmegaConf.create(
        """
        _target_: diffi2i.losses.task.TaskLoss
        terms:
          l1: {_target_: diffi2i.losses.pixel.KnownL1}
          entropy: {_target_: diffi2i.losses.dense.CrossEntropy, ignore: 7}
        weights: {l1: 10}
        adversary:
          _target_: diffi2i.losses.adversarial.LamaAdversary
          discriminator: {_target_: diffi2i.models.discriminator.PatchDiscriminator, width: 4, layers: 2}
        """
    )
    loss = instantiate(config)
    assert type(loss.terms) is dict
    assert isinstance(loss.terms["l1"], KnownL1)
    assert loss.terms["entropy"].ignore == 7
    assert loss.weights == {"l1": 10.0, "entropy": 1.0}
    assert loss.adversary.discriminator.min_side == 4


def test_hole_psnr_is_the_log_of_each_images_mean_square_inside_its_hole() -> None:
    rng = np.random.default_rng(4)
    output, target = rng.random((2, 3, 5, 7)), rng.random((2, 3, 5, 7))
    mask = (rng.random((2, 1, 5, 7)) > 0.6).astype(float)
    expected = 0.0
    for b in range(2):
        inside = [
            (output[b, c, y, x] - target[b, c, y, x]) ** 2
            for c in range(3)
            for y in range(5)
            for x in range(7)
            if mask[b, 0, y, x]
        ]
        expected += math.log(sum(inside) / len(inside) + 0.01) / 2
    batch = {"target": torch.tensor(target), "mask": torch.tensor(mask)}
    assert float(HolePSNR(0.01)(torch.tensor(output), batch)) == pytest.approx(expected, rel=1e-5)
    without = batch | {"mask": torch.zeros(2, 1, 5, 7)}
    assert float(HolePSNR(0.01)(torch.tensor(output), without)) == pytest.approx(math.log(0.01))
