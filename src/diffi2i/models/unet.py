"""The U-Net of diffusion models, from diffusers: as a denoiser, and without time as a plain network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffi2i.data.resize import enlarge
from diffi2i.models.depth import Zeros, check_depth
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
    """Predicts from a noised code, the time and a condition of the code's size. Args: see `unet` and `keep`.

    Raises:
        ValueError: see both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: list[int],
        layers: int,
        attention: list[bool],
        head_dim: int = 8,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        self.unet: Any = unet(in_channels, out_channels, widths, layers, attention, head_dim)
        self.multiple = 2 ** (len(widths) - 1)
        if depth is not None:
            self.keep(depth)

    @property
    def depth(self) -> int:
        """How many skips there are, each of which a residual block of the decoder takes; one more for the middle."""
        return self.skips + (not isinstance(self.unet.mid_block, Zeros))

    @property
    def skips(self) -> int:
        return sum(len(block.resnets) for block in self.unet.up_blocks)

    def keep(self, depth: int) -> None:
        """Removes what lies beyond the first `depth` skips, counted from the input; `self.depth` removes nothing.

        That are the encoder after the last of them, the middle, and the decoder's blocks that take the others, each
        with the enlargement that follows it. The decoder starts from zeros.

        Raises:
            ValueError: a depth that the network does not have.
        """
        check_depth(depth, self.depth)
        if depth == self.depth:
            return
        unet = self.unet
        for _ in range(self.skips - depth):
            down, up = unet.down_blocks[-1], unet.up_blocks[0]
            if down.downsamplers is not None:
                down.downsamplers = None
            else:
                drop(down, -1)
                if not down.resnets:
                    del unet.down_blocks[-1]
            drop(up, 0)
            if not up.resnets:
                del unet.up_blocks[0]
        skip = unet.down_blocks[-1].resnets[-1] if unet.down_blocks else unet.conv_in
        unet.mid_block = Zeros(unet.up_blocks[0].resnets[0].in_channels - skip.out_channels)

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
        embedded = embedding(unet, time)
        first = unet.conv_in(padded)
        _, skips = unet.down_blocks[0](first, embedded) if unet.down_blocks else (first, ())
        up = unet.up_blocks[-1]
        found = up(deep, (first, *skips)[: len(up.resnets)], embedded)
        return at_the_end(unet, found)[..., :height, :width].float()


def embedding(unet: Any, time: Tensor) -> Tensor:
    """What the blocks of diffusers' U-Net are told of the time, (B,) in steps of 1000."""
    found: Tensor = unet.time_embedding(unet.time_proj(time).to(unet.dtype))
    return found


def at_the_end(unet: Any, x: Tensor) -> Tensor:
    """The layers of diffusers' U-Net behind its last block."""
    found: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return found


def drop(block: Any, place: int) -> None:
    """Removes a residual block, and the attention behind it, where there is one, from a level."""
    del block.resnets[place]
    if hasattr(block, "attentions"):
        del block.attentions[place]


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
