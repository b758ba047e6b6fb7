"""Methods made of a finished diffusion that has learnt images without an input: its denoiser, codec and schedule."""

from typing import Any

from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.data.resize import enlarge
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import codec_of, condition_of, decoded, grid_of, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import schedule_of
from diffi2i.models.diffi2i import build_denoiser, check_same_model


class FromDiffusion(Method):
    """Holds the denoiser and the codec of `init`, an unconditional `PixelDiffusion`; another `init` is the subclass's.

    The options have its `codec` and `diffusion`. The codec learns nothing here.
    """

    networks = ("DenoisingUNet",)

    def __init__(self, config: Config, init: Method | None = None) -> None:
        super().__init__(config)
        self.schedule = schedule_of(self.options.diffusion)
        self.codec: Any = codec_of(self.options.codec, config)
        self.network: Any = build_denoiser(config.model, self.codec.channels, self.codec.channels)
        if isinstance(init, PixelDiffusion):
            self.network.load_state_dict(init.network.state_dict())
        if isinstance(self.codec, nn.Module):
            if isinstance(init, PixelDiffusion) and isinstance(init.codec, nn.Module):
                self.codec.load_state_dict(init.codec.state_dict())
            self.codec.requires_grad_(False)

    @classmethod
    def check(cls, config: Config, options: Any, init: Config | None) -> None:
        """It starts from an unconditional diffusion of the same codec and schedule, or from its like."""
        name = config.method["name"]
        if init is None:
            raise UserError(
                f"method={name} needs a diffusion: write method.init=<run of method=pixel_diffusion "
                "method.conditional=false>"
            )
        theirs = init.method
        if theirs["name"] != name:
            if "conditional" not in theirs:
                raise UserError(f"method.init={config.init} is a run of {theirs['name']}: name one of pixel_diffusion")
            if theirs["conditional"]:
                raise UserError(
                    f"method.init={config.init} is a diffusion that sees the input: train one with "
                    "method.conditional=false"
                )
        ours = {"codec": config.method["codec"], **prefixed(config.method["diffusion"])}
        for key, value in {"codec": theirs["codec"], **prefixed(theirs["diffusion"])}.items():
            if value != ours.get(key):
                raise UserError(f"method.init={config.init} has method.{key}={value}: write method.{key}={value}")
        check_same_model(config, init)

    def enlarged(self, batch: Batch) -> Tensor:
        """What networks see of the input, see `seen`, at the target's size."""
        return enlarge(self.seen(batch), self.config.task.scale)

    def condition(self, batch: Batch, enlarged: Tensor) -> Tensor:
        """The input on the codes' grid, see `condition_of`."""
        return condition_of(self.seen(batch), self.config.task.scale, self.codec.factor, enlarged)

    def coded(self, image: Tensor) -> Tensor:
        """The code of an image (B, 3, H, W) in [0, 1]."""
        code: Tensor = self.codec.encode(on_grid(2 * image - 1, self.codec.factor))
        return code

    def code_shape(self, batch: Batch) -> tuple[int, int, int]:
        """That of the code of one of the batch's targets."""
        height, width = (side * self.config.task.scale for side in batch["input"].shape[-2:])
        return (self.codec.channels, *grid_of(height, width, self.codec.factor))

    def image(self, code: Tensor, batch: Batch) -> Tensor:
        """The prediction that a code is, float32 and as large as the batch's targets."""
        height, width = (side * self.config.task.scale for side in batch["input"].shape[-2:])
        return (decoded(self.codec, code, height, width) + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network} | ({"autoencoder": self.codec} if isinstance(self.codec, nn.Module) else {})


def prefixed(diffusion: dict[str, Any]) -> dict[str, Any]:
    return {f"diffusion.{key}": value for key, value in diffusion.items()}
