"""Tables from records: their cells, marks, verdicts and notes, in all formats; and the figures drawn from them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from diffi2i.files import finite
from diffi2i.run import rows
from diffi2i.run.record import Record, Score
from diffi2i.run.state import Entry, Failure
from diffi2i.tables import experiment as experiments
from diffi2i.tables import figures
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.frame import Found, Key
from diffi2i.tables.markdown import markdown
from diffi2i.tables.table import BASELINE, Table, table_of
from diffi2i.tables.write import LATEX, MARKDOWN, grid, to_csv, to_latex, to_markdown, write
from tests.table_records import changed, entries, of_task, record


def small(**changes: Any) -> Experiment:
    """A peer and two rows that are run, `a` better than `b`."""
    base: dict[str, Any] = {
        "name": "table99",
        "title": "A & B",
        "task": "inpainting",
        "columns": [Column("Parameters (M)", "parameters"), Column("CelebA, FID", "fid", "celebahq")],
        "rows": [
            Row("peer", "Peer_1", ["22", "7.83"], run=False),
            Row("a", "Ours A", ["26.5", "4.70"]),
            Row("b", "Ours B", ["27", ""]),
        ],
        "claim": ["a", "b"],
        "claim_column": 1,
    }
    return Experiment(**base | changes)


def rendered(found: dict[Key, Entry], budget: str = "demo", **changes: Any) -> Table:
    return table_of(small(**changes), Found(found), budget, {})


def column_of(table: Table, heading: str, what: str = "text", origin: str = "here") -> dict[str, Any]:
    """What a column's cells are, by row."""
    cells = table.cells[(table.cells.origin == origin) & (table.cells.heading == heading)]
    return dict(zip(cells.row, cells[what], strict=True))


A = [record([20.0, 22.0], 0), record([20.4, 22.4], 1)]
B = [record([19.0, 20.0], 0), record([19.0, 20.0], 1)]
ZEROS = [20.0] * 12


def above(differences: list[float]) -> list[float]:
    """Scores of as many images, this much above `ZEROS`."""
    return [20.0 + difference for difference in differences]


