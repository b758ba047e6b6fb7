"""What every method is to the rest of the suite: a training objective, a prediction, and what the prediction costs.

A method is a subclass with four short members: `objective`, `predict`, `parts`, and where it has some, `probes`. The
step on L_task with or without a discriminator, accumulation, validation, seeded noise and the optimisers are written
here once. CONTRIBUTING.md adds one by example.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.config.compose import typed_options
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.batch import Batch, network_input
from diffi2i.methods.noise import Noise, noise_for, step_generator
from diffi2i.methods.optimisation import optimisation, parameter_groups
from diffi2i.models.diffi2i import check_same_model


class Guided(NamedTuple):
    """A prediction about to be made: `network(image, z)`, or `network(image)` where there is no Z.

    `image` is what the network sees, with the mask, where there is one, as a fourth channel; `z` (B, 4C') is known of
    the whole of it. So the rest may be done in parts.
    """

    network: nn.Module
    image: Tensor
    z: Tensor | None

    def output(self) -> Tensor:
        """Of the whole image, float32."""
        output: Tensor = self.network(self.image) if self.z is None else self.network(self.image, self.z)
        return output.float()


@dataclass
class NoOptions:
    """The options of a method that has none."""


class Method(L.LightningModule):
    """A LightningModule from a configuration and, where `method.init` names one, the finished method to start from.

    With a discriminator in `task_loss`, optimisation is manual: Lightning's automatic kind steps one optimiser only.

    Attributes:
        Options: a dataclass of what else stands in the method's node; its `__post_init__` refuses what cannot be.
        sees_target: `predict` reads the ground truth, so it can restore no new image.
        trains: there is something to train. Without, a run is scored at once.
        networks: the classes that `model.network` may be; empty where any will do that the task's kind has.
        scored_under: options that a finished run may be scored under anew: none that its training, or `calibrate`,
            depended on. Without either all of them.
        sees_context: its training makes use of a batch's `context`.
        in_training: submodules that only a training has: a run's weights are without them.
        task_loss: L_task, set by `learn_from`; None where the method is only used, or learns by its own terms alone.
    """

    Options: ClassVar[type] = NoOptions
    sees_target: bool = False
    trains: ClassVar[bool] = True
    networks: ClassVar[tuple[str, ...]] = ()
    scored_under: tuple[str, ...] = ("sampler",)
    sees_context: ClassVar[bool] = False
    in_training: ClassVar[tuple[str, ...]] = ("task_loss",)

    def __init__(self, config: Config, init: "Method | None" = None) -> None:
        super().__init__()
        self.config = config
        self.options: Any = typed_options(self.Options, config)
        self.task_loss: TaskLoss | None = None
        self.micro_batches = config.micro_batches

    # What a method is.

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor | None]:
        """The method's own terms by name, and the prediction that L_task and the discriminator judge; None for none.

        All random numbers come from `rng`, on the CPU: a resumed run draws the same ones.
        """
        raise NotImplementedError

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        """The prediction, float32: an image (B, 3, H, W), not clamped; logits (B, K, h, w); depth (B, 1, h, w)."""
        raise NotImplementedError

    def guided(self, batch: Batch, noise: Noise) -> Guided | None:
        """What is left to do for `predict` once Z is known; None where a prediction is more than a single network's."""
        return None

    def parts(self) -> dict[str, nn.Module]:
        """What a prediction needs, by name: what is counted, timed and exported."""
        raise NotImplementedError

    def probes(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Predictions under changed conditions. A record has by how much the true one is better, as `gains` by name."""
        return {}

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Finds, without training, what a run's weights shall hold as buffers; once, before the run is scored.

        For a method that does not train. `batches` are endless: training crops of one image each, on the method's
        device, made as they are asked for. Runs without gradients, under the run's precision; random numbers follow
        from the configuration's seed.
        """

    @property
    def label(self) -> str:
        """What tables call it."""
        return str(self.config.method["name"]) + (", GAN" if self.config.method["role"] == "adversarial" else "")

    def resting(self) -> Iterable[nn.Parameter]:
        """The trainable weights that learn nothing in this step, though they do in others."""
        adversary = self.task_loss.adversary if self.task_loss else None
        return [] if adversary is None or self.adversarial else adversary.parameters()

    def network_steps(self, steps: int) -> int:
        """Of so many optimiser steps those in which the network that makes the prediction learns."""
        return steps

    @classmethod
    def judged(cls, options: Any) -> bool:
        """Whether `objective` ever returns a prediction for L_task to judge."""
        return cls.trains

    @classmethod
    def check(cls, config: Config, options: Any, init: Config | None) -> None:
        """Refuses what options alone cannot tell; `init` is the configuration of the run to start from.

        Raises:
            UserError: a run from which this method cannot start, or options that do not fit the task.
        """
        if init is None:
            return
        if (theirs := init.method["name"]) != (mine := config.method["name"]):
            raise UserError(
                f"method.init={config.init} is a run of {theirs}, from which no {mine} starts: "
                f"name a run of method={mine}"
            )
        check_same_model(config, init)

    @classmethod
    def settled(cls, config: Config, init: Config | None) -> Config:
        """Of a method with `like_init` in its node: this configuration as one of the run that it starts from."""
        raise NotImplementedError

    # The same for all.

    def learn_from(self, task_loss: TaskLoss | None) -> None:
        """Sets L_task, and what else `in_training` names, before a training."""
        self.task_loss = task_loss
        self.automatic_optimization = task_loss is None or task_loss.adversary is None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # For dropout, which draws from the global generator: a resumed run draws the same.
        torch.manual_seed(step_generator(f"global, {self.config.seed}", *self.place(batch_idx)).initial_seed())

    def seen(self, batch: Batch) -> Tensor:
        """What a network sees of the batch, with the mask as a fourth channel: (B, 3 or 4, H, W)."""
        return network_input(batch, self.config.task.fill)

    def in_context(self, batch: Batch, image: Tensor) -> tuple[Tensor, Batch]:
        """What CPENs see in training, and its batch: the `context` where there is one, else `image`, `seen` of this."""
        return (self.seen(batch["context"]), batch["context"]) if "context" in batch else (image, batch)

    def place(self, batch_idx: int) -> tuple[int, int]:
        """The optimiser step, and which of the batches that make it up over all processes this one is."""
        return self.global_step, self.global_rank * self.micro_batches + batch_idx % self.micro_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the method's own terms and, where there is a prediction to judge, L_task, logged term by term.

        Without a discriminator Lightning steps the optimiser with the returned loss. With one, both optimisers are
        stepped here, and the returned loss is only looked at.
        """
        terms, output = self.objective(batch, step_generator(self.config.seed, *self.place(batch_idx)))
        if output is None:
            loss = torch.stack(list(terms.values())).sum()
        else:
            assert self.task_loss is not None
            adversary = self.task_loss.adversary
            of_task = self.task_loss(output, batch, self.adversarial)
            loss = torch.stack([*of_task.values(), *terms.values()]).sum()
            terms = of_task | terms
            if adversary is not None:
                # One backward pass for both, whose gradients do not meet: DDP awaits each weight's once.
                d_terms = adversary.discriminator_terms(output, batch) if self.adversarial else {}
                both = torch.stack([loss, *d_terms.values()]).sum()
                self.manual_backward(self.with_resting(both) / self.micro_batches)
                terms |= d_terms
                if (batch_idx + 1) % self.micro_batches == 0:
                    self.step_both(self.adversarial)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return self.with_resting(loss)

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator, where there is one, has joined by this step."""
        return self.global_step >= self.config.train.adversarial_from * self.config.train.steps

    def with_resting(self, loss: Tensor) -> Tensor:
        """The same loss, which among several processes depends on the resting weights too: DDP awaits their gradients.

        So it need not search each step's graph for them, and averages gradients while others are still computed.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return loss
        return loss + 0 * sum(weight.sum() for weight in self.resting())

    def on_after_backward(self) -> None:
        # What rests stays as it is, its optimiser's state too.
        for weight in self.resting():
            weight.grad = None

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

    def noise(self, batch: Batch) -> Noise:
        """The noise of a prediction, by the evaluation's seed and the images' names."""
        return noise_for(batch["name"], self.config.task.protocol.seed, self.device)

    def validation_step(self, batch: Batch) -> dict[str, Tensor]:
        """`output`, and the method's probes."""
        return {"output": self.averaged(batch), **self.probes(batch, self.noise(batch))}

    def averaged(self, batch: Batch) -> Tensor:
        """The output; for labels and depth averaged over the protocol's `sizes` and `flip`, labels as probabilities."""
        task, noise = self.config.task, self.noise(batch)
        views = [(size, flip) for size in task.protocol.sizes for flip in (False, True)[: 1 + task.protocol.flip]]
        if views == [(1.0, False)]:
            return self.predict(batch, noise)

        def of_view(size: float, flip: bool) -> Tensor:
            side = [max(1, round(n * size)) for n in batch["input"].shape[-2:]]
            image = F.interpolate(batch["input"], side, mode="bilinear", antialias=True, align_corners=False)
            view = batch | {"input": image.flip(-1) if flip else image}
            view["target"] = batch["target"].flip(-1) if flip else batch["target"]
            output = self.predict(view, noise)
            output = output.flip(-1) if flip else output
            return F.interpolate(output, batch["target"].shape[-2:], mode="bilinear", align_corners=False)

        return kind_of(task).average((of_view(size, flip) for size, flip in views), len(views))
