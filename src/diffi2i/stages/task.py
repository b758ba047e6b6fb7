"""What both stages do alike: the step on L_task, with or without a discriminator, and the validation."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.build import micro_batches
from diffi2i.losses.task import TaskLoss
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, optimisation, step_generator
from diffi2i.stages.groups import parameter_groups


class TaskStage(L.LightningModule):
    """A stage has the two halves of inference, `prior` and `restore`, and trains on `training_loss`.

    With a discriminator in `task_loss`, optimisation is manual: Lightning's automatic kind steps one optimiser only.
    `task_loss` is None where the stage is only used, or trains the diffusion alone.
    """

    def __init__(self, config: Config, task_loss: TaskLoss | None) -> None:
        super().__init__()
        self.config = config
        self.task_loss = task_loss
        self.micro_batches = micro_batches(config)
        self.automatic_optimization = task_loss is None or task_loss.adversary is None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # For dropout, which draws from the global generator: a resumed run draws the same.
        torch.manual_seed(step_generator(f"global, {self.config.seed}", *self.place(batch_idx)).initial_seed())

    def place(self, batch_idx: int) -> tuple[int, int]:
        """The optimiser step, and which of the batches that make it up over all processes this one is."""
        return self.global_step, self.global_rank * self.micro_batches + batch_idx % self.micro_batches

    @property
    def uses_prior(self) -> bool:
        """Whether Z says anything about the image."""
        return True

    def prior(self, batch: Batch) -> Tensor:
        """Z (B, 4C')."""
        raise NotImplementedError

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        """The prediction, float32: an image (B, 3, H, W), not clamped; logits (B, K, h, w); depth (B, 1, h, w)."""
        raise NotImplementedError

    def training_loss(self, output: Tensor, batch: Batch, batch_idx: int, more: Tensor | None = None) -> Tensor:
        """L_task of the output plus `more` (L_diff), logged term by term.

        Without a discriminator Lightning steps the optimiser with the returned loss. With one, both optimisers are
        stepped here, and the returned loss is only looked at.
        """
        assert self.task_loss is not None
        train, adversary = self.config.train, self.task_loss.adversary
        adversarial = adversary is not None and self.global_step >= train.adversarial_from * train.steps
        terms = self.task_loss(output, batch, adversarial)
        loss = torch.stack([*terms.values(), *([] if more is None else [more])]).sum()
        if adversary is not None:
            self.manual_backward(loss / self.micro_batches)
            if adversarial:
                d_terms = adversary.discriminator_terms(output, batch)
                self.manual_backward(torch.stack(list(d_terms.values())).sum() / self.micro_batches)
                terms |= d_terms
            if (batch_idx + 1) % self.micro_batches == 0:
                self.step_both(adversarial)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def step_both(self, adversarial: bool) -> None:
        """Steps the generator, and the discriminator once it has joined, then their schedules."""
        generator: Any = self.optimizers()[0]  # type: ignore[index]
        # The bare optimiser: stepped through Lightning's wrapper it would advance `global_step` a second time.
        discriminator: Any = self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        for optimizer in (generator, discriminator) if adversarial else (generator,):
            if self.config.train.clip:
                parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, self.config.train.clip)
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]
            scheduler.step()

    def on_train_start(self) -> None:
        """This configuration's rates: a checkpoint brings those that it was written under."""
        schedulers: list[Any] = [each.scheduler for each in self.trainer.lr_scheduler_configs]
        for scheduler, rates in zip(schedulers, self.base_rates, strict=True):
            scheduler.base_lrs = list(rates)
            groups = scheduler.optimizer.param_groups
            for group, rate, factor in zip(groups, rates, scheduler.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)

    def configure_optimizers(self) -> Any:
        """The optimiser and, where there is a discriminator, its own, each with the schedule."""
        made = self.optimisers()
        self.base_rates = [each["lr_scheduler"]["scheduler"].base_lrs for each in made]
        return made

    def optimisers(self) -> list[dict[str, Any]]:
        """As `configure_optimizers`."""
        adversary = self.task_loss.adversary if self.task_loss else None
        theirs = list(adversary.parameters()) if adversary else []
        held = {id(parameter) for parameter in theirs}
        ours = [parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in held]
        grouped = parameter_groups(self, ours, self.config.train)
        if adversary is None:
            return [optimisation(grouped, self.config)]
        return [optimisation(grouped, self.config), optimisation(theirs, self.config, adversary.lr_factor)]

    def validation_step(self, batch: Batch) -> dict[str, Tensor]:
        """`output`, and where the batch holds another image, `exchanged`: the output under that image's prior."""
        outputs = {"output": self.averaged(batch)}
        if "other" in batch and self.uses_prior:
            outputs["exchanged"] = self.restore(batch, self.prior(batch["other"]))
        return outputs

    def averaged(self, batch: Batch) -> Tensor:
        """The output; for labels and depth averaged over the protocol's `sizes` and `flip`, labels as probabilities."""
        task = self.config.task
        views = [(size, flip) for size in task.protocol.sizes for flip in (False, True)[: 1 + task.protocol.flip]]
        if views == [(1.0, False)]:
            return self.restore(batch, self.prior(batch))
        total = torch.zeros(())
        for size, flip in views:
            side = [max(1, round(n * size)) for n in batch["input"].shape[-2:]]
            image = F.interpolate(batch["input"], side, mode="bilinear", antialias=True, align_corners=False)
            view = batch | {"input": image.flip(-1) if flip else image}
            view["target"] = batch["target"].flip(-1) if flip else batch["target"]
            output = self.restore(view, self.prior(view))
            output = output.flip(-1) if flip else output
            output = F.interpolate(output, batch["target"].shape[-2:], mode="bilinear", align_corners=False)
            total = total.to(output) + (output.softmax(1) if task.kind == "labels" else output) / len(views)
        return total.log() if task.kind == "labels" else total
