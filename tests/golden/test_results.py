"""The results that come with the project: each table follows from the records kept beside it."""

import csv
import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from diffi2i.metrics.spec import METRICS
from diffi2i.run.plan import RUNS
from diffi2i.run.record import Record
from diffi2i.run.rows import experiments_dir
from diffi2i.tables.bench import Row, page
from diffi2i.tables.experiment import load
from diffi2i.tables.frame import Found
from diffi2i.tables.table import BASELINE, Table, table_of
from diffi2i.tables.write import write
from tests.places import ROOT

RESULTS = experiments_dir() / "results"
GOLDEN = Path(__file__).parents[1] / "data" / "table7_of_0.1.csv"
TABLES = sorted(RESULTS.glob("*/*.json"))


def kept(file: Path) -> Table:
    return Table.from_json(json.loads(file.read_text(encoding="utf-8")))


def test_there_are_results() -> None:
    assert {"table7", "small-sisr", "small-deblur"} <= {file.stem for file in TABLES}


@pytest.mark.parametrize("file", TABLES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_kept_table_follows_from_its_records(file: Path, tmp_path: Path) -> None:
    was, experiment = kept(file), load(file.stem)
    files = {(run["row"], run["seed"], run["dataset"]): Path(run["file"]) for run in was.runs}
    records = {key: Record.read(RESULTS / place.relative_to(RUNS)) for key, place in files.items()}
    trained = {name: Record.read(RESULTS / was.budget / name) for name in was.seconds}
    written = write(table_of(experiment, Found(records, files), was.budget, trained, was.panels), experiment, tmp_path)
    assert {made.suffix for made in written} >= {".md", ".csv", ".tex", ".json"}
    for made in written:
        assert made.read_text(encoding="utf-8") == (file.parent / made.name).read_text(encoding="utf-8"), made.name


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("bench/*")), ids=lambda folder: folder.name)
def test_a_kept_bench_follows_from_its_measurements(folder: Path) -> None:
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    rows = [Row(**case) for case in found["cases"]]
    assert page(rows, found["device"]) == (folder / "bench.md").read_text(encoding="utf-8")
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for row in rows[1:]:
        ratio, (low, high) = 100 / row.ratio, (100 / (row.ratio_high or 0), 100 / (row.ratio_low or 0))
        assert f"{ratio:.2g} % [{low:.2g}, {high:.2g}]" in shown, (folder.name, row.name)


def test_table7_has_the_numbers_that_version_0_1_gave_it() -> None:
    """The same records drawn by other code: every number of every cell, and what is printed of it."""
    cells_of = kept(RESULTS / "demo" / "table7.json").cells.itertuples()
    cells = {(cell.row, f"{cell.origin}: {cell.heading}"): cell for cell in cells_of}
    compared = 0
    for line in csv.DictReader(GOLDEN.read_text(encoding="utf-8").splitlines()):
        heads = [head for head in line if head.startswith(("paper: ", "here: ")) and (line["row"], head) in cells]
        assert len(heads) == 7
        for head in heads:
            cell = cells[line["row"], head]
            was = {name: line.get(f"{head}, {name}", "") for name in ("sd", "low", "high", "images", "seeds")}
            was["value"] = "" if line[head] == "n/a" else line[head]
            for name, text in was.items():
                expected = float(text) if text else float("nan")
                assert getattr(cell, name) == pytest.approx(expected, rel=1e-12, nan_ok=True), (line["row"], head, name)
            measured = head.startswith("here: ") and was["value"]
            assert cell.text == (f"{float(line[head]):.{cell.digits}f}" if measured else line[head])
            compared += bool(was["value"])
    # Of eight rows: the paper's five, twice; ours, with the baseline's PSNR; the six that have a prior, twice.
    assert compared == 2 * 5 + 8 + 9 + 2 * 6


