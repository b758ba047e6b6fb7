"""The encoder for segmentation: MobileNetV2 stages, then dynamic blocks with squeeze-enhanced axial attention.

Paper: Sec. 5.6, "we use axial attention to replace the channel attention in the DA block"; the attention and the
layout of the encoder are SeaFormer's (Wan et al., ICLR 2023).

Symbols: C-hat = `channels`; Z (B, 4C') the IPR; W_l linear; q, k, v queries, keys and values; N the length of an axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from diffi2i.models.di2iformer import DynamicLayer, LayerNorm, prior_linear, shifted, start_small
from diffi2i.models.encoders import Normalise, check_drop_path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POSITIONS = 16  # learned per axis, as in SeaFormer, and stretched to the axis at hand
KERNELS = (3, 5)  # of the stages in turn, as in SeaFormer


def conv_norm(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation, which for several GPUs Lightning's `sync_batchnorm` converts (Sec. 5.6)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def quiet_conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1, starting at a tenth of unit deviation. SeaFormer starts at 0, where the convolution gets no gradient."""
    layer = conv_norm(in_channels, out_channels)
    start_small(layer[1])
    return layer


class AxisAttention(nn.Module):
    """Multi-head attention along one axis of a map that was averaged over the other."""

    def __init__(self, heads: int, key_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.position_q = nn.Parameter(torch.randn(1, heads * key_dim, POSITIONS))
        self.position_k = nn.Parameter(torch.randn(1, heads * key_dim, POSITIONS))
        self.project = nn.Sequential(nn.ReLU6(), quiet_conv_norm(2 * heads * key_dim, 2 * heads * key_dim))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q`, `k` (B, heads key_dim, N), `v` (B, 2 heads key_dim, N) -> (B, 2 heads key_dim, N)."""
        length = q.shape[-1]
        q = q + F.interpolate(self.position_q, length, mode="linear")
        k = k + F.interpolate(self.position_k, length, mode="linear")
        # The positions are float32, and under autocast the rest is not: one type for all, (B, heads, N, dim). Copied,
        # since CUDA's kernels for bfloat16 want rows that start on 16 bytes; those of an axis of 1, transposed, do not.
        q, k, v = (
            x.to(v.dtype).reshape(len(x), self.heads, -1, length).mT.clone(memory_format=torch.contiguous_format)
            for x in (q, k, v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)
        out: Tensor = self.project(attended[..., None])
        return out[..., 0]


class SqueezeAxialAttention(nn.Module):
    """SEA: attention along the rows and along the columns, each squeezed to one axis, gates the local detail.

    Args:
        channels: C-hat.
        heads: attention heads.
        key_dim: width of a head's queries and keys; its values have twice that.
    """

    def __init__(self, channels: int, heads: int, key_dim: int) -> None:
        super().__init__()
        keys, values = heads * key_dim, 2 * heads * key_dim
        self.q = conv_norm(channels, keys)
        self.k = conv_norm(channels, keys)
        self.v = conv_norm(channels, values)
        self.rows = AxisAttention(heads, key_dim)
        self.columns = AxisAttention(heads, key_dim)
        self.gate = nn.Sequential(nn.ReLU6(), quiet_conv_norm(values, channels), nn.Hardsigmoid())
        joined = 2 * keys + values
        local = conv_norm(joined, joined, 3, groups=joined)
        self.detail = nn.Sequential(local, nn.ReLU6(), conv_norm(joined, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C-hat, H, W) -> (B, C-hat, H, W)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        down = self.rows(q.mean(3), k.mean(3), v.mean(3))[:, :, :, None]  # (B, ., H, 1)
        across = self.columns(q.mean(2), k.mean(2), v.mean(2))[:, :, None, :]  # (B, ., 1, W)
        detail: Tensor = self.detail(torch.cat([q, k, v], dim=1))
        gate: Tensor = self.gate(v + down + across)
        return gate * detail


class AxialLayer(nn.Module):
    """DA with SEA in the place of the channel attention: F-hat = SEA(Norm(F)) + W_l Z + F (Eq. 8).

    `drop_path` is the probability by which training leaves SEA out for an image. Z's shift stays, as it does in the
    depth encoder, where it is added between the stages.
    """

    def __init__(self, channels: int, prior_dim: int | None, heads: int, key_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.attention = SqueezeAxialAttention(channels, heads, key_dim)
        self.W_l = prior_linear(prior_dim, channels)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """`x` (B, C-hat, H, W), `z` (B, 4C') -> (B, C-hat, H, W)."""
        return shifted(self.drop_path(self.attention(self.norm(x))), self.W_l, z) + x


class AxialBlock(nn.Module):
    """DA with axial attention, then DFFN (Eq. 9)."""

    def __init__(
        self, channels: int, prior_dim: int | None, heads: int, key_dim: int, expansion: float, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = AxialLayer(channels, prior_dim, heads, key_dim, drop_path)
        self.feed_forward = DynamicLayer(channels, prior_dim, expansion, "pointwise", attention=False)
        self.feed_forward.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        out: Tensor = self.feed_forward(self.attention(x, z), z)
        return out


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen by `ratio`, filter each channel, narrow; plus the input where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, ratio: int) -> None:
        super().__init__()
        hidden = in_channels * ratio
        self.residual = stride == 1 and in_channels == out_channels
        self.body = nn.Sequential(
            conv_norm(in_channels, hidden),
            nn.ReLU6(),
            conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU6(),
            conv_norm(hidden, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class SeaEncoder(nn.Module):
    """Maps an image and Z to feature maps at strides 4, 8, 16, ..., as many as there are stages.

    Args:
        widths: channels of the stem (stride 2), then of each stage.
        convs: inverted residual blocks of each stage, at least 1; the first halves the map.
        ratios: their widening.
        attention: dynamic axial blocks that end each stage; only they see Z.
        heads, key_dim: see `SqueezeAxialAttention`.
        expansion: see `DynamicLayer`.
        prior_dim: 4C'; None for an encoder without a prior.
        drop_path: stochastic depth of the axial blocks, in [0, 1): in each stage it rises from 0 at the first block to
            this at the last one, as in SeaFormer.

    `channels` are the widths of the returned maps; the sides of the image must be multiples of `multiple`.
    In training a batch needs more than one value per channel at the coarsest stride, as batch normalisation does.
    """

    def __init__(
        self,
        widths: Sequence[int],
        convs: Sequence[int],
        ratios: Sequence[int],
        attention: Sequence[int],
        heads: int,
        key_dim: int,
        expansion: float,
        prior_dim: int | None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_drop_path(drop_path)
        if not len(widths) - 1 == len(convs) == len(ratios) == len(attention):
            raise ValueError(
                f"convs, ratios and attention must name the {len(widths) - 1} stages after the stem that widths has"
            )
        self.channels = list(widths[1:])
        self.multiple = 2 ** len(widths)
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.stem = nn.Sequential(
            conv_norm(3, widths[0], 3, stride=2), nn.ReLU6(), InvertedResidual(widths[0], widths[0], 3, 1, ratio=1)
        )
        self.convs, self.blocks = nn.ModuleList(), nn.ModuleList()
        for stage, width in enumerate(self.channels):
            kernel = KERNELS[stage % 2]
            before = [widths[stage]] + [width] * (convs[stage] - 1)
            self.convs.append(
                nn.Sequential(
                    *(
                        InvertedResidual(channels, width, kernel, 1 if i else 2, ratios[stage])
                        for i, channels in enumerate(before)
                    )
                )
            )
            rates = [drop_path * i / max(1, attention[stage] - 1) for i in range(attention[stage])]
            self.blocks.append(
                nn.ModuleList(AxialBlock(width, prior_dim, heads, key_dim, expansion, rate) for rate in rates)
            )

    def forward(self, image: Tensor, z: Tensor | None) -> list[Tensor]:
        """`image` (B, 3, H, W) RGB in [0, 1], `z` (B, 4C') -> [(B, channels[i], H / 2^(i+2), W / 2^(i+2)), ...]."""
        x = self.stem(self.normalise(image))
        maps = []
        for convs, blocks in zip(self.convs, self.blocks, strict=True):
            x = convs(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, z)
            maps.append(x)
        return maps
