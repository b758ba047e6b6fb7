"""`diffi2i score`: any method's outputs against their targets, by the scores and the protocol of a task."""

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from diffi2i.build import build
from diffi2i.callbacks.scores import Scores, new_scores
from diffi2i.data.images import IMAGE_SUFFIXES, read_rgb, to_tensor
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.resize import imresize
from diffi2i.data.seen import DepthSeen, impossible, suspicious, unit_of, unit_of_predictions
from diffi2i.data.sources import Item, files_below
from diffi2i.data.targets import IGNORED, Depth, Labels, read_npy
from diffi2i.errors import UserError
from diffi2i.metrics.intervals import image_intervals
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.metrics.spec import METRICS
from diffi2i.results import provenance, write_json
from diffi2i.runtime import device_of
from diffi2i.schema import ScoreConfig
from diffi2i.tables.compare import shown_interval
from diffi2i.tables.markdown import markdown
from diffi2i.tables.runs import digits, few_images, number

SHOWN = 3  # files without a partner that are printed

Read = Callable[[Path], Tensor]


@dataclass(frozen=True)
class Pairing:
    """The files to score by name: `pred` and `target`, and `mask` and `input` where given. `unmatched` lists the rest.

    `names` are sorted; each is a path below its folder without suffix.
    """

    names: list[str]
    files: dict[str, dict[str, Path]]
    unmatched: dict[str, list[str]]


def score_folders(config: ScoreConfig) -> dict[str, Any]:
    """Scores `pred` against `target`, prints the table, and writes `output` and a CSV if asked. Returns the record.

    Images are rounded to 8 bits. In inpainting `pred` counts as it is: known pixels are not put back. Where a depth
    prediction is 0 it counts as the smallest depth.

    Raises:
        UserError: folders, files or sizes that do not fit, each named; nothing is written then.
    """
    output = checked_output(config.output)
    pairing = paired(config)
    sheet, baseline, depths = scored(config, pairing)
    metrics, n_images = sheet.compute(), sheet.counts()
    intervals, without = image_intervals(sheet.per_image, [key for key, count in n_images.items() if count])
    record = {
        "task": config.task.name,
        "metrics": metrics,
        "intervals": intervals,
        "baseline": baseline.compute() if baseline else {},
        "n_images": n_images,
        "reasons": sheet.reasons() | without,
        **({"iou": sheet.per_class()} if isinstance(sheet, SegmentationScores) else {}),
        "per_image": sheet.per_image,
        "protocol": asdict(config.task.protocol),
        "manifest": {
            role: manifest_hash(Item(name, pairing.files[role][name]) for name in pairing.names)
            for role in ("pred", "target")
        },
        "unmatched": pairing.unmatched,
        **provenance(),
    }
    print(f"\n{config.task.name}, {len(pairing.names)} images of {config.pred} against {config.target}\n")
    print("\n".join([*report(record), *depths.remarks(config)]))
    if output:
        write_csv(output.with_suffix(".csv"), sheet.per_image, list(metrics))
        write_json(output, record)
        print(f"\nrecord: {output}, each image: {output.with_suffix('.csv')}")
    return record


def checked_output(output: str | None) -> Path | None:
    """The record's file, in a folder that exists from now on. Raises `UserError` for one that cannot be."""
    if output is None:
        return None
    path = Path(output)
    if path.suffix != ".json" or path.is_dir():
        raise UserError(f"output={output}: write a file name that ends in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot make its folder ({error.strerror})") from error
    return path


def paired(config: ScoreConfig) -> Pairing:
    """Finds the files of equal names. Raises `UserError` where there are none, or a mask or an input is missing."""
    if config.mask is not None and config.task.name != "inpainting":
        raise UserError(f"mask belongs to task=inpainting, not to task={config.task.name}: leave it out")
    if config.input is not None and config.task.kind != "image":
        raise UserError(f"input belongs to tasks that predict images, not to task={config.task.name}: leave it out")
    suffixes = IMAGE_SUFFIXES | ({".npy"} if config.task.kind == "depth" else set())
    folders = {"pred": config.pred, "target": config.target}
    files = {role: files_by_name(role, folder, suffixes) for role, folder in folders.items()}
    pred, target = files["pred"], files["target"]
    names = sorted(pred.keys() & target.keys())
    if not names:
        raise UserError(
            f"no file of pred={config.pred} has the name of one of target={config.target}, such as "
            f"{first(pred, config.pred)} and {first(target, config.target)}: give both the same name before the suffix"
        )
    for role, place in (("mask", config.mask), ("input", config.input)):
        if place is not None:
            files[role] = files_by_name(role, place, IMAGE_SUFFIXES)
            if missing := [name for name in names if name not in files[role]]:
                raise UserError(f"{role}={place} has none for {len(missing)} image(s): {', '.join(missing[:SHOWN])}")
    unmatched = {
        role: sorted(below(files[role][name], folder) for name in files[role].keys() - set(names))
        for role, folder in folders.items()
    }
    return Pairing(names, files, unmatched)


