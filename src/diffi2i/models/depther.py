"""The depth network: an encoder that Z guides, a light pyramid and adaptive bins (paper: Sec. 5.7, Table 6).

Depth is the expectation over bins whose widths the network chooses for each image, as in AdaBins (Bhat et al.,
CVPR 2021) and BinsFormer (Li et al., 2022), whose transformer decoder for the bins is a small MLP here.

Symbols: K = `bins`; c_i the centre of bin i in metres; p_i its probability at a pixel.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from diffi2i.models.axial import SeaEncoder
from diffi2i.models.di2iformer import LayerNorm
from diffi2i.models.encoders import TimmEncoder
from diffi2i.models.padding import pad_to_multiple


def bin_centres(logits: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """`logits` (B, K) -> c (B, K) in metres, rising: bins of widths softmax(logits) tile [min_depth, max_depth]."""
    widths = (max_depth - min_depth) * logits.softmax(dim=1)
    return min_depth + widths.cumsum(dim=1) - widths / 2


class Depther(nn.Module):
    """Estimates the depth of each pixel.

    Args:
        encoder: makes the encoder when called with `prior_dim` (in Hydra a node with `_partial_: true`).
        width: channels of the pyramid.
        bins: K.
        min_depth, max_depth: the range of the output in metres, 0 <= min_depth < max_depth.
        prior_dim: 4C'; None makes the same network without a prior.

    Raises:
        ValueError: an empty range.
    """

    def __init__(
        self,
        encoder: Callable[..., SeaEncoder | TimmEncoder],
        width: int,
        bins: int,
        min_depth: float,
        max_depth: float,
        prior_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= min_depth < max_depth:
            raise ValueError(f"0 <= min_depth < max_depth is needed, got {min_depth} and {max_depth}")
        self.min_depth, self.max_depth = min_depth, max_depth
        self.encoder = encoder(prior_dim=prior_dim)
        # Swin's stages end without a norm and grow large: hence one before each lateral convolution.
        self.lateral = nn.ModuleList(
            nn.Sequential(LayerNorm(channels), nn.Conv2d(channels, width, 1)) for channels in self.encoder.channels
        )
        self.smooth = nn.ModuleList(
            nn.Sequential(LayerNorm(width), nn.Conv2d(width, width, 3, padding=1), nn.GELU())
            for _ in self.encoder.channels[:-1]
        )
        self.bin_widths = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, bins))
        self.bin_scores = nn.Conv2d(width, bins, 1)

    def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
        """`image` (B, 3, H, W) RGB in [0, 1] of any size, `z` (B, 4C') -> metres (B, 1, H, W), float32."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.encoder.multiple)
        *finer, x = (lateral(m) for lateral, m in zip(self.lateral, self.encoder(padded, z), strict=True))
        for smooth, lateral in zip(self.smooth, reversed(finer), strict=True):
            x = smooth(lateral + F.interpolate(x, scale_factor=2, mode="bilinear"))  # at last (B, ., H'/4, W'/4)
        depth = self.expected_depth(self.bin_scores(x), self.bin_widths(x.mean(dim=(2, 3))))
        return F.interpolate(depth, padded.shape[-2:], mode="bilinear")[..., :height, :width]

    def expected_depth(self, scores: Tensor, widths: Tensor) -> Tensor:
        """sum_i p_i c_i: `scores` (B, K, h, w), `widths` (B, K), both before their softmax -> (B, 1, h, w), float32."""
        centres = bin_centres(widths.float(), self.min_depth, self.max_depth)
        # No einsum: autocast would run it in bfloat16, whose steps are centimetres here.
        depth = (scores.float().softmax(dim=1) * centres[:, :, None, None]).sum(dim=1, keepdim=True)
        # The probabilities add up to 1 only up to rounding.
        return depth.clamp(self.min_depth, self.max_depth)
