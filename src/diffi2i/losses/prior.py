"""The objectives on the IPR: L_diff (Eq. 13), L_2 (Eq. 14) and L_kl (Eq. 15); the energy score."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PriorLoss = Literal["l1", "l2", "kl"]


def prior_loss(estimate: Tensor, z: Tensor, kind: PriorLoss) -> Tensor:
    """Distance of the estimated IPR from CPEN_S1's, averaged over the batch, in float32.

    Args:
        estimate: Z-hat (B, 4C').
        z: Z (B, 4C').
        kind: `l1` and `l2` average over the 4C' numbers; `kl` sums Z_norm log(Z_norm / Z-hat_norm) over them,
            both normalised by softmax.
    """
    estimate, z = estimate.float(), z.float()
    if kind == "l1":
        return F.l1_loss(estimate, z)
    if kind == "l2":
        return F.mse_loss(estimate, z)
    return F.kl_div(estimate.log_softmax(dim=1), z.log_softmax(dim=1), log_target=True, reduction="batchmean")


def energy_score(one: Tensor, other: Tensor, z: Tensor) -> Tensor:
    """The energy score of two draws of the IPR, averaged over the batch, in float32; not the paper's.

    (|one - z| + |other - z| - |one - other|) / 2 with Euclid's norm: its expectation is smallest where draws have the
    distribution of Z given the input (Gneiting and Raftery 2007, Sec. 4.2), where L1's is at that one's median.

    Args:
        one, other: Z-hat (B, 4C') from the same input and independent noise.
        z: Z (B, 4C').
    """
    one, other, z = one.float(), other.float(), z.float()
    return (F.pairwise_distance(one, z) + F.pairwise_distance(other, z) - F.pairwise_distance(one, other)).mean() / 2