def grid_of(text: str) -> list[list[str]]:
    """The cells of a Markdown page's first table, its rule left out."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [line for line in lines if not set("".join(line)) <= set(":-")]


def test_markdown_holds_the_whole_table() -> None:
    text = to_markdown(rendered(entries(a=A, b=B)), ["picture.svg"])
    assert grid_of(text)[:5] == [
        [
            "",
            "paper: parameters (M)",
            "here: parameters (M)",
            "paper: CelebA, FID ↓",
            "here: FID ↓",
            "here: PSNR in hole ↑",
            "here: prior dependence",
        ],
        ["input itself", "", "", "", "", "12.00 ± 0.00 (2 images, 2 seeds)", ""],
        ["Peer_1", "22", "", "<u>7.83</u>", "", "", ""],
        [
            "Ours A",
            "26.5",
            "2.60 (2 seeds)",
            "**4.70**",
            "n/a",
            "**21.20** ± 0.28 (2 images, 2 seeds)",
            "0.50 ± 0.00 (2 images, 2 seeds)",
        ],
        [
            "Ours B",
            "27",
            "2.60 (2 seeds)",
            "",
            "n/a",
            "<u>19.50</u> ± 0.00 (2 images, 2 seeds)",
            "0.50 ± 0.00 (2 images, 2 seeds)",
        ],
    ]
    for words in (
        "# Table 99: A & B",
        "![Table 99: A & B](picture.svg)",
        "budget=demo is not the paper's: the two do not compare",
        "* Peer_1: peer: the paper's value.",
        "* FID ↓ is n/a: no Inception weights.",
        "From best to worst the paper has Ours A > Ours B. Pairs here, by FID ↓",
        "* budget: demo",
        "* dataset: photos (trained on aaaaaaaaaaaa, scored on bbbbbbbbbbbb)",
        "* commit: 0123456789+",
        "* hardware: x86_64 CPU (AVX2, fp32), threads: 1 on 2 cores",
        "* date: 2026-01-02",
        "* packages: python 3.11.7, torch 2.14.1",
    ):
        assert words in text
    assert "Warning" not in text
    assert "\n\n\n" not in text


def test_a_table_of_markdown_keeps_bars_and_numbers_as_they_are() -> None:
    text = markdown([["", "a|b"], ["x", "1.50"], ["long", ""]])
    assert [line.replace(" ", "") for line in text.splitlines()] == [
        "||a\\|b|",
        "|:-----|-------:|",
        "|x|1.50|",
        "|long||",
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_csv_has_a_line_a_cell_and_numbers_in_full() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(rendered(entries(a=A, b=B))))))
    assert list(dict.fromkeys(line["row"] for line in lines)) == [BASELINE, "peer", "a", "b"]
    assert {(line["row"], line["state"]) for line in lines} == {
        (BASELINE, "measured"),
        ("peer", "paper"),
        ("a", "measured"),
        ("b", "measured"),
    }
    ours = {(line["origin"], line["metric"]): line for line in lines if line["row"] == "a"}
    assert {(line["table"], line["budget"], line["label"]) for line in ours.values()} == {("table99", "demo", "Ours A")}
    assert (ours["paper", "fid"]["text"], ours["paper", "fid"]["mark"], ours["here", "fid"]["text"]) == (
        "4.70",
        "best",
        "n/a",
    )
    psnr = ours["here", "psnr_hole"]
    assert float(psnr["value"]) == pytest.approx(21.2)
    assert float(psnr["sd"]) == pytest.approx(np.std([21.0, 21.4], ddof=1))
    assert (psnr["images"], psnr["seeds"], psnr["baseline"]) == ("2", "2", "12.0")
    assert not [line for line in lines if line["row"] == "peer" and line["origin"] == "here"]


LATEX_BODY = "\n".join(
    (
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{parameters (M)} & \multicolumn{2}{c}{FID $\downarrow$} & PSNR in hole $\uparrow$ & "
        r"prior dependence \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-6}\cmidrule(lr){7-7}",
        r" & paper & here & paper: CelebA, FID $\downarrow$ & here & here & here \\",
        r"\midrule",
        r"input itself &  &  &  &  & 12.00 (2 images, 1 seed) &  \\",
        r"Peer\_1 & 22 &  & \underline{7.83} &  &  &  \\",
        r"Ours A & 26.5 & 2.60 (1 seed) & \textbf{4.70} & 31.0000 (2 images, 1 seed) \dag{} & "
        r"21.00 (2 images, 1 seed) & 0.50 (2 images, 1 seed) \\",
        r"Ours B & 27 & failed: 50\% of \{x\_i\} \& more &  & failed & failed & failed \\",
        r"\bottomrule",
        r"\end{tabular}",
    )
)


def test_what_the_paper_has_stands_beside_what_is_measured() -> None:
    """At budget=paper by the headings, which are equal there; below it by the score, and in the paper's order."""
    columns = [
        Column("GoPro, PSNR", "psnr", "gopro"),
        Column("HIDE, PSNR", "psnr", "hide"),
        Column("GoPro, SSIM", "ssim", "gopro"),
    ]
    rows = [Row("a", "A", ["33.1", "31.2", "0.96"])]
    below = grid(rendered(entries(a=A), columns=columns, rows=rows, claim=[]), MARKDOWN)
    assert [*below][:4] == [
        ("PSNR ↑", "paper: GoPro, PSNR ↑"),
        ("PSNR ↑", "paper: HIDE, PSNR ↑"),
        ("PSNR ↑", "here"),
        ("SSIM ↑", "paper: GoPro, SSIM ↑"),
    ]
    at_paper = grid(rendered(entries(a=A), "paper", columns=columns, rows=rows, claim=[]), MARKDOWN)
    assert [*at_paper][:6] == [
        (heading, origin)
        for heading in ("GoPro, PSNR ↑", "HIDE, PSNR ↑", "GoPro, SSIM ↑")
        for origin in ("paper", "here")
    ]
    assert below.loc["A", ("PSNR ↑", "paper: HIDE, PSNR ↑")] == "31.2"


