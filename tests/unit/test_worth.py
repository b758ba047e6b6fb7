"""What a prior is worth: recomputed from the scores of each image, and shown in all formats."""

import csv
import io
from typing import Any

import numpy as np
import pytest

from diffi2i.metrics.intervals import RESAMPLES
from diffi2i.metrics.spec import METRICS
from diffi2i.run.record import Record, Score
from diffi2i.run.state import Failure
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.frame import Found
from diffi2i.tables.table import BASELINE, Table, table_of
from diffi2i.tables.write import to_csv, to_latex, to_markdown
from tests.table_records import entries, of_task, record

EXPERIMENT = Experiment(
    name="table99",
    title="a row and its control",
    task="inpainting",
    columns=[Column("FID", "fid", "celebahq")],
    rows=[Row("none", "no prior", [""]), Row("ours", "Ours", ["4.5"]), Row("peer", "Peer", ["5.0"], run=False)],
    controls={"none": ["ours"]},
)
IMAGES = 14


def table_with(**rows: list[Any]) -> Table:
    return table_of(EXPERIMENT, Found(entries(**rows)), "demo", {})


def worths(table: Table) -> dict[str, Any]:
    """The cells of the column, by row."""
    return {cell.row: cell for cell in table.cells[table.cells.metric == "prior_worth"].itertuples()}


def scores(seed: int, shift: float, scale: float) -> np.ndarray:
    """Of each image under one training seed."""
    return shift + scale * np.random.default_rng(seed).normal(size=IMAGES)


def entry(values: np.ndarray, metric: str, seed: int, reverse: bool = False) -> Record:
    images: list[dict[str, str | float]] = [{"name": f"{i:02}", metric: float(value)} for i, value in enumerate(values)]
    score = Score(float(values.mean()), IMAGES)
    return record([1.0], seed, main_metric=metric, scores={metric: score}, images=images[::-1] if reverse else images)


@pytest.mark.parametrize(("metric", "gain", "scale"), [("psnr_hole", 0.3, 1.0), ("rmse", 0.02, 0.1)])
def test_worth_is_the_paired_difference_to_the_control(metric: str, gain: float, scale: float) -> None:
    worse = [scores(seed, 20 * scale, scale) for seed in (0, 1)]
    sign = -1 if METRICS[metric].lower else 1
    better = [values + sign * gain + 0.1 * gain * scores(9 + i, 0, 1) for i, values in enumerate(worse)]
    # The images of a record may come in any order; a seed that one row has not is left out.
    ours = [entry(values, metric, seed, reverse=True) for seed, values in enumerate(better)]
    none = [*(entry(values, metric, seed) for seed, values in enumerate(worse)), entry(99 * worse[0], metric, 2)]
    cell = worths(table_with(ours=[*ours, Failure("no memory")], none=none))["ours"]

    differences = sign * (np.stack(better) - np.stack(worse)).mean(0)
    rng = np.random.default_rng(5)
    means = differences[rng.integers(0, IMAGES, (RESAMPLES, IMAGES))].mean(1)
    assert cell.value == pytest.approx(differences.mean(), rel=1e-9)
    assert cell.value == pytest.approx(gain, rel=0.2)
    assert (cell.low, cell.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01 * gain)
    assert 0 < cell.low < cell.value < cell.high
    assert (cell.images, cell.seeds) == (IMAGES, 2)
    by_seed = sign * (np.stack(better) - np.stack(worse)).mean(1)
    assert cell.sd == pytest.approx(by_seed.std(ddof=1), rel=1e-9)
    # The other way round it costs as much.
    cost = worths(table_with(ours=none, none=ours))["ours"]
    assert cost.value == pytest.approx(-cell.value)
    assert cost.low < cost.high < 0


def test_scores_of_a_set_have_the_spread_over_seeds_alone() -> None:
    def rows(*values: float) -> list[Record]:
        return [of_task("segmentation", "miou", value, 0.0, 0.1, seed=seed) for seed, value in enumerate(values)]

    cell = worths(table_with(ours=rows(0.31, 0.34), none=rows(0.30, 0.32)))["ours"]
    # In per cent, as the column of mIoU.
    assert cell.value == pytest.approx(1.5)
    assert cell.sd == pytest.approx(np.std([1.0, 2.0], ddof=1))
    assert np.isnan(cell.low)
    assert (cell.images, cell.seeds) == (1, 2)


OURS = [record([20.5, 21.25, 22.0])]
NONE = [record([20.0, 21.0, 21.25])]


@pytest.mark.parametrize(
    "none",
    [[None], [Failure("no memory")], [None, record([20.0, 21.0, 22.0], seed=1)]],
    ids=["not run", "failed", "another seed"],
)
def test_without_its_control_there_is_no_worth(none: list[Any]) -> None:
    table = table_with(ours=OURS, none=none)
    cells = worths(table)
    assert cells["ours"].text == "n/a"
    assert np.isnan(cells["ours"].value)
    assert cells["peer"].text == "", "a peer can have none"
    (note,) = [note for note in table.notes if note.startswith("prior worth is n/a")]
    assert "no record of the same network without a prior under the same seed" in note


def test_experiments_without_controls_have_no_such_column() -> None:
    table = table_of(Experiment(**vars(EXPERIMENT) | {"controls": {}}), Found(entries(ours=OURS)), "demo", {})
    assert list(table.cells.metric)[-1] == "prior_dependence"


def test_worth_is_shown_in_every_format() -> None:
    table = table_with(ours=OURS, none=NONE)
    cells = worths(table)
    assert cells["ours"].value == pytest.approx(0.5)
    assert (cells["ours"].low, cells["ours"].high) == pytest.approx((0.25, 0.75))
    assert {row: cells[row].text for row in (BASELINE, "none", "peer")} == {BASELINE: "", "none": "", "peer": ""}
    shown = "0.50 [+0.25, +0.75] (3 images, 1 seed)"
    text = to_markdown(table)
    assert "here: prior worth" in text
    assert f" {shown} |" in text
    assert shown in to_latex(table)
    (line,) = [line for line in csv.DictReader(io.StringIO(to_csv(table))) if line["metric"] == "prior_worth"]
    keys = ("value", "low", "high", "images", "seeds")
    assert [float(line[key]) for key in keys] == pytest.approx([0.5, 0.25, 0.75, 3, 1])
