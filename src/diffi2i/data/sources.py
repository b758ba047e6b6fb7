"""Which files make up a dataset, and which of them are held out for validation.

A source is a function `(split, ...) -> list[Item]`; Hydra fills in all but `split` (`_partial_: true`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import skimage

from diffi2i.data.images import IMAGE_SUFFIXES
from diffi2i.errors import UserError

Split = Literal["train", "val"]

# Every natural photo that the scikit-image wheel carries. The stereo pair's right view shows the left
# one's scene, so it is left out: it could end up on the other side of the split.
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


@dataclass(frozen=True)
class Item:
    """One image of a dataset. `name` is unique in its split; `input` is set for paired data only."""

    name: str
    target: Path
    input: Path | None = None


def photos(split: Split, held_out: Sequence[str] = ("astronaut", "camera", "coffee")) -> list[Item]:
    """The real photos inside the installed scikit-image wheel: no download needed.

    Args:
        split: "val" gives the photos named in `held_out`, "train" all others.
        held_out: names without suffix.

    Raises:
        UserError: an unknown name, an empty split, or a photo missing from the installation.
    """
    folder = Path(skimage.__file__).parent / "data"
    paths = {Path(file).stem: folder / file for file in PHOTOS}
    if unknown := sorted(set(held_out) - paths.keys()):
        raise UserError(f"photos: held_out names {', '.join(unknown)}; the names are {', '.join(paths)}")
    items = [Item(name, path) for name, path in paths.items() if (name in held_out) == (split == "val")]
    if not items:
        raise UserError(f"photos: no image is left for {split}; held_out must name some photos, not all")
    for item in items:
        if not item.target.is_file():
            raise UserError(f"{item.target}: missing from scikit-image; reinstall it: pip install scikit-image")
    return items


def folder(
    split: Split,
    root: str | Path | None = None,
    val_root: str | Path | None = None,
    val_fraction: float = 0.1,
) -> list[Item]:
    """Any folder of images, read recursively. A name is the path below the folder, without suffix.

    Args:
        split: which part to list.
        root: the folder. Not needed to list "val" when `val_root` is given.
        val_root: a folder of its own for validation; without it, whole images of `root` are held out.
        val_fraction: the part of the images held out, in (0, 1); see `_part`.

    Raises:
        UserError: no or missing or empty folder, two files of one name, overlapping folders, or too
            few images to split.
    """
    base, whole = _base(split, root, val_root)
    files = images_by_name(base)
    names = list(files) if whole else _part(split, list(files), val_fraction, base)
    return [Item(name, files[name]) for name in names]


def pairs(
    split: Split,
    root: str | Path | None = None,
    val_root: str | Path | None = None,
    val_fraction: float = 0.1,
    input_dir: str = "input",
    target_dir: str = "target",
) -> list[Item]:
    """Recorded pairs: `root/input/NAME.*` and `root/target/NAME.*`, with equal names below the two folders.

    Arguments and errors as for `folder`; `val_root` holds the same two folders. Also raises UserError
    when a file has no partner.
    """
    base, whole = _base(split, root, val_root)
    inputs = images_by_name(base / input_dir)
    targets = images_by_name(base / target_dir)
    if lonely := sorted(inputs.keys() ^ targets.keys()):
        shown = ", ".join(str((inputs | targets)[name]) for name in lonely[:3])
        raise UserError(
            f"{base}: {len(lonely)} file(s) without a partner of the same name in {input_dir}/ and "
            f"{target_dir}/, such as {shown}; add the partners or remove them"
        )
    names = list(targets) if whole else _part(split, list(targets), val_fraction, base)
    return [Item(name, targets[name], inputs[name]) for name in names]


def manifest_hash(items: Iterable[Item]) -> str:
    """Sha256 (hex) of the names and contents of all files: equal hashes mean equal data, wherever it lies.

    Reads every file once. Raises UserError when one cannot be read.
    """
    lines = []
    for item in items:
        for role, path in (("target", item.target), ("input", item.input)):
            if path is None:
                continue
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); check the dataset") from error
            lines.append(f"{item.name}\t{role}\t{digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _base(split: Split, root: str | Path | None, val_root: str | Path | None) -> tuple[Path, bool]:
    """The folder to list, and whether the split is the whole of it."""
    if root is not None and val_root is not None:
        first, second = Path(root).resolve(), Path(val_root).resolve()
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise UserError(
                f"{val_root}: val_root and root ({root}) overlap, so validation would see training images; "
                "use separate folders, or val_root=null to hold out a part of root"
            )
    if split == "val" and val_root is not None:
        return Path(val_root), True
    if root is None:
        raise UserError("the dataset has no folder; write root=<folder>")
    return Path(root), val_root is not None


def images_by_name(folder: Path) -> dict[str, Path]:
    """The images below a folder, sorted, by their path below it without suffix.

    Raises:
        UserError: no such folder, no image, or two files of one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; write the path of a folder of images")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        # A leading dot marks the shadow files (`._photo.jpg`) that macOS leaves on foreign disks.
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(f"{path}: has the same name as {files[name].name}; rename or remove one of them")
        files[name] = path
    if not files:
        raise UserError(f"{folder}: holds no image ({' '.join(sorted(IMAGE_SUFFIXES))}); check the path")
    return files


def _part(split: Split, names: list[str], val_fraction: float, base: Path) -> list[str]:
    """Hold out max(1, round(val_fraction * N)) names, those of smallest sha256.

    By hash and not by position, so that a file added to the folder does not reshuffle the rest.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; write a number between 0 and 1")
    if len(names) < 2:
        raise UserError(f"{base}: one image cannot be split; add images or write val_root=<another folder>")
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[:count])
    return [name for name in names if (name in held_out) == (split == "val")]
