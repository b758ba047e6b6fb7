"""The diffusion on the prior against the paper's equations in numpy: schedule, Eqs. 1-4, 10 and 11, both algorithms."""

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffi2i.models.diffusion import Prediction, PriorDiffusion, Schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffi2i.config.schema import DiffusionConfig
from diffi2i.models.diffi2i import build_diffusion
from tests import reference as ref

DIM = 6
KINDS: list[Prediction] = ["eps", "x0"]
quick = settings(deadline=None, max_examples=25)
chains = st.integers(2, 12).flatmap(
    lambda T: st.tuples(st.just(T), st.sets(st.integers(1, T - 1)).map(lambda early: [*sorted(early), T]))
)
seeds = st.integers(0, 2**31)


def diffusion(
    T: int, kind: Prediction = "x0", timesteps: Sequence[int] | None = None, variance_noise: bool = False
) -> PriorDiffusion:
    return PriorDiffusion(T, 0.1, 0.99, kind, variance_noise=variance_noise, timesteps=timesteps)


def normal(seed: int, *shape: int) -> ref.Array:
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(array: ref.Array) -> Tensor:
    return torch.from_numpy(array)


def draws(seed: int, shape: Sequence[int]) -> Callable[[int], Tensor]:
    """Seeded noise for each reverse step."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _: torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def run(process: PriorDiffusion, z_T: ref.Array, network: Any, **kwargs: Any) -> ref.Array:
    """`denoise` on one vector, with a network of (z, time)."""
    z = tensor(z_T)[None]
    return np.asarray(process.denoise(z, torch.zeros_like(z), lambda z, t, _: network(z, t), **kwargs)[0])


def test_alpha_bar_of_four_steps_has_the_papers_numbers():
    bars = diffusion(4).alpha_bar
    assert bars[0] == 1.0
    np.testing.assert_allclose(bars[1:], [0.9, 0.54300, 0.16652, 0.0016652], rtol=5e-5)


def test_sqrt_linear_is_linear_in_the_square_roots():
    """Against numpy in float64, and the numbers that the authors' code computes for 0.1 and 0.99."""
    process = PriorDiffusion(4, 0.1, 0.99, "x0", schedule="sqrt_linear")
    np.testing.assert_allclose(process.alpha_bar[1:], [0.9, 0.63514, 0.25980, 0.0025980], rtol=2e-5)
    for T in (2, 3, 4, 9, 50):
        betas = np.linspace(np.sqrt(0.1), np.sqrt(0.99), T) ** 2
        bars = PriorDiffusion(T, 0.1, 0.99, "x0", schedule="sqrt_linear").alpha_bar
        np.testing.assert_allclose(bars, np.concatenate([[1.0], np.cumprod(1 - betas)]), rtol=1e-12)
        linear = np.cumprod(1 - np.linspace(0.1, 0.99, T))
        np.testing.assert_allclose(diffusion(T).alpha_bar[1:], linear, rtol=1e-12)
        assert diffusion(T).alpha_bar == PriorDiffusion(T, 0.1, 0.99, "x0", schedule="linear").alpha_bar