RECORDS = sorted(file for name in ("*", "rerun/*", "fresh/*") for file in RESULTS.glob(f"{name}/*/result.json"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.parent.name)
def test_a_kept_record_says_where_it_comes_from(file: Path) -> None:
    record = Record.read(file)
    assert record.budget == file.parent.parent.name
    assert record.method
    assert file.parent.name.startswith(f"{record.task}-{record.method.name}-")
    assert record.provenance.hardware["cpu"]
    assert record.provenance.commit
    assert not record.provenance.commit.endswith("+"), "made with uncommitted changes"


def summary() -> Any:
    """experiments/summary.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("summary", experiments_dir() / "summary.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["summary", "studies"])
def test_the_page_of_results_shows_the_small_scale_tables(name: str) -> None:
    shown: str = getattr(summary(), name)()
    assert (RESULTS / "demo" / f"{name}.md").read_text() == shown
    for table in shown.strip().split("\n\n"):
        assert table in (ROOT / "docs" / "results.md").read_text()


EQUAL = [*RESULTS.glob("demo/study-*.json"), *RESULTS.glob("demo/neighbours[23].json")]


@pytest.mark.parametrize("file", sorted(EQUAL), ids=lambda file: file.stem)
def test_the_rows_of_a_study_have_had_equal_processor_seconds(file: Path) -> None:
    table = kept(file)
    records = [(run["row"], Record.read(RESULTS / Path(run["file"]).relative_to(RUNS))) for run in table.runs]
    begun = {
        record.method.init.weights
        for _, record in records
        if record.method and record.method.init and record.training and record.training.steps  # RePaint makes none
    }
    # Those from which others start have had a part of it.
    ends = {row for row, record in records if record.training and record.training.weights not in begun}
    of_rows = summary().processor_seconds(table).items()
    spent = {row: sum(seconds) / len(seconds) for row, seconds in of_rows if row in ends}
    mean = sum(spent.values()) / len(spent)
    assert {row: seconds for row, seconds in spent.items() if abs(seconds / mean - 1) > 0.1} == {}


def test_the_page_of_performance_shows_the_kept_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("timings")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert found.table() in page
    assert found.twice() in page
    assert importlib.import_module("kept").table() in page


@pytest.fixture
def tradeoff(monkeypatch: pytest.MonkeyPatch) -> Any:
    """experiments/tradeoff.py."""
    monkeypatch.syspath_prepend(str(experiments_dir()))
    return importlib.import_module("tradeoff")


def test_the_points_of_the_tradeoff_are_those_of_the_records(
    tradeoff: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Of one table, with made-up milliseconds."""
    table = kept(RESULTS / "demo" / "study-sisr.json")
    rows = [row for row in dict.fromkeys(table.cells.row) if row != BASELINE]
    calls = table.cells[table.cells.metric == "calls"].set_index("row").value
    times = [{"row": f"study-sisr/{row}", "ms": 1.0 + i, "calls": int(calls[row])} for i, row in enumerate(rows)]
    measured = {"rows": times, "size": "256", "rounds": "1", "threads": "1"}
    tables, inputs = {"study-sisr": table}, tradeoff.inputs_of({"study-sisr": table})
    points = tradeoff.points_of(tables, measured)
    assert [*points.key] == [time["row"] for time in times]
    cells = {(f"study-sisr/{cell.row}", cell.metric): cell for cell in table.cells.itertuples()}
    for point in points.to_dict("records"):
        for score in tradeoff.SCORES:
            cell = cells[point["key"], score]
            assert (point[score], point[f"{score}, sd"]) == pytest.approx((cell.value, cell.sd), rel=1e-12)
            assert inputs[score] == cell.baseline
    by_psnr = next(ordering for ordering in table.orderings if ordering.metric == "psnr_y").pairs.set_index("worse")
    for point in points[points.label.isin(by_psnr.index)].to_dict("records"):  # DiffI2I less these
        pair = by_psnr.loc[point["label"]]
        assert (point["psnr_y, low"], point["psnr_y, high"]) == pytest.approx((-pair.high, -pair.low), rel=1e-9)
    joined = [[*line.key] for line in tradeoff.lines_of(points) if len(line) > 1]
    assert joined == [["study-sisr/ldm-dpm", "study-sisr/ldm"]]
    figure = tradeoff.draw(points, inputs, tables, measured)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert {*map(str, points.number)} <= {*numbers}
    drawn = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in figure.axes[0].lines}
    assert {*zip(points.ms, points.psnr_y, strict=True)} <= drawn
    # A row of half the processor seconds is none to compare, and none is shown that is not timed.
    monkeypatch.setattr(tradeoff, "processor_seconds", lambda _: {"diffi2i": [60.0], "none": [30.0], "diffir": [60.0]})
    measured["rows"] = [time for time in times if time["row"] != "study-sisr/diffir"]
    assert [*tradeoff.points_of(tables, measured).key] == [tradeoff.MARKED]
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        "study-sisr/diffir",
        "study-sisr/none",
    ]


