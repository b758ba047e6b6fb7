"""Random pictures to give to a network, and a network's weights: at random, and as arrays."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from tests import reference as ref

Module = TypeVar("Module", bound=nn.Module)


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures64(*shape: int, seed: int = 0) -> Tensor:
    return pictures(*shape, seed=seed, dtype=torch.float64)


def randomise(module: Module, seed: int = 0) -> Module:
    """Every parameter and running statistic at random, so that none stays neutral as a norm's ones are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5, generator=generator)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5, generator=generator)
    return module


def arrays(module: nn.Module) -> ref.Weights:
    return {name: value.numpy() for name, value in module.state_dict().items()}
