"""The U-Net of diffusion models, from diffusers: as a denoiser, and without time as a plain network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffi2i.data.resize import enlarge
from diffi2i.models.padding import pad_to_multiple

GROUPS = 32  # of the group norms, where as many fit


def unet(
    in_channels: int, out_channels: int, widths: list[int], layers: int, attention: list[bool], head_dim: int
) -> Any:
    """diffusers' U-Net of Ho et al. (2020), for images of any size that the levels divide.

    Args:
        widths: channels per level, from the finest to the coarsest.
        layers: residual blocks per level.
        attention: per level, whether pixels attend to each other; the last one holds for the middle too.
        head_dim: channels of an attention head.

    Raises:
        ValueError: as many levels as `widths` are not named in `attention`, or widths without a common group.
    """
    if len(attention) != len(widths):
        raise ValueError(f"attention={list(attention)} and widths={list(widths)} must name as many levels")
    groups = next(n for n in range(min(GROUPS, *widths), 0, -1) if all(width % n == 0 for width in widths))
    return UNet2DModel(  # type: ignore[no-untyped-call]
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attention),
        up_block_types=tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)),
        add_attention=attention[-1],
        attention_head_dim=head_dim,
        norm_num_groups=groups,
    )


class DenoisingUNet(nn.Module):
    """Predicts from a noised code, the time and a condition of the code's size. Args: see `unet`.

    Raises:
        ValueError: see `unet`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: list[int],
        layers: int,
        attention: list[bool],
        head_dim: int = 8,
    ) -> None:
        super().__init__()
        self.unet: Any = unet(in_channels, out_channels, widths, layers, attention, head_dim)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`x` (B, in_channels, H, W), `time` (B,) in (0, 1] -> (B, out_channels, H, W), float32."""
        height, width = x.shape[-2:]
        found = self.unet(*self.prepared(x, time)).sample
        return found[..., :height, :width].float()  # type: ignore[no-any-return]

    def prepared(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What `unet` takes: sides that its levels divide, and the time in steps of 1000, as its embedding has it."""
        # Two pixels at the coarsest level, since group norms refuse a single one.
        multiple = self.multiple if max(x.shape[-2:]) > self.multiple else 2 * self.multiple
        return pad_to_multiple(x, multiple), 1000 * time


class OutermostLevel(nn.Module):
    """The finest level of a `DenoisingUNet` of two or more, which has its weights: the rest is given."""

    def __init__(self, whole: DenoisingUNet) -> None:
        super().__init__()
        self.whole = (whole,)  # no submodule: the weights count once

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Holds, after a run of the whole network, what its deeper levels have given to the finest one."""
        deep: list[Tensor] = []

        def keep(_: nn.Module, arguments: Any, named: Any) -> None:
            deep[:] = [named["hidden_states"] if "hidden_states" in named else arguments[0]]

        handle = self.whole[0].unet.up_blocks[-1].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield deep
        finally:
            handle.remove()

    def forward(self, x: Tensor, time: Tensor, deep: Tensor) -> Tensor:
        """As the whole network's, with the deeper levels' output, (B, C, H, W) of the padded size."""
        whole, (height, width) = self.whole[0], x.shape[-2:]
        unet, (padded, time) = whole.unet, whole.prepared(x, time)
        embedded = unet.time_embedding(unet.time_proj(time).to(unet.dtype))
        first = unet.conv_in(padded)
        _, skips = unet.down_blocks[0](first, embedded)
        up = unet.up_blocks[-1]
        found = up(deep, (first, *skips)[: len(up.resnets)], embedded)
        found = unet.conv_out(unet.conv_act(unet.conv_norm_out(found)))
        return found[..., :height, :width].float()  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Maps an image to one `scale` times as large, as the difference from the enlarged input. Args: see `unet`.

    Raises:
        ValueError: see `unet`.
    """

    def __init__(
        self, in_channels: int, scale: int, widths: list[int], layers: int, attention: list[bool], head_dim: int = 8
    ) -> None:
        super().__init__()
        self.scale = scale
        self.denoiser = DenoisingUNet(in_channels, 3 * scale**2, widths, layers, attention, head_dim)
        # There is no time: its embedding would be a constant, which the first bias holds already.
        self.denoiser.unet.time_embedding.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """`image` (B, in_channels, H, W) -> (B, 3, scale H, scale W), float32."""
        found = self.denoiser(image, torch.zeros(len(image), device=image.device))
        return F.pixel_shuffle(found, self.scale) + enlarge(image[:, :3].float(), self.scale)
