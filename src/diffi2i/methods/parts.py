"""Predictions of images that are too large for the memory, in parts: strips of the whole, or tiles by themselves.

Both give strips of the output from the top down, so that it need never be there as a whole.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from diffi2i.data.degrade import has_holes
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.metrics.cost import watching
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.streaming import streamed

OVERLAP = 32
"""By how many pixels of the input tiles lie over each other."""
PADDED = 64
"""By how much codes may be longer than an image's side over their factor."""
LIVE = 6
"""A guess, on the careful side: so many tensors as large as a network's largest are there at a time."""


def bytes_per_pixel(method: Method, side: int = 64) -> float:
    """Memory that a prediction takes for each pixel of its input, reckoned from a small one."""
    image = torch.zeros(1, 3, side, side, device=method.device)
    largest = image.nelement() * image.element_size()

    def watch(_: nn.Module, __: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nelement() * output.element_size())

    handles = [each.register_forward_hook(watch) for each in method.modules()]
    try:
        batch: Batch = {"input": image, "name": [""]}
        if has_holes(method.config.task):
            batch["mask"] = image[:, :1]
        with watching(method.parts(), 1):  # a sampler's other passes cost as much memory as its first
            method.predict(batch, method.noise(batch))
    finally:
        for handle in handles:
            handle.remove()
    return LIVE * largest / side**2


def can_stream(method: Method) -> bool:
    """Whether `strips` can be had: the network is a DI2Iformer that averages over the whole image."""
    network = getattr(method, "network", None)
    windows = network is not None and any(getattr(layer, "window", None) for layer in network.modules())
    return isinstance(network, DI2Iformer) and not windows


def kept_bytes(method: Method, pixels: int, of_number: int) -> int:
    """Host memory of the maps that `strips` keeps of an image of so many pixels: the finest level's and its skip's."""
    network = method.network
    assert isinstance(network, DI2Iformer)
    embed = network.embed
    assert isinstance(embed, nn.Conv2d)
    return 2 * of_number * embed.out_channels * pixels


def strips(method: Method, batch: Batch, noise: Noise, rows: int) -> Iterator[Tensor]:
    """Those of the whole image's prediction, `rows` of the input each; see `models.streaming`.

    The batch may lie on the CPU while the method lies on a GPU, which then sees a strip at a time, but for the prior's
    network, which sees the whole image.
    """
    guided = method.guided(moved(batch, method.device), noise)
    assert guided is not None
    assert isinstance(guided.network, DI2Iformer)
    yield from streamed(guided.network, guided.image.cpu(), guided.z, rows, method.device)


def tiles(method: Method, batch: Batch, noise: Noise, side: int, overlap: int = OVERLAP) -> Iterator[Tensor]:
    """Overlapping tiles of `side` pixels of the input, each predicted by itself, blended linearly, on the CPU.

    A compact prior is that of the whole image; what else looks at all of an image, as a pooled mean does, sees a tile.
    Noise of an image's shape is that of the whole image at the tile's place.
    """
    image, scale = batch["input"], method.config.task.scale
    height, width = image.shape[-2:]
    overlap = min(overlap, side // 4)
    guided = method.guided(moved(batch, method.device), noise)
    rows, columns = starts(height, side, overlap), starts(width, side, overlap)
    down, across = weights(rows, height, side, scale), weights(columns, width, side, scale)
    band = torch.zeros(1, 3, 0, width * scale)
    for i, top in enumerate(rows):
        bottom = min(top + side, height)
        row = torch.zeros(1, 3, (bottom - top) * scale, width * scale)
        for j, left in enumerate(columns):
            right = min(left + side, width)
            if guided is not None:
                part = guided._replace(image=guided.image[..., top:bottom, left:right]).output()
            else:
                tile = moved(batch, method.device, slice(top, bottom), slice(left, right))
                part = method.predict(tile, at_place(noise, (top, left), bottom - top, (height, width)))
            row[..., left * scale : right * scale] += part.float().cpu() * across[j]
        row *= down[i][:, None]
        row[..., : band.shape[-2], :] += band
        ready = ((rows[i + 1] if i + 1 < len(rows) else height) - top) * scale
        yield row[..., :ready, :]
        band = row[..., ready:, :].clone()


def moved(batch: Batch, device: torch.device, rows: slice = slice(None), columns: slice = slice(None)) -> Batch:
    """The image and its mask, or a part of them, on the device."""
    found: Batch = {"input": batch["input"][..., rows, columns].to(device), "name": batch["name"]}
    if "mask" in batch:
        found["mask"] = batch["mask"][..., rows, columns].to(device)
    return found


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a length evenly, each lying over the next by `overlap` or more."""
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def weights(begins: Sequence[int], length: int, side: int, scale: int) -> list[Tensor]:
    """How much each tile counts at each of its output pixels: by its distance to the tile's ends, summing to 1.

    The image's own ends are no ends: there a tile counts as much as it can.
    """
    total, found = torch.zeros(length * scale), []
    for begin in begins:
        end = min(begin + side, length)
        place = (torch.arange(begin * scale, end * scale) + 0.5) / scale
        before = place - begin if begin > 0 else torch.full_like(place, side)
        after = end - place if end < length else torch.full_like(place, side)
        found.append(torch.minimum(before, after))
        total[begin * scale : end * scale] += found[-1]
    return [
        weight / total[begin * scale : begin * scale + len(weight)] for begin, weight in zip(begins, found, strict=True)
    ]


def at_place(noise: Noise, corner: tuple[int, int], height: int, whole: tuple[int, int]) -> Noise:
    """The noise of a tile: of an image's shape, as (C, H, W), that of the whole image, else the image's own."""

    def draw(shape: Sequence[int], what: str = "") -> Tensor:
        if len(shape) != 3:
            return noise(shape, what)
        factor = max(1, round(height / shape[-2]))  # codes are smaller than the image
        top, left = (n // factor for n in corner)
        field = noise((shape[0], *(n // factor + PADDED for n in whole)), what)
        return field[..., top : top + shape[1], left : left + shape[2]]

    return draw