def test_latex_is_booktabs_with_all_escaped() -> None:
    text = to_latex(rendered(entries(a=[record([20.0, 22.0], fid=31.0)], b=[Failure("50% of {x_i} & more")])))
    assert LATEX_BODY in text
    assert r"\caption{A \& B. " in text
    assert r"\label{tab:table99-demo}" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_escapes_each_of_its_characters() -> None:
    assert LATEX.escape("a_b & 5% $#{}~^\\ <|> ↑↓ ± × − δ1 †") == (
        r"a\_b \& 5\% \$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}\textbar{}\textgreater{} "
        r"$\uparrow$$\downarrow$ $\pm$ $\times$ $-$ $\delta$1 \dag{}"
    )


@pytest.mark.parametrize(
    ("metric", "texts", "marks"),
    [
        ("psnr", ["20.00", "22.00", "21.00"], ["", "best", "second"]),
        ("fid", ["3.0", "2.0", "1.0"], ["", "second", "best"]),
        ("psnr", ["22.00", "22.00", "21.00", "21.00", "20.00"], ["best", "best", "second", "second", ""]),
        ("rmse", ["0.3", "0.3"], ["", ""]),
        ("psnr", ["", "20.00", "n/a"], ["", "", ""]),
        ("psnr", ["inf", "20.00"], ["best", "second"]),
        ("parameters", ["1.0", "2.0"], ["", ""]),
        ("prior_dependence", ["1.0", "2.0"], ["", ""]),
    ],
)
def test_best_and_second_are_marked_as_printed(metric: str, texts: list[str], marks: list[str]) -> None:
    columns = [Column("x", metric, "" if metric == "parameters" else "set")]
    rows = [Row(f"r{i}", "", [text if text != "n/a" else ""], run=False) for i, text in enumerate(texts)]
    table = rendered({}, columns=columns, rows=rows, claim=[])
    assert list(table.cells[table.cells.origin == "paper"].mark) == marks


def test_marks_of_the_paper_and_ours_never_mix() -> None:
    # Ours has the lowest FID of all, measured on other images.
    table = rendered(entries(a=[record([20.0], fid=1.0)], b=[record([20.0], fid=2.0)]))
    assert column_of(table, "CelebA, FID ↓", "mark", "paper") == {BASELINE: "", "peer": "second", "a": "best", "b": ""}
    assert column_of(table, "FID ↓", "mark") == {BASELINE: "", "peer": "", "a": "best", "b": "second"}


@pytest.mark.parametrize("values", [[20.0], [20.0, 23.0], [20.0, 21.5, 24.0]])
def test_mean_and_spread_are_those_of_numpy(values: list[float]) -> None:
    cells = rendered(entries(a=[record([value], seed) for seed, value in enumerate(values)])).cells
    (cell,) = cells[(cells.row == "a") & (cells.metric == "psnr_hole")].itertuples()
    assert cell.value == pytest.approx(np.mean(values))
    assert cell.sd == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else np.nan, nan_ok=True)
    assert (cell.images, cell.seeds) == (1, len(values))
    assert ("±" in MARKDOWN.cell(cell)) == (len(values) > 1)


def test_an_infinite_score_has_no_spread() -> None:
    table = rendered(entries(a=[record([np.inf]), record([20.0], 1)]))
    assert column_of(table, "PSNR in hole ↑")["a"] == "inf"
    assert np.isnan(column_of(table, "PSNR in hole ↑", "sd")["a"])
    assert column_of(through_json(table), "PSNR in hole ↑", "value")["a"] == np.inf


