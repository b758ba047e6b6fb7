"""A Brownian bridge between target and input (BBDM, Li et al. 2023): without noise at either end."""

from dataclasses import dataclass
from typing import ClassVar

from diffi2i.diffusion.chain import Chain
from diffi2i.methods.chained import Chained, ChainOptions


@dataclass
class BridgeOptions(ChainOptions):
    """See `ChainOptions`; `noise` is the text's s: the variance is s / 2 in the middle."""

    def chain(self) -> Chain:
        """a_t = m_t = t / T, b_t^2 = delta_t = 2 s (m_t - m_t^2); the authors' code keeps 0.001 away from the ends."""
        m = [t / self.steps for t in range(1, self.steps + 1)]
        return Chain(m, [(2 * self.noise * (each - each**2)) ** 0.5 for each in m], bridge=True)


class Bridge(Chained):
    """Trains a network to predict x_0; the text's network predicts x_t - x_0, which is as much."""

    Options: ClassVar[type] = BridgeOptions
