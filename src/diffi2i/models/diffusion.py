"""The diffusion on the IPR: schedule, forward process and the reverse process run in full (Eqs. 1-4, 10, 11).

Symbols: T steps, beta_t, alpha_t = 1 - beta_t, alpha_bar_t = alpha_1 ... alpha_t, alpha_bar_0 = 1.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["eps", "x0"]
Schedule = Literal["linear", "sqrt_linear"]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class PriorDiffusion:
    """Diffuses Z to Z_T and denoises Z_T back to Z_0, in the precision of its arguments.

    Args:
        steps: T.
        beta_1, beta_T: ends of the schedule (paper: 0.1 and 0.99). A single step has beta_T, so that Z_T is
            near noise for every T.
        prediction: `eps`, the network predicts the noise (Eq. 11); `x0`, it predicts Z_0 and the step goes to
            the mean of q(Z_{t-1} | Z_t, Z_0) (Ho et al. 2020, Eq. 7), as the authors' DiffIR does.
        variance_noise: insert sigma_t noise in the reverse process (Eq. 3; the ablation V4). The paper leaves
            it out.
        timesteps: the increasing subset of 1..T that the reverse process visits, T included; None visits all.
            The betas are re-spaced so that alpha_bar at the visited steps is unchanged (Nichol and Dhariwal
            2021, Sec. 4).
        schedule: `linear`, beta_t is linear in t (the paper's text); `sqrt_linear`, its square root is (what the
            authors' DiffIR computes: 0.1, 0.294, 0.591, 0.99).

    Raises:
        ValueError: `timesteps` is not such a subset, or `schedule` is unknown.
    """

    def __init__(
        self,
        steps: int,
        beta_1: float,
        beta_T: float,
        prediction: Prediction,
        variance_noise: bool = False,
        timesteps: Sequence[int] | None = None,
        schedule: Schedule = "linear",
    ) -> None:
        visited = list(timesteps) if timesteps is not None else list(range(1, steps + 1))
        if visited != sorted(set(visited)) or not visited or visited[0] < 1 or visited[-1] != steps:
            raise ValueError(f"timesteps must increase within 1..{steps} and end at {steps}, got {visited}")
        self.steps = steps
        self.prediction = prediction
        self.variance_noise = variance_noise
        self.visited = [0, *visited]
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule is {schedule!r}; write one of {', '.join(get_args(Schedule))}")
        power = 2 if schedule == "sqrt_linear" else 1
        first, last = beta_1 ** (1 / power), beta_T ** (1 / power)
        betas = [(last - (last - first) * (steps - t) / max(1, steps - 1)) ** power for t in range(1, steps + 1)]
        self.alpha_bar: list[float] = list(accumulate(betas, lambda product, beta: product * (1 - beta), initial=1.0))

    def add_noise(self, z: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """A sample of q(Z_t | Z) (Eq. 2; Eq. 10 at t = T). `z`, `noise` (B, 4C'), `t` int or int64 (B,)."""
        alpha_bar = torch.tensor(self.alpha_bar, dtype=z.dtype, device=z.device)[t].reshape(-1, 1)
        return alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * noise

    def step(self, z_t: Tensor, prediction: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """One reverse step from visited timestep number `index` (1 is the first) to the one before it.

        `prediction` is the network's, the noise (Eq. 11) or Z_0. `noise` is the standard normal to insert
        (Eq. 3), None for none.
        """
        bar_t, bar_s = (self.alpha_bar[self.visited[i]] for i in (index, index - 1))
        alpha = bar_t / bar_s
        if self.prediction == "eps":
            mean: Tensor = (z_t - prediction * (1 - alpha) / (1 - bar_t) ** 0.5) / alpha**0.5
        else:
            weight_z0 = bar_s**0.5 * (1 - alpha) / (1 - bar_t)
            weight_zt = alpha**0.5 * (1 - bar_s) / (1 - bar_t)
            mean = weight_z0 * prediction + weight_zt * z_t
        if noise is None:
            return mean
        sigma: float = ((1 - bar_s) / (1 - bar_t) * (1 - alpha)) ** 0.5
        return mean + sigma * noise

    def denoise(
        self, z_T: Tensor, condition: Tensor, network: Network, noise: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Runs every reverse step, with gradients (Alg. 1, lines 8-13; Alg. 2, lines 5-8).

        Args:
            z_T: (B, 4C').
            condition: D (B, 4C').
            network: maps (Z_t, t / T, D) to its prediction.
            noise: gives what `variance_noise` inserts at reverse step `index`: standard normal (B, 4C').
                None draws it from torch's global generator.
        """
        z = z_T
        for index in range(len(self.visited) - 1, 0, -1):
            time = torch.full((z.shape[0],), self.visited[index] / self.steps, dtype=z.dtype, device=z.device)
            inserted = None
            if self.variance_noise and index > 1:
                inserted = noise(index) if noise else torch.randn_like(z)
            z = self.step(z, network(z, time, condition), index, inserted)
        return z