def files_by_name(key: str, folder: str, suffixes: frozenset[str] | set[str]) -> dict[str, Path]:
    """As `data.sources.images_by_name`, for these suffixes; the errors name the key of the command line.

    Raises:
        UserError: no such folder, no such file, or two of one name.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{key}={folder} is no folder: write {key}=<folder>")
    files = files_below(Path(folder), suffixes)
    if not files:
        raise UserError(f"{key}={folder} holds no file to score ({' '.join(sorted(suffixes))}): check the path")
    return files


def first(files: Mapping[str, Path], folder: str) -> str:
    return below(next(iter(files.values())), folder)


def below(file: Path, folder: str) -> str:
    return file.relative_to(folder).as_posix()


class Depths:
    """What the depth files of both folders hold, to tell a wrong unit; other tasks leave it empty."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.targets = files, DepthSeen()
        self.ratios: list[float] = []

    def add(self, pred: Tensor, target: Tensor) -> None:
        """Counts an image, both (1, 1, H, W) in metres, the target 0 where it is not measured."""
        self.targets.add(target.numpy())
        valid = target > 0
        self.ratios.append(float(pred[valid].median() / target[valid].median()))

    def check(self, config: ScoreConfig) -> None:
        """Raises `UserError` where the protocol shows that the targets' unit must be another."""
        if why := impossible(self.targets, config.task.protocol, *self.unit(config)):
            raise UserError(f"target={config.target}: {why}")

    def remarks(self, config: ScoreConfig) -> list[str]:
        """Lines to print: the range of the targets, and units that look wrong."""
        if not self.targets.pixels:
            return []
        odd = suspicious(self.targets, config.task.protocol, *self.unit(config))
        lines = [f"targets, {line}" for line in self.targets.lines()]
        return ["", *lines, *(line for line in (odd, unit_of_predictions(self.ratios)) if line)]

    def unit(self, config: ScoreConfig) -> tuple[float | None, str]:
        """The unit that targets are read with, and the words that set it."""
        if config.dataset is None or not config.dataset.target:
            return unit_of(Depth(), self.files), "dataset=nyu dataset.target.unit"
        return unit_of(build(config.dataset.target, "dataset.target"), self.files), "dataset.target.unit"


def scored(config: ScoreConfig, pairing: Pairing) -> tuple[Scores, Scores | None, Depths]:
    """The filled score sheets of `pred`, and of `input` where there is one; and what depth files hold."""
    device = device_of(config.trainer)
    sheet = new_scores(config.task, config.task.protocol)
    baseline = new_scores(config.task, config.task.protocol) if config.input is not None else None
    for each in (sheet, baseline):
        if each:
            each.to(device)
    read_pred, read_target = readers(config)
    depths = Depths(list(pairing.files["target"].values()))
    for name in track(pairing.names, description="scoring", disable=not sys.stdout.isatty()):
        files = {role: of_role[name] for role, of_role in pairing.files.items() if name in of_role}
        pred, target = read_pred(files["pred"]), read_target(files["target"])
        check_size(files["pred"], pred, files["target"], target)
        mask = None
        if config.task.kind == "depth":
            mask = (target > 0).float()
            depths.add(pred, target)
        elif "mask" in files:
            mask = (read_image(files["mask"])[:, :1] > 0.5).float()
            check_size(files["mask"], mask, files["target"], target)
        if config.task.kind == "labels":
            pred = one_hot(pred, config.task.classes or 0)
        sheet.update(pred, target, names=[name], mask=mask)
        if baseline:
            naive = enlarged(read_image(files["input"]), target, files["input"], files["target"])
            baseline.update(naive, target, names=[name], mask=mask)
    depths.check(config)
    return sheet, baseline, depths


def check_size(file: Path, image: Tensor, target_file: Path, target: Tensor) -> None:
    if image.shape[-2:] != target.shape[-2:]:
        sizes = [f"{tensor.shape[-1]}x{tensor.shape[-2]}" for tensor in (image, target)]
        raise UserError(f"{file} is {sizes[0]}, its target {target_file} is {sizes[1]}: make them equal")


