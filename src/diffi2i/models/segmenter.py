"""The segmentation network: an encoder that Z guides and SeaFormer's light head (paper: Sec. 5.6, Table 5)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from diffi2i.models.axial import SeaEncoder, conv_norm
from diffi2i.models.encoders import TimmEncoder
from diffi2i.models.padding import pad_to_multiple

DROPOUT = 0.1


class Fusion(nn.Module):
    """The fine map, weighted at each pixel and channel by a gate from a coarse one (SeaFormer's spatial branch)."""

    def __init__(self, fine: int, coarse: int, width: int) -> None:
        super().__init__()
        self.local = conv_norm(fine, width)
        self.gate = nn.Sequential(conv_norm(coarse, width), nn.Hardsigmoid())

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """`fine` (B, fine, H, W), `coarse` (B, coarse, h, w) -> (B, width, H, W)."""
        gate: Tensor = F.interpolate(self.gate(coarse), fine.shape[-2:], mode="bilinear")
        local: Tensor = self.local(fine)
        return local * gate


class Segmenter(nn.Module):
    """Scores each class at each pixel.

    Args:
        encoder: makes the encoder when called with `prior_dim` (in Hydra a node with `_partial_: true`).
        classes: number of classes.
        head_width: channels of the head.
        prior_dim: 4C'; None makes the same network without a prior.

    The head works at stride 8: the encoder's second map is the detail, every coarser one gates it in turn. The
    encoder's first map, at stride 4, is only a step on the way.
    """

    def __init__(
        self,
        encoder: Callable[..., SeaEncoder | TimmEncoder],
        classes: int,
        head_width: int,
        prior_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder(prior_dim=prior_dim)
        _, detail, *coarser = self.encoder.channels
        self.fusions = nn.ModuleList(
            Fusion(head_width if i else detail, channels, head_width) for i, channels in enumerate(coarser)
        )
        self.head = nn.Sequential(
            nn.BatchNorm2d(head_width), nn.ReLU(), nn.Dropout2d(DROPOUT), nn.Conv2d(head_width, classes, 1)
        )

    def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
        """`image` (B, 3, H, W) RGB in [0, 1] of any size, `z` (B, 4C') -> logits (B, classes, H, W), float32."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.encoder.multiple)
        _, x, *coarser = self.encoder(padded, z)  # x (B, ., H'/8, W'/8)
        for fusion, gating in zip(self.fusions, coarser, strict=True):
            x = fusion(x, gating)
        logits: Tensor = F.interpolate(self.head(x).float(), padded.shape[-2:], mode="bilinear")
        return logits[..., :height, :width]
