"""Methods made of a finished diffusion; most of one that has learnt images without an input."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.data.resize import enlarge
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.build import method_class
from diffi2i.methods.codec import CODECS, codec_of, condition_of, decoded, grid_of, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import schedule_of
from diffi2i.models.diffi2i import build_denoiser, check_same_model

LEARNT = ("codec", "residual", "conditional", "diffusion")
"""The options of a pixel diffusion that its weights depend on."""


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
        if init is not None and init.method.get("conditional"):
            raise UserError(
                f"method.init={config.init} is a diffusion that sees the input: train one with method.conditional=false"
            )
        check_diffusion(config, init, ("codec", "diffusion"), CODECS, " method.conditional=false")

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


def check_diffusion(
    config: Config, init: Config | None, shared: Sequence[str], codecs: Sequence[str], settings: str = ""
) -> None:
    """The run to start from is a trained diffusion in one of the `codecs`, or the method's own.

    Its options `shared` are the method's, and so is its model. `settings` are those that it shall be trained with.

    Raises:
        UserError: one line that says what to write.
    """
    name = config.method["name"]
    if init is None:
        raise UserError(f"method={name} needs a diffusion: write method.init=<run of method=pixel_diffusion{settings}>")
    theirs = init.method
    diffuses = "conditional" in theirs and theirs["codec"] in codecs and method_class(init).trains
    if theirs["name"] != name and not diffuses:
        raise UserError(f"method.init={config.init} is a run of {theirs['name']}: name one of pixel_diffusion")
    ours, found = (options(each.method, shared) for each in (config, init))
    for key, value in found.items():
        if value != ours.get(key):
            raise UserError(f"method.init={config.init} has method.{key}={value}: write method.{key}={value}")
    check_same_model(config, init)


def options(node: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Those of a method's node, with dotted keys."""
    return {
        f"{key}.{name}" if name else key: value
        for key in keys
        for name, value in (node[key].items() if isinstance(node[key], dict) else [("", node[key])])
    }
