"""Gradient checkpointing (Chen et al. 2016): what blocks compute is forgotten and computed again when gradients ask."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from diffi2i.models.di2iformer import DynamicBlock
from diffi2i.models.dirformer import Block
from diffi2i.models.nafnet import NAFBlock
from diffi2i.models.rrdb import RRDB

BLOCKS = (DynamicBlock, Block, NAFBlock, RRDB)
"""None has a batch normalisation, whose running statistics would count each image twice."""


def recompute_blocks(module: nn.Module) -> int:
    """Lets all blocks inside keep their inputs alone in a training. Returns how many there are.

    Outputs and gradients stay the same in every bit, where the device computes the same again.
    """
    blocks: list[Any] = [block for block in module.modules() if isinstance(block, BLOCKS)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    networks: list[Any] = [each for each in module.modules() if hasattr(each, "enable_gradient_checkpointing")]
    for network in networks:  # of diffusers
        network.enable_gradient_checkpointing()
    return len(blocks) + len(networks)
