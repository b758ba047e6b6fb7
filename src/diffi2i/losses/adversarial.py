"""The adversarial schemes: LaMa's for inpainting, Real-ESRGAN's for super-resolution, and the hinge.

All have the same face. `generator_terms` gives what the network minimises, with a gradient to `output` and none to
the discriminator; `discriminator_terms` what the discriminator minimises, with none to `output`. The caller sums the
terms and steps the two optimisers, the discriminator's at `lr_factor` times the generator's rate.

With p = sigmoid(logit) the probability of being real, softplus(-logit) = -log p and softplus(logit) = -log(1 - p).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class LamaAdversary(nn.Module):
    """Non-saturating loss with R1 and feature matching, as LaMa trains (`losses` of big-lama and lama-fourier).

    The discriminator sees the output as it is, not pasted into the known region, and is taught that the fake's
    known region is real (`mask_as_fake_target`).

    Args:
        discriminator: (B, 3, H, W) -> logits (B, 1, h, w) and a list of features, say a `PatchDiscriminator`.
        weight: of the generator's adversarial term; the discriminator's own terms have weight 1.
        gradient_penalty: LaMa's `gp_coef`, times |grad_x sum_patches D(x)|^2 (there is no 1/2).
        feature_matching: weight of the mean over the features of their mean squared differences.
        lr_factor: DiffIR's 1e-4 over 2e-4 (LaMa itself: 1e-4 over 1e-3).
    """

    def __init__(
        self,
        discriminator: nn.Module,
        weight: float = 10,
        gradient_penalty: float = 0.001,
        feature_matching: float = 100,
        lr_factor: float = 0.5,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.weight = weight
        self.gradient_penalty = gradient_penalty
        self.feature_matching = feature_matching
        self.lr_factor = lr_factor

    def generator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`adversarial` and `feature_matching`, weighted scalars; `output` (B, 3, H, W)."""
        with torch.no_grad():
            _, real_features = _held(self.discriminator, batch["target"])
        fake, fake_features = _held(self.discriminator, output)
        matching = [
            F.mse_loss(ours.float(), real.float()) for ours, real in zip(fake_features, real_features, strict=True)
        ]
        return {
            "adversarial": self.weight * F.softplus(-fake.float()).mean(),
            "feature_matching": self.feature_matching * torch.stack(matching).mean(),
        }

    def discriminator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`d_real`, `d_fake` and `d_r1`, scalars; needs `batch["mask"]` (B, 1, H, W), 1 = hole."""
        image = batch["target"].detach().float().requires_grad_()
        # Squared gradients leave bfloat16's precision soon: the pass that R1 differentiates twice stays in float32.
        with torch.autocast(image.device.type, enabled=False):
            real, _ = self.discriminator(image)
        (slope,) = torch.autograd.grad(real.sum(), image, create_graph=True)
        fake, _ = self.discriminator(output.detach().float())
        fake = fake.float()
        hole = F.interpolate(batch["mask"].float(), size=fake.shape[-2:], mode="nearest")
        return {
            "d_real": F.softplus(-real).mean(),
            "d_fake": (hole * F.softplus(fake) + (1 - hole) * F.softplus(-fake)).mean(),
            "d_r1": self.gradient_penalty * slope.flatten(1).square().sum(1).mean(),
        }


class RealESRGANAdversary(nn.Module):
    """The plain GAN loss, cross-entropy on every logit, as Real-ESRGAN trains (x4plus), on the true target.

    Args:
        discriminator: (B, 3, H, W) -> logits (B, 1, H, W) and features, say a `UNetDiscriminator`.
        weight: of the generator's term; 0.1 is Real-ESRGAN's (DiffIR's configurations have 1).
        lr_factor: 1 is Real-ESRGAN's, 1e-4 both (DiffIR's bicubic SR: 0.5).
    """

    def __init__(self, discriminator: nn.Module, weight: float = 0.1, lr_factor: float = 1.0) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.weight = weight
        self.lr_factor = lr_factor

    def generator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`adversarial`, a weighted scalar; `output` (B, 3, H, W)."""
        fake, _ = _held(self.discriminator, output)
        return {"adversarial": self.weight * F.softplus(-fake.float()).mean()}

    def discriminator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`d_real` and `d_fake`, scalars, each a mean over all logits (their sum is not halved)."""
        real, _ = self.discriminator(batch["target"])
        fake, _ = self.discriminator(output.detach().float())
        return {"d_real": F.softplus(-real.float()).mean(), "d_fake": F.softplus(fake.float()).mean()}


class HingeAdversary(RealESRGANAdversary):
    """The hinge loss (Lim and Ye 2017), a mean over all logits. Args: see `RealESRGANAdversary`."""

    def generator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`adversarial`, a weighted scalar; `output` (B, 3, H, W)."""
        fake, _ = _held(self.discriminator, output)
        return {"adversarial": -self.weight * fake.float().mean()}

    def discriminator_terms(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`d_real` and `d_fake`, scalars: what logits lack to 1 on the target and exceed -1 by on the output."""
        real, _ = self.discriminator(batch["target"])
        fake, _ = self.discriminator(output.detach().float())
        return {"d_real": F.relu(1 - real.float()).mean(), "d_fake": F.relu(1 + fake.float()).mean()}


Adversary = LamaAdversary | RealESRGANAdversary


def _held(discriminator: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The discriminator's answer with its parameters held constant: gradients reach the image alone.

    Detached parameters also keep autocast from remembering bfloat16 copies without a gradient, which a discriminator
    pass in the same autocast region would take for its own.
    """
    constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    answer: tuple[Tensor, list[Tensor]] = functional_call(discriminator, constants, (image.float(),))
    return answer
