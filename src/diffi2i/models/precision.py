"""Numbers that must not be halves."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """What autocast made a half, as float32 again; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
