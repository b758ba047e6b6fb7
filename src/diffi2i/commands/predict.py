"""`diffi2i predict`: restores a folder of images with a finished run."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track

from diffi2i.config.commands import PredictConfig
from diffi2i.data.degrade import has_holes
from diffi2i.data.images import IMAGE_SUFFIXES, read_image, read_mask, read_size, require_equal_sizes
from diffi2i.data.scenes import network_size
from diffi2i.data.sources import images_by_name, item_name
from diffi2i.errors import Note, UserError
from diffi2i.files import inside, whole
from diffi2i.kinds.kind import kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.run.directory import load_method
from diffi2i.run.hardware import autocast_of, device_of, out_of_memory


def predict(config: PredictConfig) -> Path:
    """Writes `<output>/<name>.png` for each image, or `output` itself where that names the PNG file of a single one.

    Each is written whole or not at all. Files that cannot be restored are named at the end, a line each: the last as
    the error, the others as notes.

    Raises:
        UserError: no such input, a method that needs the ground truth, a missing mask, an output that would replace
            any of these files, or such a file.
    """
    method = load_method(Path(config.run), config.set, config.trust)
    if method.sees_target:
        name = method.config.method["name"]
        raise UserError(f"run={config.run} is of method={name}, which needs the ground truth: name a run of another")
    files = images_at(Path(config.input))
    masks = masks_for(files, config, needed=has_holes(method.config.task))
    targets = targets_for(files, [*files.values(), *masks.values()], config)
    method = method.to(device_of(config.trainer)).eval()
    method.config.task.protocol.seed = config.seed

    output, refused = Path(config.output), list[str]()
    for name, file in track(files.items(), description="restoring"):
        try:
            restore(method, name, file, masks.get(name), config, targets[name])
        except UserError as error:
            refused.append(str(error))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            refused.append(too_large(file))
    print(f"{len(files) - len(refused)} of {len(files)} images restored into {output}")
    for line in refused[:-1]:
        warnings.warn(line, Note, stacklevel=1)
    if refused:
        raise UserError(refused[-1])
    return output


def too_large(file: Path) -> str:
    height, width = read_size(file)
    return f"{file}: {width}x{height}, for which memory is wanting; cut it into smaller images, or free some memory"


def restore(method: Method, name: str, file: Path, mask_file: Path | None, config: PredictConfig, target: Path) -> None:
    task, image = method.config.task, read_image(file).to(method.device)
    kind, size = kind_of(task), image.shape[-2:]
    if KINDS[task.kind].dense:
        scenes = task.scenes
        seen = network_size(size, scenes.input_scale, scenes.short_side, scenes.long_side)
        image = F.interpolate(image, seen, mode="bilinear", antialias=True, align_corners=False)
    batch: Batch = {"input": image, "name": [name]}
    if mask_file is not None:
        mask = read_mask(mask_file).to(method.device)
        require_equal_sizes(mask_file, mask, f"image {file}", image)
        batch |= {"mask": mask, "input": image * (1 - mask)}
    with torch.inference_mode(), autocast_of(config.trainer):
        output = kind.final(method.predict(batch, method.noise(batch)), batch)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole(target) as place:
        kind.save(output[0], size, place)


def images_at(path: Path) -> dict[str, Path]:
    """The images of a folder, or one file, by name. Raises `UserError` as `images_by_name` does."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    return {item_name(path.name, path.parent): path} if path.is_file() else images_by_name(path)


def targets_for(files: dict[str, Path], read: Sequence[Path], config: PredictConfig) -> dict[str, Path]:
    """The file to write for each image.

    Raises:
        UserError: `output` is no folder, or the input's; or a target leads out of it, or would replace a file that is
            `read` or one beside the input.
    """
    source, output = Path(config.input), Path(config.output)
    named = source.is_file() and output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
    if named and output.suffix.lower() != ".png":
        raise UserError(f"output={output}: pictures are written as PNG: write output={output.with_suffix('.png')}")
    folder = output.parent if named else output
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise UserError(f"output={output} is no folder: name another")
    if folder.resolve() == source.resolve():
        raise UserError(f"output={output} is the folder of the input, whose pictures would be replaced: name another")
    targets = {name: inside(folder, output.name if named else f"{name}.png") for name in files}
    kept = {(state.st_dev, state.st_ino): file for file in read for state in [file.stat()]}
    for target in (target for target in targets.values() if target.exists()):
        state = target.stat()
        beside = not named and folder.resolve() == source.parent.resolve()
        if (file := kept.get((state.st_dev, state.st_ino))) or beside or target.is_dir():
            raise UserError(f"output={output} would replace {file or target}: name another output")
    return targets


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
