"""DiffI2I, stage 2: the diffusion learns to estimate the IPR from the input alone, with the DI2Iformer (Sec. 4.2)."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.config.schema import Config, above_zero
from diffi2i.errors import UserError
from diffi2i.losses.prior import energy_score, prior_loss
from diffi2i.methods.batch import Batch
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.method import Guided, Method
from diffi2i.methods.noise import Noise
from diffi2i.methods.process import Diffusion, sampler_of, schedule_of
from diffi2i.models.denoiser import Denoiser
from diffi2i.models.diffi2i import build_cpen, build_network, check_same_model, use_tlc
from diffi2i.models.precision import at_least_float32


@dataclass
class Stage2Options:
    """What `conf/method/diffi2i_s2.yaml` sets.

    `prior` says where Z comes from: `joint` (the paper's: diffusion, all steps, trained with the DI2Iformer), `none`
    (no diffusion: CPEN_S2 gives Z; Table 7, V1), `traditional` (random t, the DI2Iformer stays as it was; V2).
    `prior_loss` is L_diff: l1 (Eq. 13), l2 (Eq. 14), kl (Eq. 15), or `energy`, not the paper's, which rewards draws
    that are spread as Z is; `prior_weight` is its factor beside L_task, 1 in the paper. `prior_only` is the fraction of
    steps that train the prior alone before the DI2Iformer joins. `sampler` is a partial of a function of
    `diffusion.samplers`. `tlc` is the DI2Iformer's test-time local converter. Without `teacher` there is no CPEN_S1, as
    in weights that other authors publish: the run can be used, but not trained on.
    """

    prior: str = "joint"
    prior_loss: str = "l1"
    prior_weight: float = 1.0
    prior_only: float = 0.0
    diffusion: Diffusion = field(default_factory=Diffusion)
    sampler: dict[str, Any] = field(default_factory=dict)
    tlc: bool = False
    teacher: bool = True

    def __post_init__(self) -> None:
        for key, choices in (("prior", ("joint", "none", "traditional")), ("prior_loss", ("l1", "l2", "kl", "energy"))):
            if getattr(self, key) not in choices:
                raise UserError(f"method.{key}={getattr(self, key)}: choose one of {', '.join(choices)}")
        above_zero(self, "method.", ("prior_weight",))
        if self.prior == "traditional" and self.prior_weight != 1:
            raise UserError(
                f"method.prior_weight={self.prior_weight} is beside an L_task, which method.prior=traditional has not: "
                "write method.prior_weight=1"
            )
        if self.prior_loss == "energy" and self.prior != "joint":
            raise UserError(
                f"method.prior_loss=energy is of two draws of the reverse process, which method.prior={self.prior} "
                "does not train: write method.prior=joint"
            )
        if not 0 <= self.prior_only < 1:
            raise UserError(f"method.prior_only={self.prior_only} is a fraction of the steps in [0, 1)")
        sampler_of(self.sampler, schedule_of(self.diffusion))


class DiffI2IS2(Method):
    """Trains CPEN_S2, the denoiser and the DI2Iformer on L_all = L_task + prior_weight L_diff (Alg. 1,
    Eq. 13).

    CPEN_S1 is frozen: it gives the target of L_diff and never reaches the optimiser. `init` is stage 1, or a stage 2 to
    go on with; None where finished weights will be loaded.
    """

    Options: ClassVar[type] = Stage2Options
    options: Stage2Options
    scored_under: tuple[str, ...] = ("sampler", "tlc")
    sees_context = True
    family: ClassVar[str] = ""
    """What `label` begins with."""

    def __init__(self, config: Config, init: "DiffI2IS1 | DiffI2IS2 | None" = None) -> None:
        super().__init__(config)
        options, model = self.options, config.model
        self.schedule = schedule_of(options.diffusion)
        self.sampler = sampler_of(options.sampler, self.schedule)
        self.cpen_s1 = build_cpen(config.task, model, gt=True).requires_grad_(False) if options.teacher else None
        # Before the rest, whose initial weights would be others.
        layers, leaky = model.denoiser_layers, model.leaky_ends
        denoiser = None if options.prior == "none" else Denoiser(model.prior_dim, layers, leaky)
        self.cpen_s2 = build_cpen(config.task, model, gt=False)
        self.denoiser = denoiser
        self.network = build_network(model, prior=True)
        if denoiser is None:
            self.scored_under = ("tlc",)
        if isinstance(init, DiffI2IS2):
            self.load_state_dict(init.state_dict())
        elif init is not None:
            assert self.cpen_s1 is not None
            assert init.cpen_s1 is not None, "a run without a prior is refused before"
            self.cpen_s1.load_state_dict(init.cpen_s1.state_dict())
            self.network.load_state_dict(init.network.state_dict())
        if options.prior == "traditional":
            self.network.requires_grad_(False)
        if options.tlc:
            use_tlc(self.network, config)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def judged(cls, options: Stage2Options) -> bool:
        return options.prior != "traditional"

    @classmethod
    def check(cls, config: Config, options: Stage2Options, init: Config | None) -> None:
        """Stage 2 starts from a stage 1 with a prior, or goes on from a stage 2 of the same diffusion."""
        if options.prior_only and "adversary" in config.task.losses[config.train.loss]:
            raise UserError(
                f"method.prior_only cannot be joined with the discriminator of train.loss={config.train.loss}: train "
                "the prior with another loss first, then go on with method.prior_only=0 method.init=<that run>"
            )
        name, first = config.method["name"], config.method["name"].replace("_s2", "_s1")
        if init is None:
            raise UserError(f"method={name} needs stage 1's weights: write method.init=<run of method={first}>")
        theirs = init.method
        if theirs["name"] == first and config.method["role"] == "adversarial":
            raise UserError(f"method.init={config.init} is a stage 1, method.role=adversarial goes on from a stage 2")
        if not options.teacher or not theirs.get("teacher", True):
            raise UserError(f"method.init={config.init} has no CPEN_S1 to learn from: train or import stage 1")
        if theirs["name"] == name:
            check_same_prior(config, theirs, options)
        elif theirs["name"] != first or theirs["prior"] == "zero":
            raise UserError(f"method.init={config.init} has no prior to go on with: name a run of method={first}")
        # The denoiser belongs to stage 2 alone.
        check_same_model(config, init, () if theirs["name"] == name else ("denoiser_layers",))

    def prior(self, image: Tensor, noise: Noise) -> Tensor:
        """Z-hat (B, 4C') from the input alone, starting from noise (Alg. 2)."""
        dim = (self.config.model.prior_dim,)
        return self.estimate(image, noise(dim), lambda t: noise(dim, f"step {t}"))

    def estimate(self, image: Tensor, z_T: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """D from the input (Eq. 12), then the reverse process in full, in float32 (Alg. 1, lines 8-13; Alg. 2, 5-8).

        `z_T` (B, 4C') is the noised IPR in training, standard normal at inference. Without diffusion D itself is Z-hat.
        """
        denoiser, T = self.denoiser, self.schedule.steps
        condition = at_least_float32(self.cpen_s2(image))
        if denoiser is None:
            return condition

        def denoise(z_t: Tensor, t: int) -> Tensor:
            time = torch.full((len(z_t),), t / T, dtype=z_t.dtype, device=z_t.device)
            return self.schedule.x0(z_t, t, denoiser(z_t, time, condition))

        with torch.autocast(condition.device.type, enabled=False):
            z_hat: Tensor = self.sampler(denoise, z_T.to(condition.dtype), self.schedule, noise)
        return z_hat

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor | None]:
        options, image = self.options, self.seen(batch)
        wide, guide = self.in_context(batch, image)
        assert self.cpen_s1 is not None, "refused before"
        with torch.no_grad():
            z = at_least_float32(self.cpen_s1(wide, guide["target"]))  # (B, 4C')

        def noise(_: int = 0) -> Tensor:
            return torch.randn(z.shape, generator=rng).to(z.device)

        if options.prior == "traditional":
            return {"loss_prior": self.random_step_loss(wide, z, noise(), rng)}, None

        def draw() -> Tensor:
            return self.estimate(wide, self.schedule.noised(z, self.schedule.steps, noise()), noise)  # Eq. 10

        z_hat = draw()
        if options.prior_loss == "energy":
            L_diff = energy_score(z_hat, draw(), z)
        else:
            L_diff = prior_loss(z_hat, z, options.prior_loss)  # type: ignore[arg-type]
        terms = {"loss_prior": options.prior_weight * L_diff}
        if self.prior_alone:
            return terms, None
        return terms, self.network(image, z_hat)

    def random_step_loss(self, image: Tensor, z: Tensor, noise: Tensor, rng: torch.Generator) -> Tensor:
        """The traditional objective (Eq. 4): the error of one prediction at one random t per image."""
        schedule, denoiser = self.schedule, self.denoiser
        assert denoiser is not None
        t = torch.randint(1, schedule.steps + 1, (len(z),), generator=rng).to(z.device)
        condition = at_least_float32(self.cpen_s2(image))
        with torch.autocast(z.device.type, enabled=False):
            predicted = denoiser(schedule.noised(z, t, noise), t / schedule.steps, condition)
            return F.mse_loss(predicted, schedule.target(z, noise, t))

    def guided(self, batch: Batch, noise: Noise) -> Guided:
        image = self.seen(batch)
        return Guided(self.network, image, self.prior(image, noise))

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        return self.guided(batch, noise).output()

    def probes(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        if "other" not in batch:
            return {}
        other = batch["other"]
        return {"prior_dependence": self.network(self.seen(batch), self.prior(self.seen(other), self.noise(other)))}

    def parts(self) -> dict[str, nn.Module]:
        denoiser = {} if self.denoiser is None else {"denoiser": self.denoiser}
        return {"CPEN_S2": self.cpen_s2, **denoiser, type(self.network).__name__: self.network}

    @property
    def prior_alone(self) -> bool:
        """Whether this step is of the phase in which the network rests."""
        return self.global_step < self.options.prior_only * self.config.train.steps

    def resting(self) -> Iterable[nn.Parameter]:
        return chain(super().resting(), self.network.parameters() if self.prior_alone else [])

    def network_steps(self, steps: int) -> int:
        return 0 if self.options.prior == "traditional" else steps - int(self.options.prior_only * steps)

    @property
    def label(self) -> str:
        kinds = {"joint": "stage 2", "none": "stage 2, no diffusion", "traditional": "stage 2, traditional"}
        under = ", GAN" if self.config.method["role"] == "adversarial" else ""
        return f"{self.family}{kinds[self.options.prior]}{under}"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.cpen_s1 is not None:
            self.cpen_s1.eval()  # frozen also in its running statistics
        return self


def check_same_prior(config: Config, theirs: dict[str, Any], options: Stage2Options) -> None:
    """Raises `UserError` where a stage 2 is to go on with another prior or diffusion than it learnt."""
    if (theirs["prior"] == "none") != (options.prior == "none"):
        raise UserError(
            f"method.init={config.init} has method.prior={theirs['prior']}: write method.prior={theirs['prior']}"
        )
    if options.prior == "none":
        return
    for key, value in asdict(options.diffusion).items():
        if value != theirs["diffusion"][key]:
            raise UserError(
                f"method.init={config.init} learnt to denoise with {key}={theirs['diffusion'][key]}: "
                f"write method.diffusion.{key}={theirs['diffusion'][key]}"
            )
