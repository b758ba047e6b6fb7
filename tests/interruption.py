"""Training that is interrupted."""

from typing import Any

from diffi2i.callbacks.scores import ValidationScores
from diffi2i.commands import train
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


def stop_after_training(patch: Any) -> None:
    """After the last step's checkpoint, before anything is made of it."""
    fit = train.fit

    def interrupted(*arguments: Any) -> None:
        fit(*arguments)
        stop()

    patch.setattr(train, "fit", interrupted)


def stop_while_saving(patch: Any) -> None:
    patch.setattr(train, "save_weights", stop)


def stop_while_scoring(patch: Any) -> None:
    """At the second image of the final evaluation."""
    go_on = ValidationScores.on_validation_batch_end

    def interrupted(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, *more: Any) -> None:
        if self.pictures and batch_idx == 1:
            stop()
        go_on(self, trainer, module, outputs, batch, batch_idx, *more)

    patch.setattr(ValidationScores, "on_validation_batch_end", interrupted)
