"""LDM (Rombach et al. 2022): diffusion of an autoencoder's codes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.autoencoder import AutoencoderMethod
from diffi2i.methods.batch import Batch
from diffi2i.methods.pixel_diffusion import PixelDiffusion, PixelDiffusionOptions
from diffi2i.models.diffi2i import check_same_model


@dataclass
class LatentDiffusionOptions(PixelDiffusionOptions):
    """`codec` is `latent`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec != "latent":
            raise UserError(f"method.codec={self.codec}: this method diffuses codes, write method.codec=latent")


class LatentDiffusion(PixelDiffusion):
    """Trains a denoiser of the codes of a finished, frozen autoencoder, which `init` is; or a run of its own goes on.

    The input joins the codes unshuffled to their grid, without an encoder of its own: x4 super-resolution as in LDM.
    """

    Options: ClassVar[type] = LatentDiffusionOptions
    codec: Any  # a module

    def __init__(self, config: Config, init: "AutoencoderMethod | LatentDiffusion | None" = None) -> None:
        super().__init__(config, init if isinstance(init, LatentDiffusion) else None)
        if isinstance(init, AutoencoderMethod):
            self.codec.load_state_dict(init.autoencoder.state_dict())
        self.codec.requires_grad_(False)

    @classmethod
    def check(cls, config: Config, options: PixelDiffusionOptions, init: Config | None) -> None:
        """It starts from an autoencoder of the same task, or goes on from its like."""
        name = config.method["name"]
        if init is None:
            raise UserError(f"method={name} needs a trained autoencoder: write method.init=<run of method=autoencoder>")
        if init.method["name"] not in (name, "autoencoder"):
            raise UserError(
                f"method.init={config.init} is a run of {init.method['name']}: name one of method=autoencoder"
            )
        check_same_model(config, init, () if init.method["name"] == name else ("network",))

    def coded(self, batch: Batch) -> Tensor:
        return super().coded(batch).detach()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.codec.eval()
        return self

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network, "autoencoder": self.codec}
