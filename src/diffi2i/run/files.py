"""Small JSON files, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes `path` whole or not at all. Infinite and NaN values become strings: JSON has none."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # other processes may write the same file
    temporary.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def json_output(output: str) -> Path:
    """The JSON file that a command is to write. Raises `UserError`: it is none, or the record of a run."""
    path = Path(output)
    if path.suffix != ".json" or path.is_dir():
        raise UserError(f"output={output}: write a file name that ends in .json")
    if path.name == "result.json" and (path.parent / "config.yaml").exists():
        raise UserError(f"output={output} is the record of a run: write another file name")
    return path


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
