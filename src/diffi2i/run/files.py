"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary file beside `file` to write to, which becomes `file` at the end or is gone."""
    temporary = file.with_name(f"{file.name[:40]}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


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


def read_json(file: Path) -> dict[str, Any]:
    """A small file that `write_json` wrote. Raises `UserError` where it is damaged."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): name another run_dir") from error
    return found
