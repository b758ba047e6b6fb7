"""A smooth fill of masked pixels by the pull-push pyramid (Gortler et al. 1996, "The Lumigraph", Sec. 3.5)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.models.padding import pad_to_multiple


def pull_push(image: Tensor, mask: Tensor) -> Tensor:
    """`image` (B, C, H, W) with its hole filled by averages of the known pixels nearby; differentiable, no weights.

    Inpainting's first guess with `task.fill=smooth`. Pull: each coarser level averages the known pixels of four. Push:
    where a level knows nothing, it takes the coarser level's value, bilinearly enlarged; where it knows a part, a
    mixture.

    Args:
        image: values of known pixels; what it holds inside the hole is not looked at.
        mask: (B, 1, H, W), 1 = hole. An image that is all hole is filled with 0.
    """
    height, width = image.shape[-2:]
    if min(height, width) == 1 and max(height, width) == 1:
        return image * (1 - mask)
    known = pad_to_multiple(1 - mask, 2)
    weighted = pad_to_multiple(image * (1 - mask), 2)
    share = F.avg_pool2d(known, 2)
    coarse = F.avg_pool2d(weighted, 2) / share.clamp(min=1e-6)
    coarse = pull_push(coarse, 1 - (share > 0).to(share))
    smooth = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(mask > 0, smooth, image)
