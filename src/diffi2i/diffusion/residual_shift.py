"""ResShift's chain (Yue et al. 2023), which leads not from x_0 to noise but to the noised input y.

Symbols: e_0 = y_0 - x_0 the residual; T steps; eta_t rises from 0 at t = 0 to near 1 at T; kappa the noise's strength.
"""

from itertools import pairwise

import torch
from torch import Tensor

from diffi2i.diffusion.samplers import Denoise, Noise


class ResidualShift:
    """q(x_t | x_0, y) = N(x_0 + eta_t (y - x_0), kappa^2 eta_t) (Eq. 2) and its way back.

    Args:
        steps: T, at least 2.
        kappa: the noise's strength.
        min_noise: kappa sqrt(eta_1), how noisy the first step is.
        power: how the steps between are spaced (Eq. 9).

    Raises:
        ValueError: values that give no rising eta in (0, 1).
    """

    def __init__(self, steps: int, kappa: float, min_noise: float, power: float) -> None:
        first, last = min_noise / kappa if kappa else 0.0, 0.99
        if steps < 2 or not 0 < first < last or power <= 0:
            raise ValueError(
                f"steps={steps}, kappa={kappa}, min_noise={min_noise}, power={power}: write steps=2 or more, power "
                f"above 0, and min_noise between 0 and {last} x kappa"
            )
        self.steps, self.kappa = steps, kappa
        self.eta: list[float] = [
            0.0,
            *((first * (last / first) ** ((t / (steps - 1)) ** power)) ** 2 for t in range(steps)),
        ]

    def etas(self, t: Tensor | int, like: Tensor) -> Tensor:
        """eta_t, shaped to multiply `like` (B, ...)."""
        found: Tensor = torch.tensor(self.eta, dtype=like.dtype, device=like.device)[t]
        return found.reshape(-1, *[1] * (like.ndim - 1))

    def noised(self, x: Tensor, y: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """A sample of q(x_t | x_0, y). `x`, `y`, `noise` (B, ...), `t` int or int64 (B,)."""
        eta = self.etas(t, x)
        return x + eta * (y - x) + self.kappa * eta.sqrt() * noise

    def scaled(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """x_t over its spread for an input of unit spread, as the network sees it."""
        return x_t / (self.etas(t, x_t) * self.kappa**2 + 1).sqrt()

    def sample(self, denoise: Denoise, y: Tensor, noise: Noise) -> Tensor:
        """From y to x_0 by the posterior of each step (Eqs. 6 and 7), whose mean the last one takes.

        `denoise` maps (x_t, t) to its prediction of x_0; `noise(t)` gives the standard normal that the step from t
        inserts, and at T + 1 the one that y starts with.
        """
        start: float = self.kappa * self.eta[-1] ** 0.5
        x = y + start * noise(self.steps + 1)
        for t, s in pairwise(range(self.steps, -1, -1)):
            kept = self.eta[s] / self.eta[t]
            x = kept * x + (1 - kept) * denoise(x, t)
            if s > 0:
                sigma: float = self.kappa * (kept * (self.eta[t] - self.eta[s])) ** 0.5
                x = x + sigma * noise(t)
        return x
