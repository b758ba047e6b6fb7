"""The first stage of latent diffusion (Rombach et al. 2022, Sec. 3.1), from diffusers: images to codes and back."""

from typing import Any

import diffusers
import torch
from torch import Tensor, nn

MOMENTUM = 0.99  # of the running spread of the codes
# What Rombach et al. weigh the divergence from the normal by, and their commitment loss (Oord et al. 2017, Eq. 3).
KL_WEIGHT, COMMITMENT_WEIGHT = 1e-6, 1.0


class Autoencoder(nn.Module):
    """AutoencoderKL, or VQModel where `codebook` names its size.

    Args:
        widths: channels per level; each level but the first halves the sides, so `factor` is 2^(levels - 1).
        layers: residual blocks per level.
        channels: of the codes.
        attention: in the middle, between all pixels of a code.
        codebook: how many entries the codes are rounded to; None for a normal distribution of codes.

    Attributes:
        spread: the codes' standard deviation, which training measures: `encode` divides by it.
    """

    spread: Tensor
    bounded = False  # codes are not in [-1, 1]

    def __init__(
        self, widths: list[int], layers: int, channels: int, attention: bool = False, codebook: int | None = None
    ) -> None:
        super().__init__()
        self.channels, self.factor, self.codebook = channels, 2 ** (len(widths) - 1), codebook
        shape = {
            "block_out_channels": tuple(widths),
            "down_block_types": ("DownEncoderBlock2D",) * len(widths),
            "up_block_types": ("UpDecoderBlock2D",) * len(widths),
            "layers_per_block": layers,
            "latent_channels": channels,
            "norm_num_groups": next(n for n in range(32, 0, -1) if all(width % n == 0 for width in widths)),
            "mid_block_add_attention": attention,
        }
        self.model: Any
        if codebook is None:
            self.model = diffusers.AutoencoderKL(**shape)  # type: ignore[no-untyped-call]
        else:
            self.model = diffusers.VQModel(**shape, num_vq_embeddings=codebook)  # type: ignore[no-untyped-call]
        self.register_buffer("spread", torch.ones(()))

    def reconstruct(self, image: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """`image` (B, 3, H, W) in [-1, 1] -> what comes back, and the term that keeps the codes in shape.

        `noise` (B, channels, H / factor, W / factor) draws the code from its distribution; None takes its mean.
        """
        if self.codebook is not None:
            code = self.model.encode(image).latents
            self.measure(code)
            found = self.model.decode(code)
            return found.sample, COMMITMENT_WEIGHT * found.commit_loss
        normal = self.model.encode(image).latent_dist
        self.measure(normal.mean)
        code = normal.mean if noise is None else normal.mean + normal.std * noise
        return self.model.decode(code).sample, KL_WEIGHT * normal.kl().mean()

    def measure(self, code: Tensor) -> None:
        """Follows the codes' spread while training."""
        if self.training:
            self.spread.lerp_(code.detach().float().std(), 1 - MOMENTUM)

    def encode(self, image: Tensor) -> Tensor:
        """`image` (B, 3, H, W) in [-1, 1], sides multiples of `factor` -> codes of unit spread, not rounded."""
        found = self.model.encode(image)
        code: Tensor = found.latent_dist.mean if self.codebook is None else found.latents
        return code.float() / self.spread

    def decode(self, code: Tensor) -> Tensor:
        """Codes of `encode`, rounded where there is a codebook -> (B, 3, H, W), around [-1, 1], float32."""
        return self.model.decode(code * self.spread).sample.float()  # type: ignore[no-any-return]
