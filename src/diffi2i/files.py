"""Files written whole or not at all, and inside the folder that the user named; small JSON files."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError

TEMPORARY = ".tmp"


@contextmanager
def whole(path: Path, kept: Path | None = None) -> Iterator[Path]:
    """A temporary file beside `path` to write to. It becomes `path` when it is on the disk; else `path` stays as it is.

    What `path` held becomes `kept`, if there is one. A writer that is killed leaves its temporary file; see
    `clear_leftovers`.
    """
    # Beside it, since a rename is only whole within one file system. By process, since others may write the same file.
    temporary = path.with_name(f"{path.name[:40]}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        flush(temporary)
        if kept is not None and path.exists():
            path.replace(kept)
        temporary.replace(path)
        flush(path.parent)  # the new name, too
    except OSError as error:
        error.filename = error.filename or str(path)  # a write does not say where a disk is full
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file's contents, or a folder's list of names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(folder: Path) -> None:
    """Removes what killed writers left in a folder that no other process writes to."""
    for file in folder.glob(f"*{TEMPORARY}"):
        file.unlink(missing_ok=True)


def inside(folder: Path, name: str) -> Path:
    """The path `folder/name`. Raises `UserError`: it leads out of the folder, by `..`, a slash before it, or a link."""
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle; a name that no file can have
        within = False
    if not within:
        raise UserError(f"{path!s} leads out of {folder}: rename it, remove the link, or write another output")
    return path


def check_name(key: str, name: object) -> None:
    """Raises `UserError`: a name that becomes a folder's is a path, or no name at all."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise UserError(f"{key}={name!a} becomes a folder's name: write one without slashes")


def json_output(output: str) -> Path:
    """The JSON file that a command is to write. Raises `UserError`: it is none, or the record of a run."""
    path = Path(output)
    if path.suffix != ".json" or path.is_dir():
        raise UserError(f"output={output}: write a file name that ends in .json")
    if path.name == "result.json" and (path.parent / "config.yaml").exists():
        raise UserError(f"output={output} is the record of a run: write another file name")
    return path


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes `path` whole or not at all. Infinite and NaN values become strings: JSON has none."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def read_json(file: Path) -> dict[str, Any]:
    """A small file that `write_json` wrote. Raises `UserError` where it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): name another run_dir") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged (not a JSON object): name another run_dir")
    return found
