"""What a prior is worth: recomputed from the scores of each image, and shown in all formats."""

import csv
import io
import json
from typing import Any

import numpy as np
import pytest

from diffi2i.metrics.intervals import RESAMPLES
from diffi2i.metrics.spec import METRICS
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.formats import plain, restored, to_csv, to_latex, to_markdown
from diffi2i.tables.records import Failure
from diffi2i.tables.render import render
from diffi2i.tables.table import Cell, Table
from tests.table_records import filled, of_task, record

EXPERIMENT = Experiment(
    name="table99",
    title="a row and its control",
    task="inpainting",
    overrides=[],
    columns=[Column("celebahq", "fid", "FID", ["dataset=celebahq"])],
    rows=[
        Row("none", "no prior", ["stage=no_prior"], [None]),
        Row("ours", "Ours", ["stage=pretrain"], [4.5], control="none"),
        Row("peer", "Peer", None, [5.0]),
    ],
)
IMAGES = 14


def table_of(**rows: list[Any]) -> Table:
    return render(EXPERIMENT, filled(**rows), "demo", {})


def worths(table: Table) -> dict[str, Cell]:
    """The cells of the column, by row."""
    index = next(i for i, head in enumerate(table.heads) if head.metric == "prior_worth")
    return {line.name: line.cells[index] for line in table.lines}


def scores(seed: int, shift: float, scale: float) -> np.ndarray:
    """Of each image under one training seed."""
    return shift + scale * np.random.default_rng(seed).normal(size=IMAGES)


def entry(values: np.ndarray, metric: str, seed: int, reverse: bool = False) -> dict[str, Any]:
    images = [{"name": f"{i:02}", metric: float(value)} for i, value in enumerate(values)]
    return record(
        [1.0],
        seed,
        main_metric=metric,
        metrics={metric: float(values.mean())},
        baseline={metric: 0.0},
        n_images={metric: IMAGES},
        per_image=images[::-1] if reverse else images,
    )


@pytest.mark.parametrize(("metric", "gain", "scale"), [("psnr_hole", 0.3, 1.0), ("rmse", 0.02, 0.1)])
def test_worth_is_the_paired_difference_to_the_control(metric: str, gain: float, scale: float) -> None:
    worse = [scores(seed, 20 * scale, scale) for seed in (0, 1)]
    sign = -1 if METRICS[metric].lower else 1
    better = [values + sign * gain + 0.1 * gain * scores(9 + i, 0, 1) for i, values in enumerate(worse)]
    # The images of a record may come in any order; a seed that one row has not is left out.
    ours = [entry(values, metric, seed, reverse=True) for seed, values in enumerate(better)]
    none = [*(entry(values, metric, seed) for seed, values in enumerate(worse)), entry(99 * worse[0], metric, 2)]
    cell = worths(table_of(ours=[*ours, Failure("no memory")], none=none))["ours"]

    differences = sign * (np.stack(better).astype(np.float64) - np.stack(worse)).mean(0)
    rng = np.random.default_rng(5)
    means = differences[rng.integers(0, IMAGES, (RESAMPLES, IMAGES))].mean(1)
    assert cell.value == pytest.approx(differences.mean(), rel=1e-9)
    assert cell.value == pytest.approx(gain, rel=0.2)
    assert cell.interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01 * gain)
    assert cell.value is not None
    assert cell.interval is not None
    assert 0 < cell.interval[0] < cell.value < cell.interval[1]
    assert (cell.images, cell.seeds) == (IMAGES, 2)
    by_seed = sign * (np.stack(better).astype(np.float64) - np.stack(worse)).mean(1)
    assert cell.sd == pytest.approx(by_seed.std(ddof=1), rel=1e-9)
    # The other way round it costs as much.
    cost = worths(table_of(ours=none, none=ours))["ours"]
    assert cost.value == pytest.approx(-cell.value)
    assert cost.interval is not None
    assert cost.interval[0] < cost.interval[1] < 0


def test_scores_of_a_set_have_the_spread_over_seeds_alone() -> None:
    def rows(*values: float) -> list[dict[str, Any]]:
        return [of_task("segmentation", "miou", value, 0.0, 0.1, seed=seed) for seed, value in enumerate(values)]

    cell = worths(table_of(ours=rows(0.31, 0.34), none=rows(0.30, 0.32)))["ours"]
    # In per cent, as the column of mIoU.
    assert cell.value == pytest.approx(1.5)
    assert cell.sd == pytest.approx(np.std([1.0, 2.0], ddof=1))
    assert (cell.interval, cell.seeds) == (None, 2)


OURS = [record([20.5, 21.25, 22.0])]
NONE = [record([20.0, 21.0, 21.25])]


@pytest.mark.parametrize(
    "none",
    [
        [None],
        [Failure("no memory")],
        [None, record([20.0, 21.0, 22.0], seed=1)],
        [record([20.0, 21.0])],
    ],
    ids=["not run", "failed", "another seed", "other images"],
)
def test_without_its_control_there_is_no_worth(none: list[Any]) -> None:
    if isinstance(none[0], dict):
        # Such records do not compare at all where their images differ; here one score of an image is missing.
        none[0]["per_image"].append({"name": "c"})
    table = table_of(ours=OURS, none=none)
    cells = worths(table)
    assert (cells["ours"].value, cells["ours"].word) == (None, "n/a")
    assert {cells[name].word for name in ("none", "peer")} == {""}, "neither control nor peer can have one"
    (note,) = [note for note in table.notes if note.startswith("prior worth is n/a")]
    assert "no record of the same network without a prior under the same seed" in note


def test_experiments_without_controls_have_no_such_column() -> None:
    rows = [Row("ours", "Ours", ["stage=joint"], [4.5])]
    table = render(Experiment(**vars(EXPERIMENT) | {"rows": rows}), filled(ours=OURS), "demo", {})
    assert [head.metric for head in table.heads if head.group == "here"][-1] == "prior_dependence"


def test_worth_is_shown_in_every_format() -> None:
    table = table_of(ours=OURS, none=NONE)
    cell = worths(table)["ours"]
    assert cell.value == pytest.approx(0.5)
    assert cell.interval == pytest.approx((0.25, 0.75))
    shown = "0.50 [+0.25, +0.75] (3 images, 1 seed)"
    text = to_markdown(table)
    assert "here: prior worth" in text
    assert f"| {shown} |" in text
    assert shown in to_latex(table)
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(to_csv(table)))}
    keys = [f"here: prior worth{end}" for end in ("", ", low", ", high", ", images", ", seeds")]
    assert [float(lines["ours"][key]) for key in keys] == pytest.approx([0.5, 0.25, 0.75, 3, 1])
    assert {lines[row][key] for row in ("baseline", "none", "peer") for key in keys} == {""}
    assert restored(json.loads(json.dumps(plain(table)))) == table
