"""Training that is interrupted."""

from typing import Any

from diffi2i.methods.method import Method


class InterruptedRunError(Exception):
    pass


def stop(*_: Any, **__: Any) -> Any:
    raise InterruptedRunError


def stop_before_step(step: int, patch: Any) -> None:
    """Training raises at the first batch of this optimiser step."""
    go_on: Any = Method.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        return stop() if self.global_step == step else go_on(self, batch, batch_idx)

    patch.setattr(Method, "training_step", interrupted)