def test_the_kept_tradeoff_follows_from_the_records(tradeoff: Any, capsys: Any, tmp_path: Path) -> None:
    tables = tradeoff.kept()
    missing = [name for name in tradeoff.TABLES if name not in tables]
    missing += [] if tradeoff.TIMES.is_file() else [tradeoff.TIMES.name]
    if missing:
        pytest.skip(f"not kept yet: {', '.join(missing)}")
    measured = json.loads(tradeoff.TIMES.read_text(encoding="utf-8"))
    points, inputs = tradeoff.points_of(tables, measured), tradeoff.inputs_of(tables)
    assert "not timed" not in capsys.readouterr().err
    shown = tradeoff.PAGE.read_text(encoding="utf-8")
    assert tradeoff.page(points, inputs) == shown
    assert shown.strip() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    if f"matplotlib=={mpl.__version__} " not in (ROOT / "requirements.lock").read_text(encoding="utf-8"):
        pytest.skip("another matplotlib draws other paths")
    tradeoff.save(tradeoff.draw(points, inputs, tables, measured), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == tradeoff.PICTURE.read_bytes()


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """experiments/prior_report.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(experiments_dir()))
        yield importlib.import_module("prior_report")


@pytest.fixture(scope="module")
def report(study: ModuleType) -> Any:
    """Of the kept records; what it has drawn serves all tests."""
    return study.Report()


def test_page_of_the_prior_is_rendered_from_the_records(study: ModuleType, report: Any, tmp_path: Path):
    assert study.rendered(report) == study.PAGE.read_text(encoding="utf-8")
    if f"matplotlib=={mpl.__version__} " not in (ROOT / "requirements.lock").read_text(encoding="utf-8"):
        pytest.skip("another matplotlib draws other paths")
    study.save(study.picture(report), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == study.PICTURE.read_bytes()


def test_rows_of_the_study_differ_in_the_prior_alone(study: ModuleType, report: Any):
    """Each pair that is compared: the same images, inputs and steps; its gain follows from the means."""
    groups = study.design().groups
    factors = [
        (setting, (row, other))
        for setting, row, _ in report.records
        for other in ("none", "none-on", "v3")
        if row in {**groups["factors"], **groups["rates"]} and study.as_long(row, other)
    ]
    compared = report.effects | {key: effect for key in factors if (effect := report.effect(*key))}
    assert len(compared) > len(report.effects) > 40
    for (setting, (one, other)), effect in compared.items():
        metric, apart = study.design().settings[setting].metric, []
        for seed in range(effect.seeds):
            pair = [report.records[setting, row, seed] for row in (one, other)]
            assert len({(record.data.val, record.data.inputs, record.data.train) for record in pair}) == 1
            steps = [(record.training.steps, record.training.network_steps) for record in pair]
            rests = one in ("v2", "alone")
            assert steps[0] == steps[1] if not rests else steps[0] < steps[1], (setting, one, other)
            assert steps[0][0] == steps[1][0]
            apart.append(
                np.mean([image[metric] for image in pair[0].images]) - np.mean([i[metric] for i in pair[1].images])
            )
        sign = -1 if METRICS[metric].lower else 1
        assert effect.mean == pytest.approx(sign * METRICS[metric].unit * np.mean(apart), abs=1e-9)


def test_probes_are_of_the_runs_whose_records_are_kept(study: ModuleType):
    kept = {cell: line["file"] for cell, line in study.listed(study.KEPT / "records.json").items()}
    probes = study.listed(study.KEPT / "probes.json")
    assert probes
    assert {cell: line["file"] for cell, line in probes.items()} == {cell: kept[cell] for cell in probes}


def test_sentences_of_the_page_are_true_of_the_records(study: ModuleType, report: Any):
    """What experiments/prior.md.jinja says in words, between the numbers that it asks for."""

    def gain(setting: str, one: str, other: str) -> Any:
        effect = report.effect(setting, (one, other))
        assert effect is not None
        return effect

    assert all(gain(setting, "s1-on", "none-on").low > 4 for setting in ("tone", "context"))
    assert all(abs(gain(setting, "s1-on", "none-on").mean) < 0.1 for setting in ("sisr", "deblur"))
    assert gain("tone", "v3", "big-on").low > 0  # "there the prior is the better use of that cost"
    for name, lines in (("rerun", 2), ("fresh", 5)):
        again = report.again(name).splitlines()[2:]
        assert len(again) == lines
        assert all(line.rstrip(" |").endswith("yes") for line in again)
    above = {setting: report.moved(setting, better=True) for setting in ("tone", "context")}
    assert above == {"tone": "none", "context": "10 L_diff"}
    # "At no rate is a sign other", "below V1 at 1e-3 and 2e-3 ..., not told apart from it at 5e-4"
    for end in study.RATES:
        for setting in ("tone", "context"):
            assert gain(setting, f"v3{end}", f"none-on{end}").low > 0
            assert (gain(setting, f"v3{end}", f"v1{end}").high < 0) == (end != "-half")
        assert gain("inpainting", f"v3{end}", f"none-on{end}").high < 0
    for setting in study.design().within["factors"]:
        assert gain(setting, "steps-1", "v3").low < 0 < gain(setting, "steps-1", "v3").high
    of_v3 = report.probes[report.probes.row == "v3"].groupby("setting").mean(numeric_only=True)
    # "under them two outputs of one input differ by no more than under L1"
    assert of_v3.apart_lpips["realsr-gan"] <= 1e-4
    assert of_v3.told["depth"] < 0
    assert len({len(report.frames[setting].seed.unique()) for setting in study.design().settings}) == 1

    def mean(setting: str, row: str, metric: str = "fd_lite0") -> float:
        return float(np.mean([record.scores[metric].value for record in report.of(setting, row).values()]))

    lama = {row: mean("inpainting-lama", row, "lpips_alex") for row in study.design().groups["main"]}
    assert min(lama[row] for row in ("none-on", "s1-on", "v1", "v3")) > max(lama["none"], lama["s1"])
    stage1_decoder = ("sampler-v2", "sampler-energy", "sampler-alone", "sampler-normal", "sampler-normal-alone")
    for row in stage1_decoder:
        for of, metric in (("clusters", "fd_lite0"), ("tone", "fd_lite0"), ("tone", "lpips_alex")):
            assert mean(of, row, metric) < min(mean(of, "v1", metric), mean(of, "v3", metric))
        assert gain("tone", row, "v3").low < 0 < gain("tone", row, "v3").high
    for normal, plain in (("sampler-normal", "sampler-v2"), ("sampler-normal-alone", "sampler-alone")):
        assert mean("clusters", normal) < mean("clusters", plain)
        assert gain("clusters", normal, plain).mean > 0
    # "the energy score and V2 do draw"
    drawn = report.probes.groupby(["setting", "row"]).spread.mean()
    for of in ("clusters", "tone"):
        assert min(drawn[of, "sampler-energy"], drawn[of, "sampler-v2"]) > 10 * drawn[of, "v3"]
