"""Records of inpainting runs as a table finds them, without the runs."""

from dataclasses import replace
from statistics import fmean
from typing import Any

from diffi2i.run.record import Cost, DataFacts, Init, MethodFacts, Provenance, Record, Score, Training
from diffi2i.run.state import Entry
from diffi2i.tables.frame import Key

INIT = Init("diffi2i_s1", "d" * 64, "89abcdef", 100)
DATA = DataFacts(
    dataset="photos",
    train="a" * 64,
    val="b" * 64,
    inputs="c" * 64,
    degrade={"mask": "wide", "low": 0.1},
    crop=64,
    crops=1,
    input_scale=1.0,
    protocol={"border": 0, "metrics": ["psnr_hole", "fid"]},
    baseline="input itself",
    constant=None,
)
RECORD = Record(
    task="inpainting",
    budget="demo",
    seed=0,
    main_metric="psnr_hole",
    method=MethodFacts("diffi2i_s2", "stage 2", "tiny", False, {}, [], INIT),
    data=DATA,
    scores={},
    cost=Cost(2_600_000, None, None, 0.0456, None, 500.0, [3, 64, 64]),
    training=Training(200, 300, 100.0, 95.0, "l1", []),
    provenance=Provenance(
        "2026-01-02T03:04:05+00:00",
        "0123456789abcdef+",
        "01234567",
        {"python": "3.11.7", "torch": "2.14.1"},
        {"gpu": None, "cpu": "x86_64", "instructions": "AVX2", "precision": "fp32", "cpu_count": 2, "threads": 1},
    ),
    images=[],
    baseline_images=[],
    classes=None,
)


def record(
    psnr: list[float], seed: int = 0, fid: float | None = None, gain: float | None = 0.5, **changes: Any
) -> Record:
    """A record with `psnr` inside the hole for images a, b, c, ..., an FID, and a prior dependence unless None.

    `changes` are in fields of `Record` or of its data, and `steps` (of the network), `seconds` (per image).
    """
    gains = {} if gain is None else {"prior_dependence": gain}
    scores = {
        "psnr_hole": Score(fmean(psnr), len(psnr), baseline=12.0, gains=gains),
        "fid": Score(fid, 0 if fid is None else len(psnr), why_not="no Inception weights" if fid is None else None),
    }
    images: list[dict[str, str | float]] = [{"name": chr(97 + i), "psnr_hole": value} for i, value in enumerate(psnr)]
    return changed(replace(RECORD, seed=seed, scores=scores, images=images), **changes)


def changed(base: Record, **changes: Any) -> Record:
    """See `record`."""
    assert base.training
    assert base.cost
    training = replace(base.training, network_steps=changes.pop("steps", base.training.network_steps))
    cost = replace(base.cost, seconds_per_image=changes.pop("seconds", base.cost.seconds_per_image))
    data = {key: changes.pop(key) for key in list(changes) if key in vars(base.data)}
    return replace(base, training=training, cost=cost, data=replace(base.data, **data), **changes)


def of_task(task: str, metric: str, value: float, gain: float, baseline: float, **changes: Any) -> Record:
    """A record of another task, which has a single score of a single image."""
    score = Score(value, 1, baseline=baseline, gains={"prior_dependence": gain})
    return record([1.0], task=task, main_metric=metric, scores={metric: score}, images=[], **changes)


def entries(**rows: Any) -> dict[Key, Entry]:
    """A row's entries in the order of their seeds, by the row's name."""
    return {(row, seed, ""): entry for row, found in rows.items() for seed, entry in enumerate(found)}