def through_json(table: Table) -> Table:
    """The table as a program reads it."""
    return Table.from_json(json.loads(json.dumps(finite(table.to_json()), allow_nan=False)))


@pytest.mark.parametrize(
    ("a", "b"),
    [([record([20.0, 22.0], fid=31.0)], [None, Failure("no memory")]), ([record([np.inf] * 12)], [record(ZEROS)])],
    ids=["a failure", "infinite differences"],
)
def test_json_brings_the_table_back(a: list[Any], b: list[Any]) -> None:
    table = rendered(entries(a=a, b=b))
    again = through_json(table)
    assert vars(again).keys() == vars(table).keys()
    for write_as in (to_markdown, to_csv, to_latex):
        assert write_as(again) == write_as(table)


def pairs_of(table: Table) -> list[Any]:
    return [pair for ordering in table.orderings for pair in ordering.pairs.itertuples()]


def verdicts(a: list[Any], b: list[Any]) -> list[str]:
    return [pair.verdict for pair in pairs_of(rendered(entries(a=a, b=b)))]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (above([1.0] * 12), ZEROS, "holds"),
        (ZEROS, above([1.0] * 12), "does not hold"),
        # However clear: three images decide nothing, and ten are the fewest that do.
        (above([9.0] * 3), ZEROS[:3], "undecided (fewer than 10 images)"),
        (above([9.0] * 9), ZEROS[:9], "undecided (fewer than 10 images)"),
        (above([9.0] * 10), ZEROS[:10], "holds"),
        (ZEROS, ZEROS, "undecided (interval contains 0)"),
        (above([1.0, -1.0] * 6), ZEROS, "undecided (interval contains 0)"),
        # 9 of 12 images: the mean is surely above 0, but p = 2 * (1 + 12 + 66 + 220) / 2^12 = 0.15.
        (above([1.0] * 9 + [-0.1] * 3), ZEROS, "undecided (sign test)"),
        # 10 of 12: p = 0.04.
        (above([1.0] * 10 + [-0.1] * 2), ZEROS, "holds"),
        # A few images far ahead make the mean, most images say otherwise.
        (above([9.0] * 6 + [-0.1] * 20), ZEROS * 2 + ZEROS[:2], "undecided (most images say otherwise than the mean)"),
        (above([float("inf")] * 12), ZEROS, "undecided (infinite scores)"),
    ],
)
def test_the_ordering_is_judged_image_by_image(a: list[float], b: list[float], verdict: str) -> None:
    assert verdicts([record(a)], [record(b)]) == ["not measured", verdict]


def test_seeds_that_differ_by_as_much_decide_nothing() -> None:
    def seeds(*gains: float) -> list[Any]:
        return [record(above([gain] * 12), seed) for seed, gain in enumerate(gains)]

    zero = [record(ZEROS, seed) for seed in range(3)]
    # Image by image both are clear: each is 0.1 better in the mean over the seeds.
    assert verdicts(seeds(0.09, 0.10, 0.11), zero) == ["not measured", "holds"]
    assert verdicts(seeds(-0.1, 0.1, 0.3), zero) == ["not measured", "undecided (the seeds differ by as much)"]
    pair = pairs_of(rendered(entries(a=seeds(-0.1, 0.1, 0.3), b=zero)))[1]
    assert pair.sd == pytest.approx(0.2)


def test_pairs_of_which_the_paper_says_nothing_are_compared_too() -> None:
    found = entries(a=[record(ZEROS)], b=[record(above([1.0] * 12))])
    (pair,) = pairs_of(rendered(found, claim=[], pairs=[["b", "a"]]))
    assert (pair.better, pair.worse, pair.verdict) == ("Ours B", "Ours A", "holds")
    # Also where the main metric is the column's.
    columns = [Column("Size", "parameters"), Column("PSNR", "psnr_hole", "celebahq")]
    table = rendered(found, claim=[], pairs=[["b", "a"]], columns=columns)
    assert [pair.verdict for pair in pairs_of(table)] == ["holds"]
    assert "the paper has" not in to_markdown(table).partition("## Does")[2]


