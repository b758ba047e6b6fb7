"""The denoising network eps_theta(Concat(Z_t, t, D)) of Algs. 1 and 2: a few linear layers on a vector."""

import torch
from torch import Tensor, nn

from diffi2i.models.cpen import keep_variance


class Denoiser(nn.Module):
    """Predicts the noise, or Z_0 itself, from the noised IPR, the time and the condition D.

    Args:
        dim: 4C', the size of the IPR and of D.
        layers: number of hidden layers of width `dim` after the first.
        leaky_end: a LeakyReLU also after the last layer, as in DiffIR, which predicts Z_0 and ends Z so too.
    """

    def __init__(self, dim: int, layers: int, leaky_end: bool = False) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Linear(2 * dim + 1, dim), nn.LeakyReLU(0.1)]
        for _ in range(layers):
            stack += [nn.Linear(dim, dim), nn.LeakyReLU(0.1)]
        # The noise is symmetric about zero, so by default the last layer stays linear.
        last = nn.Linear(dim, dim)
        self.layers = nn.Sequential(*stack, last, *([nn.LeakyReLU(0.1)] if leaky_end else []))
        self.apply(keep_variance)
        # Training starts at Z-hat = 0 in the x0 form, near the Z that the network has learnt from, and not at any Z.
        nn.init.zeros_(last.weight)

    def forward(self, z_t: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """`z_t` (B, 4C'), `time` (B,) in (0, 1], `condition` D (B, 4C') -> (B, 4C')."""
        prediction: Tensor = self.layers(torch.cat([z_t, time[:, None], condition], dim=1))
        return prediction
