"""The checkpoints of a training under way: the newest, and the one before it in case that the newest is damaged."""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from diffi2i.files import whole
from diffi2i.run.hardware import is_first_rank
from diffi2i.run.state import checkpoints_of


class Checkpoint(NamedTuple):
    """Optimiser steps made, wall and processor seconds of training, steps skipped, and the averaged weights."""

    steps: int
    seconds: float
    cpu_seconds: float
    skipped: int
    weights: dict[str, Tensor]


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: whole or not at all, the one before kept; nothing in a file can run.

    Its own way goes through the folder for temporary files, which is often on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # not into the file: torch hides why a disk did not take it
        file.parent.mkdir(exist_ok=True)
        newest, before = checkpoints_of(file.parents[1])
        with whole(file, before if file == newest else None) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        # Said outright, since an environment variable may turn torch's default round.
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


def newest(run_dir: Path) -> Path | None:
    """The newest sound checkpoint. Damaged ones are named and put aside as `<name>.damaged`."""
    for file in checkpoints_of(run_dir):
        if not file.is_file():
            continue
        if (why := damage(file)) is None:
            return file
        if is_first_rank():
            put_aside(file, f"is damaged ({why})")
    return None


def put_aside(file: Path, why: str) -> None:
    """Renames a checkpoint with which no training can go on, and says so."""
    aside = file.with_name(f"{file.name}.damaged")
    file.replace(aside)
    print(f"{file} {why}: passed over, and kept as {aside.name}", flush=True)


def damage(file: Path) -> str | None:
    """Why a checkpoint cannot be used, None where it is sound.

    torch writes a CRC-32 with every part of a checkpoint, and does not look at it when it reads.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if broken := archive.testzip():
                return f"wrong checksum of {broken}"
        read(file)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def read(file: Path) -> Checkpoint:
    """What is in a sound checkpoint, on the CPU."""
    found = CheckpointFiles().load_checkpoint(file)
    callbacks = found["callbacks"]
    return Checkpoint(
        found["global_step"],
        callbacks["Timer"]["time_elapsed"]["train"],
        callbacks["ProcessorTimer"]["seconds"],
        callbacks["FiniteSteps"]["skipped"],
        found["state_dict"],
    )
