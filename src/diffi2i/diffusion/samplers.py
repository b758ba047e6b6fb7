"""Ways back from noise to x_0 (Eqs. 3 and 11 and later ones), with gradients through every step.

Each is a function `sampler(denoise, x, schedule, noise=None, *, steps=None, ...)`, in Hydra a partial of it:

    _target_: diffi2i.diffusion.samplers.ddim
    _partial_: true
    steps: 10

Args of all:
    denoise: maps (x_t, t) to its prediction of x_0, t an int. A network of another parametrisation goes through
        `Schedule.x0`.
    x: x_T (B, ...), standard normal or, in DiffI2I's training, the noised IPR.
    noise: gives the standard normal, of x's shape, that a step from t inserts; None draws it from torch's global
        generator. Steps to x_0 itself insert none.
    steps: which time steps are visited, see `visited`.

All return x_0 (B, ...), in the precision of `x`, and raise ValueError where `steps` does not fit the schedule.

Symbols: as in `schedule`; s the time step that is visited after t, at last 0; alpha = alpha_bar_t / alpha_bar_s, which
keeps alpha_bar at the visited steps where some are left out (Nichol and Dhariwal 2021, Sec. 4).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffi2i.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]
Sampler = Callable[[Denoise, Tensor, Schedule, Noise | None], Tensor]
LEFT = 0.01
"""alpha_bar, the share of x_0, up to which x_t passes for the standard normal that sampling starts from."""


def visited(schedule: Schedule, steps: int | Sequence[int] | None) -> list[int]:
    """The time steps from T down.

    Args:
        steps: None visits all; a number so many, evenly spaced, T included; or an increasing list that ends at T, or no
            earlier than `earliest_start`.

    Raises:
        ValueError: more steps than the schedule has, none, or a list that is not such a one.
    """
    T = schedule.steps
    if steps is None:
        steps = T
    if isinstance(steps, int):
        if not 1 <= steps <= T:
            raise ValueError(f"steps={steps} does not fit a schedule of {T} steps: write 1 to {T}")
        return evenly(T, steps)
    times = list(steps)
    rising = bool(times) and times == sorted(set(times)) and times[0] >= 1
    if not rising or (times[-1] != T and not earliest_start(schedule) <= times[-1] < T):
        start = earliest_start(schedule)
        end = f"{T}" if start == T else f"{T}, or from {start} on"
        raise ValueError(f"steps={times} must increase within 1..{T} and end at {end}: write for example steps=[{T}]")
    return times[::-1]


def evenly(T: int, count: int) -> list[int]:
    """So many time steps from T down, evenly spaced, T included."""
    return [-(-T * i // count) for i in range(count, 0, -1)]


def earliest_start(schedule: Schedule) -> int:
    """The first time step at which x_t is as good as noise, so that sampling may start from it; T at the latest."""
    return next(t for t, left in enumerate(schedule.alpha_bar) if left <= max(LEFT, schedule.alpha_bar[-1]))


def posterior(bar_t: float, bar_s: float) -> tuple[float, float, float]:
    """The weights of x_0 and of x_t in the mean of q(x_s | x_t, x_0), and its standard deviation (Ho et al. 2020)."""
    alpha = bar_t / bar_s
    weight_x0 = bar_s**0.5 * (1 - alpha) / (1 - bar_t)
    weight_xt = alpha**0.5 * (1 - bar_s) / (1 - bar_t)
    return weight_x0, weight_xt, ((1 - bar_s) / (1 - bar_t) * (1 - alpha)) ** 0.5


def ancestral(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,
    *,
    steps: int | Sequence[int] | None = None,
    variance_noise: bool = False,
) -> Tensor:
    """Each step goes to the mean of q(x_s | x_t, x_0) (Ho et al. 2020, Eq. 7; with the noise for x_0, it is Eq. 11).

    Args:
        variance_noise: insert the noise of Eq. 3, as DDPM does. The paper leaves it out but for its ablation V4.
    """
    for t, s in pairwise([*visited(schedule, steps), 0]):
        weight_x0, weight_xt, sigma = posterior(schedule.alpha_bar[t], schedule.alpha_bar[s])
        x = weight_x0 * denoise(x, t) + weight_xt * x
        if variance_noise and s > 0:
            x = x + sigma * (noise(t) if noise else torch.randn_like(x))
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,
    *,
    steps: int | Sequence[int] | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Each step noises the predicted x_0 anew with the predicted noise (Song et al. 2021, Eqs. 12 and 16).

    Args:
        eta: how much of the noise is drawn, in [0, 1]: 0 none, 1 as much as `ancestral` inserts.

    Raises:
        ValueError: also for another `eta`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} lies outside [0, 1]: write 0 for no noise, 1 for as much as ancestral inserts")
    for t, s in pairwise([*visited(schedule, steps), 0]):
        bar_t, bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
        x0 = denoise(x, t)
        eps = (x - bar_t**0.5 * x0) / (1 - bar_t) ** 0.5
        drawn = eta**2 * (1 - bar_t / bar_s) / (1 - bar_t)  # the share of the variance 1 - bar_s
        x = bar_s**0.5 * x0 + ((1 - bar_s) * (1 - drawn)) ** 0.5 * eps
        if eta and s > 0:
            x = x + ((1 - bar_s) * drawn) ** 0.5 * (noise(t) if noise else torch.randn_like(x))
    return x


def renoised(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,
    *,
    steps: int | Sequence[int] | None = None,
) -> Tensor:
    """Each step noises the predicted x_0 with noise of its own (Song et al. 2023, Alg. 1: consistency models)."""
    for t, s in pairwise([*visited(schedule, steps), 0]):
        x = denoise(x, t)
        if s > 0:
            x = schedule.noised(x, s, noise(t) if noise else torch.randn_like(x))
    return x


def dpm_solver(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,  # noqa: ARG001 - all samplers are called alike
    *,
    steps: int | Sequence[int] | None = None,
) -> Tensor:
    """DPM-Solver++(2M): the diffusion's ODE at second order with one prediction a step (Lu et al. 2022b, Alg. 2).

    The first step and the one to x_0, where lambda is infinite, are of first order. No noise is inserted.

    Own code, because the scheduler of diffusers is 30 MB for these lines, works in float32, keeps state between its
    steps, and by default spaces a schedule as short as DiffI2I's badly: of four steps out of four it visits one twice.
    """
    *times, last = visited(schedule, steps)
    before: tuple[Tensor, float] | None = None
    for t, s in pairwise([*times, last]):
        bar_t, bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
        h = half_log_snr(bar_s) - half_log_snr(bar_t)
        x0 = denoise(x, t)
        # In the paper's letters r = (h of the step before) / h.
        data = x0 if before is None else x0 + (x0 - before[0]) * h / (2 * before[1])
        x = ((1 - bar_s) / (1 - bar_t)) ** 0.5 * x - bar_s**0.5 * math.expm1(-h) * data
        before = x0, h
    return denoise(x, last)


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(alpha / sigma) of the DPM-Solver papers."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))
