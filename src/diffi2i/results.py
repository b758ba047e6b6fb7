"""The record of a run, `result.json`: what was run, on what, with what, and what came out."""

import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffi2i.errors import UserError
from diffi2i.schema import Config

PACKAGES = ("diffi2i", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def config_hash(config: Config) -> str:
    """Eight hex digits that name everything that shapes the result: all but hardware, what is watched, and place."""
    shaping = {k: v for k, v in asdict(config).items() if k not in ("trainer", "logger", "validation", "run_dir")}
    return sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]


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


def write_result(path: Path, config: Config, manifests: dict[str, str], scores: dict[str, Any]) -> None:
    """Writes the record of a run: its provenance, then `scores` as `evaluate.score` gives them.

    `manifests` holds the hashes of the images trained on (`train`) and scored (`val`).
    """
    record = {
        "task": config.task.name,
        "dataset": {"name": config.dataset.name, **manifests},
        "model": config.model.name,
        "stage": config.stage.name,
        "prior": "ground truth" if config.stage.name == "pretrain" else config.stage.prior,
        "scale": config.scale,
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
    temporary = path.with_suffix(".tmp")
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
    return record
