"""Which files make up a dataset, and which of them are held out for validation.

A source is a function `(split, ...) -> list[Item]`; Hydra fills in all but `split` (`_partial_: true`).
"""

import hashlib
import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import skimage

from diffi2i.data.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from diffi2i.data.member import Readable
from diffi2i.errors import Note, UserError, printable
from diffi2i.run.hardware import is_first_rank

Split = Literal["train", "val"]

# What operating systems, network disks and notebooks keep beside pictures: thumbnails, copies, what was deleted. Those
# that begin with a dot are left out as hidden.
SIDE_FOLDERS = frozenset({"@eaDir", "@Recycle", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN", "lost+found"})
SIZE_LISTED = re.compile(r"\s\(\d+,\s?\d+,\s?\d+\)$")
"""Behind the path in BasicSR's lists: height, width and channels."""
MAP_SUFFIXES = (".npy",)
"""Of files beside images that may hold a target, as depth in metres."""

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
    """One image of a dataset. `name` is unique in its split; `input` is set for paired data only.

    A name is in Unicode's form NFC, whatever form its file's name has: macOS writes the other one.
    """

    name: str
    target: Readable
    input: Readable | None = None


class IncompleteError(UserError):
    """Files without a partner, or listed but absent; `items` are the complete ones of the split, `files` the others.

    `advice` is the setting that would pair them, where one is seen.
    """

    def __init__(self, message: str, items: list[Item], files: Sequence[Readable], advice: str | None = None) -> None:
        """`message` is one line, as for every `UserError`."""
        super().__init__(message)
        self.items, self.files, self.advice = items, files, advice


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
    input_name: str = "NAME",
    target_name: str = "NAME",
) -> list[Item]:
    """Recorded pairs: `root/input/NAME.*` and `root/target/NAME.*`, with equal names below the two folders.

    Arguments and errors as for `folder`; `val_root` holds the same two folders. Also raises IncompleteError
    when a file has no partner.

    Args:
        input_name: what an input is called, without suffix, where the two names are not equal: with `NAMEx4` that of
            `0801.png` is `0801x4.png`.
        target_name: the same of a target.
    """
    base, whole = _base(split, root, val_root)
    inputs = _unwrapped(images_by_name(base / input_dir), input_name)
    targets = _unwrapped(images_by_name(base / target_dir, MAP_SUFFIXES), target_name)
    names = [name for name in targets if name in inputs]
    lonely = _lonely(inputs, targets)
    # Too few to split is another error, which must not hide this one.
    if not whole and not (lonely and len(names) < 2):
        names = _part(split, names, val_fraction, base)
    items = [Item(name, targets[name], inputs[name]) for name in names]
    if lonely:
        plain = (input_name, target_name) == ("NAME", "NAME")
        advice = (_template("input", inputs, targets) or _template("target", targets, inputs)) if plain else None
        raise unpaired(base, f"{input_dir}/ and {target_dir}/", items, lonely, advice)
    return items


def layout(
    split: Split,
    root: str | Path | None = None,
    target: str = "SPLIT/NAME",
    input: str | None = None,
    train: Sequence[str] = (),
    val: Sequence[str] = ("val",),
    spare_targets: bool = False,
) -> list[Item]:
    """A dataset that comes in folders of its own: templates say where below `root` its files lie.

    A template is a path without the file's suffix, such as `SPLIT/FOLDER/blur/NAME`. Three words have a meaning:
    SPLIT stands for each of the split's parts in turn; FOLDER for any one folder, which becomes part of the
    item's name; NAME for the rest of that name, folders below included. Other files are passed over.

    Args:
        split: which part to list.
        root: the dataset's folder.
        target: template of the targets.
        input: template of the inputs, for paired data.
        train: the parts of the train split; none for a dataset that is for evaluation only.
        val: the parts of the val split. Of several parts, each name begins with its part.
        spare_targets: targets without an input are passed over (some benchmarks keep all targets in one folder).

    Raises:
        UserError: no root, a missing or empty folder, a split without parts, overlapping parts, a template
            without NAME, or two files of one name.
        IncompleteError: a file has no partner.
    """
    parts = train if split == "train" else val
    if root is None:
        raise UserError("the dataset has no folder; write root=<folder>")
    if not parts:
        use = "train on another one" if split == "train" else "write dataset.source.val=[<folder>]"
        raise UserError(f"{root}: the dataset has no {split} split; {use}")
    if train and ("SPLIT" not in target or _nested(train, val)):
        raise UserError(
            f"{root}: the train and val splits share images; give each its parts and write SPLIT in "
            "dataset.source.target"
        )

    items, lonely = [], []
    for part in parts:
        front = f"{part}/" if len(parts) > 1 else ""
        targets = _fitting(Path(root), target, part, maps=input is not None)
        if input is None:
            items += [Item(front + name, path) for name, path in targets.items()]
            continue
        inputs = _fitting(Path(root), input, part)
        items += [Item(front + name, path, inputs[name]) for name, path in targets.items() if name in inputs]
        if spare_targets:
            targets = {name: path for name, path in targets.items() if name in inputs}
        lonely += _lonely(inputs, targets)
    if len({item.name for item in items}) < len(items):
        raise UserError(f"{root}: the parts {', '.join(parts)} overlap; name each folder once")
    if lonely:
        raise unpaired(root, f"{input} and {target}", items, lonely)
    return items


def listed(
    split: Split,
    root: str | Path | None = None,
    train: str | None = None,
    val: str | None = None,
    train_dir: str = ".",
    val_dir: str = ".",
    paired: bool = False,
) -> list[Item]:
    """The files that a text file names, one item a line; an item's name is its first path without suffix.

    A line is the target's path, perhaps with its size as in BasicSR's lists; with `paired`, the input's path, a blank,
    the target's path (and whatever follows, such as the focal length in lists for depth). A leading slash has no
    meaning, as in those lists.

    Args:
        split: which part to list.
        root: the dataset's folder.
        train: the list file of this split, seen from `root`; None where the dataset has no such split.
        val: the other one.
        train_dir: the folder that the paths of `train` begin at, seen from `root`.
        val_dir: that of `val`.
        paired: the lines name inputs too.

    Raises:
        UserError: no root, no such split, one list for both, a missing or empty list, a line that does not fit, a path
            with `..`, or a name listed twice.
        IncompleteError: a listed file is missing.
    """
    if root is None:
        raise UserError("the dataset has no folder; write root=<folder>")
    file, below = (train, train_dir) if split == "train" else (val, val_dir)
    if file is None:
        raise UserError(f"{root}: the dataset has no {split} split; write dataset.source.{split}=<list file>")
    if train == val and train_dir == val_dir:
        raise UserError(f"{root}: the train and val splits share the list {file}; give each its own")
    path, folder = Path(root) / file, Path(root) / below
    try:
        # -sig: editors on Windows begin a file with an invisible mark, which is no part of the first name.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: not a readable list; put it there or write dataset.source.{split}=<file>") from None

    items: dict[str, Item] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        paths = line.split() if paired else [listed_path(line)]
        if len(paths) < 1 + paired:
            raise UserError(f"{path}, line {number}: '{line.strip()}' must name an input and a target; mend the line")
        if any(".." in Path(text).parts for text in paths[: 1 + paired]):
            raise UserError(f"{path}, line {number}: '{line.strip()}' leads out of {folder}; write paths below it")
        first, *others = (text.lstrip("/") for text in paths)
        name = item_name(first, path)
        if name in items:
            raise UserError(f"{path}, line {number}: {name} is listed twice; remove one of the lines")
        places = [_in_either_form(folder, text) for text in (first, *others[:paired])]
        items[name] = Item(name, places[-1], places[0] if paired else None)
    if not items:
        raise UserError(f"{path}: the list is empty; write one file a line")

    absent = {item.name: [path for path in files(item).values() if not path.is_file()] for item in items.values()}
    missing = [path for paths in absent.values() for path in paths]
    if missing:
        complete = [items[name] for name in sorted(items) if not absent[name]]
        raise IncompleteError(
            f"{path}: {len(missing)} listed file(s) are missing, such as {_such_as(missing)}; "
            "add them or remove their lines",
            complete,
            missing,
        )
    return [items[name] for name in sorted(items)]


def listed_path(line: str) -> str:
    """The path in a line `a/0001.png (480,480,3)` or `a/0001.png`."""
    return SIZE_LISTED.sub("", line.strip())


def files(item: Item) -> dict[str, Readable]:
    """The files of an item by their role, `target` and perhaps `input`."""
    return {"target": item.target} if item.input is None else {"target": item.target, "input": item.input}


def _base(split: Split, root: str | Path | None, val_root: str | Path | None) -> tuple[Path, bool]:
    """The folder to list, and whether the split is the whole of it."""
    if root is not None and val_root is not None:
        first, second = Path(root).resolve(), Path(val_root).resolve()
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise UserError(
                f"{val_root}: val_root and root ({root}) overlap, so validation would see training images; "
                "use separate folders, or write dataset.source.val_root=null to hold out a part of root"
            )
    if split == "val" and val_root is not None:
        return Path(val_root), True
    if root is None:
        raise UserError("the dataset has no folder; write root=<folder>")
    return Path(root), val_root is not None


def images_by_name(folder: Path, otherwise: Collection[str] = (), also: Collection[str] = ()) -> dict[str, Path]:
    """The images below a folder, sorted, by their path below it without suffix; see `files_below`.

    Args:
        folder: where to look.
        otherwise: suffixes of the files to take where there is no image.
        also: suffixes of further files that count as images.

    Raises:
        UserError: no such folder, no image, or as `files_below` does.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; write the path of a folder of images")
    files = files_below(folder, IMAGE_SUFFIXES.union(also)) or (files_below(folder, otherwise) if otherwise else {})
    if not files:
        suffixes = " ".join([*sorted(IMAGE_SUFFIXES), *sorted(otherwise)])
        raise UserError(f"{folder}: holds no image ({suffixes}); check the path")
    return files


def files_below(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files with these suffixes (in lower case) below a folder, sorted, by their path below it without suffix.

    Links are followed; one that leads nowhere counts as a file, which whoever reads it will name. Hidden files and
    folders are left out, as are `SIDE_FOLDERS`. A note names pictures of formats that are not read.

    Raises:
        UserError: two files of one name, a name that cannot be printed, or a folder that cannot be listed.
    """
    files: dict[str, Path] = {}
    unread: list[Path] = []
    for path in sorted(_walk(folder)):
        if (suffix := path.suffix.lower()) not in suffixes:
            if suffix in UNREAD_SUFFIXES or (path.is_symlink() and not path.exists()):
                unread.append(path)
            continue
        name = item_name(path.relative_to(folder).as_posix(), folder)
        if name in files:
            raise UserError(f"{path}: has the same name as {files[name].name}; rename or remove one of them")
        files[name] = path
    if unread and is_first_rank():
        warnings.warn(
            f"{folder}: {len(unread)} left out, such as {_such_as(unread)}; save pictures of other formats as PNG, "
            "mend links that lead nowhere",
            Note,
            stacklevel=2,
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """All that lies below a folder and is no folder, through links but for those to a folder that they lie in."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        try:
            found = place.stat()
            entries = list(os.scandir(place))
        except OSError as error:
            raise UserError(f"{place}: cannot be listed ({error.strerror}); check the path and your rights") from error
        here = (found.st_dev, found.st_ino)
        if here in above:
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SIDE_FOLDERS:
                continue
            path = Path(entry.path)
            if path.is_dir() if entry.is_symlink() else entry.is_dir():
                waiting.append((path, above | {here}))
            else:
                yield path


def item_name(path: str, place: Path) -> str:
    """What an image is called: its path in `place` without suffix, in Unicode's form NFC.

    Raises:
        UserError: bytes that are no UTF-8, or a sign that begins a line or steers the terminal.
    """
    if not printable(path):
        raise UserError(f"{place}: the file name {path!a} has signs that cannot be printed; rename the file")
    return unicodedata.normalize("NFC", Path(path).as_posix().removesuffix(Path(path).suffix))


def _in_either_form(folder: Path, path: str) -> Path:
    """The file of this path, of which Unicode has two forms; as it stands where there is neither."""
    forms = [folder / path, *(folder / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return next((form for form in forms if form.exists()), forms[0])


def _unwrapped(files: dict[str, Path], template: str) -> dict[str, Path]:
    """The files by what NAME stands for in their names; one that does not fit the template keeps all of its name."""
    if template.count("NAME") != 1:
        raise UserError(f"{template}: write a template that holds the word NAME once, such as NAMEx4")
    before, after = template.split("NAME")
    found: dict[str, Path] = {}
    for name, path in files.items():
        folder, slash, last = name.rpartition("/")
        fits = len(last) > len(before + after) and last.startswith(before) and last.endswith(after)
        inner = last[len(before) : len(last) - len(after)] if fits else last + path.suffix
        found[folder + slash + inner] = path
    return found


def _template(role: str, longer: dict[str, Path], shorter: dict[str, Path]) -> str | None:
    """The setting by which all names of one side are those of the other, with more around them; None where none is."""
    one = min(longer)
    for other in shorter:
        template = one.rpartition("/")[2].replace(other.rpartition("/")[2], "NAME", 1)
        if template.count("NAME") == 1 and _unwrapped(longer, template).keys() == shorter.keys():
            return f"dataset.source.{role}_name={template}"
    return None


def _nested(train: Sequence[str], val: Sequence[str]) -> bool:
    """Whether a part of one split lies in a part of the other."""
    both = [(Path(one), Path(other)) for one in train for other in val]
    return any(one.is_relative_to(other) or other.is_relative_to(one) for one, other in both)


def _fitting(root: Path, template: str, part: str, maps: bool = False) -> dict[str, Path]:
    """The images whose path below `root` has the template's form, by what FOLDER and NAME stand for, sorted.

    With `maps` other files that may hold one, where no image fits.
    """
    if template.count("NAME") != 1:
        raise UserError(f"{template}: a template must hold the word NAME once, such as HR/NAME")
    meaning = {"SPLIT": re.escape(part), "FOLDER": "([^/]+)", "NAME": "(.+)"}
    pieces = re.split("(SPLIT|FOLDER|NAME)", template)
    pattern = unicodedata.normalize("NFC", "".join(meaning.get(piece, re.escape(piece)) for piece in pieces))
    # Listing starts at the folder that is the same for all, so that the rest of `root` need not be read.
    folder = re.split("FOLDER|NAME", template)[0].replace("SPLIT", part).rpartition("/")[0]
    folder = unicodedata.normalize("NFC", folder)

    def fit(files: dict[str, Path]) -> dict[str, Path]:
        matches = ((re.fullmatch(pattern, f"{folder}/{name}" if folder else name), files[name]) for name in files)
        return {"/".join(match.groups()): path for match, path in matches if match}

    place, others = _in_either_form(root, folder), MAP_SUFFIXES if maps else ()
    fitting = fit(images_by_name(place, others)) or fit(files_below(place, others))
    if not fitting:
        raise UserError(f"{place}: no image there fits {template}; check root, or dataset.source's templates")
    return fitting


def _lonely(inputs: dict[str, Path], targets: dict[str, Path]) -> list[Path]:
    """The files whose name is on one side only, sorted."""
    return [(inputs | targets)[name] for name in sorted(inputs.keys() ^ targets.keys())]


def unpaired(
    base: str | Path, places: str, items: list[Item], lonely: Sequence[Readable], advice: str | None = None
) -> IncompleteError:
    return IncompleteError(
        f"{base}: {len(lonely)} file(s) without a partner of the same name in {places}, "
        f"such as {_such_as(lonely)}; {f'write {advice}' if advice else 'add the partners or remove them'}",
        items,
        lonely,
        advice,
    )


def _such_as(paths: Sequence[Readable]) -> str:
    return ", ".join(map(str, paths[:3]))


def _part(split: Split, names: list[str], val_fraction: float, base: Path) -> list[str]:
    """Hold out max(1, round(val_fraction * N)) names, those of smallest sha256.

    By hash and not by position, so that a file added to the folder does not reshuffle the rest.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"dataset.source.val_fraction={val_fraction}: write a number between 0 and 1")
    if len(names) < 2:
        raise UserError(f"{base}: one image cannot be split; add images or write dataset.source.val_root=<folder>")
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[:count])
    return [name for name in names if (name in held_out) == (split == "val")]
