"""RePaint (Lugmayr et al. 2022): an unconditional diffusion fills what is not known, going back and forth in time."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from diffi2i.diffusion.samplers import Denoise, posterior, visited
from diffi2i.diffusion.schedule import Schedule


def walk(steps: int, jump: int, resamplings: int) -> list[int]:
    """The order in which the steps are visited, from `steps` to 0. Raises `ValueError` for jumps that cannot be.

    At 1 and every `jump` steps above it the walk goes back as many and comes down again, until it has come down
    `resamplings` times (the paper's Sec. 4.2 and its code: 250 steps, jumps of 10, 10 resamplings).
    """
    if not 1 <= jump <= steps or resamplings < 1:
        raise ValueError(f"jump={jump} lies in 1 to steps={steps}, and resamplings={resamplings} must be 1 or more")
    times = [steps]
    again = dict.fromkeys(range(1, steps - jump + 1, jump), resamplings - 1)
    while times[-1] > 0:
        times.append(times[-1] - 1)
        if again.get(times[-1], 0) > 0:
            again[times[-1]] -= 1
            times += range(times[-1] + 1, times[-1] + jump + 1)
    return times


def repainted(
    denoise: Denoise,
    known: Tensor,
    hole: Tensor,
    schedule: Schedule,
    noise: Callable[[], Tensor],
    steps: int,
    jump: int,
    resamplings: int,
) -> Tensor:
    """x_0 that is `known` outside the hole (Alg. 1).

    Args:
        denoise: maps (x_t, t) to its prediction of x_0.
        known: (B, ...) in the space of x_0.
        hole: 1 where x_0 is not known, shaped like `known` or to multiply it.
        noise: gives a new standard normal of known's shape at each call.
        steps, jump, resamplings: how many of the schedule's steps are visited, and how; see `walk`.

    Raises:
        ValueError: more steps than the schedule has, or jumps or resamplings that are none.
    """
    times = [0, *reversed(visited(schedule, steps))]
    bars = [schedule.alpha_bar[time] for time in times]
    x = noise()
    for t, s in pairwise(walk(steps, jump, resamplings)):
        bar_t, bar_s = bars[t], bars[s]
        if s > t:  # back towards noise (Eq. 1)
            alpha = bar_s / bar_t
            x = alpha**0.5 * x + (1 - alpha) ** 0.5 * noise()
            continue
        weight_x0, weight_xt, sigma = posterior(bar_t, bar_s)
        mean = weight_x0 * denoise(x, times[t]) + weight_xt * x
        if s == 0:
            x = hole * mean + (1 - hole) * known
            continue
        drawn = mean + sigma * noise()
        x = hole * drawn + (1 - hole) * (bar_s**0.5 * known + (1 - bar_s) ** 0.5 * noise())  # Eq. 8
    return x
