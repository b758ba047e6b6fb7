"""`diffi2i predict`: restores photos with a finished run."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import track

from diffi2i.commands.video import is_film, restore_film
from diffi2i.config.commands import PredictConfig
from diffi2i.data.degrade import has_holes
from diffi2i.data.given import images_at, masks_at
from diffi2i.data.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, read_image, read_mask, read_size, require_equal_sizes
from diffi2i.data.manifest import file_hash
from diffi2i.data.outputs import check_facts, done, targets_for
from diffi2i.data.photos import FORMATS, SUFFIXES, Format, read_photo, write_photo
from diffi2i.errors import Note, UserError
from diffi2i.files import whole
from diffi2i.kinds.kind import kind_of
from diffi2i.memory import out_of_memory
from diffi2i.restorer import Alpha, Restorer, Tiling, as_mask, load
from diffi2i.run.directory import WEIGHTS
from diffi2i.run.hardware import prepare
from diffi2i.run.hub import located


def predict(config: PredictConfig) -> Path:
    """Writes `<output>/<name>` for each image, or `output` itself where that names the file of a single one.

    Each is written whole or not at all, and passed over where it is there and not older than what it is made of. Files
    that cannot be restored are named at the end, a line each: the last as the error, the others as notes.

    Raises:
        UserError: no such input, a method that needs the ground truth, a missing mask, an output that would replace
            any of these files or is of other settings, or such a file.
    """
    prepare(config.trainer)
    run = located(config.run)
    restorer = load(
        run, trainer=config.trainer, tile=config.tile, tiling=cast(Tiling, config.tiling), set=config.set,
        trust=config.trust,
    )  # fmt: skip
    if is_film(config.input):
        target = Path(config.output)
        if target.exists() and not config.overwrite:
            raise UserError(f"output={target} is there already: name another, or write overwrite=true")
        restore_film(restorer, Path(config.input), Path(config.mask) if config.mask else None, target, config.seed)
        print(f"{config.input} restored into {target}")
        return target
    files = images_at(config.input)
    masks = masks_for(files, config, needed=has_holes(restorer.task))
    form = format_of(config, restorer)
    names = {name: f"{name}{SUFFIXES[form]}" for name in files}
    read, output = [*files.values(), *masks.values()], Path(config.output)
    targets = targets_for(names, Path(config.input), read, output, named(config))
    mine = share(sorted(files), config.shard)
    if not named(config):
        check_facts(output, facts(config, run / WEIGHTS), [targets[name] for name in mine], config.overwrite)
    waiting = [name for name in mine if config.overwrite or not done(targets[name], files[name], masks.get(name))]

    refused = list[str]()
    for name in track(waiting, description="restoring"):
        try:
            restore(restorer, files[name], masks.get(name), config, targets[name], form)
        except UserError as error:
            refused.append(str(error))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            refused.append(too_large(files[name]))
    there = (
        f", {len(mine) - len(waiting)} were there (overwrite=true makes them anew)" if len(waiting) < len(mine) else ""
    )
    print(f"{len(waiting) - len(refused)} of {len(mine)} images restored into {config.output}{there}")
    for line in refused[:-1]:
        warnings.warn(line, Note, stacklevel=1)
    if refused:
        raise UserError(refused[-1])
    return output


def facts(config: PredictConfig, weights: Path) -> dict[str, Any]:
    """With what the pictures of a folder are made."""
    return {
        "weights": file_hash(weights) if weights.is_file() else None, "set": list(config.set), "seed": config.seed,
        "alpha": config.alpha, "tiling": config.tiling,
    }  # fmt: skip


def too_large(file: Path) -> str:
    height, width = read_size(file)
    return f"{file}: {width}x{height}, for which memory is wanting; cut it into smaller images, or free some memory"


def restore(
    restorer: Restorer, file: Path, mask_file: Path | None, config: PredictConfig, target: Path, form: Format
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if restorer.dense:
        image = read_image(file)
        output = restorer.prediction(image, config.seed)[0]
        with whole(target) as place:
            kind_of(restorer.task).save(output, image.shape[-2:], place)
        return
    photo, mask = read_photo(file), None
    if config.mask == "alpha":
        if photo.alpha is None:
            raise UserError(f"{file} has no alpha that could be its mask: write mask=<file or folder>")
        mask, photo = as_mask(photo.alpha <= photo.levels // 2), photo.opaque()
    elif mask_file is not None:
        mask = read_mask(mask_file)
        require_equal_sizes(mask_file, mask, f"image {file}", torch.empty(photo.colours.shape[:2]))
    restored = restorer.photo(photo, mask, config.seed, cast(Alpha, config.alpha))
    with whole(target) as place:
        write_photo(restored, place, form, target.name)


def share(names: Sequence[str], shard: str | None) -> list[str]:
    """The names of a share, `2/4` the second of four."""
    which, count = map(int, (shard or "1/1").split("/"))
    return list(names[which - 1 :: count])


def named(config: PredictConfig) -> bool:
    """Whether `output` names the file of a single image."""
    output = Path(config.output)
    pictures = IMAGE_SUFFIXES | UNREAD_SUFFIXES
    return Path(config.input).is_file() and output.suffix.lower() in pictures and not output.is_dir()


def format_of(config: PredictConfig, restorer: Restorer) -> Format:
    """What is written. Raises `UserError`: no such format, or not what the file is named by."""
    suffix = Path(config.output).suffix.lower()
    by_name = FORMATS.get(suffix) if named(config) else None
    if named(config) and by_name is None:
        raise UserError(f"output={config.output}: no such picture is written: name a .png, .jpg, .webp or .tif")
    form = cast(Format | None, config.format) or by_name or "png"
    if by_name not in (None, form):
        raise UserError(f"output={config.output} is not named as format={form}: leave out one of them")
    if restorer.dense and form != "png":
        raise UserError(f"labels and depth are written as PNG, not {form}")
    return form


def masks_for(files: Mapping[str, Path], config: PredictConfig, needed: bool) -> dict[str, Path]:
    """The mask of each image. Raises `UserError` where one is missing, or given to a task without holes."""
    if config.mask is None:
        if needed:
            raise UserError("inpainting needs the holes: write mask=<image or folder>, white = hole, or mask=alpha")
        return {}
    if not needed:
        raise UserError(f"run={config.run} is not an inpainting run: leave out mask")
    if config.mask == "alpha":
        return {}
    return masks_at(config.mask, files)
