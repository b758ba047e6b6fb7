"""Gradient checkpointing: the same bits from less memory."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffi2i.errors import UserError
from diffi2i.methods.build import check
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.dirformer import DIRformer
from diffi2i.models.nafnet import NAFNet
from diffi2i.models.recompute import recompute_blocks
from diffi2i.models.rrdb import RRDBNet
from diffi2i.models.unet import UNet
from tests.conftest import Make, awake

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DI2Iformer": lambda: DI2Iformer(3, 8, [2, 1, 1, 2], 1, 1.0, "pointwise", 1, prior_dim=8),
    "DIRformer": lambda: DIRformer(
        3, 8, blocks=[2, 1, 1, 2], refinement=1, heads=[1, 1, 2, 2], expansion=2.0, norm_bias=True, scale=1, prior_dim=8
    ),
    "NAFNet": lambda: NAFNet(3, 8, [2, 1], 1, [1, 1], 1),
    "RRDBNet": lambda: RRDBNet(3, 8, 2, 4, 1),
    "UNet": lambda: UNet(3, 1, [8, 8], 2, [False, False]),
}


def learnt(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], int]:
    """The output and all gradients of a step, and how many bytes were kept for them."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(*inputs)
    before = sum(kept.values())
    output.square().mean().backward()
    return [output, *(weight.grad for weight in network.parameters() if weight.grad is not None)], before


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_the_same_and_less_is_kept(name: str) -> None:
    torch.manual_seed(0)
    plain = awake(NETWORKS[name]()).train()
    saving = deepcopy(plain)
    assert recompute_blocks(saving) > 0
    saving = deepcopy(saving)  # as the moving average does
    prior = (torch.randn(2, 8),) if name.startswith("DI") else ()
    inputs: Any = (torch.rand(2, 3, 32, 32), *prior)
    (one, kept), (two, less) = learnt(plain, inputs), learnt(saving, inputs)
    assert len(one) > 10
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, two, strict=True))
    assert less < 0.6 * kept
    assert list(saving.state_dict()) == list(plain.state_dict())


def test_a_network_without_blocks_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="no blocks to compute twice"):
        check(make("dense", "task=depth", "trainer.gradient_checkpointing=true"))
