"""One training step on L_task, with or without a discriminator; both stages call it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffi2i.build import micro_batches
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, optimisation

if TYPE_CHECKING:
    from diffi2i.stages.joint import JointStage
    from diffi2i.stages.pretrain import PretrainStage

    Stage = PretrainStage | JointStage


def training_loss(stage: "Stage", output: Tensor, batch: Batch, batch_idx: int, more: Tensor | float = 0) -> Tensor:
    """L_task of the output plus `more` (L_diff), logged term by term.

    Without a discriminator Lightning steps the optimiser with the returned loss. With one, both optimisers are
    stepped here, and the returned loss is only looked at.
    """
    assert stage.task_loss is not None, "a stage is trained with a TaskLoss"
    train, adversary = stage.config.train, stage.task_loss.adversary
    adversarial = adversary is not None and stage.global_step >= train.adversarial_from * train.steps
    terms = stage.task_loss(output, batch, adversarial)
    loss: Tensor = sum(terms.values()) + more  # type: ignore[assignment]
    if adversary is not None:
        stage.manual_backward(loss / stage.micro_batches)
        if adversarial:
            d_terms = adversary.discriminator_terms(output, batch)
            stage.manual_backward(sum(d_terms.values()) / stage.micro_batches)
            terms |= d_terms
        if (batch_idx + 1) % stage.micro_batches == 0:
            step_both(stage, adversarial)
    stage.log_dict({f"train/{name}": term.detach() for name, term in terms.items()})
    stage.log("train/loss", loss.detach(), prog_bar=True)
    return loss


def step_both(stage: "Stage", adversarial: bool) -> None:
    """Steps the generator, and the discriminator once it has joined, then their schedules."""
    generator = stage.optimizers()[0]
    # The bare optimiser: stepped through Lightning's wrapper it would advance `global_step` a second time.
    discriminator = stage.optimizers(use_pl_optimizer=False)[1]
    for optimizer in (generator, discriminator) if adversarial else (generator,):
        if stage.config.train.clip:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, stage.config.train.clip)
        optimizer.step()
        optimizer.zero_grad()
    for scheduler in stage.lr_schedulers():
        scheduler.step()


def optimisers(stage: "Stage", config: Config) -> Any:
    """The generator's optimiser and, where there is a discriminator, its own, each with the schedule."""
    adversary = stage.task_loss.adversary if stage.task_loss else None
    theirs = list(adversary.parameters()) if adversary else []
    ours = [p for p in stage.parameters() if p.requires_grad and all(p is not other for other in theirs)]
    if adversary is None:
        return optimisation(ours, config)
    return [optimisation(ours, config), optimisation(theirs, config, adversary.lr_factor)]


def prepare(stage: "Stage") -> None:
    """Chooses who steps the optimisers: Lightning, or `training_loss` where there are two."""
    stage.micro_batches = micro_batches(stage.config)
    stage.automatic_optimization = stage.task_loss is None or stage.task_loss.adversary is None
