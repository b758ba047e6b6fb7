"""Reads every file of a dataset once, says all that is wrong, and writes what is there.

Training stops at the first file that does not fit; here nothing stops, so that a dataset is mended in one go.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.progress import track

from diffi2i.config.schema import DatasetConfig
from diffi2i.data.images import read_rgb
from diffi2i.data.manifest import combined_hash, file_hash, picture_role, shared_pictures
from diffi2i.data.member import Readable
from diffi2i.data.seen import Seen
from diffi2i.data.sources import IncompleteError, Item, Split, files
from diffi2i.data.targets import Target
from diffi2i.data.workers import Run, working
from diffi2i.errors import UserError
from diffi2i.files import whole

SHOWN = 20  # lines of one kind of fault that are printed


class Job(NamedTuple):
    """One file to read, and what it is in its item."""

    name: str
    role: str
    path: Readable


@dataclass(frozen=True)
class File:
    """What the manifest says about one file; what could not be read is None, and `error` says why."""

    name: str
    role: str
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    error: str | None = None


Read = tuple[File, Seen | None]


@dataclass
class SplitReport:
    """One split: its files, and the faults as lines to print.

    `hash` is the one that results carry, None where training would refuse the split's files. `faults` has the keys
    `source` (the split cannot be listed), `unpaired`, `broken` and `sizes`, that of validation also `shared` (pictures
    with the contents of one that is trained on).
    """

    split: Split
    items: int
    expected: int | None
    hash: str | None = None
    files: list[File] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    contents: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What `check_dataset` found."""

    name: str
    splits: list[SplitReport]

    @property
    def broken(self) -> bool:
        """Whether there is any fault. Another number of items than the expected one is none, nor a shared picture."""
        return any(lines for split in self.splits for kind, lines in split.faults.items() if kind != "shared")

    def lines(self) -> Iterator[str]:
        """The report as printed: each fault by name, at most `SHOWN` of a kind."""
        for split in self.splits:
            yield f"{self.name} {split.split}: {split.items} items{_against(split)}, hash {split.hash or 'none'}"
            yield from (f"  {line}" for line in split.contents)
            for kind, faults in split.faults.items():
                if faults:
                    yield f"  {kind} ({len(faults)}):"
                    yield from (f"    {fault}" for fault in faults[:SHOWN])
                if len(faults) > SHOWN:
                    yield f"    ... and {len(faults) - SHOWN} more"

    def manifest(self) -> dict[str, Any]:
        """The manifest: every file's name, role, size and sha256, and each split's hash. No paths of this machine."""
        return {
            "dataset": self.name,
            "splits": {
                split.split: {"hash": split.hash, "files": [_entry(file) for file in split.files]}
                for split in self.splits
            },
        }


def check_dataset(
    dataset: DatasetConfig,
    source: Callable[[Split], list[Item]],
    target_reader: Target | None = None,
    splits: Sequence[Split] = ("train", "val"),
) -> Report:
    """Reads every file of the splits whole. Faults are collected, not raised.

    Args:
        dataset: its name, the counts to compare with, and `workers`: processes that read, 0 for this one alone (other
            processes take seconds to start, which pays from some ten thousand files on).
        source: lists the items of a split.
        target_reader: decodes the targets; None for photos.
        splits: those to check.
    """
    with working(dataset.workers or 0) as run:
        report = Report(dataset.name, [_check_split(dataset, source, target_reader, split, run) for split in splits])
    found = {split.split: split for split in report.splits}
    if found.keys() == {"train", "val"}:
        train, val = (
            {(file.name, file.role): str(file.sha256) for file in split.files if not file.error}
            for split in (found["train"], found["val"])
        )
        role = picture_role(target_reader)
        found["val"].faults["shared"] = [
            f"{name}: the same picture as {other} in train" for name, other in shared_pictures(train, val, role)
        ]
    return report


