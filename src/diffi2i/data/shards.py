"""Images inside tar files, read where they lie: a data set of a million images is a few thousand files, or one.

WebDataset's layout: the files of a sample have one name up to the first dot, and what follows says what they are. The
tars must not be compressed: then any image is read by itself, in the order that the training draws, which so goes on
exactly where it stopped, on however many processes.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from rich.progress import track

from diffi2i.data.images import IMAGE_SUFFIXES
from diffi2i.data.member import Member
from diffi2i.data.sources import Item, Split, item_name, unpaired
from diffi2i.errors import UserError
from diffi2i.files import whole
from diffi2i.weights import cache_dir

Listing = list[tuple[str, int, int]]
"""Of each file in a tar its name, where it starts, and how long it is."""


def shards(
    split: Split,
    root: str | Path | None = None,
    train: Sequence[str] = ("train*.tar",),
    val: Sequence[str] = ("val*.tar",),
    target: str = "NAME",
    input: str | None = None,
) -> list[Item]:
    """Tar files of images; an item's name is the sample's.

    Args:
        split: which part to list.
        root: the folder of the tars.
        train, val: the tars of each split, by name or pattern.
        target: what the targets are called, NAME being the sample's name: with `NAME.gt` that of `a/01` is
            `a/01.gt.png`, or has another suffix of images.
        input: likewise of the recorded inputs of pairs; None where inputs are made from the targets.

    Raises:
        UserError: no root, no such tar, one that cannot be read or is in both splits, no image of such a name, or two.
        IncompleteError: an image without a partner.
    """
    if root is None:
        raise UserError("the dataset has no folder; write root=<folder of tar files>")
    mine = _tars(Path(root), train if split == "train" else val, split)
    others = {path for pattern in (val if split == "train" else train) for path in Path(root).glob(pattern)}
    if shared := [path for path in mine if path in others]:
        raise UserError(f"{shared[0]} is of both splits: name others in dataset.source.train or dataset.source.val")
    found: dict[str, dict[str, Member]] = {role: {} for role in (target, input) if role is not None}
    roles: set[str] = set()
    for tar in track(mine, description=f"reading {split}", transient=True, disable=len(mine) < 2):
        for member in _images(tar):
            name, role = _parted(member)
            roles.add(role)
            if role not in found:
                continue
            if name in found[role]:
                raise UserError(f"{member} has the name of {found[role][name]}: remove or rename one of them")
            found[role][name] = member
    targets, inputs = found[target], found[target if input is None else input]
    if not targets or not inputs:
        names = ", ".join(sorted(roles)) or "nothing"
        raise UserError(
            f"{mine[0]}: no image is called {target if input is None else f'{input} or {target}'}, but {names}"
        )
    if input is None:
        return [Item(name, targets[name]) for name in sorted(targets)]
    items = [Item(name, targets[name], inputs[name]) for name in sorted(targets.keys() & inputs.keys())]
    if lonely := [(inputs | targets)[name] for name in sorted(inputs.keys() ^ targets.keys())]:
        raise unpaired(root, "the tars", items, lonely)
    return items


def _tars(root: Path, patterns: Sequence[str], split: Split) -> list[Path]:
    """The tars of a split, sorted. Raises `UserError`: none fits a pattern."""
    tars: set[Path] = set()
    for pattern in patterns:
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise UserError(f"dataset.source.{split}={pattern} leads out of {root}: write names below it")
        fitting = {path for path in root.glob(pattern) if path.is_file()}
        if not fitting:
            raise UserError(
                f"{root}: no tar file fits {pattern}; put it there or write dataset.source.{split}=[<name>]"
            )
        tars |= fitting
    if not tars:
        raise UserError(f"{root}: the dataset has no {split} split; write dataset.source.{split}=[<name>]")
    return sorted(tars)


def _parted(member: Member) -> tuple[str, str]:
    """The name of the sample, and what this file of it is called: `a/01.gt.png` -> (a/01, NAME.gt)."""
    path = PurePosixPath(member.name.removeprefix("./"))
    first, _, rest = path.name.partition(".")
    return item_name(str(path.with_name(f"{first}{path.suffix}")), member.tar), f"NAME.{rest}".removesuffix(path.suffix)


def _images(tar: Path) -> Iterator[Member]:
    """The images of a tar, but for hidden ones."""
    for name, start, size in _listing(tar):
        path = PurePosixPath(name)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts[-2:]):
            yield Member(tar, name, start, size)


def _listing(tar: Path) -> Listing:
    """What lies in a tar. It is kept in the cache folder: the headers are spread over the whole file."""
    state = tar.stat()
    identity = f"{tar.absolute()} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    kept = cache_dir() / "tars" / f"{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()}.json"
    with suppress(OSError, ValueError):
        return [(str(name), int(start), int(size)) for name, start, size in json.loads(kept.read_text("utf-8"))]
    found = _read(tar)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole(kept) as temporary:
            temporary.write_text(json.dumps(found), "utf-8")
    return found


def _read(tar: Path) -> Listing:
    """What lies in a tar. Raises `UserError`: it is none, compressed, or cut off."""
    try:
        with tarfile.open(tar, "r:") as opened:
            found = [(each.name, each.offset_data, each.size) for each in opened if each.isreg() and not each.sparse]
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        with tar.open("rb") as file:
            compressed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        what = "is compressed, which allows no reading from the middle: unpack it to a plain tar"
        raise UserError(f"{tar} {what if compressed else f'is no whole tar file ({error}): copy it again'}") from error
    size = tar.stat().st_size
    if found and found[-1][1] + found[-1][2] > size:
        raise UserError(f"{tar} is no whole tar file ({found[-1][0]} is cut off): copy it again")
    return found
