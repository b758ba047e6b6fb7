"""W&B without a key, and what it keeps on disk of an offline run.

The file of a run is a log as LevelDB has it: after a header of 7 bytes, blocks of 32 KiB with pieces of records, each
behind its checksum (4 bytes), length (2) and kind (1): whole, first, middle or last.
"""

import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

BLOCK = 32 * 1024
WHOLE, LAST = 1, 4


@dataclass
class Run:
    """The header, the configuration, the rows as logged, and the summary, with nested keys joined by dots."""

    header: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def forget_key(patch: Any, home: Path) -> None:
    """As on a machine that has never heard of W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(home / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(home / "wandb"))


def parts(run_dir: Path) -> list[Path]:
    """The folders of the run's parts, oldest first."""
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def read(folder: Path) -> Run:
    """One ended part of a run, from its only `.wandb` file, which wandb's service closes a moment after the run."""
    (file,) = folder.glob("*.wandb")
    for _ in range(100):
        run = read_written(file)
        if run.exit_code is not None:
            return run
        time.sleep(0.1)
    raise AssertionError(f"{file} does not end")


def read_written(file: Path) -> Run:
    """What is in the file so far."""
    run = Run()
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.header = record.run
        elif kind == "config":
            run.config |= values(record.config.update)
        elif kind == "history":
            run.history.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def records(file: Path) -> Iterator[Any]:
    data = file.read_bytes()
    assert data[:4] in (b":W&B", b"")
    place, pieces = 7, b""
    while place + 7 <= len(data):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if place > len(data):
            return
        if kind in (WHOLE, LAST):
            yield Record.FromString(pieces)
            pieces = b""
