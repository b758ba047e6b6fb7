"""The record of a run, `result.json`: what was run, on what, with what, and what came out."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffi2i.errors import UserError
from diffi2i.schema import Config

VERSION = 2
"""Of the record's form. Records of version 0.1 have none."""

PLACES = (
    "trainer",
    "logger",
    "validation",
    "run_dir",
    "root",
    "dataset.workers",
    "dataset.cache_mb",
    "dataset.source.root",
    "dataset.source.val_root",
    "method.init",
)
"""Keys that do not shape the result: hardware, what is watched, and where things lie; what lies there does."""

PACKAGES = ("diffi2i", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def config_hash(config: Config) -> str:
    """Eight hex digits that name every setting that shapes the result: all but `PLACES`."""
    return sha256(json.dumps(without(asdict(config), PLACES), sort_keys=True).encode()).hexdigest()[:8]


def without(node: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Nested dicts less the dotted keys."""
    return {
        name: without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in node.items()
        if prefix + str(name) not in keys
    }


def first_difference(one: Any, other: Any, apart: Sequence[str] = (), key: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key at which two configurations differ, the keys `apart` left out, with both values."""
    if key in apart or one == other:
        return None
    if isinstance(one, dict) and isinstance(other, dict):
        # What a user writes comes before what follows from it.
        for name in sorted(one | other, key=lambda name: name == "task"):
            path = f"{key}.{name}" if key else str(name)
            if found := first_difference(one.get(name), other.get(name), apart, path):
                return found
        return None
    return key, one, other


def git_commit() -> str | None:
    """Commit of the checkout this code lies in, with `+` where it has uncommitted changes; None outside git."""
    try:
        output = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


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
        "method": config.method["name"],
        "degrade": config.task.degrade,
        "val_crop": config.train.val_crop,
        "val_crops": config.train.val_crops,
        "input_scale": config.task.scenes.input_scale,
        "budget": config.budget,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "protocol": asdict(config.task.protocol),
        "main_metric": config.task.main_metric,
        **scores,
        **provenance(),
    }
    write_json(path, record)


def provenance() -> dict[str, Any]:
    """When a record was made, by which code, on what."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "versions": installed_versions(),
        "hardware": hardware(),
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes `path` whole or not at all. Infinite and NaN values become strings: JSON has none."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # other processes may write the same file
    temporary.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


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


def read_json(file: Path) -> dict[str, Any]:
    """A small file that `write_json` wrote. Raises `UserError` where it is damaged."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): name another run_dir") from error
    return found


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