def write_manifest(report: Report, path: Path) -> None:
    """Writes the manifest as JSON, whole or not at all. Raises UserError when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            temporary.write_text(json.dumps(report.manifest(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); write output=<file>") from error


def _check_split(
    dataset: DatasetConfig,
    source: Callable[[Split], list[Item]],
    reader: Target | None,
    split: Split,
    run: Run,
) -> SplitReport:
    items, faults, advice = _listed(source, split)
    jobs = [Job(item.name, role, path) for item in items for role, path in files(item).items()]
    found, seen = [], None if reader is None else reader.seen()
    for file, share in track(run(partial(_read, reader), jobs), description=f"reading {split}", total=len(jobs)):
        found.append(file)
        if seen is not None and share is not None:
            seen.merge(share)
    faults["broken"] = [file.error for file in found if file.error]
    faults["sizes"] = _misfits(items, found, "scale" if reader is None else "equal")
    report = SplitReport(split, len(items), dataset.expected.get(split), files=found, faults=faults)
    report.contents = [*advice, *_contents(seen, reader, items)]
    if not faults["source"] and not faults["unpaired"]:
        # As in training and evaluation, whose result carries the hash of the images that were used.
        used = {item.name for item in (items[: dataset.max_val_images] if split == "val" else items)}
        digests = [(file.name, file.role, file.sha256) for file in found if file.name in used]
        if all(digest for _, _, digest in digests):
            report.hash = combined_hash((name, role, str(digest)) for name, role, digest in digests)
    return report


def _listed(source: Callable[[Split], list[Item]], split: Split) -> tuple[list[Item], dict[str, list[str]], list[str]]:
    """The items that can be had, what is wrong with the list, and what would mend it."""
    faults: dict[str, list[str]] = {"source": [], "unpaired": []}
    try:
        return source(split), faults, []
    except IncompleteError as error:
        faults["unpaired"] = [str(path) if path.is_file() else f"{path}: missing" for path in error.files]
        return error.items, faults, [f"all would pair by their names: write {error.advice}"] if error.advice else []
    except UserError as error:
        faults["source"] = [str(error)]
        return [], faults, []


def _contents(seen: Seen | None, reader: Target | None, items: Sequence[Item]) -> list[str]:
    """What the targets hold, and a line where they may have been misread."""
    if seen is None or reader is None or not items:
        return []
    odd = reader.odd(seen, [item.target for item in items], None)
    return [*seen.lines(), *([odd] if odd else [])]


def _read(reader: Target | None, job: Job) -> Read:
    """Decodes one file whole, since a header says nothing about a file cut short."""
    digest = size = None
    try:
        digest, size = file_hash(job.path), job.path.stat().st_size
        pixels = read_rgb(job.path) if reader is None or job.role == "input" else reader.read(job.path)
    except UserError as error:
        return File(job.name, job.role, size, sha256=digest, error=str(error)), None
    height, width = pixels.shape[:2]
    seen = None
    if reader is not None and job.role == "target":
        seen = reader.seen()
        seen.add(pixels)
    return File(job.name, job.role, size, width, height, digest), seen


def _misfits(items: list[Item], found: list[File], rule: Literal["scale", "equal"]) -> list[str]:
    """The pairs whose sizes do not fit.

    Labels and depth have their photo's size. Of images, the input is the target over a whole number, rounded down;
    which number depends on the task, so a pair is at fault where it differs from what most pairs have.
    """
    sizes = {(file.name, file.role): (file.width, file.height) for file in found if file.width and file.height}
    pairs = [
        (item, sizes[item.name, "input"], sizes[item.name, "target"])
        for item in items
        if (item.name, "input") in sizes and (item.name, "target") in sizes
    ]
    if rule == "equal":
        scale = 1
    else:
        scales = Counter(min(W // w, H // h) for _, (w, h), (W, H) in pairs)
        scale = max(1, scales.most_common(1)[0][0]) if scales else 1
    return [
        f"{item.input} ({w}x{h}) and {item.target} ({W}x{H}): ratio {W / w:.4g} x {H / h:.4g}, not {scale}"
        for item, (w, h), (W, H) in pairs
        if (w, h) != (W // scale, H // scale)
    ]


def _against(split: SplitReport) -> str:
    """How the number of items compares with the one that is expected."""
    if split.expected is None:
        return ""
    missing = split.expected - split.items
    if not missing:
        return f" of {split.expected} expected"
    return f" of {split.expected} expected ({abs(missing)} {'missing' if missing > 0 else 'too many'})"


def _entry(file: File) -> dict[str, Any]:
    """A file's line in the manifest, without what is not known; the error names a path, so it stays out."""
    return {key: value for key, value in asdict(file).items() if value is not None and key != "error"}
