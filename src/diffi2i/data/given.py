"""The images that the command line names, and the masks that belong to them."""

import glob
from collections.abc import Collection, Sequence
from pathlib import Path

from diffi2i.data.images import IMAGE_SUFFIXES, plugin_formats
from diffi2i.data.sources import images_by_name, item_name, listed_path
from diffi2i.errors import UserError


def images_at(text: str) -> dict[str, Path]:
    """Images by name: one file, those of a folder, of a pattern such as `a/**/*.png`, or of a .txt file, one a line.

    Raises:
        UserError: there is none, or as `images_by_name`.
    """
    path = Path(text)
    if path.is_dir():
        return images_by_name(path, also=plugin_formats())
    if path.is_file() and path.suffix.lower() == ".txt":
        try:
            lines = [listed_path(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a readable list; write one file a line") from None
        return by_name([path.parent / line for line in lines], path.parent)
    if path.is_file():
        return {item_name(path.name, path.parent): path}
    if glob.has_magic(text):
        fixed = Path(*[part for i, part in enumerate(path.parts) if not any(map(glob.has_magic, path.parts[: i + 1]))])
        below = Path(*path.parts[len(fixed.parts) :]).as_posix()
        found, read = sorted(fixed.glob(below)), IMAGE_SUFFIXES.union(plugin_formats())
        if pictures := [each for each in found if each.suffix.lower() in read and each.is_file()]:
            return by_name(pictures, fixed)
    raise UserError(f"{path}: no such file or folder; check the path")


def by_name(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """The files by their paths below the folder, or by their own names where they lie elsewhere."""
    found: dict[str, Path] = {}
    for path in paths:
        below = path.relative_to(folder) if path.is_relative_to(folder) and ".." not in path.parts else Path(path.name)
        name = item_name(below.as_posix(), folder)
        if name in found:
            raise UserError(f"{path} has the name of {found[name]}: restore them apart")
        found[name] = path
    if not found:
        raise UserError(f"{folder}: no image is listed")
    return found


def masks_at(text: str, names: Collection[str]) -> dict[str, Path]:
    """The mask of each image of these names: of a single one the only mask there is, else the one of its name.

    Raises:
        UserError: one is missing, or as `images_at`.
    """
    masks = images_at(text)
    if len(names) == 1 and len(masks) == 1:
        return dict(zip(names, masks.values(), strict=True))
    if missing := [name for name in names if name not in masks]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{text} has no mask for {', '.join(missing[:3])}{more}: give it the image's name")
    return masks
