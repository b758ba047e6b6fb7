"""`diffi2i predict`: restores a folder of images with a finished run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor

from diffi2i.callbacks.colours import colour_labels
from diffi2i.callbacks.panels import as_picture
from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.data.scenes import network_size
from diffi2i.data.sources import images_by_name
from diffi2i.errors import UserError
from diffi2i.methods.batch import with_known_pixels
from diffi2i.methods.method import Method
from diffi2i.runs import load_method
from diffi2i.runtime import autocast_of, device_of
from diffi2i.schema import PredictConfig


def predict(config: PredictConfig) -> Path:
    """Writes `<output>/<name>.png` for each image; files that cannot be read are named at the end.

    Raises:
        UserError: no such input, a method that needs the ground truth, a missing mask, or broken files.
    """
    method = load_method(Path(config.run))
    if method.sees_target:
        name = method.config.method["name"]
        raise UserError(f"run={config.run} is of method={name}, which needs the ground truth: name a run of another")
    files = images_at(Path(config.input))
    masks = masks_for(files, config, needed=method.config.task.name == "inpainting")
    method = method.to(device_of(config.trainer)).eval()
    method.config.task.protocol.seed = config.seed

    output, broken = Path(config.output), []
    output.mkdir(parents=True, exist_ok=True)
    for name, file in track(files.items(), description="restoring"):
        try:
            restore(method, name, file, masks.get(name), config, output / f"{name}.png")
        except UserError as error:
            broken.append(str(error))
    print(f"{len(files) - len(broken)} of {len(files)} images restored into {output}")
    if broken:
        raise UserError("; ".join(broken))
    return output


def restore(method: Method, name: str, file: Path, mask_file: Path | None, config: PredictConfig, target: Path) -> None:
    image = to_tensor(read_rgb(file))[None].to(method.device)
    size = image.shape[-2:]
    if method.config.task.kind != "image":
        scenes = method.config.task.scenes
        seen = network_size(size, scenes.input_scale, scenes.short_side, scenes.long_side)
        image = F.interpolate(image, seen, mode="bilinear", antialias=True, align_corners=False)
    batch = {"input": image, "name": [name]}
    if mask_file is not None:
        mask = (to_tensor(read_rgb(mask_file))[None, :1].to(method.device) > 0.5).float()
        if mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{shape[-1]}x{shape[-2]}" for shape in (mask.shape, image.shape)]
            raise UserError(f"{mask_file} is {sizes[0]}, its image {file} is {sizes[1]}: make them equal")
        batch |= {"mask": mask, "input": image * (1 - mask)}
    with torch.inference_mode(), autocast_of(config.trainer):
        output = with_known_pixels(method.predict(batch, method.noise(batch)), batch)
    target.parent.mkdir(parents=True, exist_ok=True)
    save(output[0], method.config.task.kind, size, target)


def save(output: Tensor, kind: str, size: Sequence[int], file: Path) -> None:
    """Writes an 8-bit RGB picture; class numbers as a palette PNG; or depth as 16-bit millimetres."""
    if kind == "image":
        as_picture(output).save(file)
        return
    output = F.interpolate(output[None].float(), tuple(size), mode="bilinear", align_corners=False)[0].cpu()
    if kind == "labels":
        labels = Image.fromarray(output.argmax(0).byte().numpy(), mode="P")
        palette = colour_labels(torch.arange(256)[None])[:, 0]  # (3, 256)
        labels.putpalette((palette.T * 255).round().byte().flatten().tolist())
        labels.save(file)
    else:
        Image.fromarray((1000 * output[0]).round().clamp(0, 65534).numpy().astype(np.uint16)).save(file)


def images_at(path: Path) -> dict[str, Path]:
    """The images of a folder, or one file, by name. Raises `UserError` as `images_by_name` does."""
    return {path.stem: path} if path.is_file() else images_by_name(path)


def masks_for(files: dict[str, Path], config: PredictConfig, needed: bool) -> dict[str, Path]:
    """The mask of each image. Raises `UserError` where one is missing, or given to a task without holes."""
    if config.mask is None:
        if needed:
            raise UserError("inpainting needs the holes: write mask=<image or folder>, white = hole")
        return {}
    if not needed:
        raise UserError(f"run={config.run} is not an inpainting run: leave out mask")
    masks = images_at(Path(config.mask))
    if len(files) == 1 and len(masks) == 1:
        return dict(zip(files, masks.values(), strict=True))
    if missing := [name for name in files if name not in masks]:
        raise UserError(f"{config.mask} has no mask for {', '.join(missing[:3])}: give it the image's name")
    return masks