def test_unequal_steps_are_named() -> None:
    longer = record(above([1.0] * 12), steps=500)
    table = rendered(entries(a=[longer], b=[record(ZEROS)]))
    assert (pairs_of(table)[1].steps, pairs_of(table)[1].worse_steps) == (500, 300)
    for text in (to_markdown(table), to_latex(table)):
        assert "unequal: 500 and 300" in text
    equal = to_markdown(rendered(entries(a=[record(above([1.0] * 12))], b=[record(ZEROS)])))
    assert "unequal" not in equal
    assert " steps of the networks |" in equal


def test_the_ordering_averages_an_image_over_the_seeds_that_both_rows_have() -> None:
    a = [record([20.0, 30.0], 0), record([22.0, 30.0], 1), record([90.0, 90.0], 2)]
    b = [record([19.0, 28.0], 0), record([20.0, 29.0], 1), Failure("no memory")]
    pair = pairs_of(rendered(entries(a=a, b=b)))[1]
    assert pair.value == pytest.approx(1.5)
    assert (pair.low, pair.high) == pytest.approx((1.5, 1.5))
    assert (pair.images, pair.seeds) == (2, 2)


@pytest.mark.parametrize(("a", "b"), [(3.0, 40.0), (40.0, 3.0), (3.0, 3.0)])
def test_scores_of_a_whole_set_decide_nothing(a: float, b: float) -> None:
    pair = pairs_of(rendered(entries(a=[record(ZEROS, fid=a)], b=[record(ZEROS, fid=b)])))[0]
    assert pair.verdict == "undecided (a score of the set: there are means, but no test)"
    assert pair.value == a - b
    assert np.isnan(pair.p)


def test_lower_is_better_in_orderings_too() -> None:
    def lpips(values: list[float]) -> Record:
        images: list[Any] = [{"name": str(i), "lpips_alex": value} for i, value in enumerate(values)]
        scores = {"lpips_alex": Score(float(np.mean(values)), len(values))}
        return record(values, main_metric="lpips_alex", scores=scores, images=images)

    pairs = pairs_of(rendered(entries(a=[lpips([0.1, 0.2] * 6)], b=[lpips([0.3, 0.25] * 6)])))
    assert [pair.verdict for pair in pairs] == ["not measured", "holds"]
    assert pairs[1].value == pytest.approx(-0.125)


def test_a_claim_over_peers_has_nothing_to_check() -> None:
    assert "nothing to check" in to_markdown(rendered(entries(a=A, b=B), claim=["a"]))


def test_what_failed_or_has_not_run_says_why() -> None:
    reason = "loss is not finite at step 812: lower train.lr, or train in float32 by trainer.precision=fp32"
    table = rendered(entries(a=[Failure(reason), Failure(reason)], b=[None]))
    here = table.cells[table.cells.origin == "here"]
    assert dict(zip(here.row, here.state, strict=True)) == {"peer": "paper", "a": "failed", "b": "not run"}
    first, *others = here.text[here.row == "a"]
    assert first.startswith("failed: loss is not finite")
    assert len(first) < 75
    assert set(others) == {"failed"}
    assert set(here.text[here.row == "b"]) == {"n/a"}
    assert f"Ours A, seed 0, 1: failed: {reason}." in table.notes
    assert "Ours B, seed 0: n/a: not run yet; diffi2i table table99 budget=demo runs what is missing." in table.notes


def test_rows_that_are_one_run_are_named() -> None:
    found = entries(a=A, b=A)
    files = {key: Path(f"run-of-seed{key[1]}") for key in found}
    table = table_of(small(), Found(found, files), "demo", {})
    assert table.notes.count("Ours A; Ours B: one and the same run here.") == 1
    assert [run["file"] for run in table.runs] == ["run-of-seed0", "run-of-seed1"] * 2


