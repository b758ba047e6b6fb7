"""From an experiment to runs: what shares a stage 1, what names a directory, what is refused. Nothing is run."""

from dataclasses import replace
from pathlib import Path

import pytest
from diffi2i.results import config_hash

from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.run.identity import config_hash
from diffi2i.tables import plan as planning
from diffi2i.tables.experiment import Column, Experiment, Row
from diffi2i.tables.plan import Run, in_order, lineage, plan, row_run

S1, WIDE = "stage=pretrain", "model.denoiser_layers=2"
ROWS = [
    Row("s1", "stage 1", [S1], [1.0]),
    Row("v1", "no diffusion", ["stage=joint", "stage.prior=none"], [2.0], [[S1]]),
    Row("v3", "ours", ["stage=joint"], [3.0], [[S1]]),
    Row("wide", "another network", ["stage=joint", WIDE], [4.0], [[S1, WIDE]]),
    Row("peer", "a peer", None, [5.0]),
]
SMALL = Experiment(
    name="small",
    title="four rows and a peer",
    task="sisr",
    overrides=["task=sisr"],
    columns=[Column("set14", "psnr_y", "Set14, PSNR", ["dataset=set14"])],
    rows=ROWS,
)


def of_row(name: str, seed: int = 0, experiment: Experiment = SMALL, scale: str = "smoke") -> Run:
    return next(cell.run for cell in plan(experiment, scale, [seed]) if cell.row == name)


def test_cells_are_the_rows_that_are_run_seed_by_seed() -> None:
    cells = plan(SMALL, "smoke", range(2))
    rows = ["s1", "v1", "v3", "wide"]
    assert [(cell.seed, cell.row) for cell in cells] == [(0, row) for row in rows] + [(1, row) for row in rows]
    assert all(cell.record is cell.run and not cell.columns for cell in cells)


def test_rows_share_a_stage_1_of_equal_configuration() -> None:
    s1, v1, v3, wide = (of_row(name) for name in ("s1", "v1", "v3", "wide"))
    assert s1.needs is None
    assert v1.needs is not None
    assert v3.needs is not None
    assert wide.needs is not None
    assert v1.needs.directory == v3.needs.directory == s1.directory
    assert wide.needs.directory != s1.directory
    assert len({run.directory for run in (s1, v1, v3, wide)}) == 4


def test_seeds_have_runs_of_their_own() -> None:
    one, other = of_row("v3", 0), of_row("v3", 1)
    assert one.needs is not None
    assert other.needs is not None
    assert (one.seed, other.seed, other.needs.seed) == (0, 1, 1)
    assert one.directory != other.directory
    assert one.needs.directory != other.needs.directory
    assert "seed=1" in other.overrides


def test_runs_are_in_an_order_in_which_each_finds_its_stage_1() -> None:
    runs = in_order(plan(SMALL, "smoke", range(2)))
    directories = [run.directory for run in runs]
    assert len(directories) == len(set(directories)) == 2 * 5
    for number, run in enumerate(runs):
        assert run.needs is None or run.needs.directory in directories[:number]


def test_a_directory_is_named_by_the_configuration_and_not_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    here = of_row("v3")
    assert here.key.startswith("sisr-joint-")
    assert here.directory == Path("outputs/runs/smoke") / here.key
    monkeypatch.setattr(planning, "RUNS", Path("elsewhere"))
    there = of_row("v3")
    assert there.directory == Path("elsewhere/smoke") / here.key
    assert plan(SMALL, "smoke", [0], ["trainer.threads=1", "logger=none"])[2].run.key == here.key


def test_what_shapes_the_result_changes_the_name_of_all_that_starts_from_it() -> None:
    other = replace(SMALL, overrides=["task=sisr", "train.lr=0.1"])
    assert of_row("v3", experiment=other).key != of_row("v3").key
    longer = [replace(row, before=[[S1, "train.steps=9"]]) if row.before == [[S1]] else row for row in ROWS]
    assert of_row("v3", experiment=replace(SMALL, rows=longer)).key != of_row("v3").key


def made_by(experiment: Experiment, scale: str) -> list[Run]:
    return in_order(plan(experiment, scale, [0], ["logger=wandb"]))


