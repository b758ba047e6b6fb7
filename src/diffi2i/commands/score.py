"""`diffi2i score`: any method's outputs against their targets, by the scores and the protocol of a task."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track
from torch import Tensor

from diffi2i.callbacks.scores import as_scores
from diffi2i.config.commands import ScoreConfig
from diffi2i.data.degrade import has_holes
from diffi2i.data.images import IMAGE_SUFFIXES, read_image, read_mask, require_equal_sizes
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.resize import enlarge
from diffi2i.data.sources import Item, files_below
from diffi2i.errors import UserError
from diffi2i.files import json_output, whole
from diffi2i.kinds.kind import Scores, kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.metrics.spec import METRICS
from diffi2i.run.hardware import device_of, prepare
from diffi2i.run.provenance import provenance
from diffi2i.run.record import DataFacts, Record
from diffi2i.tables.compare import shown_interval
from diffi2i.tables.markdown import markdown
from diffi2i.tables.runs import digits, few_images, number

SHOWN = 3  # files without a partner that are printed


@dataclass(frozen=True)
class Pairing:
    """The files to score by name: `pred` and `target`, and `mask` and `input` where given. `unmatched` lists the rest.

    `names` are sorted; each is a path below its folder without suffix.
    """

    names: list[str]
    files: dict[str, dict[str, Path]]
    unmatched: dict[str, list[str]]


def score_folders(config: ScoreConfig) -> Record:
    """Scores `pred` against `target`, prints the table, and writes `output` and a CSV if asked. Returns the record.

    Images are rounded to 8 bits. In inpainting `pred` counts as it is: known pixels are not put back. Where a depth
    prediction is 0 it counts as the smallest depth.

    Raises:
        UserError: folders, files or sizes that do not fit, each named; nothing is written then.
    """
    prepare(config.trainer)
    output = checked_output(config.output)
    pairing = paired(config)
    sheet, baseline, remarks = scored(config, pairing)
    scores = as_scores(sheet, sheet.compute(), sheet.per_image, baseline.compute() if baseline else {})
    record = Record(
        task=config.task.name,
        budget=None,
        seed=None,
        main_metric=config.task.main_metric,
        method=None,
        data=DataFacts(
            dataset=config.dataset.name if config.dataset else None,
            train=None,
            val=manifest_hash(Item(name, pairing.files["target"][name]) for name in pairing.names),
            inputs=None,
            degrade=None,
            crop=None,
            crops=1,
            input_scale=1.0,
            protocol=asdict(config.task.protocol),
            baseline="input itself",
            constant=None,
        ),
        scores=scores,
        cost=None,
        training=None,
        provenance=provenance(),
        images=sheet.per_image,
        baseline_images=baseline.per_image if baseline else [],
        classes=sheet.per_class(),
    )
    print(f"\n{config.task.name}, {len(pairing.names)} images of {config.pred} against {config.target}\n")
    print("\n".join([*report(record, pairing), *remarks]))
    if output:
        write_csv(output.with_suffix(".csv"), sheet.per_image, list(scores))
        record.write(output)
        print(f"\nrecord: {output}, each image: {output.with_suffix('.csv')}")
    return record


def checked_output(output: str | None) -> Path | None:
    """The record's file, in a folder that exists from now on. Raises `UserError` for one that cannot be."""
    if output is None:
        return None
    path = json_output(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot make its folder ({error.strerror})") from error
    return path


def paired(config: ScoreConfig) -> Pairing:
    """Finds the files of equal names. Raises `UserError` where there are none, or a mask or an input is missing."""
    if config.mask is not None and not has_holes(config.task):
        raise UserError(f"mask belongs to task=inpainting, not to task={config.task.name}: leave it out")
    if config.input is not None and KINDS[config.task.kind].dense:
        raise UserError(f"input belongs to tasks that predict images, not to task={config.task.name}: leave it out")
    suffixes = kind_of(config.task).suffixes
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


def files_by_name(key: str, folder: str, suffixes: frozenset[str]) -> dict[str, Path]:
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


def scored(config: ScoreConfig, pairing: Pairing) -> tuple[Scores, Scores | None, list[str]]:
    """The filled score sheets of `pred`, and of `input` where there is one; and what there is to say of the files."""
    kind, device = kind_of(config.task), device_of(config.trainer)
    sheet = kind.sheet(config.task, config.task.protocol)
    baseline = kind.sheet(config.task, config.task.protocol) if config.input is not None else None
    for each in (sheet, baseline):
        if each:
            each.to(device)
    pairs = kind.pairs(config, list(pairing.files["target"].values()))
    for name in track(pairing.names, description="scoring", disable=not sys.stdout.isatty()):
        files = {role: of_role[name] for role, of_role in pairing.files.items() if name in of_role}
        pred, batch = pairs.read(files["pred"], files["target"])
        target, mask = batch["target"], batch.get("valid")
        if "mask" in files:
            mask = read_mask(files["mask"])
            require_equal_sizes(files["mask"], mask, f"target {files['target']}", target)
        sheet.update(pred, target, names=[name], mask=mask)
        if baseline:
            naive = enlarged(read_image(files["input"]), target, files["input"], files["target"])
            baseline.update(naive, target, names=[name], mask=mask)
    return sheet, baseline, pairs.remarks()


def enlarged(image: Tensor, target: Tensor, file: Path, target_file: Path) -> Tensor:
    """The baseline of images: (1, 3, h, w) -> (1, 3, H, W) by a whole factor, bicubically; else `UserError`."""
    (h, w), (H, W) = image.shape[-2:], target.shape[-2:]
    factor = max(1, H // h)
    if (h * factor, w * factor) != (H, W):
        raise UserError(f"{file} is {w}x{h}, its target {target_file} {W}x{H}: a whole multiple is needed")
    return enlarge(image, factor)


def report(record: Record, pairing: Pairing) -> list[str]:
    """The lines of a record: a Markdown table with a row a score, then what is n/a, biased or was left out, and why."""
    naive = bool(record.baseline_images)
    rows = [["", "score", "95 % interval", *([str(record.data.baseline)] if naive else []), "images"]]
    for key, score in record.scores.items():
        places = digits(key)
        interval = shown_interval(None if score.low is None or score.high is None else (score.low, score.high), places)
        baseline = [number(score.baseline, places)] if naive else []
        rows.append([METRICS[key].titled, number(score.value, places), interval, *baseline, str(score.n)])
    absent = [f"{key} n/a: {score.why_not}" for key, score in record.scores.items() if score.value is None]
    lonely = [
        f"{len(files)} file(s) of {role} without a partner: {', '.join(files[:SHOWN])}{', ...' * (len(files) > SHOWN)}"
        for role, files in pairing.unmatched.items()
        if files
    ]
    notes = [*absent, *few_images(record.scores), *lonely]
    return [markdown(rows), *([""] if notes else []), *notes]


def write_csv(path: Path, per_image: Sequence[Mapping[str, str | float]], keys: Sequence[str]) -> None:
    """A line per image: its name and the scores it has. Whole or not at all."""
    used = [key for key in keys if any(key in record for record in per_image)]
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", *used], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(per_image)
