"""Chains to the input, RePaint's walk and step, DPM-Solver++: against computations written differently, in float64."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, RePaintScheduler
from torch import Tensor

from diffi2i.diffusion.chain import Chain
from diffi2i.diffusion.repainting import repainted, walk
from diffi2i.diffusion.samplers import ddim, dpm_solver
from diffi2i.diffusion.schedule import Schedule, linear
from diffi2i.errors import UserError
from diffi2i.methods.bridge import BridgeOptions
from diffi2i.methods.rddm import RDDMOptions
from diffi2i.methods.resshift import ResShiftOptions


def normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


# --- Chains to the input --------------------


def shift(steps: int = 4, kappa: float = 2.0, min_noise: float = 0.2, power: float = 0.3) -> Chain:
    return ResShiftOptions(steps=steps, kappa=kappa, min_noise=min_noise, power=power).chain()


def roots(steps: int, kappa: float, min_noise: float, power: float) -> list[float]:
    """sqrt(eta_1) .. sqrt(eta_T) by the authors' recursion: exp of a line in ((t - 1) / (T - 1))^p."""
    first = min_noise / kappa
    slope = math.log(0.99 / first)
    return [first * math.exp(slope * ((t - 1) / (steps - 1)) ** power) for t in range(1, steps + 1)]


@pytest.mark.parametrize(("steps", "min_noise"), [(4, 0.2), (15, 0.04)])
def test_the_shift_rises_as_the_authors_have_it(steps: int, min_noise: float) -> None:
    chain = shift(steps, min_noise=min_noise)
    np.testing.assert_allclose(np.sqrt(chain.a[1:]), roots(steps, 2.0, min_noise, 0.3), rtol=1e-12)
    np.testing.assert_allclose(chain.b, 2 * np.sqrt(chain.a), rtol=1e-12)
    assert chain.a[0] == 0
    assert chain.b[1] == pytest.approx(min_noise)
    assert chain.a[-1] == pytest.approx(0.99**2)


def test_the_residual_falls_and_the_noise_rises_as_rddms_authors_have_it() -> None:
    """Their alphas fall along a line from 0 to 1, normalised to a sum of 1; their betas^2 rise to a sum of 0.01."""
    chain, line = RDDMOptions().chain(), np.linspace(0, 1, 1000)
    np.testing.assert_allclose(chain.a[1:], np.cumsum(line[::-1] / line.sum()), rtol=1e-9)
    np.testing.assert_allclose(np.square(chain.b[1:]), np.cumsum(0.01 * line / line.sum()), rtol=1e-9)


def test_the_bridge_has_no_noise_at_its_ends() -> None:
    chain = BridgeOptions(steps=8, noise=2.0, visited=8).chain()
    assert chain.a == [t / 8 for t in range(9)]
    assert chain.b[0] == chain.b[8] == 0
    assert chain.b[4] == pytest.approx(1.0)  # the variance is s / 2 in the middle
    assert chain.b[2] ** 2 == pytest.approx(2 * 2.0 * (0.25 - 0.0625))


CHAINS = {
    "shift": shift(),
    "many shifts": shift(15, min_noise=0.04),
    "rddm": RDDMOptions(steps=9, noise=0.5).chain(),
    "bridge": BridgeOptions(steps=7, noise=1.5, visited=7).chain(),
}


def step(chain: Chain, s: int, t: int) -> tuple[float, float, float]:
    """x_t = A x_s + B (y - x_0) + C y + noise of this variance: returns A, B or C, and the variance."""
    if chain.bridge:
        kept = (1 - chain.a[t]) / (1 - chain.a[s])
        return kept, 1 - kept, chain.b[t] ** 2 - kept**2 * chain.b[s] ** 2
    return 1.0, chain.a[t] - chain.a[s], chain.b[t] ** 2 - chain.b[s] ** 2


