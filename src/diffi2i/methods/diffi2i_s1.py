"""DiffI2I, stage 1: CPEN_S1 sees the ground truth and learns, with the DI2Iformer, an IPR that helps it (Sec. 4.1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Guided, Method
from diffi2i.methods.noise import Noise
from diffi2i.models.diffi2i import build_cpen, build_network, use_tlc


@dataclass
class Stage1Options:
    """`prior` is where Z comes from: the ground `truth`, or `zero`: Z = 0 and no CPEN, the control without a prior.

    `tlc` is the test-time local converter of the DI2Iformer.
    """

    prior: str = "truth"
    tlc: bool = False

    def __post_init__(self) -> None:
        if self.prior not in ("truth", "zero"):
            raise UserError(f"method.prior={self.prior}: choose one of truth, zero")


class DiffI2IS1(Method):
    """Trains CPEN_S1 and the DI2Iformer on L_task."""

    Options: ClassVar[type] = Stage1Options
    options: Stage1Options
    scored_under = ("tlc",)
    sees_context = True
    family: ClassVar[str] = ""
    """What `label` begins with."""

    def __init__(self, config: Config, init: "DiffI2IS1 | None" = None) -> None:
        super().__init__(config)
        # First, so that the network without a prior starts from the same weights.
        self.network = build_network(config.model, prior=True)
        self.sees_target = self.options.prior == "truth"
        self.cpen_s1 = build_cpen(config.task, config.model, gt=True) if self.sees_target else None
        if init is not None:
            self.load_state_dict(init.state_dict())
        if self.options.tlc:
            use_tlc(self.network, config)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def check(cls, config: Config, options: Stage1Options, init: Config | None) -> None:
        super().check(config, options, init)
        if init is not None and (theirs := init.method["prior"]) != options.prior:
            raise UserError(f"method.init={config.init} has method.prior={theirs}: write method.prior={theirs}")

    def prior(self, image: Tensor, batch: Batch) -> Tensor:
        """Z (B, 4C') from what is `seen` of the batch and from its ground truth (Eq. 5), or zeros."""
        if self.cpen_s1 is None:
            return image.new_zeros(len(image), self.config.model.prior_dim)
        z: Tensor = self.cpen_s1(image, batch["target"])
        return z

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        image = self.seen(batch)
        return {}, self.network(image, self.prior(*self.in_context(batch, image)))

    def guided(self, batch: Batch, noise: Noise) -> Guided:
        image = self.seen(batch)
        return Guided(self.network, image, self.prior(image, batch))

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        return self.guided(batch, noise).output()

    def probes(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        if "other" not in batch or self.cpen_s1 is None:
            return {}
        other = batch["other"]
        return {"prior_dependence": self.network(self.seen(batch), self.prior(self.seen(other), other))}

    def parts(self) -> dict[str, nn.Module]:
        return ({} if self.cpen_s1 is None else {"CPEN_S1": self.cpen_s1}) | {type(self.network).__name__: self.network}

    @property
    def label(self) -> str:
        kind = "no prior" if self.cpen_s1 is None else f"{self.family}stage 1 (sees GT)"
        return f"{kind}, trained on" if self.config.init and self.config.train.steps else kind
