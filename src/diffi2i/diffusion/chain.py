"""Chains that lead from the target x_0 not to noise but to its input y, and back.

    q(x_t | x_0, y) = N(x_0 + a_t (y - x_0), b_t^2),  t = 1..T

Each such process is its a_t and b_t: ResShift (Yue et al. 2023), RDDM (Liu et al. 2024), Brownian bridges (BBDM, Li et
al. 2023). a_0 = b_0 = 0, and a_T is near 1.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffi2i.diffusion.samplers import Denoise, Noise, evenly


class Chain:
    """A process by its a_1..a_T and b_1..b_T.

    Args:
        a: how much of the way to y is gone, rising.
        b: how strong the noise is.
        bridge: each step draws to y what is there, noise included, x_t = A x_s + (1 - A) y + ..., as a bridge does, so
            that nothing of x_0 is left at a_T = 1; else it adds a share of the residual y - x_0.
    """

    def __init__(self, a: Sequence[float], b: Sequence[float], bridge: bool = False) -> None:
        self.a, self.b, self.bridge = [0.0, *a], [0.0, *b], bridge
        self.steps = len(a)

    def rates(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t, shaped to multiply `like` (B, ...)."""
        both = torch.tensor([self.a, self.b], dtype=like.dtype, device=like.device)[:, t]
        a, b = both.reshape(2, -1, *[1] * (like.ndim - 1))
        return a, b

    def noised(self, x: Tensor, y: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """A sample of q(x_t | x_0, y). `x`, `y`, `noise` (B, ...), `t` int or int64 (B,)."""
        a, b = self.rates(t, x)
        return x + a * (y - x) + b * noise

    def scaled(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """x_t over its spread for an input of unit spread, as the network sees it."""
        return x_t / (self.rates(t, x_t)[1] ** 2 + 1).sqrt()

    def variance(self, t: int, s: int) -> float:
        """That of q(x_s | x_t, x_0, y), s < t."""
        kept = (1 - self.a[t]) / (1 - self.a[s]) if self.bridge else 1.0
        before, now = self.b[s] ** 2, self.b[t] ** 2
        if now == 0:  # x_t is y, which tells nothing of the noise
            return before
        return before * (now - kept**2 * before) / now

    def sample(self, denoise: Denoise, y: Tensor, noise: Noise, visited: int | None = None, eta: float = 1.0) -> Tensor:
        """From y back to x_0.

        Each step keeps a part of the noise that x_t has and draws the rest: with `eta` = 1 as q(x_s | x_t, x_0, y) has
        it (ResShift's Eqs. 6 and 7); with 0 it draws none, as DDIM and RDDM, but where there is none to keep.

        Args:
            denoise: maps (x_t, t) to its prediction of x_0.
            noise: `noise(t)` gives the standard normal that the step from t inserts, and at T + 1 the one that y starts
                with.
            visited: how many time steps, evenly spaced, T among them; all by default.
        """
        *times, last = evenly(self.steps, visited or self.steps)
        x = y + self.b[-1] * noise(self.steps + 1) if self.b[-1] else y
        for t, s in pairwise([*times, last]):
            x0 = denoise(x, t)
            drawn = self.variance(t, s) * (eta if self.b[t] else 1.0)
            kept = (self.b[s] ** 2 - drawn) ** 0.5 / self.b[t] if self.b[t] else 0.0
            x = x0 + self.a[s] * (y - x0) + kept * (x - x0 - self.a[t] * (y - x0))
            if drawn:
                x = x + drawn**0.5 * noise(t)
        return denoise(x, last)
