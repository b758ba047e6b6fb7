"""The record of a run, `result.json`: what was run, on what, with what, and what came out."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError
from diffi2i.run.files import write_json
from diffi2i.run.identity import config_hash, first_difference
from diffi2i.run.provenance import provenance
from diffi2i.schema import Config

VERSION = 2
"""Of the record's form. Records of version 0.1 have none."""


def write_result(path: Path, config: Config, origin: dict[str, Any], scores: dict[str, Any]) -> None:
    """Writes the record of a run: what it is, then `scores` as `evaluate.score` gives them, and its provenance.

    `origin` holds the hashes of the images trained on (`train`) and scored (`val`), and what it started from (`init`).
    """
    record = {
        "version": VERSION,
        "task": config.task.name,
        "dataset": {"name": config.dataset.name, "train": origin["train"], "val": origin["val"]},
        "init": origin["init"],
        "model": config.model.name,
        "stage": config.stage.name,
        "budget": config.stage.budget,
        "prior": config.stage.prior,
        "timesteps": config.stage.diffusion.timesteps,
        "degrade": config.task.degrade,
        "val_crop": config.train.val_crop,
        "val_crops": config.train.val_crops,
        "input_scale": config.task.scenes.input_scale,
        "scale": config.scale,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "protocol": asdict(config.task.protocol),
        "main_metric": config.task.main_metric,
        **scores,
        **provenance(),
    }
    write_json(path, record)


def read_result(run_dir: Path) -> dict[str, Any]:
    """A run's record.

    Raises:
        UserError: none there, or not readable as one.
    """
    file = run_dir / "result.json"
    if not file.is_file():
        raise UserError(f"{run_dir} has no result.json: it is no finished run")
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): delete it and give the training command again") from error
    if isinstance(record, dict) and record.get("version") != VERSION:
        raise UserError(
            f"{file} is a record of version {record.get('version', '0.1')}, whose inputs and scores were others: "
            "train the run anew, in another run_dir"
        )
    return record


def why_not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Why the scores of two records do not compare, in words; None where they do.

    They do where task, protocol, images and the inputs made of them are the same. What the methods are, and what they
    were trained on, may differ: that is what is compared.
    """
    for key, what in (("task", "the task"), ("degrade", "the degradation"), ("val_crop", "the crop that is scored")):
        if key in a and key in b and a[key] != b[key]:
            _, one, other = first_difference({key: a[key]}, {key: b[key]}) or (key, a[key], b[key])
            return f"{what} is {one} in one, {other} in the other"
    for key in a["protocol"] | b["protocol"]:
        if (one := a["protocol"].get(key)) != (other := b["protocol"].get(key)):
            return f"the protocol's {key} is {one} in one, {other} in the other; score one anew"
    # A run and a score of folders have hashes of different things.
    for kind, key in (("dataset", "val"), ("manifest", "target")):
        if kind in a and kind in b and a[kind][key] != b[kind][key]:
            return "their images are different files"
    if "inputs" in a and "inputs" in b and a["inputs"] != b["inputs"]:
        return "the inputs made of their images are different"
    return None
