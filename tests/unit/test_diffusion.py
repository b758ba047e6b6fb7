"""The diffusion against the papers' equations in numpy, for vectors, latents and pixels: schedule and samplers."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from diffi2i.diffusion.samplers import Noise, Sampler, ancestral, ddim, dpm_solver, renoised, visited
from diffi2i.diffusion.schedule import Prediction, Schedule, cosine, linear, sqrt_linear
from tests import reference as ref
from tests.examples import quick, seeds

KINDS: tuple[Prediction, ...] = get_args(Prediction)
SHAPES = {"vector": (2, 6), "latent": (2, 4, 3, 2), "pixels": (1, 3, 5, 4)}
SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "V4": partial(ancestral, variance_noise=True),
    "ddim": ddim,
    "ddim, eta": partial(ddim, eta=0.7),
    "renoised": renoised,
    "dpm_solver": dpm_solver,
}
chains = st.integers(2, 12).flatmap(
    lambda T: st.tuples(st.just(T), st.sets(st.integers(1, T - 1)).map(lambda early: [*sorted(early), T]))
)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def betas_of(T: int) -> ref.Betas:
    """The paper's; for a thousand steps those of DDPM, where the paper's would end at alpha_bar = 0."""
    if T == 1:
        return (0.0, 0.99)
    return ref.linear_betas(T, 1e-4, 0.02) if T == 1000 else ref.linear_betas(T)


def schedule_of(T: int, kind: Prediction = "x0") -> Schedule:
    return Schedule(linear(T, 1e-4, 0.02) if T == 1000 else linear(T, 0.1, 0.99), kind)


def normal(seed: int, shape: Sequence[int]) -> ref.Array:
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(array: ref.Array) -> Tensor:
    return torch.from_numpy(array)


def draws(shape: Sequence[int]) -> Noise:
    """Another standard normal for each t."""
    return lambda t: tensor(normal(t, shape))


def denoiser(schedule: Schedule, network: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, t: schedule.x0(x, t, network(x, t))


def never(_: int) -> Tensor:
    raise AssertionError("no noise is to be drawn")


# --- schedule --------------------------------------------------------------------------------------------------------


def test_alpha_bar_of_four_steps_has_the_papers_numbers():
    bars = schedule_of(4).alpha_bar
    assert bars[0] == 1.0
    np.testing.assert_allclose(bars[1:], [0.9, 0.54300, 0.16652, 0.0016652], rtol=5e-5)


def test_sqrt_linear_is_linear_in_the_square_roots():
    """Against numpy in float64, and the numbers that the authors' code computes for 0.1 and 0.99."""
    bars = Schedule(sqrt_linear(4, 0.1, 0.99), "x0").alpha_bar
    np.testing.assert_allclose(bars[1:], [0.9, 0.63514, 0.25980, 0.0025980], rtol=2e-5)
    for T in (2, 3, 4, 9, 50):
        np.testing.assert_allclose(linear(T, 0.1, 0.99), np.linspace(0.1, 0.99, T), rtol=1e-12)
        roots = np.linspace(np.sqrt(0.1), np.sqrt(0.99), T)
        np.testing.assert_allclose(sqrt_linear(T, 0.1, 0.99), roots**2, rtol=1e-12)


@pytest.mark.parametrize("betas", [linear, sqrt_linear])
def test_a_single_step_goes_almost_to_noise(betas: Callable[..., list[float]]):
    np.testing.assert_allclose(Schedule(betas(1, 0.1, 0.99), "x0").alpha_bar, [1, 0.01], rtol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 3, 4, 8, 16])
def test_diffusion_of_any_length_ends_near_pure_noise(T: int):
    """Section 6, Fig. 6: whatever T, "Z evolves into Gaussian noise" (alpha_bar_T -> 0), as inference starts there."""
    assert schedule_of(T).alpha_bar[-1] <= 0.01 + 1e-12


@pytest.mark.parametrize("T", [4, 100, 1000])
def test_cosine_follows_its_closed_form_up_to_the_clipped_end(T: int):
    betas = cosine(T)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    clipped = betas.index(0.999)
    assert clipped >= T - 3
    np.testing.assert_allclose(Schedule(betas, "eps").alpha_bar[: clipped + 1], (f / f[0])[: clipped + 1], rtol=1e-9)
    assert set(betas[clipped:]) == {0.999}