def test_one_failed_seed_leaves_the_mean_of_the_others() -> None:
    table = rendered(entries(a=[record([20.0]), Failure("no memory")]))
    assert column_of(table, "PSNR in hole ↑")["a"] == "20.00"
    assert column_of(table, "PSNR in hole ↑", "seeds")["a"] == 1
    assert "Ours A, seed 1: failed: no memory." in table.notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val": "other"}, "their images are different files"),
        ({"train": "other"}, "it was trained on other images"),
        ({"inputs": "other"}, "the inputs made of their images are different"),
        ({"protocol": {"border": 4, "metrics": []}}, "the protocol's border is 0 in one, 4 in the other"),
    ],
)
def test_a_record_that_does_not_compare_with_the_others_is_refused(changes: dict[str, Any], words: str) -> None:
    table = rendered(entries(a=[record([20.0]), record([20.0], 1)], b=[changed(record([20.0]), **changes)]))
    assert column_of(table, "PSNR in hole ↑")["a"] == "20.00"
    (note,) = [note for note in table.notes if note.startswith("Ours B")]
    assert note.startswith(f"Ours B, seed 0: failed: does not compare with the other rows: {words}")
    assert column_of(table, "PSNR in hole ↑")["b"] == "failed"


def test_distances_of_few_images_are_marked() -> None:
    few, many = record([20.0], fid=30.0), record([20.0], fid=20.0)
    many.scores["fid"] = replace(many.scores["fid"], n=2048)
    table = rendered(entries(a=[few], b=[many]))
    text = to_markdown(table)
    assert "<u>30.0000</u> (1 image, 1 seed) †" in text
    assert "**20.0000** (2048 images, 1 seed) |" in text
    assert any(note.startswith("† FID ↓ of fewer than 2048 images") for note in table.notes)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.06, -0.5), None),
        ((0.04, 0.5), "in Ours A."),
        ((-0.04, 0.5), "in Ours A."),
        ((0.04, 0.0), "in any row."),
    ],
)
def test_an_unused_prior_is_warned_of(gains: tuple[float, float], words: str | None) -> None:
    table = rendered(entries(a=[record([20.0], gain=gains[0])], b=[record([20.0], gain=gains[1])]))
    assert len(table.warnings) == (words is not None)
    if words is not None:
        assert words in table.warnings[0]
        assert "> **Warning.** " in to_markdown(table)


@pytest.mark.parametrize(("gain", "warned"), [(0.001, True), (0.01, False)])
def test_without_decibels_the_prior_is_measured_against_the_score(gain: float, warned: bool) -> None:
    entry = record([20.0], main_metric="rmse", scores={"rmse": Score(0.4, 1, gains={"prior_dependence": gain})})
    assert bool(rendered(entries(a=[entry])).warnings) == warned


def test_a_method_without_a_prior_depends_on_none() -> None:
    table = rendered(entries(a=[record([20.0], gain=None)], b=[record([20.0])]))
    assert column_of(table, "prior dependence") == {BASELINE: "", "peer": "", "a": "", "b": "0.50"}


def test_at_the_budget_of_the_paper_its_own_columns_are_measured() -> None:
    found = entries(a=[record([20.0])], b=[record([20.0])]) | {
        ("a", 0, "celebahq"): record([25.0], fid=4.6),
        ("b", 0, "celebahq"): Failure("give roots.celebahq=<folder>", "n/a"),
    }
    table = rendered(found, budget="paper")
    here = table.cells[(table.cells.origin == "here") & (table.cells.row == "a")]
    assert list(here.heading) == ["Parameters (M)", "CelebA, FID ↓", "prior dependence"]
    assert column_of(table, "CelebA, FID ↓") == {BASELINE: "", "peer": "", "a": "4.6000", "b": "n/a"}
    assert "Ours B, seed 0: n/a: give roots.celebahq=<folder>." in table.notes
    assert "do not compare" not in to_markdown(table)


