"""How fast the diffusion turns x_0 into noise, and what its network predicts (Eqs. 1, 2, 4 and 10).

Symbols: T steps; beta_t, t = 1..T; alpha_t = 1 - beta_t; alpha_bar_t = alpha_1 ... alpha_t; alpha_bar_0 = 1.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["eps", "x0", "v"]


class Schedule:
    """The forward process on tensors (B, ...) of any shape, in their precision.

    Args:
        betas: beta_1..beta_T.
        prediction: what the network predicts: the noise `eps` (Eq. 11), `x0` itself, or
            `v` = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans and Ho 2022, Sec. 4).

    Raises:
        ValueError: betas outside (0, 1), or so many large ones that alpha_bar_T is 0; an unknown `prediction`.
    """

    def __init__(self, betas: Sequence[float], prediction: Prediction) -> None:
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction is {prediction!r}; write one of {', '.join(get_args(Prediction))}")
        self.prediction = prediction
        self.betas = list(betas)
        self.steps = len(betas)
        self.alpha_bar: list[float] = list(accumulate(betas, lambda product, beta: product * (1 - beta), initial=1.0))
        if not betas or not all(0 < beta < 1 for beta in betas) or self.alpha_bar[-1] == 0:
            raise ValueError(
                f"{self.steps} betas end at alpha_bar_T = {self.alpha_bar[-1]:.3g}: write betas above 0 and below 1, "
                "the smaller the more steps there are"
            )

    def rates(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply `like` (B, ...)."""
        alpha_bar = torch.tensor(self.alpha_bar, dtype=like.dtype, device=like.device)[t]
        alpha_bar = alpha_bar.reshape(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def noised(self, x: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """A sample of q(x_t | x_0) (Eq. 2; Eq. 10 at t = T). `x`, `noise` (B, ...), `t` int or int64 (B,)."""
        signal, sigma = self.rates(t, x)
        return signal * x + sigma * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """What the network is to predict from `noised(x, t, noise)`."""
        if self.prediction == "x0":
            return x
        if self.prediction == "eps":
            return noise
        signal, sigma = self.rates(t, x)
        return signal * noise - sigma * x

    def x0(self, x_t: Tensor, t: Tensor | int, predicted: Tensor) -> Tensor:
        """The x_0 that a prediction from `x_t` at `t` amounts to."""
        if self.prediction == "x0":
            return predicted
        signal, sigma = self.rates(t, x_t)
        if self.prediction == "eps":
            return (x_t - sigma * predicted) / signal
        return signal * x_t - sigma * predicted

    def eps(self, x_t: Tensor, t: Tensor | int, x0: Tensor) -> Tensor:
        """The noise in `x_t` at `t` above 0 if x_0 is `x0`."""
        signal, sigma = self.rates(t, x_t)
        return (x_t - signal * x0) / sigma


def linear(steps: int, beta_1: float, beta_T: float) -> list[float]:
    """beta_t linear in t (Sec. 5.1: from 0.1 to 0.99).

    A single step has beta_T, so that x_T is near noise for every T.
    """
    return [beta_T - (beta_T - beta_1) * (steps - t) / max(1, steps - 1) for t in range(1, steps + 1)]


def sqrt_linear(steps: int, beta_1: float, beta_T: float) -> list[float]:
    """sqrt(beta_t) linear in t, as the authors' DiffIR has it (0.1, 0.294, 0.591, 0.99) and latent diffusion."""
    return [root**2 for root in linear(steps, beta_1**0.5, beta_T**0.5)]


def cosine(steps: int) -> list[float]:
    """alpha_bar_t a squared cosine of t / T, with each beta at most 0.999 (Nichol and Dhariwal 2021, Eq. 17)."""
    squares = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    return [min(1 - after / before, 0.999) for before, after in pairwise(squares)]