@given(T=st.integers(2, 50), first=st.floats(0.01, 0.5), rise=st.floats(0, 0.49))
@quick
def test_closed_form_factor_and_variance_equal_the_iterated_forward_process(T: int, first: float, rise: float):
    schedule = Schedule(linear(T, first, first + rise), "x0")
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t, (factor, variance) in enumerate(ref.iterate_forward(ref.linear_betas(T, first, first + rise))):
        np.testing.assert_allclose(schedule.noised(one, t, zero).item(), factor, rtol=1e-12)
        np.testing.assert_allclose(schedule.noised(zero, t, one).item() ** 2, variance, rtol=1e-9, atol=1e-15)


@every_shape
def test_one_time_per_sample_is_that_sample_alone(shape: tuple[int, ...]):
    """`noised` against Eq. 2; `target` and `x0` of a batch against those of each sample."""
    shape = (5, *shape[1:])
    x, noise, times = normal(0, shape), normal(1, shape), torch.arange(5)
    noised = schedule_of(4).noised(tensor(x), times, tensor(noise))
    expected = [ref.diffuse(x[t], noise[t], t, betas_of(4)) for t in range(5)]
    np.testing.assert_allclose(noised, expected, rtol=1e-12)
    assert torch.equal(noised[0], tensor(x)[0])  # t = 0 is x itself
    schedule = schedule_of(4, "v")
    target = schedule.target(tensor(x), tensor(noise), times)
    back = schedule.x0(noised, times, target)
    for t in range(5):
        alone = tensor(x[t : t + 1]), tensor(noise[t : t + 1])
        assert torch.equal(target[t : t + 1], schedule.target(*alone, t))
        assert torch.equal(back[t : t + 1], schedule.x0(noised[t : t + 1], t, target[t : t + 1]))


@every_kind
@every_shape
@pytest.mark.parametrize("T", [1, 4, 8, 1000])
def test_the_target_leads_back_to_x0(kind: Prediction, shape: tuple[int, ...], T: int):
    schedule, x, noise = schedule_of(T, kind), tensor(normal(0, shape)), tensor(normal(1, shape))
    for t in {1, T // 2 or 1, T}:
        noised = schedule.noised(x, t, noise)
        found = schedule.x0(noised, t, schedule.target(x, noise, t))
        torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)


def test_targets_are_the_noise_x0_and_the_derivative_by_the_angle():
    x, noise, T = normal(0, (3, 6)), normal(1, (3, 6)), 8
    eps, x0, v = (schedule_of(T, kind) for kind in KINDS)
    for t in range(1, T + 1):
        assert torch.equal(eps.target(tensor(x), tensor(noise), t), tensor(noise))
        assert torch.equal(x0.target(tensor(x), tensor(noise), t), tensor(x))
        phi, d = ref.angle(t, betas_of(T)), 1e-6
        ahead, behind = (np.cos(p) * x + np.sin(p) * noise for p in (phi + d, phi - d))
        np.testing.assert_allclose(v.target(tensor(x), tensor(noise), t), (ahead - behind) / (2 * d), atol=1e-8)


@pytest.mark.parametrize(
    ("betas", "kind", "words"),
    [
        ([0.1, 0.99], "score", "write one of eps, x0, v"),
        ([0.1, 1.0], "x0", "write betas above 0 and below 1"),
        ([0.0, 0.5], "x0", "write betas above 0 and below 1"),
        ([], "x0", "0 betas"),
        (linear(1000, 0.1, 0.99), "x0", "the smaller the more steps there are"),
    ],
)
def test_what_is_no_schedule_is_refused(betas: list[float], kind: Any, words: str):
    with pytest.raises(ValueError, match=words):
        Schedule(betas, kind)


# --- which steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (None, [8, 7, 6, 5, 4, 3, 2, 1]),
        (8, [8, 7, 6, 5, 4, 3, 2, 1]),
        (6, [8, 7, 6, 4, 3, 2]),  # as the rows of Figure 6 have it
        (3, [8, 6, 3]),
        (1, [8]),
        ([1, 2, 8], [8, 2, 1]),
    ],
)
def test_visited_steps(steps: Any, times: list[int]):
    assert visited(schedule_of(8), steps) == times


@given(T=st.integers(1, 300), n=st.integers(1, 300))
@quick
def test_a_number_of_steps_is_spread_evenly(T: int, n: int):
    n = min(n, T)
    times = [*visited(Schedule([0.01] * T, "x0"), n), 0]
    gaps = -np.diff(times)
    assert (len(times), times[0]) == (n + 1, T)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (5, "steps=5 does not fit a schedule of 4 steps: write 1 to 4"),
        (0, "write 1 to 4"),
        *(
            (times, r"must increase within 1\.\.4 and end at 4: write")
            for times in ([], [0, 4], [1, 2], [2, 1, 4], [1, 1, 4], [1, 4, 5], [-1, 4])
        ),
    ],
)
@every_sampler
def test_steps_that_do_not_fit_are_refused(sampler: Any, steps: Any, words: str):
    with pytest.raises(ValueError, match=words):
        sampler(lambda x, t: x, torch.zeros(1, 2), schedule_of(4), steps=steps)


