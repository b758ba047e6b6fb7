"""Which time steps a sampler visits where it has only a few: the time-step optimisation of Kim et al. (2024, Sec. 3.3).

Their text leaves out Eqs. 2 and 3 and Alg. 2. What stands here follows the words around them; docs/design.md says why.
"""

from collections.abc import Callable
from itertools import combinations, count

Score = Callable[[float], float]


def gamma_steps(T: int, n: int, gamma: float, bias: float = 0.0, start: int = 1) -> list[int]:
    """n increasing time steps along a gamma curve, t_i near T (i / n)^gamma, i = 1..n (Eqs. 2 and 3).

    Args:
        T: the schedule's last step.
        n: how many; from 1 to T.
        gamma: 1 spaces them evenly, above 1 most lie at the end of sampling (small t), below 1 at its beginning.
        bias: in [0, 1), how far the curve is also scaled down towards the side where most lie: by up to this share of
            its distance from there, in proportion to how far gamma, or 1 / gamma, falls below 1.
        start: the last of them is at least this.

    Raises:
        ValueError: a number out of range.
    """
    if not 1 <= n <= T or gamma <= 0 or not 0 <= bias < 1 or not 1 <= start <= T:
        raise ValueError(f"{n} of {T} steps, gamma={gamma}, bias={bias}, start={start}: no such time steps")
    scale = 1 - bias * (1 - min(gamma, 1 / gamma))
    times: list[int] = []
    for i in range(1, n + 1):
        curve = T * (i / n) ** gamma
        t = scale * curve if gamma > 1 else T - scale * (T - curve)
        # Rounded ones may meet, or leave no room for those that follow.
        times.append(min(max(round(t), times[-1] + 1 if times else 1), T - n + i))
    times[-1] = max(times[-1], start)
    return times


def greedy(score: Score, step: float) -> float:
    """The gamma of the highest score, searched from 1 in the better direction until it is no better (Alg. 2).

    It rises as 1, 1 + step, 1 + 2 step, ... or falls as their inverses; 1 where neither direction is better.
    """
    values = {gamma: score(gamma) for gamma in (1.0, 1 + step, 1 / (1 + step))}
    found = max(values, key=lambda gamma: values[gamma])  # the first of equals
    best = values[found]
    for k in count(2):
        gamma = (1 + k * step) ** (1 if found > 1 else -1)
        if found == 1 or (value := score(gamma)) <= best:
            break
        best, found = value, gamma
    return found


def subsets(T: int) -> list[list[int]]:
    """All increasing lists of time steps within 1..T that end at T, the shortest first: 2^(T - 1) of them."""
    return [[*chosen, T] for n in range(T) for chosen in combinations(range(1, T), n)]
