"""Tables of the tests' own, in a copy of `conf/`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffi2i.config import compose
from diffi2i.run import plan

SETTINGS = """
title: four rows and a peer
task: sisr
columns:
  - {heading: "Set14, PSNR", metric: psnr_y, dataset: set14}
"""


@pytest.fixture(scope="module")
def own_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of `conf/` without its experiments."""
    conf = tmp_path_factory.mktemp("conf")
    for part in compose.conf_dir().iterdir():
        if part.name != "experiment":
            (conf / part.name).symlink_to(part)
    (conf / "experiment").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "conf_dir", lambda: conf)
        plan.composed.cache_clear()
        yield conf
        plan.composed.cache_clear()


@pytest.fixture
def tables(own_conf: Path) -> Path:
    """The folder of experiments, empty. Composing takes long, so a row of one name is the same in all of a module."""
    for table in (own_conf / "experiment").iterdir():
        shutil.rmtree(table)
    return own_conf / "experiment"


def write_table(folder: Path, name: str, rows: dict[str, str], paper: str = "", settings: str = SETTINGS) -> Path:
    """A table's folder. `rows` are configurations without their first line, `paper` the lines of its CSV."""
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "table.yaml").write_text(settings, encoding="utf-8")
    (place / "paper.csv").write_text(paper or 'row,label,"Set14, PSNR",note\n', encoding="utf-8")
    for row, text in rows.items():
        (place / f"{row}.yaml").write_text(f"# @package _global_\n{text}\n", encoding="utf-8")
    return place


def row(method: str, *more: str) -> str:
    """A row's configuration: its method, and further lines."""
    return "\n".join([f"defaults: [override /task: sisr, override /method: {method}]", *more])