@every_sampler
def test_a_sampler_is_a_hydra_partial(sampler: Any):
    name, options = (sampler.func, sampler.keywords) if isinstance(sampler, partial) else (sampler, {})
    node = {"_target_": f"diffi2i.diffusion.samplers.{name.__name__}", "_partial_": True, "steps": [2, 4], **options}
    x, seen = tensor(normal(0, (2, 6))), []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(t)
        return x.sin()

    made = instantiate(OmegaConf.create(node))(denoise, x, schedule_of(4), draws((2, 6)))
    assert seen == [4, 2]
    assert torch.equal(made, sampler(denoise, x, schedule_of(4), draws((2, 6)), steps=2))


def test_a_schedule_is_a_hydra_node():
    betas = {"_target_": "diffi2i.diffusion.schedule.linear", "steps": 4, "beta_1": 0.1, "beta_T": 0.99}
    node = {"_target_": "diffi2i.diffusion.schedule.Schedule", "betas": betas, "prediction": "v"}
    assert instantiate(OmegaConf.create(node)).alpha_bar == schedule_of(4).alpha_bar


# --- ancestral -------------------------------------------------------------------------------------------------------


@every_kind
@every_shape
@pytest.mark.parametrize("T", [1, 4, 8, 1000])
@pytest.mark.parametrize("variance_noise", [False, True])
def test_every_ancestral_step_is_the_papers(kind: Prediction, shape: tuple[int, ...], T: int, variance_noise: bool):
    """x0 and v: Bayes' rule; eps: Eq. 11; the noise: Eq. 3. The paths are compared, not only where they end."""
    x_T, noise = normal(0, shape), draws(shape)
    ours: list[ref.Array] = []
    theirs: list[ref.Array] = []

    def network(x: Tensor, t: int) -> Tensor:
        ours.append(x.numpy())
        return torch.tanh(x + t / T)

    def predict(x: ref.Array, t: int) -> ref.Array:
        theirs.append(x)
        return np.tanh(x + t / T)

    schedule = schedule_of(T, kind)
    x = ancestral(denoiser(schedule, network), tensor(x_T), schedule, noise, variance_noise=variance_noise)
    inserted = (lambda t: noise(t).numpy()) if variance_noise else None
    expected = ref.reverse(x_T, predict, kind, betas_of(T), inserted=inserted)
    assert len(ours) == T
    for mine, right in zip([*ours, x.numpy()], [*theirs, expected], strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-6, atol=1e-6 * np.abs(right).max())


@every_kind
@pytest.mark.parametrize("T", [1, 4, 8])
def test_float32_is_as_good_as_float64_to_a_millionth(kind: Prediction, T: int):
    schedule, x = schedule_of(T, kind), tensor(normal(0, (8, 64)))
    denoise = denoiser(schedule, lambda x, t: torch.tanh(x + t / T))
    exact = ancestral(denoise, x, schedule)
    rounded = ancestral(denoise, x.float(), schedule)
    assert (rounded - exact).abs().max() <= 1e-6 * exact.abs().max()


@every_kind
@given(chain=chains, seed=seeds)
@quick
def test_respaced_process_equals_the_numpy_loop(kind: Prediction, chain: tuple[int, list[int]], seed: int):
    (T, times), shape = chain, (1, 6)
    x_T, schedule, noise = normal(seed, shape), schedule_of(T, kind), draws(shape)
    denoise = denoiser(schedule, lambda x, t: torch.tanh(x + t / T))
    actual = ancestral(denoise, tensor(x_T), schedule, noise, steps=times, variance_noise=True)
    expected = ref.reverse(x_T, lambda x, t: np.tanh(x + t / T), kind, betas_of(T), times, lambda t: noise(t).numpy())
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-8)


@given(chain=chains)
@quick
def test_respacing_keeps_alpha_bar_at_the_visited_steps(chain: tuple[int, list[int]]):
    """Under Eq. 11 a step divides by sqrt(alpha) where the noise is predicted as 0."""
    (T, times), seen = chain, []
    schedule = schedule_of(T, "eps")

    def network(x: Tensor, t: int) -> Tensor:
        seen.append(x.item())
        return torch.zeros_like(x)

    ancestral(denoiser(schedule, network), torch.ones(1, 1, dtype=torch.float64), schedule, steps=times)
    bars = ref.cumulative(betas_of(T))
    np.testing.assert_allclose(seen, [(bars[t] / bars[T]) ** 0.5 for t in reversed(times)], rtol=1e-9)