CHAIN = replace(
    SMALL,
    rows=[Row("gan", "under the discriminator", ["stage=joint", "stage.budget=gan"], [6.0], [[S1], ["stage=joint"]])],
)


def test_a_chain_is_trained_from_its_first_link_each_from_the_one_before() -> None:
    runs = made_by(CHAIN, "smoke")
    assert runs == lineage(runs[-1])
    stages = [config.draft(Config, "train", run.overrides).stage for run in runs]
    assert [(stage.name, stage.budget) for stage in stages] == [
        ("pretrain", "pretrain"),
        ("joint", "joint"),
        ("joint", "gan"),
    ]
    assert [stage.init for stage in stages] == [None, *(str(run.directory) for run in runs[:2])]
    assert [run.needs for run in runs] == [None, *runs[:2]]
    jobs = [text for run in runs for text in run.overrides if text.startswith("logger.job_type=")]
    assert jobs == [f"logger.job_type={name}" for name in ("before-1", "before-2", "gan")]
    # The links are those of other rows: nothing is trained twice.
    assert [run.key for run in runs[:2]] == [of_row("s1").key, of_row("v3").key]
    # What is changed in one link makes another run of all that follow.
    first, *_ = CHAIN.rows
    other = made_by(replace(CHAIN, rows=[replace(first, before=[[S1], ["stage=joint", "train.lr=0.1"]])]), "smoke")
    assert [one.key == two.key for one, two in zip(runs, other, strict=True)] == [True, False, False]


def test_the_gan_phase_is_left_out_where_the_scale_has_none() -> None:
    runs = made_by(CHAIN, "demo")
    assert [run.stage for run in runs] == ["pretrain", "joint"]
    assert not any("stage.budget=gan" in run.overrides for run in runs)
    assert runs[-1].key == of_row("v3", scale="demo").key
    assert "logger.job_type=gan" in runs[-1].overrides


def test_a_directory_is_named_by_what_the_data_are_and_not_by_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(root: object, seed: int = 0, row: str = "v3", *more: str) -> str:
        cells = plan(SMALL, "smoke", [seed], ["dataset=folder", f"root={root}", *more])
        return next(cell.run.key for cell in cells if cell.row == row)

    here, there, other = (tmp_path / name for name in ("a/photos", "b/photos", "a/drawings"))
    for folder in (here, there, other):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert {key(root) for root in (here, there, f"{here}/", ".", "../photos")} == {key(here)}
    assert len({key(here), key(other), key(here, 1), key(here, 0, "v1"), key(here, 0, "v3", "train.lr=0.1")}) == 5
    # The folder of the images held out, too.
    held = "dataset.source.val_root"
    assert key(here, 0, "v3", f"{held}={here}") == key(here, 0, "v3", f"{held}={there}")
    assert len({key(here), *(key(here, 0, "v3", f"{held}={root}") for root in (here, other))}) == 3


