"""The first stage of latent diffusion: an autoencoder of targets, on L_task (Rombach et al. 2022, Sec. 3.1)."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import new_autoencoder, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise


class AutoencoderMethod(Method):
    """Trains `model.autoencoder` to bring targets back: its score is the best that a diffusion of codes can have."""

    sees_target = True
    networks = ("DenoisingUNet",)

    def __init__(self, config: Config, init: "AutoencoderMethod | None" = None) -> None:
        super().__init__(config)
        self.autoencoder: Any = cast(nn.Module, new_autoencoder(config))
        if init is not None:
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        image, autoencoder = self.padded(batch), self.autoencoder
        height, width = (side // autoencoder.factor for side in image.shape[-2:])
        noise = torch.randn(len(image), autoencoder.channels, height, width, generator=rng).to(image.device)
        found, term = autoencoder.reconstruct(image, noise)
        return {"loss_codes": term.float().mean()}, self.cropped(found, batch)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        return self.cropped(self.autoencoder.decode(self.autoencoder.encode(self.padded(batch))), batch)

    def padded(self, batch: Batch) -> Tensor:
        return on_grid(2 * batch["target"] - 1, self.autoencoder.factor)

    def cropped(self, image: Tensor, batch: Batch) -> Tensor:
        height, width = batch["target"].shape[-2:]
        return (image[..., :height, :width].float() + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}