def test_variance_noise_is_off_unless_asked_for():
    x, schedule = tensor(normal(0, (2, 6))), schedule_of(4)
    found = ancestral(lambda x, t: x.sin(), x, schedule, never)
    assert torch.equal(found, ancestral(lambda x, t: x.sin(), x, schedule, never, variance_noise=False))
    assert not torch.equal(found, ancestral(lambda x, t: x.sin(), x, schedule, draws((2, 6)), variance_noise=True))


# --- all samplers ----------------------------------------------------------------------------------------------------


@every_sampler
@given(chain=chains, seed=seeds)
@quick
def test_perfect_prediction_returns_exactly_x0(sampler: Any, chain: tuple[int, list[int]], seed: int):
    (T, times), x0 = chain, tensor(normal(seed, (1, 6)))
    found = sampler(lambda x, t: x0, tensor(normal(seed + 1, (1, 6))), schedule_of(T), draws((1, 6)), steps=times)
    assert torch.equal(found, x0)


@every_sampler
@every_kind
@every_shape
def test_gradients_reach_the_network_at_every_step(sampler: Any, kind: Prediction, shape: tuple[int, ...]):
    schedule, x_T = schedule_of(4, kind), tensor(normal(0, shape))

    def output(gains: Tensor) -> Tensor:
        found: Tensor = sampler(denoiser(schedule, lambda x, t: gains[t - 1] * x), x_T, schedule, draws(shape))
        return found.sum()

    gains = tensor(normal(1, (4,))).requires_grad_()
    assert torch.autograd.gradcheck(output, gains, rtol=1e-5)
    (gradient,) = torch.autograd.grad(output(gains), gains)
    assert (gradient != 0).all()


@every_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_shape_of_the_argument_are_kept(sampler: Any, dtype: torch.dtype):
    for kind in KINDS:
        schedule, x = schedule_of(4, kind), torch.randn(2, 3, 4, 5, dtype=dtype)
        assert schedule.noised(x, torch.tensor([1, 4]), x).dtype == dtype
        assert schedule.target(x, x, 4).dtype == dtype
        found = sampler(denoiser(schedule, lambda x, t: x), x, schedule)
        assert (found.dtype, found.shape) == (dtype, x.shape)


@pytest.mark.parametrize("name", ["V4", "ddim, eta", "renoised"])
def test_noise_is_drawn_at_each_visited_step_but_the_last(name: str):
    asked: list[int] = []

    def noise(t: int) -> Tensor:
        asked.append(t)
        return torch.zeros(1, 6)

    sampler: Any = SAMPLERS[name]
    sampler(lambda x, t: x, torch.zeros(1, 6), schedule_of(8), noise, steps=[2, 3, 8])
    assert asked == [8, 3]


@pytest.mark.parametrize("name", ["V4", "ddim, eta"])
def test_without_a_source_noise_comes_from_torchs_generator(name: str):
    sampler, x = SAMPLERS[name], torch.ones(1, 6)

    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sampler(lambda x, t: x.sin(), x, schedule_of(4), None)

    torch.manual_seed(1)
    given = [torch.randn(1, 6) for _ in range(3)]
    assert torch.equal(sample(1), sampler(lambda x, t: x.sin(), x, schedule_of(4), lambda t: given[4 - t]))
    assert not torch.equal(sample(1), sample(2))


# --- ddim ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("T", "times"), [(1, [1]), (4, [1, 2, 3, 4]), (8, [3, 6, 8]), (1000, [1, 250, 500, 1000])])
@every_shape
def test_every_ddim_step_is_equation_12_with_equation_16(eta: float, T: int, times: list[int], shape: tuple[int, ...]):
    schedule, bars, noise = schedule_of(T, "eps"), ref.cumulative(betas_of(T)), draws(shape)
    x = expected = normal(0, shape)
    for t, s in zip(reversed(times), [*reversed(times[:-1]), 0], strict=True):
        eps = np.tanh(expected + t / T)
        sigma = eta * np.sqrt((1 - bars[s]) / (1 - bars[t])) * np.sqrt(1 - bars[t] / bars[s])
        x0 = (expected - np.sqrt(1 - bars[t]) * eps) / np.sqrt(bars[t])
        direction = np.sqrt(max(0.0, 1 - bars[s] - sigma**2)) * eps
        expected = np.sqrt(bars[s]) * x0 + direction + sigma * noise(t).numpy()
    found = ddim(
        denoiser(schedule, lambda x, t: torch.tanh(x + t / T)), tensor(x), schedule, noise, steps=times, eta=eta
    )
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@given(chain=chains, seed=seeds)
@quick
def test_ddim_with_eta_1_draws_from_ancestrals_distribution(chain: tuple[int, list[int]], seed: int):
    """The same mean and the same factor on the noise at every step, hence the same path from the same noise."""
    (T, times), paths = chain, []
    for sampler in (partial(ddim, eta=1.0), partial(ancestral, variance_noise=True)):
        path: list[Tensor] = []

        def denoise(x: Tensor, t: int, path: list[Tensor] = path) -> Tensor:
            path.append(x)
            return x.sin()

        sampler(denoise, tensor(normal(seed, (1, 6))), schedule_of(T), draws((1, 6)), steps=times)
        paths.append(torch.stack(path))
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-9)


