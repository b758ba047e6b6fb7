"""Looks at the gradient before each step: clips it, skips the step where it is no number, stops where that goes on."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from diffi2i.errors import UserError
from diffi2i.run import checkpoints
from diffi2i.run.directory import CHANGEABLE
from diffi2i.run.hardware import of_all_ranks

IN_A_ROW = 10
"""So many skipped steps are no accident of one batch any more."""


class FiniteSteps(L.Callback):
    """Keeps NaN and infinite values out of weights, averages and the optimisers' moments.

    A step whose gradient is not finite, on any rank, counts and changes nothing. After `IN_A_ROW` of them the training
    stops; so it does where predictions are not finite. A gradient whose norm over all weights is above `clip` is scaled
    to it: here, since the norm is known here.

    Attributes:
        skipped: such steps, over interruptions.
        since: steps made before the first of those that are now skipped, None where the last one was not.
    """

    def __init__(self, run_dir: Path, clip: float | None) -> None:
        self.run_dir, self.clip = run_dir, clip
        self.skipped = 0
        self.since: int | None = None
        self.found = False
        self.blamed: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.made = trainer.global_step
        self.norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
        self.keep_statistics()

    def keep_statistics(self) -> None:
        """Those of batch normalisation, which a forward pass changes."""
        self.kept = [{key: value.clone() for key, value in norm.named_buffers()} for norm in self.norms]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Clips the gradients, or takes them away, a discriminator's too: without one a weight stays as it is.

        Under DDP all ranks have the same gradients here, and so come to the same end.
        """
        learning = [each for each in pl_module.parameters() if each.grad is not None]
        size = torch.nn.utils.get_total_norm([each.grad for each in learning])  # type: ignore[misc]
        if size.isfinite():
            if self.clip:
                torch.nn.utils.clip_grads_with_norm_(learning, self.clip, size)
        else:
            self.found = True
            pl_module.zero_grad(set_to_none=True)
            for norm, kept in zip(self.norms, self.kept, strict=True):
                norm.load_state_dict(kept, strict=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not torch.isfinite(outputs["loss"]):
            self.blamed.update(not_finite(batch))
        step = trainer.global_step
        if step == self.made:  # more batches belong to it
            return
        self.made = step
        if not self.found:
            self.since = None
            self.keep_statistics()
            return
        self.found, self.skipped = False, self.skipped + 1
        self.since = step - 1 if self.since is None else self.since
        names = sorted(set().union(*of_all_ranks(self.blamed)))
        self.blamed = set()
        blame = f"; NaN or infinite values are in {', '.join(names[:3])}" if names else ""
        if trainer.is_global_zero:
            print(f"step {step} is skipped: its gradient is not finite{blame}", flush=True)
        if step - self.since >= IN_A_ROW:
            self.stop(trainer, f"{IN_A_ROW} steps in a row had no finite gradient{blame}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.since is not None:
            self.stop(trainer, f"the last {trainer.global_step - self.since} steps had no finite gradient")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not torch.isfinite(outputs["output"]).all():
            self.stop(trainer, f"the prediction for {batch['name'][0]} has NaN or infinite values")

    def stop(self, trainer: L.Trainer, why: str) -> None:
        """Raises `UserError` with what to do; a checkpoint of the very weights that fail is put aside."""
        last = checkpoints.newest(self.run_dir) if trainer.is_global_zero and self.since is not None else None
        if last and checkpoints.read(last).steps == self.since:
            checkpoints.put_aside(last, "holds the weights from which no step can be made")
        trainer.strategy.barrier()
        kept = checkpoints.newest(self.run_dir)
        on = f"go on from step {checkpoints.read(kept).steps}" if kept else "begin anew"
        raise UserError(
            f"{why}, up to step {trainer.global_step}: give the command again with a lower train.lr or train.clip, to "
            f"{on} (what may be changed in this run_dir: {', '.join(CHANGEABLE)})"
        )


def not_finite(batch: dict[str, Any]) -> list[str]:
    """The names of the images of which some tensor has NaN or infinite values."""
    floats = [value for value in batch.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return [name for i, name in enumerate(batch["name"]) if not all(value[i].isfinite().all() for value in floats)]