def test_the_overrides_compose_to_the_configuration_that_was_planned(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = of_row("v3", seed=2)
    assert run.needs is not None
    first = compose.load(Config, "train", run.needs.overrides)
    assert (config_hash(first), first.seed, first.run_dir) == (run.needs.config_hash, 2, str(run.needs.directory))
    second = config.draft(Config, "train", run.overrides)
    assert (config_hash(second), second.seed, second.run_dir) == (run.config_hash, 2, str(run.directory))
    assert second.stage.init == str(run.needs.directory)


def test_wandb_groups_the_runs_by_table_and_row() -> None:
    run = next(cell.run for cell in plan(SMALL, "smoke", [0], ["logger=wandb"]) if cell.row == "v3")
    assert {"logger.group=small", "logger.job_type=v3"} <= set(run.overrides)
    assert run.key == of_row("v3").key


def test_a_row_scored_otherwise_shares_the_training(tmp_path: Path) -> None:
    respaced = Row("v3-two", "ours in two steps", ["stage=joint"], [None], [[S1]], evaluation=["timesteps=[2,4]"])
    cells = plan(replace(SMALL, rows=[*ROWS, respaced]), "smoke", [0])
    cell = cells[-1]
    assert cell.run.directory == of_row("v3").directory
    assert cell.record.command == "eval"
    assert cell.record.needs == cell.run
    assert "timesteps=[2,4]" in cell.record.overrides
    assert in_order(cells)[-1] == cell.record


def test_test_sets_are_scored_at_paper_scale_where_their_folder_is_given(images: Path) -> None:
    data = ["dataset=folder", f"root={images}", "trainer=cpu"]
    without = plan(SMALL, "paper", [0], data)
    assert not any(cell.columns for cell in without)
    cells = plan(SMALL, "paper", [0], data, {"set14": str(images)})
    run = cells[2].columns["set14"]
    assert (run.command, run.needs, run.directory.parent) == ("eval", cells[2].run, cells[2].run.directory / "eval")
    assert {"dataset=set14", f"root='{images}'", "trainer=cpu"} <= set(run.overrides)
    assert len({cell.columns["set14"].directory for cell in cells}) == 4


def test_where_rows_have_tasks_of_their_own_each_is_scored_on_its_own_sets(images: Path) -> None:
    columns = [Column(name, "psnr", name, [f"dataset={name}"]) for name in ("set14", "gopro")]
    rows = [
        Row("sr", "sr", ["task=sisr", S1], [1.0, None]),
        Row("deblur", "deblur", ["task=deblur", S1], [None, 2.0]),
    ]
    figure = Experiment("mixed", "two tasks", "all", [], columns, rows)
    roots = {"set14": str(images), "gopro": str(images)}
    cells = plan(figure, "paper", [0], ["dataset=folder", f"root={images}"], roots)
    assert [list(cell.columns) for cell in cells] == [["set14"], ["gopro"]]


@pytest.mark.parametrize(
    "path", ["/plain", "/with space", "/RealSR(V3)", "/it's", "/a=b,c{d}[e]", r"/back\slash", "/it\\'s\\"]
)
def test_folders_of_any_name_reach_the_evaluation(path: str) -> None:
    composed = compose.composition("eval", ["run=r", "dataset=set14", f"root={planning.quoted(path)}"])
    assert composed.root == path


@pytest.mark.parametrize(
    ("scale", "extra", "roots", "words"),
    [
        ("smoke", ["seed=3"], {}, "seeds="),
        ("smoke", ["stage=joint"], {}, "rows name their stage"),
        ("smoke", ["run_dir=x"], {}, "below outputs/runs"),
        ("smoke", ["train.bach=3"], {}, "did you mean 'train.batch'"),
        ("smoke", [WIDE], {}, "makes rows v3 and wide one and the same run"),
        ("smoke", ["stage.prior=none"], {}, "stage.prior=none is not for stage=pretrain"),
        ("smoke", [], {"set14": "."}, "belongs to scale=paper"),
        ("huge", [], {}, "scale=huge"),
        ("paper", [], {}, "write dataset=<name> root=<folder>"),
        ("paper", ["dataset=folder", "root=."], {"set14": "/nowhere"}, "is not a folder"),
    ],
)
def test_what_cannot_be_planned_is_refused(scale: str, extra: list[str], roots: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan(SMALL, scale, [0], extra, roots)


def test_a_variant_is_the_run_of_its_table() -> None:
    run = row_run(["experiment=table7", "variant=v1", "scale=smoke", "seed=2", "trainer=cpu"])
    (table7,) = planning.named("table7")
    rows = [row for row in table7.rows if row.name == "v1"]
    (cell,) = plan(replace(table7, rows=rows), "smoke", [2], ["trainer=cpu"])
    assert run == cell.run
    assert row_run(["+experiment=table7", "+variant=v1", "scale=smoke", "seed=2", "trainer=cpu"]) == run
    budgets = ["pretrain", "joint", "gan"]
    links = lineage(row_run(["experiment=table3", "variant=diffi2i", "scale=smoke"]))
    assert [config.draft(Config, "train", link.overrides).stage.budget for link in links] == budgets


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["variant=v1"], "write experiment=<name>"),
        (["experiment=table7"], "write variant= one of s1, s1-on, none, none-on, v1, v2, v3, v4"),
        (["experiment=table1", "variant=lama"], "write variant= one of diffi2i"),
        (["experiment=table99", "variant=v1"], "no experiment 'table99'"),
        (["experiment=table7", "variant=v1", "seed=one"], "whole number"),
    ],
)
def test_a_row_that_cannot_be_trained_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        row_run(overrides)