def test_ddim_without_eta_draws_nothing():
    x, schedule = tensor(normal(0, (2, 6))), schedule_of(4)
    found = ddim(lambda x, t: x.sin(), x, schedule, never)
    assert torch.equal(found, ddim(lambda x, t: x.sin(), x, schedule, never, eta=0.0))
    assert not torch.equal(found, ddim(lambda x, t: x.sin(), x, schedule, draws((2, 6)), eta=1.0))


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_an_eta_outside_its_range_is_refused(eta: float):
    with pytest.raises(ValueError, match="write 0 for no noise, 1 for"):
        ddim(lambda x, t: x, torch.zeros(1, 2), schedule_of(4), eta=eta)


# --- dpm_solver ------------------------------------------------------------------------------------------------------


@every_kind
@every_shape
@pytest.mark.parametrize(("T", "times"), [(1, [1]), (4, [1, 2, 3, 4]), (8, [3, 6, 8]), (1000, [1, 250, 500, 1000])])
def test_dpm_solver_is_the_papers_algorithm_2(kind: Prediction, shape: tuple[int, ...], T: int, times: list[int]):
    """In the paper's letters: x_i from D_i of the predictions at i - 1 and i - 2."""
    schedule, x_T = schedule_of(T, kind), normal(0, shape)
    bars = np.array(ref.cumulative(betas_of(T)))[times[::-1]]
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    lam = np.log(alpha / sigma)

    def x_theta(x: ref.Array, i: int) -> ref.Array:
        t = times[::-1][i]
        guess = np.tanh(x + t / T)
        if kind == "v":
            return ref.x0_of_v(x, guess, t, betas_of(T))
        return guess if kind == "x0" else np.asarray((x - sigma[i] * guess) / alpha[i])

    x, buffer = x_T, [x_theta(x_T, 0)]
    for i in range(1, len(times)):
        h = lam[i] - lam[i - 1]
        D = buffer[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * D
        buffer.append(x_theta(x, i))
    found = dpm_solver(
        denoiser(schedule, lambda x, t: torch.tanh(x + t / T)), tensor(x_T), schedule, never, steps=times
    )
    # The step to x_0: sigma = 0 and exp(-h) = 0.
    np.testing.assert_allclose(found, buffer[-1], rtol=1e-7, atol=1e-8 * np.abs(buffer[-1]).max())


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_order_of_convergence_on_data_whose_ode_has_a_closed_solution(sampler: Any, order: int):
    """x_0 ~ N(mu, s^2): the ODE keeps (x_t - alpha_t mu) / sd(x_t), and the best denoiser is linear.

    The steps are even in lambda, from -3 to 3; beyond, to x_0 itself, lambda is infinite and no order holds.
    """
    mu, s, last = 0.7, 0.5, 640
    bars = 1 / (1 + np.exp(-2 * np.linspace(3, -3, last + 1)))
    schedule = Schedule(list(1 - bars / np.concatenate([[1.0], bars[:-1]])), "x0")

    def spread(t: int) -> float:
        bar = schedule.alpha_bar[t]
        return math.sqrt(bar * s**2 + 1 - bar)

    start = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    T = schedule.steps

    def error(n: int) -> float:
        path: list[Tensor] = []

        def denoise(x: Tensor, t: int) -> Tensor:
            path.append(x)
            signal = math.sqrt(schedule.alpha_bar[t])
            return mu + s**2 * signal / spread(t) ** 2 * (x - signal * mu)

        x_T = schedule.alpha_bar[T] ** 0.5 * mu + spread(T) * start
        sampler(denoise, x_T, schedule, steps=list(range(1, T + 1, last // n)))
        exact = schedule.alpha_bar[1] ** 0.5 * mu + spread(1) * start
        return float((path[-1] - exact).abs().max())

    errors = np.array([error(n) for n in (20, 40, 80, 160)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.2)
