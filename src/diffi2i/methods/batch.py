"""The batch that every method gets, and what networks see of it.

`input` and `target` are images, RGB in [0, 1], (B, 3, H, W), the target larger by the task's scale; or the target is
classes, int64 (B, H, W), or depth in metres, (B, 1, H, W). `name` are the images' names. `mask` (1 = hole) comes with
inpainting, `valid` (1 = measured) with depth, `other` in validation: another image's batch, `context` in training with
`train.context`: the batch of larger crops of which this one is the centre.
"""

from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from diffi2i.models.fill import pull_push


class Batch(TypedDict):
    """One batch, or in `other` and `context` another of the same kind."""

    input: Tensor
    target: NotRequired[Tensor]
    name: list[str]
    mask: NotRequired[Tensor]
    valid: NotRequired[Tensor]
    other: "NotRequired[Batch]"
    context: "NotRequired[Batch]"


def network_input(batch: Batch, fill: str = "black") -> Tensor:
    """The input image with its mask, where there is one, as a fourth channel: (B, 3 or 4, H, W).

    With `fill` "smooth" the network starts from `pull_push` inside the hole, not from black.
    """
    image: Tensor = batch["input"]
    if "mask" in batch:
        known = pull_push(image, batch["mask"]) if fill == "smooth" else image
        image = torch.cat([known, batch["mask"]], dim=1)
    return image.contiguous(memory_format=torch.channels_last)
