"""The results that come with the project: each table follows from the records kept beside it."""

import importlib.util
import json
from pathlib import Path

import pytest

from diffi2i.run.plan import RUNS
from diffi2i.run.record import Record
from diffi2i.run.rows import experiments_dir
from diffi2i.tables.experiment import load
from diffi2i.tables.frame import Found
from diffi2i.tables.table import table_of
from diffi2i.tables.write import write

RESULTS = experiments_dir() / "results"
README = Path(__file__).parents[1] / "README.md"
TABLES = sorted(RESULTS.glob("*/*.json"))


def kept_at(file: str) -> Path:
    return RESULTS / Path(file).relative_to(RUNS)


def test_there_are_results() -> None:
    assert {"table7", "small-sisr", "small-deblur"} <= {file.stem for file in TABLES}


@pytest.mark.parametrize("file", TABLES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_kept_table_follows_from_its_records(file: Path, tmp_path: Path) -> None:
    kept = json.loads(file.read_text(encoding="utf-8"))
    budget, experiment = file.parent.name, load(file.stem)
    files = {(run["row"], run["seed"], run["dataset"]): Path(run["file"]) for run in kept["runs"]}
    found = Found({key: Record.read(kept_at(str(place))) for key, place in files.items()}, files)
    trained = {name: Record.read(RESULTS / budget / name / "result.json") for name in kept["seconds"]}
    written = write(table_of(experiment, found, budget, trained), experiment, tmp_path)
    assert {made.suffix for made in written} >= {".md", ".csv", ".tex", ".json"}
    for made in written:
        assert made.read_text(encoding="utf-8") == (file.parent / made.name).read_text(encoding="utf-8"), made.name


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/*/result.json")), ids=lambda file: file.parent.name)
def test_a_kept_record_says_where_it_comes_from(file: Path) -> None:
    kept = Record.read(file)
    assert kept.budget == file.parent.parent.name
    assert kept.method
    assert file.parent.name.startswith(f"{kept.task}-{kept.method.name}-")
    assert kept.provenance.hardware["cpu"]
    assert kept.provenance.commit
    assert not kept.provenance.commit.endswith("+"), "made with uncommitted changes"


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