def test_percent_and_milliseconds_stand_in_the_units_of_the_paper() -> None:
    columns = [Column("Runtime (ms)", "seconds_per_image"), Column("mIoU (%)", "miou", "ade")]
    rows = [Row("a", "Ours A", ["28.6", "43.5"])]
    entry = of_task("segmentation", "miou", 0.4206, gain=0.0123, baseline=0.02, constant=3.0)
    entry = changed(entry, baseline="constant")
    table = rendered(entries(a=[entry]), columns=columns, rows=rows, claim=[], task="segmentation")
    baseline, line = (table.cells[table.cells.row == row] for row in (BASELINE, "a"))
    assert list(zip(line.heading, line.text, strict=True)) == [
        ("Runtime (ms)", "28.6"),
        ("mIoU (%) ↑", "43.5"),
        ("time per image (ms)", "45.6"),
        ("mIoU ↑", "42.06"),
        ("prior dependence", "1.23"),
    ]
    assert (set(baseline.label), list(baseline.text)[3]) == ({"constant"}, "2.00")


def test_a_run_that_many_rows_start_from_costs_once() -> None:
    def trained(seconds: float) -> Record:
        base = record([1.0])
        assert base.training
        return replace(base, training=replace(base.training, seconds=seconds))

    runs = {"stage1": trained(60.0), "a": trained(100.0), "b": trained(200.0)}
    table = table_of(small(), Found(entries(a=A, b=B)), "demo", runs)
    assert "* compute: 6 min 00 s of training in 3 runs" in to_markdown(table)


def test_markdown_takes_labels_and_reasons_as_they_are() -> None:
    rows = [Row("a", "NAFNet*, TLC*", ["1", ""], note="<see>")]
    text = to_markdown(rendered(entries(a=[Failure("<urlopen error>")]), rows=rows, claim=[]))
    assert "| NAFNet\\*, TLC\\* |" in text
    assert "failed: \\<urlopen error> |" in text
    assert "NAFNet\\*, TLC\\*: \\<see>." in text


def test_an_ordering_of_which_nothing_was_measured_has_no_table() -> None:
    text = to_markdown(rendered(entries(a=[record([20.0, 21.0])], b=[record([19.0, 20.0])])))
    assert "(the paper orders by CelebA, FID): not measured 1.\n\nFrom best" in text
    assert "\n| Ours A" in text.partition("\n\nFrom best")[2]


# Figures.


def of_figure6() -> tuple[Experiment, Table]:
    experiment = experiments.load("figure6")
    found = {
        (row.name, seed, ""): record([18.0 + i + seed, 20.0 + i + seed], seed)
        for i, row in enumerate(experiment.rows)
        for seed in (0, 1)
    }
    return experiment, table_of(experiment, Found(found), "demo", {})


def curves_of(axes: Any) -> dict[str, list[list[float]]]:
    """Label and points of what is drawn with error bars."""
    drawn = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    return {str(container.get_label()): np.asarray(container.lines[0].get_xydata()).tolist() for container in drawn}


def test_figure_6_has_a_curve_trained_for_each_t_and_one_re_spaced() -> None:
    figure = figures.draw(*of_figure6())
    (axes,) = figure.axes
    # Means over two images and two seeds: first the control, which is a point of neither curve, then the rows t1, t2,
    # t3, t4, t6, t8, then the re-spaced 1, 2, 3, 4, 6.
    assert curves_of(axes) == {
        "trained for each T": [[t, 20.5 + i] for i, t in enumerate((1, 2, 3, 4, 6, 8))],
        "trained for T = 8, re-spaced": [*([t, 26.5 + i] for i, t in enumerate((1, 2, 3, 4, 6))), [8, 25.5]],
    }
    assert axes.get_ylabel() == "PSNR in hole ↑"