@pytest.mark.parametrize("schedule", ["linear", "sqrt_linear"])
def test_a_single_step_goes_almost_to_noise_under_either_schedule(schedule: Schedule):
    np.testing.assert_allclose(PriorDiffusion(1, 0.1, 0.99, "x0", schedule=schedule).alpha_bar, [1, 0.01], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reverse_process_follows_its_schedule(kind: Prediction):
    betas = [0.0, *(np.linspace(np.sqrt(0.1), np.sqrt(0.99), 4) ** 2)]
    x, guess = normal(0, DIM), normal(1, DIM)
    process = PriorDiffusion(4, 0.1, 0.99, kind, schedule="sqrt_linear")
    for t in range(1, 5):
        expected = ref.noise_mean(x, guess, t, betas) if kind == "eps" else ref.posterior(x, guess, t, betas)[0]
        np.testing.assert_allclose(process.step(tensor(x), tensor(guess), t), expected, rtol=1e-10)


def test_an_unknown_schedule_is_refused_and_the_configuration_reaches_the_diffusion():
    with pytest.raises(ValueError, match="write one of linear, sqrt_linear"):
        PriorDiffusion(4, 0.1, 0.99, "x0", schedule="cosine")  # type: ignore[arg-type]
    built = [build_diffusion(DiffusionConfig(schedule=schedule)).alpha_bar[4] for schedule in ("linear", "sqrt_linear")]
    np.testing.assert_allclose(built, [0.0016652, 0.0025980], rtol=2e-5)
    assert build_diffusion(DiffusionConfig()).alpha_bar[4] == built[0]


@given(T=st.integers(2, 50), first=st.floats(0.01, 0.5), rise=st.floats(0, 0.49))
@quick
def test_closed_form_factor_and_variance_equal_the_iterated_forward_process(T: int, first: float, rise: float):
    process = PriorDiffusion(T, first, first + rise, "x0")
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t, (factor, variance) in enumerate(ref.iterate_forward(ref.linear_betas(T, first, first + rise))):
        np.testing.assert_allclose(process.add_noise(one, t, zero).item(), factor, rtol=1e-12)
        np.testing.assert_allclose(process.add_noise(zero, t, one).item() ** 2, variance, rtol=1e-9, atol=1e-15)


def test_add_noise_takes_one_time_per_vector():
    z, noise, betas = normal(0, 5, DIM), normal(1, 5, DIM), ref.linear_betas(4)
    noised = diffusion(4).add_noise(tensor(z), torch.arange(5), tensor(noise))
    np.testing.assert_allclose(noised, [ref.diffuse(z[t], noise[t], t, betas) for t in range(5)], rtol=1e-12)
    assert torch.equal(noised[0], tensor(z)[0])  # t = 0 is Z itself


@pytest.mark.parametrize("T", [2, 3, 4, 7])
def test_eps_step_is_equation_11(T: int):
    x, noise, betas = normal(0, DIM), normal(1, DIM), ref.linear_betas(T)
    for t in range(1, T + 1):
        stepped = diffusion(T, "eps").step(tensor(x), tensor(noise), t)
        np.testing.assert_allclose(stepped, ref.noise_mean(x, noise, t, betas), rtol=1e-10)


@pytest.mark.parametrize("T", [2, 3, 4, 7])
def test_x0_step_is_the_posterior_mean_by_bayes(T: int):
    x, x0, betas = normal(0, DIM), normal(1, DIM), ref.linear_betas(T)
    for t in range(1, T + 1):
        stepped = diffusion(T, "x0").step(tensor(x), tensor(x0), t)
        np.testing.assert_allclose(stepped, ref.posterior(x, x0, t, betas)[0], rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [2, 3, 4, 7])
def test_step_inserts_noise_with_the_posterior_variance_of_equation_3(T: int, kind: Prediction):
    betas, zero, one = ref.linear_betas(T), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for t in range(2, T + 1):
        variance = diffusion(T, kind).step(zero, zero, t, noise=one).item() ** 2
        np.testing.assert_allclose(variance, ref.paper_variance(t, betas), rtol=1e-10)
        np.testing.assert_allclose(variance, ref.posterior(np.zeros(1), np.zeros(1), t, betas)[1], rtol=1e-10)


@given(T=st.integers(2, 12), seed=seeds)
@quick
def test_true_noise_and_true_z_lead_to_the_same_step(T: int, seed: int):
    z, noise = tensor(normal(seed, 1, DIM)), tensor(normal(seed + 1, 1, DIM))
    for t in range(1, T + 1):
        noised = diffusion(T).add_noise(z, t, noise)
        by_noise, by_z = diffusion(T, "eps").step(noised, noise, t), diffusion(T, "x0").step(noised, z, t)
        torch.testing.assert_close(by_noise, by_z, rtol=1e-8, atol=1e-8)


def test_eps_step_with_the_true_noise_inverts_the_first_forward_step():
    z, noise = tensor(normal(0, 1, DIM)), tensor(normal(1, 1, DIM))
    process = diffusion(4, "eps")
    torch.testing.assert_close(process.step(process.add_noise(z, 1, noise), noise, 1), z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(chain=chains, seed=seeds)
@quick
def test_reverse_process_equals_the_numpy_loop(kind: Prediction, chain: tuple[int, list[int]], seed: int):
    (T, times), weight, z_T = chain, normal(seed, DIM, DIM) / DIM, normal(seed + 1, DIM)
    actual = run(diffusion(T, kind, times), z_T, lambda z, t: torch.tanh(z @ tensor(weight).T + t[:, None]))
    expected = ref.reverse(z_T, lambda z, t: np.tanh(weight @ z + t / T), kind, ref.linear_betas(T), times)
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-8)


@given(chain=chains, seed=seeds)
@quick
def test_perfect_z_prediction_returns_exactly_z(chain: tuple[int, list[int]], seed: int):
    (T, times), z = chain, normal(seed, DIM)
    assert np.array_equal(run(diffusion(T, "x0", times), normal(seed + 1, DIM), lambda *_: tensor(z)[None]), z)


@given(chain=chains, seed=seeds)
@quick
def test_perfect_noise_prediction_returns_z(chain: tuple[int, list[int]], seed: int):
    (T, times), z = chain, normal(seed, DIM)
    process = diffusion(T, "eps", times)

    def true_noise(z_t: Tensor, time: Tensor) -> Tensor:
        bar = process.alpha_bar[round(time.item() * T)]
        noise: Tensor = (z_t - bar**0.5 * tensor(z)) / (1 - bar) ** 0.5
        return noise

    np.testing.assert_allclose(run(process, normal(seed + 1, DIM), true_noise), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_visiting_every_step_is_the_default(kind: Prediction):
    z_T = normal(0, DIM)
    every, default = (run(diffusion(5, kind, times), z_T, lambda z, t: z.sin()) for times in ([1, 2, 3, 4, 5], None))
    assert np.array_equal(every, default)


@given(chain=chains)
@quick
def test_respacing_keeps_alpha_bar_at_the_visited_steps(chain: tuple[int, list[int]]):
    T, times = chain
    process, z_t, zero = diffusion(T, "eps", times), torch.ones(1, dtype=torch.float64), torch.zeros(1)
    product = 1.0
    for index, t in enumerate(times, start=1):
        product /= process.step(z_t, zero, index).item() ** 2  # without noise a step divides by sqrt(alpha)
        np.testing.assert_allclose(product, ref.cumulative(ref.linear_betas(T))[t], rtol=1e-9)


@given(chain=chains)
@quick
def test_network_sees_the_time_over_the_length_of_each_visited_step(chain: tuple[int, list[int]]):
    T, times = chain
    seen: list[float] = []

    def network(z: Tensor, time: Tensor) -> Tensor:
        seen.extend(time.tolist())
        return z

    run(diffusion(T, "x0", times), normal(0, DIM), network)
    assert seen == [t / T for t in reversed(times)]


def test_network_sees_the_condition_and_one_time_per_vector():
    condition, z_T = torch.randn(3, DIM), torch.randn(3, DIM)

    def network(z: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        assert torch.equal(seen, condition)
        assert time.shape == (3,)
        return seen

    assert torch.equal(diffusion(4).denoise(z_T, condition, network), condition)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_every_step(kind: Prediction):
    T, z_T, gains = 4, normal(0, DIM), normal(1, 4)
    parameters = tensor(gains.copy()).requires_grad_()
    z = tensor(z_T)[None]
    z_0 = diffusion(T, kind).denoise(z, z, lambda z, t, _: parameters[round(t[0].item() * T) - 1] * z)
    (gradient,) = torch.autograd.grad(z_0.sum(), parameters)

    def output(values: ref.Array) -> float:
        return float(ref.reverse(z_T, lambda z, t: values[t - 1] * z, kind, ref.linear_betas(T)).sum())

    nudge = 1e-6 * np.eye(T)
    slopes = [(output(gains + nudge[i]) - output(gains - nudge[i])) / 2e-6 for i in range(T)]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5)
    assert (gradient != 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [[1, 2, 3, 4], [2, 4], [4]])
def test_variance_noise_has_sigma_t_at_all_steps_but_the_last(kind: Prediction, times: list[int]):
    path: list[Tensor] = []

    def network(z: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        path.append(z)
        return torch.zeros_like(z)

    process = diffusion(4, kind, times, variance_noise=True)
    start = tensor(normal(0, 1, 100_000))
    path.append(process.denoise(start, start, network, draws(0, start.shape)))
    short = ref.respace(times, ref.linear_betas(4))
    for index, (before, after) in zip(range(len(times), 0, -1), pairwise(path), strict=True):
        mean: Any = ref.noise_mean if kind == "eps" else lambda *args: ref.posterior(*args)[0]
        inserted = after.numpy() - mean(before.numpy(), np.zeros(before.shape), index, short)
        if index == 1:
            np.testing.assert_allclose(inserted, 0, atol=1e-9)
        else:
            sigma = np.sqrt(ref.paper_variance(index, short))
            assert abs(inserted.mean()) < 0.015 * sigma
            assert inserted.std() == pytest.approx(sigma, rel=0.01)
            assert abs(np.corrcoef(inserted[0], before[0].numpy())[0, 1]) < 0.015


def test_variance_noise_is_off_unless_asked_for():
    assert inspect.signature(PriorDiffusion).parameters["variance_noise"].default is False
    first, second = (run(diffusion(4), normal(0, DIM), lambda z, t: z.sin()) for _ in range(2))
    assert np.array_equal(first, second)


def test_variance_noise_follows_its_generator():
    process = diffusion(4, variance_noise=True)
    one, same, other = (
        run(process, normal(0, DIM), lambda z, t: z.sin(), noise=draws(seed, (1, DIM))) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_precision_of_the_arguments_is_kept(kind: Prediction, dtype: torch.dtype):
    z = torch.randn(2, DIM, dtype=dtype)
    process = diffusion(4, kind, variance_noise=True)

    def network(z: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        assert z.dtype == time.dtype == dtype
        return z

    assert process.add_noise(z, 4, z).dtype == dtype
    assert process.add_noise(z, torch.tensor([1, 4]), z).dtype == dtype
    assert process.denoise(z, z, network).dtype == dtype


@pytest.mark.parametrize("timesteps", [[], [0, 4], [1, 2], [2, 1, 4], [1, 1, 4], [1, 4, 5], [-1, 4]])
def test_timesteps_that_are_no_increasing_subset_ending_at_the_last_are_refused(timesteps: list[int]):
    with pytest.raises(ValueError, match=r"timesteps must increase within 1\.\.4 and end at 4"):
        diffusion(4, timesteps=timesteps)


@pytest.mark.parametrize(
    "T",
    [
        1,
        *(2, 3, 4, 8, 16),
    ],
)
def test_diffusion_of_any_length_ends_near_pure_noise(T: int):
    """Section 6, Fig. 6: whatever T, "Z evolves into Gaussian noise" (alpha_bar_T -> 0), as inference starts there."""
    assert diffusion(T).alpha_bar[-1] <= 0.01 + 1e-12
