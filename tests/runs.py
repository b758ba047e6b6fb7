"""What a run directory holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from diffi2i.run.record import Record


def result(run_dir: Path) -> Any:
    """The run's `Record`."""
    return Record.read(run_dir)


def repeatable(run_dir: Path) -> Any:
    """The run's `Record`, without what no two runs share."""
    found = result(run_dir)
    return replace(
        found,
        cost=replace(found.cost, seconds_per_image=0, cpu_seconds=0, peak_memory_mb=0),
        training=replace(found.training, seconds=0, cpu_seconds=0),
        provenance=replace(found.provenance, date="", commit=None),
    )


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "weights.safetensors")


def weight_bytes(run_dir: Path) -> bytes:
    return (run_dir / "weights.safetensors").read_bytes()
