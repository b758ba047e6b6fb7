"""The objectives on the prior: Eqs. 13 to 15 against the numpy sums."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffi2i.losses.prior import PriorLoss, energy_score, prior_loss
from tests import reference as ref
from tests.examples import quick, seeds

EQUATIONS: dict[PriorLoss, Callable[[ref.Array, ref.Array], float]] = {
    "l1": ref.prior_l1,
    "l2": ref.prior_l2,
    "kl": ref.prior_kl,
}
KINDS: list[PriorLoss] = ["l1", "l2", "kl"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def pair(seed: int, batch: int = 3, size: int = 8, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    estimate, z = spread * np.random.default_rng(seed).standard_normal((2, batch, size)).astype(np.float32)
    return torch.from_numpy(estimate), torch.from_numpy(z)


@every_kind
@given(seed=seeds, batch=st.integers(1, 5), size=st.integers(1, 20), spread=st.floats(0.1, 10))
@quick
def test_loss_equals_its_equation_averaged_over_the_batch(
    kind: PriorLoss, seed: int, batch: int, size: int, spread: float
):
    estimate, z = pair(seed, batch, size, spread)
    expected = EQUATIONS[kind](estimate.double().numpy(), z.double().numpy())
    np.testing.assert_allclose(prior_loss(estimate, z, kind), expected, rtol=1e-4, atol=1e-5)


@every_kind
@given(seed=seeds)
@quick
def test_loss_is_positive_and_zero_for_the_true_prior(kind: PriorLoss, seed: int):
    estimate, z = pair(seed)
    assert prior_loss(estimate, z, kind) > 0
    assert prior_loss(z, z, kind).abs() < 1e-6


@given(seed=seeds, shift=st.floats(-5, 5))
@quick
def test_kl_ignores_a_shift_of_all_numbers_and_l1_does_not(seed: int, shift: float):
    estimate, z = pair(seed)
    torch.testing.assert_close(
        prior_loss(estimate + shift, z, "kl"), prior_loss(estimate, z, "kl"), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(prior_loss(z + shift, z, "l1").item(), abs(shift), rtol=1e-4, atol=1e-5)


def test_kl_is_taken_from_the_true_prior_to_the_estimate():
    sharp, flat = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    true = torch.softmax(sharp, 1)[0]
    torch.testing.assert_close(prior_loss(flat, sharp, "kl"), (true * (true / 0.5).log()).sum())
    torch.testing.assert_close(prior_loss(sharp, flat, "kl"), (0.5 * (0.5 / true).log()).sum())


@every_kind
def test_repeating_the_batch_keeps_the_loss(kind: PriorLoss):
    estimate, z = pair(0)
    torch.testing.assert_close(prior_loss(estimate.repeat(2, 1), z.repeat(2, 1), kind), prior_loss(estimate, z, kind))


def test_repeating_the_numbers_keeps_the_means_and_the_kl_of_the_halved_probabilities():
    estimate, z = pair(0)
    for kind in KINDS:
        torch.testing.assert_close(
            prior_loss(estimate.repeat(1, 2), z.repeat(1, 2), kind), prior_loss(estimate, z, kind)
        )


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_is_computed_in_float32_under_bfloat16_autocast(kind: PriorLoss, dtype: torch.dtype):
    estimate, z = (x.to(dtype) for x in pair(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = prior_loss(estimate, z, kind)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, EQUATIONS[kind](estimate.double().numpy(), z.double().numpy()), rtol=1e-5)


@every_kind
def test_gradient_lowers_the_loss(kind: PriorLoss):
    estimate, z = pair(0)
    estimate.requires_grad_()
    loss = prior_loss(estimate, z, kind)
    (slope,) = torch.autograd.grad(loss, estimate)
    assert prior_loss(estimate - 1e-2 * slope, z, kind) < loss


@given(seed=seeds, batch=st.integers(1, 5), size=st.integers(1, 20))
@quick
def test_energy_score_equals_its_sums(seed: int, batch: int, size: int):
    one, other, z = np.random.default_rng(seed).standard_normal((3, batch, size))
    near, far = (
        [np.sqrt(((a - b) ** 2).sum(axis=1)) for a, b in each] for each in ([(one, z), (other, z)], [(one, other)])
    )
    expected = np.mean(near[0] / 2 + near[1] / 2 - far[0] / 2)
    found = energy_score(*(torch.from_numpy(each) for each in (one, other, z)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_energy_score_prefers_the_distribution_to_its_median_and_l1_does_not_prefer_it():
    """Z is -1 or 1 with equal chances: draws of it against a constant 0."""
    z, one, other = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], (3, 20_000, 1)))
    median = torch.zeros_like(z)
    assert energy_score(one, other, z) < energy_score(median, median, z) - 0.4
    assert prior_loss(one, z, "l1") > prior_loss(median, z, "l1") - 0.01
