"""Tables and their rows: the folders of `experiments/`, which are Hydra's config group `experiment`."""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from diffi2i.config import compose
from diffi2i.config.trust import read_yaml
from diffi2i.errors import UserError

TABLE, COMMON = "table", "common"
"""The files of a folder that are no row."""


def experiments_dir() -> Path:
    """The folder of experiments: `experiments/` of the checkout, or its copy inside the installed package."""
    return compose.conf_dir() / "experiment"


def table_names() -> list[str]:
    """All tables and figures: table1 ... table11, figure1, figure6, then those that are not the paper's."""
    found = [file.parent.name for file in experiments_dir().glob(f"*/{TABLE}.yaml")]
    kinds = ("table", "figure", "")
    return sorted(found, key=lambda name: ([name.startswith(kind) for kind in kinds].index(True), len(name), name))


def row_files(table: str) -> dict[str, Path]:
    """The rows that are run, those among them that only others start from included."""
    files = {file.stem: file for file in (experiments_dir() / table).glob("*.yaml")}
    return {name: files[name] for name in sorted(files) if name not in (TABLE, COMMON)}


def has_common(table: str) -> bool:
    """Whether its rows share settings, beyond a task."""
    return (experiments_dir() / table / f"{COMMON}.yaml").is_file()


def is_row(text: str) -> bool:
    """Whether `text` is meant as `<table>/<row>`, whether there is such a row or not."""
    return (experiments_dir() / text.partition("/")[0] / f"{TABLE}.yaml").is_file()


def check_row(text: str) -> None:
    """`text` is `<table>/<row>` of a row that is run. Raises `UserError`, which names the nearest."""
    table, _, row = text.partition("/")
    if not is_row(text):
        raise no_such("table", table, table_names())
    if row not in (known := row_files(table)):
        raise no_such(f"row of {table}", row, list(known))


def same_as(row: str) -> str | None:
    """The row of another table whose run this one is, since its file has nothing but that row as its default."""
    return only_default(experiments_dir() / f"{row}.yaml")


def origin(row: str) -> str:
    """The row whose run this one's is: itself, or that of another table; also for a row that is not run."""
    table, _, name = row.partition("/")
    return (same_as(row) if name in row_files(table) else None) or row


@cache
def only_default(file: Path) -> str | None:
    match OmegaConf.to_container(read_yaml(file)):
        case {"defaults": [str(other)], **rest} if not rest:
            return other.removeprefix("/experiment/")
    return None


def no_such(what: str, name: str, known: Sequence[str]) -> UserError:
    """`no table 'tabel7': did you mean table7?`"""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    write = f"did you mean {near[0]}?" if near else f"write one of {', '.join(known)}"
    return UserError(f"no {what} '{name}': {write}")
