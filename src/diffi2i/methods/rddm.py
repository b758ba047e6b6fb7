"""RDDM (Liu et al. 2024): residual and noise are added to the target side by side, and taken away in few steps."""

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from diffi2i.diffusion.chain import Chain
from diffi2i.methods.chained import Chained, ChainOptions


@dataclass
class RDDMOptions(ChainOptions):
    """See `ChainOptions`; b_T = `noise`. The authors restore with steps=1000, noise=0.1, visited=5 and eta=0."""

    noise: float = 0.1
    visited: int = 5
    eta: float = 0.0

    def chain(self) -> Chain:
        """The residual is added fast at first, alpha_t falling to 0, the noise's variance beta_t^2 rising from 0."""
        T = self.steps
        rising = [2 * t / (T * (T - 1)) for t in range(T)]
        noise = [self.noise * share**0.5 for share in accumulate(rising)]
        return Chain([*accumulate(reversed(rising))], noise)


class RDDM(Chained):
    """Trains a network to predict x_0, and so the residual y - x_0, from which the noise follows (SM-Res)."""

    Options: ClassVar[type] = RDDMOptions
