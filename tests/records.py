"""Records as runs leave them, without the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffi2i.run.record import Cost, DataFacts, Init, MethodFacts, Provenance, Record, Score, Training

INIT = Init(method="diffi2i_s1", weights="w", config_hash="89abcdef", network_steps=100)
METHOD: dict[str, Any] = {
    "name": "diffi2i_s2",
    "label": "stage 2",
    "model": "tiny",
    "sees_target": False,
    "options": {"name": "joint", "prior": "joint"},
    "settings": [],
    "init": INIT,
}
DATA: dict[str, Any] = {
    "dataset": "photos",
    "train": "t",
    "val": "v",
    "inputs": "i",
    "degrade": {"blur": {"size": 5, "noise": 0.1}},
    "crop": 64,
    "crops": 1,
    "input_scale": 1.0,
    "protocol": {"seed": 0, "border": 0, "metrics": ["psnr"], "flip": False},
    "baseline": "input itself",
    "constant": None,
}
RUN: dict[str, Any] = {
    "task": "deblur",
    "budget": "demo",
    "seed": 0,
    "main_metric": "psnr",
    "scores": {"psnr": Score(30.0, 2, 29.0, 31.0, 18.0, {"prior_dependence": 0.1})},
    "cost": Cost(2_600_000, 1000, None, 0.0456, 0.04, 500.0, [3, 64, 64]),
    "training": Training(300, 400, 60.0, 55.0, "l1", []),
    "provenance": Provenance("2026-01-01T00:00:00+00:00", "c", "01234567", {"python": "3.11"}, {"gpu": None}),
    "images": [{"name": "a", "psnr": 29.0}, {"name": "b", "psnr": 31.0}],
    "baseline_images": [{"name": "a", "psnr": 17.0}, {"name": "b", "psnr": 19.0}],
    "classes": None,
}


def record(**changes: Any) -> Record:
    """A run's record, changed in fields of `Record`, `MethodFacts` or `DataFacts`, none of which share a name."""
    parts = {}
    for kind, base in ((MethodFacts, METHOD), (DataFacts, DATA)):
        names = {field.name for field in fields(kind)}
        parts[kind] = kind(**base | {key: changes.pop(key) for key in names & changes.keys()})
    return Record(**{"method": parts[MethodFacts], "data": parts[DataFacts], **RUN, **changes})


def scored(**values: Sequence[float]) -> dict[str, Any]:
    """`scores` and `images` of these scores of images a, b, c, ..."""
    names = [chr(97 + i) for i in range(max(map(len, values.values())))]
    images = [{"name": name, **{key: each[i] for key, each in values.items()}} for i, name in enumerate(names)]
    return {"scores": {key: Score(sum(each) / len(each), len(each)) for key, each in values.items()}, "images": images}


def of_folders(of_run: Record, **changes: Any) -> Record:
    """What `diffi2i score` says of a run's outputs: its files are others, and what made them is not known."""
    unknown: dict[str, Any] = dict.fromkeys(("method", "cost", "training", "budget", "seed"))
    data = DataFacts(
        **DATA
        | {"dataset": None, "train": None, "val": "of the folder", "inputs": None, "degrade": None, "crop": None}
        | {"protocol": of_run.data.protocol}
    )
    kept: Mapping[str, Any] = {field.name: getattr(of_run, field.name) for field in fields(Record)}
    return Record(**{**kept, **unknown, "data": data, **changes})


def kept(folder: Path, *records: Record) -> list[Path]:
    """The records in directories of their own."""
    places = [folder / f"run{number}" for number in range(len(records))]
    for place, each in zip(places, records, strict=True):
        place.mkdir()
        each.write(place / "result.json")
    return places
