"""A finished run, ready to restore: `diffi2i.load`, and what `diffi2i predict` is made of."""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffi2i.config.schema import TrainerConfig
from diffi2i.data.degrade import has_holes
from diffi2i.data.photos import Photo, of_picture
from diffi2i.data.resize import enlarge
from diffi2i.data.scenes import network_size
from diffi2i.errors import Note, UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.memory import free_memory, give_back, out_of_memory
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.methods.parts import bytes_per_pixel, can_stream, kept_bytes, moved, strips, tiles
from diffi2i.run.directory import load_method
from diffi2i.run.hardware import autocast_of, placed, uses_bf16
from diffi2i.run.hub import located

Tiling = Literal["exact", "local"]
Alpha = Literal["copy", "restore"]
MULTIPLE = 8
SMALLEST = 64
"""Pixels of a tile's side, or rows of a strip times eight, below which memory is wanting for good."""
LARGEST = 512
SHARE, KEPT = 0.4, 0.6
"""Of the free memory, what a whole image or a part of one may take, and what is kept of the whole beside its strips."""

Array = npt.NDArray[Any]


class Restorer:
    """Restores images of any size with a finished run.

    Args:
        method: with its weights.
        trainer: device and precision; by default a GPU where there is one, and bf16 where the hardware has it.
        tile: pixels of a part's side for images that are restored in parts; None leaves it to the free memory whether
            and how. When memory runs out parts are halved, and a note says so.
        tiling: `exact` gives what the whole image gives, for DI2Iformers; `local` predicts overlapping tiles by
            themselves, as other networks are in any case, and images of which `exact` would keep more than there is
            memory. The prior is that of the whole image in both.

    On the CPU `diffi2i.memory.keep_freed()`, called once before, saves up to half of the time; commands do so.

    Raises:
        UserError: a method that needs the ground truth.
    """

    def __init__(
        self, method: Method, trainer: TrainerConfig | None = None, tile: int | None = None, tiling: Tiling = "exact"
    ) -> None:
        if method.sees_target:
            name = method.config.method["name"]
            raise UserError(f"the run is of method={name}, which needs the ground truth: name a run of another")
        self.trainer = trainer or TrainerConfig()
        self.method = placed(method, self.trainer).eval()
        self.task = method.config.task
        self.tile, self.exact = tile, tiling == "exact" and can_stream(method)
        self.reckoned: float | None = None

    @overload
    def __call__(self, image: Image.Image, mask: Image.Image | None = None, *, seed: int = 0) -> Image.Image: ...
    @overload
    def __call__(self, image: Array, mask: Array | None = None, *, seed: int = 0) -> Array: ...
    @overload
    def __call__(self, image: Tensor, mask: Tensor | None = None, *, seed: int = 0) -> Tensor: ...
    def __call__(self, image: Any, mask: Any = None, *, seed: int = 0) -> Any:
        """The restored image, of the kind that was given.

        A PIL image gives one, with its alpha, profile and EXIF. Of an array (H, W, 3), uint8, uint16 or float in
        [0, 1], the type stays. A tensor is (3, H, W), or a batch (B, 3, H, W), float in [0, 1]. Labels and depth come
        as class numbers, int64, or metres, float32, (H, W); of a PIL image as one that holds what `diffi2i predict`
        writes.

        Inpainting needs the `mask`, of the same kind, (H, W) or (B, 1, H, W), above a half of its range in the hole.

        Raises:
            UserError: a mask that is missing, of another size or not asked for.
            ValueError: an array or tensor of another shape.
        """
        if isinstance(image, Image.Image):
            holes = None if mask is None else as_mask(np.asarray(mask.convert("L")) > 127)
            if not self.dense:
                return self.photo(of_picture(image), holes, seed).picture()
            colours = as_tensor(of_picture(image).colours)
            written = BytesIO()
            kind_of(self.task).save(self.prediction(colours, seed)[0], colours.shape[-2:], written)
            return Image.open(written)
        if isinstance(image, Tensor):
            images = (image if image.ndim == 4 else image[None]).float().cpu()
            if images.ndim != 4 or images.shape[1] != 3:
                raise ValueError(f"a tensor must be (3, H, W) or (B, 3, H, W), not {tuple(image.shape)}")
            holes = None if mask is None else (mask.reshape(-1, 1, *mask.shape[-2:]) > 0.5).float().cpu()
            masks = [None] * len(images) if holes is None else holes.split(1)
            found = torch.cat([self.tensor(one[None], hole, seed) for one, hole in zip(images, masks, strict=True)])
            return (found if image.ndim == 4 else found[0]).to(image.device)
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array must be (H, W, 3), not {image.shape}: give a PIL image for grey or alpha")
        holes = (
            None if mask is None else as_mask(mask > (0.5 if mask.dtype.kind == "f" else np.iinfo(mask.dtype).max // 2))
        )
        output = self.tensor(as_tensor(image), holes, seed)[0]
        if self.dense:
            return output.numpy()
        array = output.permute(1, 2, 0).numpy()
        return array.astype(image.dtype) if image.dtype.kind == "f" else as_levels(array, image.dtype)

    def tensor(self, image: Tensor, mask: Tensor | None, seed: int) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> the same, larger by the scale; of labels and depth (1, H, W)."""
        if not self.dense:
            return torch.cat(list(self.strips(image, mask, seed)), dim=-2)
        return kind_of(self.task).values(self.prediction(image, seed)[0], image.shape[-2:])[None]

    def photo(self, photo: Photo, mask: Tensor | None = None, seed: int = 0, alpha: Alpha = "copy") -> Photo:
        """The restored photo: as many bits, grey where it was, its profile and EXIF.

        Alpha is enlarged as it is, or restored as a grey picture is.
        """
        colours, own = self.pixels(photo.colours, mask, seed), photo.alpha
        if photo.grey:
            colours = np.repeat(grey(colours)[..., None], 3, axis=2)
        if own is not None and alpha == "restore" and mask is None:
            own = grey(self.pixels(np.repeat(own[..., None], 3, axis=2), None, seed))
        elif own is not None and self.task.scale > 1:
            larger = enlarge(as_tensor(own[..., None]), self.task.scale)
            own = as_levels(larger[0, 0].numpy(), own.dtype)
        return Photo(colours, own, photo.grey, photo.icc, photo.exif)

    def pixels(self, pixels: Array, mask: Tensor | None, seed: int, name: str | None = None) -> Array:
        """(H, W, 3) uint8 or uint16 -> the same, larger by the scale; never all of it as floats. `name` as `strips`."""
        height, width = (n * self.task.scale for n in pixels.shape[:2])
        out, top = np.empty((height, width, 3), pixels.dtype), 0
        for strip in self.strips(as_tensor(pixels), mask, seed, name):
            bottom = top + strip.shape[-2]
            out[top:bottom] = as_levels(strip[0].permute(1, 2, 0).numpy(), pixels.dtype)
            top = bottom
        return out

    @property
    def dense(self) -> bool:
        """Whether labels or depth come out."""
        return KINDS[self.task.kind].dense

    def prediction(self, image: Tensor, seed: int) -> Tensor:
        """Of labels and depth: logits (1, K, h, w) or depth (1, 1, h, w), seen at the size of the run's protocol."""
        scenes, kind = self.task.scenes, kind_of(self.task)
        seen = network_size(image.shape[-2:], scenes.input_scale, scenes.short_side, scenes.long_side)
        image = F.interpolate(image, seen, mode="bilinear", antialias=True, align_corners=False).to(self.method.device)
        batch: Batch = {"input": image, "name": [content(image)]}
        self.task.protocol.seed = seed
        with torch.inference_mode(), autocast_of(self.trainer):
            return kind.final(self.method.predict(batch, self.method.noise(batch)), batch)

    def strips(self, image: Tensor, mask: Tensor | None, seed: int, name: str | None = None) -> Iterator[Tensor]:
        """The restored image (1, 3, ., scale W) in [0, 1], float32 on the CPU, from the top down.

        Its noise is by its content, so that the same pixels give the same output, or by a `name` for several images.

        Raises:
            UserError: as `__call__`.
        """
        batch = self.batch(image, mask)
        batch["name"] = batch["name"] if name is None else [name]
        self.task.protocol.seed = seed
        scale, kind, done = self.task.scale, kind_of(self.task), 0
        for part in self.raw(batch):
            rows = slice(done // scale, (done + part.shape[-2]) // scale)
            done += part.shape[-2]
            yield kind.final(part, moved(batch, part.device, rows))

    def batch(self, image: Tensor, mask: Tensor | None) -> Batch:
        holes = has_holes(self.task)
        if mask is None and holes:
            raise UserError("inpainting needs the holes: give a mask, white = hole")
        if mask is None:
            return {"input": image, "name": [content(image)]}
        if not holes:
            raise UserError("the run is no inpainting: leave out the mask")
        if mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{each.shape[-1]}x{each.shape[-2]}" for each in (mask, image)]
            raise UserError(f"the mask is {sizes[0]}, the image {sizes[1]}: make them equal")
        hidden = image * (1 - mask)
        return {"input": hidden, "mask": mask, "name": [content(hidden, mask)]}

    def raw(self, batch: Batch) -> Iterator[Tensor]:
        """The prediction from the top down, whole or in parts, which are halved when memory runs out."""
        height, width = batch["input"].shape[-2:]
        side, begun = self.side(height, width), False
        while True:
            try:
                for part in self.parts(batch, side):
                    begun = True
                    yield part
                return
            except (MemoryError, RuntimeError) as error:
                side = (side or max(height, width)) // 2 // MULTIPLE * MULTIPLE
                if begun or side < SMALLEST or not out_of_memory(error):
                    raise
                warnings.warn(f"memory is wanting: restored in parts of {side} pixels", Note, stacklevel=2)

    def parts(self, batch: Batch, side: int | None) -> Iterator[Tensor]:
        """The prediction in parts of so many pixels a side, None for the whole; float32 on the CPU."""
        noise = self.method.noise(batch)
        if side is None:
            with torch.inference_mode(), autocast_of(self.trainer):
                whole = self.method.predict(moved(batch, self.method.device), noise).float().cpu()
            yield whole
            return
        rows = max(MULTIPLE, side * side // batch["input"].shape[-1])
        exact = self.exact and self.fits(batch["input"].shape[-2:].numel())
        found = strips(self.method, batch, noise, rows) if exact else tiles(self.method, batch, noise, side)
        while True:
            # Around each part alone: the caller goes on in between.
            with torch.inference_mode(), autocast_of(self.trainer):
                part = next(found, None)
            if part is None:
                give_back()
                return
            yield part

    def fits(self, pixels: int) -> bool:
        """Whether strips may keep what they need of an image of so many pixels; a note says where not.

        Asked beforehand: a system that runs out of memory ends the process, without an error to go on from.
        """
        kept = kept_bytes(self.method, pixels, 2 if uses_bf16(self.trainer) else 4)
        free = free_memory(torch.device("cpu"), kept / KEPT)
        if kept > KEPT * free:
            warnings.warn(
                f"tiling=exact keeps {kept / 2**30:.1f} GiB of features, {free / 2**30:.1f} GiB are free: restored as "
                "tiling=local does",
                Note,
                stacklevel=2,
            )
        return kept <= KEPT * free

    def side(self, height: int, width: int) -> int | None:
        """Pixels of a part's side; None for the whole image."""
        if self.tile is not None:
            return self.tile if max(height, width) > self.tile else None
        if self.reckoned is None:
            with torch.inference_mode(), autocast_of(self.trainer):
                self.reckoned = bytes_per_pixel(self.method)
        wanted = height * width * self.reckoned / SHARE
        most = SHARE * free_memory(self.method.device, wanted) / self.reckoned
        if height * width <= most:
            return None
        return max(SMALLEST, min(LARGEST, int(math.sqrt(most / 2)) // MULTIPLE * MULTIPLE))


def as_tensor(pixels: Array) -> Tensor:
    """(H, W, C), integers or floats in [0, 1] -> (1, C, H, W) float32 in [0, 1]."""
    levels = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32, order="C"))[None].div_(levels)


def as_levels(pixels: Array, dtype: Any) -> Array:
    """In [0, 1] -> integers of this type, rounded."""
    found: Array = np.rint(pixels.astype(np.float32) * np.iinfo(dtype).max).astype(dtype)
    return found


def as_mask(hole: Array) -> Tensor:
    """(H, W) or (H, W, 1) -> (1, 1, H, W) float32."""
    return torch.from_numpy(hole.astype(np.float32)).reshape(1, 1, *hole.shape[:2])


def grey(colours: Array) -> Array:
    """(H, W, 3) -> their mean, (H, W), of the same type."""
    found: Array = np.rint(colours.mean(axis=2, dtype=np.float64)).astype(colours.dtype)
    return found


def content(*tensors: Tensor) -> str:
    """A name for what the tensors hold."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def load(
    run: str | Path,
    *,
    trainer: TrainerConfig | None = None,
    tile: int | None = None,
    tiling: Tiling = "exact",
    set: Sequence[str] = (),
    trust: Sequence[str] = (),
) -> Restorer:
    """The restorer of a run directory, or of `hf:<user>/<name>` on the Hugging Face hub.

    `set` and `trust` are `diffi2i eval`'s, for the rest see `Restorer`.

    Raises:
        UserError: no finished run, one that needs the ground truth, or a hub that does not answer.
    """
    return Restorer(load_method(located(str(run)), set, trust), trainer, tile, tiling)
