"""ResShift (Yue et al. 2023): a short chain from the target to its noised input."""

from dataclasses import dataclass
from typing import ClassVar

from diffi2i.config.schema import one_of
from diffi2i.diffusion.chain import Chain
from diffi2i.errors import UserError
from diffi2i.methods.chained import Chained
from diffi2i.methods.codec import OF_PIXELS


@dataclass
class ResShiftOptions:
    """`codec` is the space of the chain, `kappa` the noise's strength, `min_noise` how noisy the first step is.

    The shift eta_t rises to 0.99^2, spaced by `power` (Eq. 9). The authors have steps=4 with min_noise=0.2, and
    steps=15 with min_noise=0.04.
    """

    codec: str = "unshuffled"
    steps: int = 4
    kappa: float = 2.0
    min_noise: float = 0.2
    power: float = 0.3
    visited: ClassVar[int | None] = None  # all
    eta: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, OF_PIXELS)
        self.chain()

    def chain(self) -> Chain:
        """a_t = eta_t, b_t = kappa sqrt(eta_t) (Eq. 2). Raises `UserError`: no rising eta in (0, 1)."""
        first, last, steps = self.min_noise / self.kappa if self.kappa else 0.0, 0.99, self.steps
        if steps < 2 or not 0 < first < last or self.power <= 0:
            raise UserError(
                f"method: steps={steps}, kappa={self.kappa}, min_noise={self.min_noise}, power={self.power}: write "
                f"steps=2 or more, power above 0, and min_noise between 0 and {last} x kappa"
            )
        roots = [first * (last / first) ** ((t / (steps - 1)) ** self.power) for t in range(steps)]
        return Chain([root**2 for root in roots], [self.kappa * root for root in roots])


class ResShift(Chained):
    """Trains a network to predict x_0 from x_t and the input (Eq. 8)."""

    Options: ClassVar[type] = ResShiftOptions
    scored_under = ()
