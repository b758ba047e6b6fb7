"""The results that come with the project: each table follows from the records kept beside it."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffi2i.tables.formats import to_csv, to_latex, to_markdown
from diffi2i.tables.records import Filled
from diffi2i.tables.render import render

from diffi2i.tables.experiment import experiments_dir, load, read
from diffi2i.tables.plan import RUNS

RESULTS = experiments_dir() / "results"
README = Path(__file__).parents[1] / "README.md"
TABLES = sorted(RESULTS.glob("*/*.json"))


def record(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / file.relative_to(RUNS)).read_text())
    return found


@pytest.mark.parametrize("file", TABLES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_kept_table_follows_from_its_records(file: Path) -> None:
    kept = json.loads(file.read_text())
    scale = file.parent.name
    own = {(cell["row"], cell["seed"]): record(Path(cell["file"])) for cell in kept["cells"]}
    trained = {key: record(RUNS / scale / key / "result.json") for key in kept["table"]["compute"]}
    small = experiments_dir() / "small" / f"{kept['experiment']}.yaml"
    found = read(small) if small.is_file() else load(kept["experiment"])
    rows = {line["name"] for line in kept["table"]["lines"]}
    experiment = replace(found, rows=[row for row in found.rows if row.name in rows])
    table = render(experiment, Filled({**own}), scale, trained)
    pictures = [f"{file.stem}.svg"] if experiment.x else []
    assert file.with_suffix(".md").read_text() == to_markdown(table, pictures)
    assert file.with_suffix(".csv").read_text() == to_csv(table)
    assert file.with_suffix(".tex").read_text() == to_latex(table)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/*/result.json")), ids=lambda file: file.parent.name)
def test_a_kept_record_says_where_it_comes_from(file: Path) -> None:
    kept = json.loads(file.read_text())
    assert kept["scale"] == file.parent.parent.name
    assert kept["hardware"]["cpu"]
    assert not kept["commit"].endswith("+"), "made with uncommitted changes"


def test_the_readme_shows_the_small_scale_tables() -> None:
    spec = importlib.util.spec_from_file_location("summary", experiments_dir() / "summary.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shown: str = module.summary()
    assert (RESULTS / "demo" / "summary.md").read_text() == shown
    for table in shown.strip().split("\n\n"):
        assert table in README.read_text()
