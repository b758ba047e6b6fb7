"""Finished runs side by side, the baseline's score first: the input's own, or a constant's for labels and depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffi2i.errors import UserError
from diffi2i.metrics import FEW_IMAGES
from diffi2i.run.record import Record, Score
from diffi2i.schema import SET_METRICS
from diffi2i.tables.experiment import names
from diffi2i.tables.markdown import markdown

SCORES = {
    "psnr": "PSNR ↑",
    "psnr_y": "PSNR-Y ↑",
    "psnr_hole": "PSNR in hole ↑",
    "ssim": "SSIM ↑",
    "ssim_y": "SSIM-Y ↑",
    "ssim_3d": "SSIM-3D ↑",
    "lpips_alex": "LPIPS ↓",
    "lpips_vgg": "LPIPS-VGG ↓",
    "dists": "DISTS ↓",
    "fid": "FID ↓",
    "kid": "KID ↓",
    "fd_lite0": "FD-Lite0 ↓",
    "miou": "mIoU ↑",
    "pixel_accuracy": "pixel accuracy ↑",
    "mean_accuracy": "class accuracy ↑",
    "abs_rel": "Rel ↓",
    "rmse": "RMSE ↓",
    "log10": "log10 ↓",
    "delta1": "δ1 ↑",
    "prior_dependence": "prior dependence",
    "prior_worth": "prior worth",
}


def digits(key: str) -> int:
    """Decimals of a score: decibels have two."""
    return 2 if key.startswith("psnr") else 4


def number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def runs_table(records: Sequence[Record]) -> str:
    """Markdown: the baseline, then a row per record, each of a run.

    Raises:
        UserError: the records do not compare; see `Record.comparable`.
    """
    first = records[0]
    for record in records[1:]:
        if why := first.comparable(record):
            raise UserError(f"these runs do not compare: {why}")
    main, asked = first.main_metric, first.data.protocol["metrics"]
    values = [values_of(record) for record in records]
    # What was asked for is shown also where it could not be had.
    keys = [key for key in SCORES if any(key in own and (key in asked or own[key] is not None) for own in values)]
    baseline = {key: score.baseline for key, score in first.scores.items()}
    rows = [["", *(SCORES[key] for key in keys), "parameters", "s / image"]]
    rows.append([first.data.baseline, *cells(baseline, keys, main), "", ""])
    for record, own in zip(records, values, strict=True):
        assert record.method
        assert record.cost
        cost = [f"{record.cost.parameters / 1e6:.2f} M", f"{record.cost.seconds_per_image:.3f}"]
        rows.append([record.method.label, *cells(own, keys, main), *cost])
    return markdown(rows)


def values_of(record: Record) -> dict[str, float | None]:
    """A run's scores, and the prior dependence."""
    values = {key: score.value for key, score in record.scores.items()}
    return values | {"prior_dependence": record.scores[record.main_metric].gains.get("prior_dependence")}


def cells(values: Mapping[str, float | None], keys: Sequence[str], main: str) -> list[str]:
    # The prior dependence is counted in the main score.
    places = {key: digits(main if key == "prior_dependence" else key) for key in keys}
    return [number(values[key], places[key]) if key in values else "" for key in keys]


def few_images(scores: Mapping[str, Score]) -> list[str]:
    """A line for each distance between sets that is biased since the images are few."""
    return [
        f"{SCORES[key]} of fewer than {FEW_IMAGES} images is biased: compare it over the same images only"
        for key in SET_METRICS
        if key in scores and scores[key].value is not None and scores[key].n < FEW_IMAGES
    ]


def print_table(run_dirs: Sequence[str]) -> None:
    """`diffi2i table <run> ...`.

    Raises:
        UserError: no run named, one is unfinished, or they do not compare.
    """
    if not run_dirs:
        raise UserError("table needs run directories: diffi2i table <run> <run> ...")
    if absent := [run_dir for run_dir in run_dirs if not Path(run_dir).exists()]:
        raise UserError(f"{absent[0]} is neither a run directory nor one of {', '.join(names())}")
    records = {run_dir: Record.read(Path(run_dir)) for run_dir in run_dirs}
    if scored := [run_dir for run_dir, record in records.items() if record.method is None]:
        raise UserError(f"{scored[0]} holds scores of folders, not of a run: write diffi2i compare {scored[0]} <run>")
    first = records[run_dirs[0]]
    images = max(score.n for score in first.scores.values())
    print(f"\n{first.task}, {first.data.dataset}, {images} held-out images, scale {first.budget}\n")
    print(runs_table(list(records.values())))
    for record in records.values():
        for key, score in record.scores.items():
            if score.value is None and key in record.data.protocol["metrics"]:
                print(f"\n{key} n/a: {score.why_not}")
    for line in dict.fromkeys(line for record in records.values() for line in few_images(record.scores)):
        print(f"\n{line}")
    panel = Path(run_dirs[-1]) / "panel.png"
    if panel.is_file():
        print(f"\npicture (input | output | ground truth | error): {panel}")