def enlarged(image: Tensor, target: Tensor, file: Path, target_file: Path) -> Tensor:
    """The baseline of images: (1, 3, h, w) -> (1, 3, H, W) by a whole factor, bicubically; else `UserError`."""
    (h, w), (H, W) = image.shape[-2:], target.shape[-2:]
    factor = max(1, H // h)
    if (h * factor, w * factor) != (H, W):
        raise UserError(f"{file} is {w}x{h}, its target {target_file} {W}x{H}: a whole multiple is needed")
    return image if factor == 1 else imresize(image, factor).clamp(0, 1)


def readers(config: ScoreConfig) -> tuple[Read, Read]:
    """What decodes predictions and targets: (1, 3, H, W) in [0, 1]; (1, H, W) classes; or (1, 1, H, W) metres."""
    own = build(config.dataset.target, "dataset.target") if config.dataset and config.dataset.target else None
    if config.task.kind == "image":
        return read_image, read_image
    if config.task.kind == "depth":
        return read_predicted_depth, partial(read_measured_depth, reader=own or Depth())
    assert config.task.classes is not None
    read_own = partial(read_labels, reader=own) if own else partial(read_target_classes, classes=config.task.classes)
    return partial(read_predicted_classes, classes=config.task.classes), read_own


def read_image(path: Path) -> Tensor:
    return to_tensor(read_rgb(path))[None]


def read_labels(path: Path, reader: Labels) -> Tensor:
    return torch.from_numpy(reader.read(path))[None]


def read_predicted_classes(path: Path, classes: int) -> Tensor:
    """Class numbers, all below `classes`; else `UserError`."""
    labels = read_labels(path, NUMBERS)
    check_classes(path, labels, labels >= classes, classes, "a prediction must hold class numbers, one at each pixel")
    return labels


def read_target_classes(path: Path, classes: int) -> Tensor:
    """Class numbers below `classes`, or 255 = ignored; else `UserError`."""
    labels = read_labels(path, NUMBERS)
    wrong = (labels >= classes) & (labels != IGNORED)
    check_classes(path, labels, wrong, classes, "write task.classes=<number>, or dataset=<name> for its encoding")
    return labels


NUMBERS = Labels(IGNORED, ignore=(IGNORED,))


def check_classes(path: Path, labels: Tensor, wrong: Tensor, classes: int, advice: str) -> None:
    if wrong.any():
        raise UserError(
            f"{path}: value {int(labels[wrong][0])} is none of the {classes} classes 0 to {classes - 1}: {advice}"
        )


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(1, H, W) classes -> (1, K, H, W) float logits whose arg max they are."""
    # `F.one_hot` makes int64 first, a gigabyte for 150 classes at a megapixel.
    return torch.zeros(1, classes, *labels.shape[-2:]).scatter_(1, labels[:, None], 1.0)


def read_predicted_depth(path: Path) -> Tensor:
    """Metres, of which not all are 0; else `UserError`."""
    # `Depth` takes what is not finite in a .npy for not measured, but a prediction has no such pixels.
    metres = read_npy(path) if path.suffix.lower() == ".npy" else Depth().read(path)
    if not (np.isfinite(metres) & (metres >= 0)).all():
        raise UserError(f"{path}: the prediction has negative, NaN or infinite depth; every pixel needs one in metres")
    if not (metres > 0).any():
        raise UserError(f"{path}: the prediction has no depth above 0; write it anew, in metres or millimetres")
    return torch.from_numpy(metres)[None, None]


def read_measured_depth(path: Path, reader: Depth) -> Tensor:
    """Metres, 0 where not measured but not everywhere; else `UserError`."""
    metres = reader.read(path)
    if not metres.any():
        raise UserError(f"{path}: no pixel has a valid depth; remove it from both folders")
    return torch.from_numpy(metres)[None, None]


def report(record: Mapping[str, Any]) -> list[str]:
    """The lines of a record: a Markdown table with a row a score, then what is n/a, biased or was left out, and why."""
    head = ["", "score", "95 % interval", *(["input itself"] if record["baseline"] else []), "images"]
    rows = [head]
    for key, value in record["metrics"].items():
        places = digits(key)
        naive = [number(record["baseline"].get(key), places)] if record["baseline"] else []
        interval = shown_interval(record["intervals"].get(key), places)
        rows.append([METRICS[key].titled, number(value, places), interval, *naive, str(record["n_images"][key])])
    absent = [f"{key} n/a: {record['reasons'][key]}" for key, value in record["metrics"].items() if value is None]
    lonely = [
        f"{len(files)} file(s) of {role} without a partner: {', '.join(files[:SHOWN])}{', ...' * (len(files) > SHOWN)}"
        for role, files in record["unmatched"].items()
        if files
    ]
    notes = [*absent, *few_images(record["metrics"], record["n_images"]), *lonely]
    return [markdown(rows), *([""] if notes else []), *notes]


def write_csv(path: Path, per_image: Sequence[Mapping[str, str | float]], keys: Sequence[str]) -> None:
    """A line per image: its name and the scores it has. Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    used = [key for key in keys if any(key in record for record in per_image)]
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", *used], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(per_image)
    temporary.replace(path)