@pytest.mark.parametrize("name", CHAINS)
def test_the_chain_is_made_of_single_steps(name: str) -> None:
    """q(x_t | x_0, y) follows from each single step in turn, of which none takes noise away."""
    chain, x0, y = CHAINS[name], 0.3, -0.8
    mean, variance, eps = x0, 0.0, 0.7
    for t in range(1, chain.steps + 1):
        kept, share, more = step(chain, t - 1, t)
        assert more >= -1e-12
        mean, variance = kept * mean + share * (y if chain.bridge else y - x0), kept**2 * variance + more
        found = chain.noised(tensor([x0]), tensor([y]), t, tensor([eps]))
        assert float(found) == pytest.approx(mean + max(0.0, variance) ** 0.5 * eps, rel=1e-9)


@pytest.mark.parametrize("visited", [None, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_each_way_back_is_the_posterior_by_bayes(name: str, visited: int | None) -> None:
    """The product of q(x_t | x_s, y) and q(x_s | x_0, y), two normals in x_s, has these moments."""
    chain = CHAINS[name]
    x0, y = normal(1, (3,)), normal(2, (3,))
    noises = {t: normal(10 + t, (3,)) for t in range(1, chain.steps + 2)}
    seen = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append((t, x.numpy().copy()))
        return tensor(x0)

    last = chain.sample(denoise, tensor(y), lambda t: tensor(noises[t]), visited)
    count = visited or chain.steps
    assert [t for t, _ in seen] == [math.ceil(chain.steps * i / count) for i in range(count, 0, -1)]
    np.testing.assert_allclose(seen[0][1], y + chain.b[-1] * noises[chain.steps + 1], rtol=1e-12)
    for (t, x_t), (s, x_s) in itertools.pairwise(seen):
        kept, share, variance = step(chain, s, t)
        before, prior = chain.b[s] ** 2, x0 + chain.a[s] * (y - x0)
        if before == 0:  # RDDM's first step adds no noise
            np.testing.assert_allclose(x_s, prior, rtol=1e-9, atol=1e-12)
            continue
        if kept == 0:  # y, which tells nothing
            mean, precision = prior, 1 / before
        else:
            observed = (x_t - share * (y if chain.bridge else y - x0)) / kept
            precision = kept**2 / variance + 1 / before
            mean = (observed * kept**2 / variance + prior / before) / precision
        np.testing.assert_allclose(x_s, mean + noises[t] / math.sqrt(precision), rtol=1e-8)
    np.testing.assert_allclose(last.numpy(), x0, rtol=1e-12)  # the last step returns x_0


def test_without_drawn_noise_a_step_takes_residual_and_noise_away() -> None:
    """RDDM's deterministic step: x_s = x_t - (a_t - a_s) (y - x_0) - (b_t - b_s) e, e what x_t holds of noise."""
    chain, x0, y, start = CHAINS["rddm"], normal(1, (3,)), normal(2, (3,)), normal(3, (3,))
    seen: list[np.ndarray] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(x.numpy().copy())
        return tensor(x0)

    def once(t: int) -> Tensor:
        assert t == chain.steps + 1
        return tensor(start)

    chain.sample(denoise, tensor(y), once, 3, eta=0.0)
    expected = y + 0.5 * start
    for (t, s), x_s in zip([(9, 6), (6, 3)], seen[1:], strict=True):
        noise = (expected - x0 - chain.a[t] * (y - x0)) / chain.b[t]
        expected = expected - (chain.a[t] - chain.a[s]) * (y - x0) - (chain.b[t] - chain.b[s]) * noise
        np.testing.assert_allclose(x_s, expected, rtol=1e-9)


def test_a_bridge_draws_its_first_noise_in_any_case() -> None:
    """At y there is none to keep: without it all samples would be one."""
    chain, drawn = CHAINS["bridge"], []

    def noise(t: int) -> Tensor:
        drawn.append(t)
        return tensor([1.0])

    chain.sample(lambda x, t: x, tensor([0.5]), noise, 7, eta=0.0)
    assert drawn == [7]


@pytest.mark.parametrize("name", CHAINS)
def test_the_network_sees_unit_variance(name: str) -> None:
    chain = CHAINS[name]
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(200_000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    for t in range(1, chain.steps + 1):
        scaled = chain.scaled(chain.noised(x, x, t, noise), t)  # without a residual the spread is x's and the noise's
        assert float(scaled.std()) == pytest.approx(1, abs=0.01)


def test_the_chain_takes_a_time_for_each_image() -> None:
    chain = shift()
    x, y, noise = (tensor(normal(i, (2, 3, 4, 4))) for i in range(3))
    both = chain.noised(x, y, torch.tensor([1, 4]), noise)
    for i, t in enumerate((1, 4)):
        torch.testing.assert_close(both[i], chain.noised(x[i], y[i], t, noise[i]))


@pytest.mark.parametrize(
    "values", [(1, 2.0, 0.2, 0.3), (4, 0.0, 0.2, 0.3), (4, 2.0, 0.0, 0.3), (4, 2.0, 2.5, 0.3), (4, 2, 0.2, 0)]
)
def test_a_shift_that_cannot_be_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match="write steps=2 or more"):
        shift(*values)


@pytest.mark.parametrize("kind", [RDDMOptions, BridgeOptions])
@pytest.mark.parametrize("values", [{"visited": 1001}, {"visited": 0}, {"noise": 0.0}, {"eta": 1.5}, {"steps": 1}])
def test_a_chain_that_cannot_be_is_refused(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"write steps=2 or more, visited within 1\.\.steps"):
        kind(**values)


# --- RePaint --------------------


def authors_walk(steps: int, jump: int, resamplings: int) -> list[int]:
    """Counted from 0, at last -1: each of the times 0, jump, 2 jump, ... is left upwards resamplings - 1 times."""
    left = dict.fromkeys(range(0, steps - jump, jump), resamplings - 1)
    order, time = [], steps
    while time >= 1:
        time -= 1
        order.append(time)
        if left.get(time, 0):
            left[time] -= 1
            order += [time + i + 1 for i in range(jump)]
            time += jump
    return [*order, -1]


@pytest.mark.parametrize(
    ("steps", "jump", "resamplings", "entries", "calls"),
    [(250, 10, 10, 4570, 2410), (50, 5, 5, 410, 230), (4, 1, 1, 4, 4)],
)
def test_the_walk_is_the_authors(steps: int, jump: int, resamplings: int, entries: int, calls: int) -> None:
    times = walk(steps, jump, resamplings)
    assert times == [time + 1 for time in authors_walk(steps, jump, resamplings)]
    assert len(times) - 1 == entries
    assert sum(after < before for before, after in itertools.pairwise(times)) == calls
    assert {abs(a - b) for a, b in itertools.pairwise(times)} == {1}


@pytest.mark.parametrize(("jump", "resamplings"), [(0, 2), (11, 2), (2, 0)])
def test_a_walk_that_cannot_be_is_refused(jump: int, resamplings: int) -> None:
    with pytest.raises(ValueError, match="lies in 1 to steps=10"):
        walk(10, jump, resamplings)


def test_a_step_is_that_of_diffusers() -> None:
    """With the same noise, from the same x_t: diffusers' scheduler, mask 1 = known, eta 1, eps-prediction."""
    T, shape = 8, (1, 3, 4, 4)
    betas = linear(T, 0.05, 0.4)
    schedule = Schedule(betas, "eps")
    make: Any = RePaintScheduler
    theirs = make(num_train_timesteps=T, trained_betas=np.array(betas), eta=1.0, clip_sample=False)
    theirs.set_timesteps(T, jump_length=1, jump_n_sample=1)
    known, hole = tensor(normal(1, shape)), tensor(normal(2, shape) > 0).double()
    noises = [tensor(normal(100 + i, shape)) for i in range(3 * T)]
    drawn = iter(noises)
    path: list[tuple[int, Tensor]] = []

    def eps(x: Tensor) -> Tensor:
        return 0.3 * x.sin()

    def denoise(x: Tensor, t: int) -> Tensor:
        path.append((t, x))
        return schedule.x0(x, t, eps(x))

    found = repainted(denoise, known, hole, schedule, lambda: next(drawn), T, 1, 1)
    path.append((0, found))
    used = 1
    for (t, x), (s, after) in itertools.pairwise(path):
        if s == 0:
            torch.testing.assert_close(after * (1 - hole), known * (1 - hole), rtol=1e-12, atol=0)
            continue
        # diffusers draws one noise for both parts; here each has its own, so compare the parts one at a time.
        for noise, part in ((noises[used], hole), (noises[used + 1], 1 - hole)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_repaint.randn_tensor", lambda *_, _n=noise, **__: _n)
                step = theirs.step(eps(x), t - 1, x, known, 1 - hole).prev_sample
            torch.testing.assert_close(after * part, step.double() * part, rtol=1e-5, atol=1e-6)
        used += 2


def test_jumping_back_is_the_forward_process() -> None:
    """Steps back and forth with a perfect denoiser leave what is known, and x_0 in the hole."""
    schedule, x0 = Schedule(linear(50, 1e-3, 0.2), "x0"), tensor(normal(3, (1, 3, 4, 4)))
    hole = tensor(normal(4, (1, 3, 4, 4)) > 0).double()
    generator = torch.Generator().manual_seed(0)
    calls: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        return x0

    def noise() -> Tensor:
        return torch.randn(x0.shape, generator=generator, dtype=torch.float64)

    found = repainted(denoise, x0, hole, schedule, noise, 10, 2, 3)
    torch.testing.assert_close(found, x0)
    assert len(calls) == sum(b < a for a, b in zip(walk(10, 2, 3), walk(10, 2, 3)[1:], strict=False))
    assert set(calls) == {5 * i for i in range(1, 11)}  # of 50 steps 10, evenly spaced


def test_a_jump_back_has_the_variance_of_its_time() -> None:
    """x_s noised to x_t is distributed as x_0 noised to x_t: unit variance in, unit variance at every call."""
    schedule = Schedule(linear(8, 0.1, 0.99), "x0")  # whose last step is noise alone
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(50_000, 1, generator=generator, dtype=torch.float64)
    spreads = []

    def denoise(x: Tensor, t: int) -> Tensor:
        spreads.append((t, float(x.std())))
        return x0

    def noise() -> Tensor:
        return torch.randn(x0.shape, generator=generator, dtype=torch.float64)

    repainted(denoise, x0, torch.ones_like(x0), schedule, noise, 8, 2, 2)
    assert len(spreads) > 8
    assert all(spread == pytest.approx(1, abs=0.03) for _, spread in spreads)


# --- DPM-Solver++ --------------------


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_dpm_solver_is_that_of_diffusers_at_the_same_times(steps: int) -> None:
    T = 100
    betas = linear(T, 1e-4, 0.02)
    schedule = Schedule(betas, "x0")
    x_T = tensor(normal(5, (2, 3, 4, 4)))
    times: list[int] = []

    def x0(x: Tensor, t: int) -> Tensor:
        times.append(t)
        return 0.5 * (x + t / T).sin()

    found = dpm_solver(x0, x_T, schedule, steps=steps)
    make: Any = DPMSolverMultistepScheduler
    theirs = make(
        T,
        trained_betas=np.array(betas),
        solver_order=2,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        lower_order_final=False,
        euler_at_final=True,
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(timesteps=[t - 1 for t in times])
    x = x_T.clone()
    for time in theirs.timesteps:
        x = theirs.step(0.5 * (x + (int(time) + 1) / T).sin(), time, x).prev_sample
    torch.testing.assert_close(found, x.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [[100], [50, 100]])
def test_dpm_solver_of_first_order_is_ddim(steps: list[int]) -> None:
    """Its first step and its last one are of first order: with two they are all that there is."""
    schedule, x_T = Schedule(linear(100, 1e-4, 0.02), "x0"), tensor(normal(6, (2, 3)))

    def x0(x: Tensor, t: int) -> Tensor:
        return (x + t).sin()

    torch.testing.assert_close(
        dpm_solver(x0, x_T, schedule, steps=steps), ddim(x0, x_T, schedule, steps=steps), rtol=1e-9, atol=1e-12
    )
