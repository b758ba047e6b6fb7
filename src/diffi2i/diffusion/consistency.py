"""Consistency functions (Song et al. 2023), which give the same for all points of a path back from noise.

Symbols: as in `schedule`; N intervals of equal length, t and s = t - T / N the ends of one.
"""

import math

from torch import Tensor

from diffi2i.diffusion.samplers import visited
from diffi2i.diffusion.schedule import Schedule

SPREAD = 0.5  # sigma_data
SCALE = 10_000.0  # of t / T: latent consistency models count in tenths of a thousandth


def interval(schedule: Schedule, intervals: int, number: int) -> tuple[int, int]:
    """t and s of the interval of that number, from 1 to `intervals`. Raises `ValueError`: more than there are steps."""
    times = [0, *reversed(visited(schedule, intervals))]
    return times[number], times[number - 1]


def consistent(x_t: Tensor, t: int, steps: int, found: Tensor) -> Tensor:
    """c_skip(t) x_t + c_out(t) `found`, which is x_t itself at t = 0 (CoDi's Eq. 11).

    The coefficients are those of latent consistency models (Luo et al. 2023): with tau = 10,000 t / `steps`,
    c_skip = 0.5^2 / (tau^2 + 0.5^2) and c_out = tau / sqrt(tau^2 + 0.5^2).
    """
    tau = SCALE * t / steps
    length = math.hypot(tau, SPREAD)
    c_skip, c_out = (SPREAD / length) ** 2, tau / length
    return c_skip * x_t + c_out * found
