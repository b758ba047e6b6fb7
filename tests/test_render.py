"""Tables from records: their cells, marks, verdicts and notes, in all formats; and the figures drawn from them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from diffi2i.errors import UserError
from diffi2i.tables import experiment as experiments
from diffi2i.tables import figures
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.formats import latex, number, plain, rest, restored, to_csv, to_latex, to_markdown
from diffi2i.tables.markdown import markdown
from diffi2i.tables.plan import Cell as PlannedCell
from diffi2i.tables.plan import Run
from diffi2i.tables.records import Failure, Filled
from diffi2i.tables.render import marked, measured, render
from diffi2i.tables.table import Cell, Head, Line, Table
from diffi2i.tables.write import write
from tests.table_records import filled, of_task, record, scored


def small(**changes: Any) -> Experiment:
    """A peer and two rows that are run, `a` better than `b`."""
    base: dict[str, Any] = {
        "name": "table99",
        "title": "A & B",
        "task": "inpainting",
        "overrides": ["task=inpainting"],
        "columns": [
            Column("", "parameters", "Parameters (M)"),
            Column("celebahq", "fid", "CelebA, FID", ["dataset=celebahq"]),
        ],
        "rows": [
            Row("peer", "Peer_1", None, [22, 7.83], note="peer: the paper's value"),
            Row("a", "Ours A", ["stage=joint"], [26.5, 4.7]),
            Row("b", "Ours B", ["stage=joint", "stage.prior=none"], [27, None]),
        ],
        "claim": ["a", "b"],
        "claim_column": 1,
    }
    return Experiment(**base | changes)


def rendered(entries: Filled, scale: str = "demo", **changes: Any) -> Table:
    return render(small(**changes), entries, scale, {})


def column_of(table: Table, heading: str, group: str = "here") -> dict[str, Cell]:
    index = next(i for i, head in enumerate(table.heads) if (head.group, head.heading) == (group, heading))
    return {line.name: line.cells[index] for line in table.lines}


A = [scored([20.0, 22.0], 0), scored([20.4, 22.4], 1)]
B = [scored([19.0, 20.0], 0), scored([19.0, 20.0], 1)]
ZEROS = [20.0] * 12


def above(differences: list[float]) -> list[float]:
    """Scores of as many images, this much above `ZEROS`."""
    return [20.0 + difference for difference in differences]


def test_markdown_holds_the_whole_table() -> None:
    text = to_markdown(rendered(filled(a=A, b=B)), ["picture.svg"])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert cells[:6] == [
        [
            "",
            "paper: Parameters (M)",
            "paper: CelebA, FID ↓",
            "here: parameters (M)",
            "here: FID ↓",
            "here: PSNR in hole ↑",
            "here: prior dependence",
        ],
        cells[1],
        ["input itself", "", "", "", "", "12.00 ± 0.00 (2 images, 2 seeds)", ""],
        ["Peer_1", "22", "<u>7.83</u>", "", "", "", ""],
        [
            "Ours A",
            "26.5",
            "**4.70**",
            "2.60 (2 seeds)",
            "n/a",
            "**21.20** ± 0.28 (2 images, 2 seeds)",
            "0.50 ± 0.00 (2 images, 2 seeds)",
        ],
        [
            "Ours B",
            "27",
            "",
            "2.60 (2 seeds)",
            "n/a",
            "<u>19.50</u> ± 0.00 (2 images, 2 seeds)",
            "0.50 ± 0.00 (2 images, 2 seeds)",
        ],
    ]
    for words in (
        "# Table 99: A & B",
        "![Table 99: A & B](picture.svg)",
        "scale=demo is not the paper's: the two do not compare",
        "* Peer_1: peer: the paper's value.",
        "* FID ↓ is n/a: no Inception weights.",
        "From best to worst the paper has Ours A > Ours B. Pairs here, by FID ↓",
        "* scale: demo",
        "* dataset: photos (trained on aaaaaaaaaaaa, scored on bbbbbbbbbbbb)",
        "* commit: 0123456789+",
        "* hardware: x86_64 CPU, threads: 1 on 2 cores",
        "* date: 2026-01-02",
        "* packages: python 3.11.7, torch 2.14.1",
    ):
        assert words in text
    assert "reproduced" not in text
    assert "Warning" not in text


def test_the_table_of_markdown_is_aligned_and_keeps_bars() -> None:
    assert markdown([["", "a|b"], ["x", "1"], ["long", ""]]) == (
        "|      | a\\|b |\n| :--- | ---: |\n| x    |    1 |\n| long |      |"
    )


def test_csv_has_numbers_in_full() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(rendered(filled(a=A, b=B))))))
    assert [line["row"] for line in lines] == ["baseline", "peer", "a", "b"]
    assert [line["state"] for line in lines] == ["measured", "paper", "measured", "measured"]
    ours = lines[2]
    assert (ours["table"], ours["label"], ours["scale"], ours["paper: CelebA, FID ↓"]) == (
        "table99",
        "Ours A",
        "demo",
        "4.7",
    )
    assert float(ours["here: PSNR in hole ↑"]) == pytest.approx(21.2)
    assert float(ours["here: PSNR in hole ↑, sd"]) == pytest.approx(np.std([21.0, 21.4], ddof=1))
    assert (ours["here: PSNR in hole ↑, images"], ours["here: PSNR in hole ↑, seeds"]) == ("2", "2")
    assert ours["here: FID ↓"] == "n/a"
    assert {line["here: PSNR in hole ↑"] for line in lines if line["row"] == "peer"} == {""}


LATEX_BODY = "\n".join(
    (
        r"\begin{tabular}{l*{6}{r}}",
        r"\toprule",
        r" & \multicolumn{2}{c}{the paper's values} & \multicolumn{4}{c}{measured here, scale=demo} \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-7}",
        r" & Parameters (M) & CelebA, FID $\downarrow$ & parameters (M) & FID $\downarrow$ & "
        r"PSNR in hole $\uparrow$ & prior dependence \\",
        r"\midrule",
        r"input itself &  &  &  &  & 12.00 (2 images, 1 seed) &  \\",
        r"Peer\_1 & 22 & \underline{7.83} &  &  &  &  \\",
        r"Ours A & 26.5 & \textbf{4.70} & 2.60 (1 seed) & 31.0000 (2 images, 1 seed) \dag{} & "
        r"21.00 (2 images, 1 seed) & 0.50 (2 images, 1 seed) \\",
        r"Ours B & 27 &  & failed: 50\% of \{x\_i\} \& more & failed & failed & failed \\",
        r"\bottomrule",
        r"\end{tabular}",
    )
)


def test_latex_is_booktabs_with_all_escaped() -> None:
    text = to_latex(rendered(filled(a=[scored([20.0, 22.0], fid=31.0)], b=[Failure("50% of {x_i} & more")])))
    assert LATEX_BODY in text
    assert r"\caption{A \& B. " in text
    assert r"\label{tab:table99-demo}" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_escapes_each_of_its_characters() -> None:
    assert latex("a_b & 5% $#{}~^\\ <|> ↑↓ ± × − δ1 †") == (
        r"a\_b \& 5\% \$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}\textbar{}\textgreater{} "
        r"$\uparrow$$\downarrow$ $\pm$ $\times$ $-$ $\delta$1 \dag{}"
    )


@pytest.mark.parametrize(
    ("metric", "values", "marks"),
    [
        ("psnr", [20.0, 22.0, 21.0], ["", "best", "second"]),
        ("fid", [3.0, 2.0, 1.0], ["", "second", "best"]),
        ("psnr", [22.0, 22.001, 21.0, 21.0, 20.0], ["best", "best", "second", "second", ""]),
        ("rmse", [0.3, 0.3], ["", ""]),
        ("psnr", [None, 20.0, None], ["", "", ""]),
        ("psnr", [float("inf"), 20.0], ["best", "second"]),
        ("parameters", [1.0, 2.0], ["", ""]),
        ("prior_dependence", [1.0, 2.0], ["", ""]),
    ],
)
def test_best_and_second_are_marked_as_printed(metric: str, values: list[float | None], marks: list[str]) -> None:
    lines = [Line(str(i), "", [Cell(value, 2)], "measured") for i, value in enumerate(values)]
    assert [line.cells[0].mark for line in marked(lines, [Head("here", "", metric, 2)])] == marks


def test_marks_of_the_paper_and_ours_never_mix() -> None:
    # Ours has the lowest FID of all, measured on other images.
    table = rendered(filled(a=[scored([20.0], fid=1.0)], b=[scored([20.0], fid=2.0)]))
    assert {name: cell.mark for name, cell in column_of(table, "CelebA, FID ↓", "paper").items()} == {
        "": "",
        "peer": "second",
        "a": "best",
        "b": "",
    }
    assert {name: cell.mark for name, cell in column_of(table, "FID ↓").items()} == {
        "": "",
        "peer": "",
        "a": "best",
        "b": "second",
    }


@pytest.mark.parametrize("values", [[20.0], [20.0, 23.0], [20.0, 21.5, 24.0]])
def test_mean_and_spread_are_those_of_numpy(values: list[float]) -> None:
    states = {seed: record([value], seed) for seed, value in enumerate(values)}
    cell = measured(states, Head("here", "", "psnr_hole", 2), mixed=False)
    assert cell.value == pytest.approx(np.mean(values))
    assert cell.sd == (None if len(values) == 1 else pytest.approx(np.std(values, ddof=1)))
    assert (cell.images, cell.seeds) == (1, len(values))
    assert ("±" in rest(cell)) == (len(values) > 1)


def test_an_infinite_score_has_no_spread() -> None:
    states = {0: record([1.0]), 1: record([1.0])}
    states[1]["metrics"] = {"psnr_hole": "inf"}
    cell = measured(states, Head("here", "", "psnr_hole", 2), mixed=False)
    assert (number(cell), cell.sd) == ("inf", None)
    assert restored(plain(rendered(filled(a=[states[1]])))).lines[2].cells[4].value == float("inf")


def test_json_brings_the_table_back() -> None:
    table = rendered(filled(a=[scored([20.0, 22.0], fid=31.0)], b=[None, Failure("no memory")]))
    assert restored(json.loads(json.dumps(plain(table)))) == table


def verdicts(a: list[Any], b: list[Any]) -> list[str]:
    return [pair.verdict for found in rendered(filled(a=a, b=b)).orderings for pair in found.pairs]


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
    assert verdicts([scored(a)], [scored(b)]) == ["not measured", verdict]


def test_seeds_that_differ_by_as_much_decide_nothing() -> None:
    def seeds(*gains: float) -> list[Any]:
        return [scored(above([gain] * 12), seed) for seed, gain in enumerate(gains)]

    zero = [scored(ZEROS, seed) for seed in range(3)]
    # Image by image both are clear: each is 0.1 better in the mean over the seeds.
    assert verdicts(seeds(0.09, 0.10, 0.11), zero) == ["not measured", "holds"]
    assert verdicts(seeds(-0.1, 0.1, 0.3), zero) == ["not measured", "undecided (the seeds differ by as much)"]
    pair = rendered(filled(a=seeds(-0.1, 0.1, 0.3), b=zero)).orderings[1].pairs[0]
    assert pair.sd == pytest.approx(0.2)


def test_pairs_of_which_the_paper_says_nothing_are_compared_too() -> None:
    entries = filled(a=[scored(ZEROS)], b=[scored(above([1.0] * 12))])
    (found,) = rendered(entries, claim=[], pairs=[["b", "a"]]).orderings
    assert [(pair.better, pair.worse, pair.verdict) for pair in found.pairs] == [("Ours B", "Ours A", "holds")]
    # Also where the main metric is the column's.
    columns = [Column("", "parameters", "Size"), Column("celebahq", "psnr_hole", "PSNR", ["dataset=celebahq"])]
    table = rendered(entries, claim=[], pairs=[["b", "a"]], columns=columns)
    assert [pair.verdict for each in table.orderings for pair in each.pairs] == ["holds"]
    assert "the paper has" not in to_markdown(table).partition("## Does")[2]


def test_unequal_steps_are_named() -> None:
    longer = scored(above([1.0] * 12)) | {"network_steps": 500}
    table = rendered(filled(a=[longer], b=[scored(ZEROS)]))
    assert table.orderings[1].pairs[0].steps == (500, 300)
    for text in (to_markdown(table), to_latex(table)):
        assert "unequal: 500 and 300" in text
    equal = to_markdown(rendered(filled(a=[scored(above([1.0] * 12))], b=[scored(ZEROS)])))
    assert "unequal" not in equal
    assert "| steps of the networks |" in equal


def test_the_ordering_averages_an_image_over_the_seeds_that_both_rows_have() -> None:
    a = [scored([20.0, 30.0], 0), scored([22.0, 30.0], 1), scored([90.0, 90.0], 2)]
    b = [scored([19.0, 28.0], 0), scored([20.0, 29.0], 1), Failure("no memory")]
    pair = rendered(filled(a=a, b=b)).orderings[1].pairs[0]
    assert pair.difference == pytest.approx(1.5)
    assert pair.interval == pytest.approx((1.5, 1.5))
    assert (pair.images, pair.seeds) == (2, 2)


@pytest.mark.parametrize(("a", "b"), [(3.0, 40.0), (40.0, 3.0), (3.0, 3.0)])
def test_scores_of_a_whole_set_decide_nothing(a: float, b: float) -> None:
    found = rendered(filled(a=[scored(ZEROS, fid=a)], b=[scored(ZEROS, fid=b)])).orderings[0]
    assert found.pairs[0].verdict == "undecided (a score of the set: there are means, but no test)"
    assert (found.pairs[0].difference, found.pairs[0].p) == (a - b, None)


def test_lower_is_better_in_orderings_too() -> None:
    def lpips(values: list[float]) -> dict[str, Any]:
        images = [{"name": str(i), "lpips_alex": value} for i, value in enumerate(values)]
        mean = {"lpips_alex": float(np.mean(values))}
        return record(values, metrics=mean, baseline={}, n_images={}, per_image=images, main_metric="lpips_alex")

    table = rendered(filled(a=[lpips([0.1, 0.2] * 6)], b=[lpips([0.3, 0.25] * 6)]))
    assert [pair.verdict for found in table.orderings for pair in found.pairs] == ["not measured", "holds"]
    assert table.orderings[1].pairs[0].difference == pytest.approx(-0.125)


def test_a_claim_over_peers_has_nothing_to_check() -> None:
    assert "nothing to check" in to_markdown(rendered(filled(a=A, b=B), claim=["a"]))


def test_what_failed_or_has_not_run_says_why() -> None:
    reason = "loss is not finite at step 812: lower train.lr, or train in float32 by trainer.precision=fp32"
    table = rendered(filled(a=[Failure(reason), Failure(reason)], b=[None]))
    row_a, row_b = table.lines[1], table.lines[2]
    assert [line.state for line in table.lines] == ["paper", "failed", "not run"]
    assert row_a.cells[2].word.startswith("failed: loss is not finite")
    assert len(row_a.cells[2].word) < 75
    assert {cell.word for cell in row_a.cells[3:]} == {"failed"}
    assert {cell.word for cell in row_b.cells[2:]} == {"n/a"}
    assert f"Ours A, seed 0, 1: failed: {reason}." in table.notes
    assert "Ours B, seed 0: n/a: not run yet; diffi2i table table99 scale=demo runs what is missing." in table.notes


def test_one_failed_seed_leaves_the_mean_of_the_others() -> None:
    table = rendered(filled(a=[scored([20.0]), Failure("no memory")]))
    cell = column_of(table, "PSNR in hole ↑")["a"]
    assert (cell.value, cell.seeds) == (20.0, 1)
    assert "Ours A, seed 1: failed: no memory." in table.notes


def test_a_record_without_scores_is_shown_as_damaged() -> None:
    broken = {key: value for key, value in record([20.0]).items() if key != "per_image"}
    table = rendered(filled(a=[broken]))
    assert table.lines[1].cells[2].word == "failed: damaged record: it lacks per_image"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": {"name": "photos", "train": "a", "val": "c" * 64}}, "different files"),
        ({"protocol": {"border": 4, "metrics": ["psnr_hole", "fid"]}}, "border is 0 in one, 4 in the other"),
    ],
)
def test_rows_that_do_not_compare_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        rendered(filled(a=[record([20.0])], b=[record([20.0], **changes)]))
    assert "table99: Ours A (seed 0) and Ours B (seed 0)" in str(caught.value)


def test_distances_of_few_images_are_marked() -> None:
    few, many = scored([20.0], fid=30.0), scored([20.0], fid=20.0)
    many["n_images"]["fid"] = 2048
    table = rendered(filled(a=[few], b=[many]))
    cells = column_of(table, "FID ↓")
    assert rest(cells["a"]) == " (1 image, 1 seed) †"
    assert rest(cells["b"]) == " (2048 images, 1 seed)"
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
    table = rendered(filled(a=[scored([20.0], gain=gains[0])], b=[scored([20.0], gain=gains[1])]))
    assert len(table.warnings) == (words is not None)
    if words is not None:
        assert words in table.warnings[0]
        assert "> **Warning.** " in to_markdown(table)


@pytest.mark.parametrize(("gain", "warned"), [(0.001, True), (0.01, False)])
def test_without_decibels_the_prior_is_measured_against_the_score(gain: float, warned: bool) -> None:
    entry = record(
        [20.0], main_metric="rmse", metrics={"rmse": 0.4, "prior_dependence": gain}, baseline={}, n_images={}
    )
    assert bool(rendered(filled(a=[entry])).warnings) == warned


def test_at_the_scale_of_the_paper_its_own_columns_are_measured() -> None:
    own: dict[tuple[str, int], Any] = {("a", 0): scored([20.0]), ("b", 0): scored([20.0])}
    there: dict[tuple[str, int, str], Any] = {
        ("a", 0, "celebahq"): scored([25.0], fid=4.6),
        ("b", 0, "celebahq"): Failure("give roots.celebahq=<folder>", "n/a"),
    }
    table = render(small(), Filled(own, there), "paper", {})
    assert [head.heading for head in table.heads if head.group == "here"] == [
        "Parameters (M)",
        "CelebA, FID ↓",
        "prior dependence",
    ]
    cells = column_of(table, "CelebA, FID ↓")
    assert (cells["a"].value, cells["b"].word) == (4.6, "n/a")
    assert "Ours B, seed 0: n/a: give roots.celebahq=<folder>." in table.notes
    assert "do not compare" not in to_markdown(table)


def test_percent_and_milliseconds_stand_in_the_units_of_the_paper() -> None:
    columns = [Column("", "seconds_per_image", "Runtime (ms)"), Column("ade", "miou", "mIoU (%)", ["dataset=ade"])]
    rows = [Row("a", "Ours A", ["stage=joint"], [28.6, 43.5])]
    entry = of_task("segmentation", "miou", 0.4206, gain=0.0123, baseline=0.02, constant=3)
    table = rendered(filled(a=[entry]), columns=columns, rows=rows, claim=[], task="segmentation")
    baseline, line = table.lines
    assert [(head.heading, number(cell)) for head, cell in zip(table.heads, line.cells, strict=True)] == [
        ("Runtime (ms)", "28.6"),
        ("mIoU (%) ↑", "43.5"),
        ("time per image (ms)", "45.6"),
        ("mIoU ↑ (%)", "42.06"),
        ("prior dependence", "1.23"),
    ]
    assert (baseline.label, number(baseline.cells[3])) == ("constant", "2.00")


def test_a_run_that_many_rows_start_from_costs_once() -> None:
    runs = {"stage1": record([1.0], wall_time_s=60.0), "a": record([1.0]), "b": record([1.0], wall_time_s=200.0)}
    table = render(small(), filled(a=A, b=B), "demo", runs)
    assert "* compute: 6 min 00 s of training in 3 runs" in to_markdown(table)


def test_markdown_takes_labels_and_reasons_as_they_are() -> None:
    rows = [Row("a", "NAFNet*, TLC*", ["stage=joint"], [1, None], note="<see>")]
    text = to_markdown(rendered(filled(a=[Failure("<urlopen error>")]), rows=rows, claim=[]))
    assert "| NAFNet\\*, TLC\\* |" in text
    assert "failed: \\<urlopen error> |" in text
    assert "NAFNet\\*, TLC\\*: \\<see>." in text


def test_an_ordering_of_which_nothing_was_measured_has_no_table() -> None:
    text = to_markdown(rendered(filled(a=[scored([20.0, 21.0])], b=[scored([19.0, 20.0])])))
    assert "(the paper orders by CelebA, FID): not measured 1.\n\nFrom best" in text
    assert "\n| Ours A" in text.partition("\n\nFrom best")[2]


# Figures.


def of_figure6() -> tuple[Experiment, Table]:
    experiment = experiments.load("figure6")
    entries: dict[tuple[str, int], Any] = {
        (row.name, seed): scored([18.0 + i + seed, 20.0 + i + seed], seed)
        for i, row in enumerate(experiment.rows)
        for seed in (0, 1)
    }
    return experiment, render(experiment, Filled(entries), "demo", {})


def test_figure_6_has_a_curve_trained_for_each_t_and_one_re_spaced() -> None:
    figure = figures.draw(*of_figure6())
    (axes,) = figure.axes
    curves = {container.get_label(): container.lines[0].get_xydata() for container in axes.containers}  # type: ignore[attr-defined]
    # Means over two images and two seeds: first the control, which is a point of neither curve, then the rows t1, t2,
    # t3, t4, t6, t8, then the re-spaced 1, 2, 3, 4, 6.
    assert set(curves) == {"trained for each T", "trained for T = 8, re-spaced"}
    assert curves["trained for each T"].tolist() == [[t, 20.5 + i] for i, t in enumerate((1, 2, 3, 4, 6, 8))]
    assert curves["trained for T = 8, re-spaced"].tolist() == [
        *([t, 26.5 + i] for i, t in enumerate((1, 2, 3, 4, 6))),
        [8, 25.5],
    ]
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
    without = filled(**{row.name: [scored([20.0])] for row in experiment.rows if row.name != "none-on"})
    (axes,) = figures.draw(experiment, render(experiment, without, "demo", {})).axes
    assert ":" not in [line.get_linestyle() for line in axes.lines]


def of_figure1(entries: dict[str, dict[str, Any]]) -> Table:
    return render(experiments.load("figure1"), filled(**{row: [entry] for row, entry in entries.items()}), "demo", {})


def test_figure_1_never_puts_the_seconds_of_two_machines_on_one_axis() -> None:
    entries = {
        "inpainting": record([18.0], seconds_per_image=0.04),
        "deblur": of_task("deblur", "psnr", 28.0, gain=0.0, baseline=26.0, seconds_per_image=0.3),
    }
    figure = figures.draw(experiments.load("figure1"), of_figure1(entries))
    found = [
        (axes.get_title(), axes.get_ylabel(), [tuple(c.lines[0].get_xydata()[0]) for c in axes.containers])  # type: ignore[attr-defined]
        for axes in figure.axes
    ]
    assert found == [
        ("inpainting", "CelebA-HQ wide, FID ↓", [(28.6, 4.7013)]),
        ("realsr", "NTIRE2020 Track1, LPIPS ↓", [(170.4, 0.2943), (4706.18, 0.4763), (3411.59, 0.5003)]),
        ("inpainting", "PSNR in hole ↑", [(40.0, 18.0)]),
        ("deblur", "PSNR ↑", [(300.0, 28.0)]),
    ]
    assert [line.get_ydata() for line in figure.axes[3].lines if line.get_linestyle() == "--"] == [[26.0, 26.0]]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


def test_labels_do_not_lie_on_each_other() -> None:
    experiment = experiments.load("figure1")
    assert overlaps(figures.draw(experiment, of_figure1({"inpainting": record([18.0])}))) == []
    # Points at nearly the same place, which is where it takes care.
    crowded = Experiment(
        name="figure1",
        title="",
        task="all",
        overrides=[],
        columns=experiment.columns[:2],
        rows=[Row(f"r{i}", f"A long label {i}", None, [100.0 + i, 4.0 + i / 500]) for i in range(4)],
        x="seconds_per_image",
    )
    assert overlaps(figures.draw(crowded, render(crowded, Filled(), "demo", {}))) == []


def test_a_figure_of_nothing_says_so() -> None:
    experiment = experiments.load("figure6")
    figure = figures.draw(experiment, render(experiment, Filled(), "demo", {}))
    assert [text.get_text() for text in figure.texts] == ["nothing measured yet"]


# Files.


def planned(folder: Path, row: str, seed: int = 0) -> PlannedCell:
    run = Run("train", f"inpainting-joint-{row}", folder / row, (), "inpainting", "joint", "demo", seed)
    return PlannedCell(row, seed, run, run)


def test_write_leaves_all_files_and_shows_a_corrupt_record(tmp_path: Path) -> None:
    for row, text in {"a": json.dumps(record([20.0, 22.0], init=None)), "b": '{"scale": "demo"'}.items():
        (tmp_path / row).mkdir()
        (tmp_path / row / "result.json").write_text(text)
    Image.new("RGB", (40, 20)).save(tmp_path / "a" / "panel.png")
    folder = tmp_path / "tables" / "demo"
    files = write(small(), [planned(tmp_path, "a"), planned(tmp_path, "b")], "demo", folder)
    assert sorted(file.name for file in files) == [f"table99.{kind}" for kind in ("csv", "json", "md", "tex")]
    text = (folder / "table99.md").read_text()
    assert f"Ours B, seed 0: failed: {tmp_path / 'b' / 'result.json'} is damaged (" in text
    assert "delete it and give the training command again" in text
    assert "* [Ours A, seed 0](../../a/panel.png)" in text
    saved = json.loads((folder / "table99.json").read_text())
    assert [cell["row"] for cell in saved["cells"]] == ["a", "b"]
    assert restored(saved["table"]).compute == {"inpainting-joint-a": 100.0}


def test_a_figure_is_written_as_svg_and_png_the_same_each_time(tmp_path: Path) -> None:
    experiment, table = of_figure6()
    svg, png = figures.save(figures.draw(experiment, table), tmp_path / "figure6")
    first = svg.read_bytes()
    with Image.open(png) as image:
        assert image.width > 600
    figures.save(figures.draw(experiment, table), tmp_path / "figure6")
    assert svg.read_bytes() == first
    assert write(experiment, [], "demo", tmp_path)[-2:] == [svg, png]
    assert "![Figure 6: Iterations of the diffusion](figure6.svg)" in (tmp_path / "figure6.md").read_text()


FILES = [experiments.experiments_dir() / f"{name}.yaml" for name in experiments.names()]
FILES += sorted(experiments.experiments_dir().glob("small/*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_experiment_renders_before_anything_has_run(file: Path) -> None:
    experiment = experiments.read(file)
    table = render(experiment, Filled({(row.name, 0): None for row in experiment.rows if row.overrides}), "demo", {})
    printed = [
        (cell.value, number(cell))
        for line in table.lines
        for head, cell in zip(table.heads, line.cells, strict=True)
        if head.group == "paper" and cell.value is not None
    ]
    assert len(printed) == sum(value is not None for row in experiment.rows for value in row.paper)
    assert all(float(text) == value for value, text in printed)
    assert "nothing measured yet" in to_markdown(table)
    assert to_csv(table).count("\n") == len(experiment.rows) + 1
    assert r"\end{table}" in to_latex(table)
