"""The moving average of the weights."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """After every `every`-th step: average <- `decay` average + (1 - `decay`) weights, for all weights in one call.

    Lightning's own exponential average takes them one by one.
    """

    def __init__(self, decay: float, every: int) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.every = every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % self.every == 0