def test_the_control_of_figure_6_is_a_dotted_line_without_a_number_of_iterations() -> None:
    figure = figures.draw(*of_figure6())
    (axes,) = figure.axes
    (dotted,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted.get_label() == "no prior"
    assert np.asarray(dotted.get_xydata()).tolist() == [[0, 19.5], [1, 19.5]]
    assert dotted.get_transform() == axes.get_yaxis_transform(which="grid"), "across the whole width"
    assert list(axes.get_xticks()) == [1, 2, 3, 4, 6, 8]
    assert "no prior" in [text.get_text() for text in figure.legends[0].get_texts()]
    experiment = experiments.load("figure6")
    without = entries(**{row.name: [record([20.0])] for row in experiment.rows if row.name != "none-on"})
    (axes,) = figures.draw(experiment, table_of(experiment, Found(without), "demo", {})).axes
    assert ":" not in [line.get_linestyle() for line in axes.lines]


def test_figure_1_never_puts_the_seconds_of_two_machines_on_one_axis() -> None:
    experiment = experiments.load("figure1")
    found = entries(
        inpainting=[record([18.0], seconds=0.04)],
        deblur=[of_task("deblur", "psnr", 28.0, gain=0.0, baseline=26.0, seconds=0.3)],
    )
    figure = figures.draw(experiment, table_of(experiment, Found(found), "demo", {}))
    assert [(axes.get_title(), axes.get_ylabel(), curves_of(axes)) for axes in figure.axes] == [
        ("inpainting", "CelebA-HQ wide, FID ↓", {"DiffI2I_S2": [[28.6, 4.7013]]}),
        (
            "real-world super-resolution",
            "NTIRE2020 Track1, LPIPS ↓",
            {"DiffI2I_S2": [[170.4, 0.2943]], "LDM": [[4706.18, 0.4763]], "LDM+DPM-Solver": [[3411.59, 0.5003]]},
        ),
        ("inpainting", "PSNR in hole ↑", {"DiffI2I_S2": [[40.0, 18.0]]}),
        ("deblurring", "PSNR ↑", {"DiffI2I_S2": [[300.0, 28.0]]}),
    ]
    assert [line.get_ydata() for line in figure.axes[3].lines if line.get_linestyle() == "--"] == [[26.0, 26.0]]
    legends = [axes.get_legend() for axes in figure.axes[:2]]
    assert [legend and legend.get_texts()[0].get_text() for legend in legends] == ["DiffI2I_S2", "DiffI2I_S2"]


def test_a_figure_of_nothing_says_so() -> None:
    experiment = experiments.load("figure6")
    figure = figures.draw(experiment, table_of(experiment, Found({}), "demo", {}))
    assert [text.get_text() for text in figure.texts] == ["nothing measured yet"]


# Files.


def test_all_files_are_written_and_the_same_table_gives_the_same_files(tmp_path: Path) -> None:
    experiment, table = of_figure6()
    files = write(table, experiment, tmp_path)
    assert [file.name for file in files] == [f"figure6.{kind}" for kind in ("md", "csv", "tex", "json", "svg", "png")]
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write(table, experiment, tmp_path)] == before
    assert "![Figure 6: Iterations of the diffusion](figure6.svg)" in files[0].read_text()
    assert to_markdown(Table.from_json(json.loads(files[3].read_text())), ["figure6.svg"]) == files[0].read_text()


@pytest.mark.parametrize("name", rows.table_names())
def test_every_experiment_has_a_table_before_anything_is_run(name: str) -> None:
    experiment = experiments.load(name)
    table = table_of(experiment, Found({}), "demo", {})
    printed = table.cells[(table.cells.origin == "paper") & (table.cells.text != "")]
    assert list(printed.text) == [text for row in experiment.rows for text in row.paper if text]
    text = to_markdown(table)
    assert all(len(line) == len(grid_of(text)[0]) for line in grid_of(text)[: len(experiment.rows) + 1])
    assert "nothing measured yet" in text
    assert r"\end{table}" in to_latex(table)
