"""From a row to runs: what comes before, what names a directory, what is refused. Nothing is run."""

from copy import deepcopy
from pathlib import Path

import pytest

from diffi2i.config import compose
from diffi2i.config.commands import EvalConfig
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.run import plan as planning
from diffi2i.run.identity import config_hash
from diffi2i.run.plan import Run, lineage, planned
from diffi2i.tables.experiment import load
from diffi2i.tables.plan import Cell, in_order, plan
from tests.own_tables import SETTINGS, own_conf, row, tables, write_table
from tests.refusals import refusal

pytestmark = pytest.mark.slow  # each composes several configurations

__all__ = ["own_conf", "tables"]

S2 = "method: {init: small/s1}"
WIDE = "model: {denoiser_layers: 2}"
ROWS = {
    "s1": row("diffi2i_s1"),
    "v1": row("diffi2i_s2", "method: {init: small/s1, prior: none}"),
    "v3": row("diffi2i_s2", S2),
    "wide-s1": row("diffi2i_s1", WIDE),
    "wide": row("diffi2i_s2", "method: {init: small/wide-s1}", WIDE),
    "gan": row("diffi2i_s2", "method: {init: small/v3, role: adversarial}"),
}
PAPER = """row,label,"Set14, PSNR",note
s1,stage 1,1.0,
v1,no diffusion,2.0,
v3,ours,3.0,
wide,another network,4.0,
peer,a peer,5.0,
"""


@pytest.fixture
def small(tables: Path) -> Path:
    return write_table(tables, "small", ROWS, PAPER)


def cells(
    budget: str = "smoke",
    seeds: int = 1,
    *extra: str,
    roots: dict[str, str] | None = None,
    imports: dict[str, Path] | None = None,
) -> list[Cell]:
    return plan(load("small"), budget, range(seeds), extra, roots, imports)


def of_row(name: str, *overrides: str, budget: str = "smoke") -> Run:
    return planned([f"experiment=small/{name}", f"budget={budget}", *overrides])


def test_cells_are_the_rows_that_are_run_seed_by_seed(small: Path) -> None:
    found = cells(seeds=2)
    rows = ["s1", "v1", "v3", "wide", "gan"]  # the last has no line in paper.csv, and none starts from it
    assert [(cell.seed, cell.row) for cell in found] == [(0, row) for row in rows] + [(1, row) for row in rows]
    assert all(cell.record is cell.run and not cell.columns for cell in found)


def test_adding_a_row_touches_one_file(small: Path) -> None:
    write_table(small.parent, "small", {"mine": row("no_prior")}, PAPER)
    assert "mine" in [cell.row for cell in cells()]
    assert [each.label for each in load("small").rows if each.name == "mine"] == ["mine"]


def test_rows_share_what_they_start_from(small: Path) -> None:
    s1, v1, v3, wide = (of_row(name) for name in ("s1", "v1", "v3", "wide"))
    assert s1.before is None
    assert v1.before is not None
    assert v3.before is not None
    assert wide.before is not None
    assert v1.before.directory == v3.before.directory == s1.directory
    assert wide.before.directory != s1.directory
    assert len({run.directory for run in (s1, v1, v3, wide)}) == 4
    assert v3.config.method["init"] == str(s1.directory)


def test_seeds_have_runs_of_their_own(small: Path) -> None:
    one, other = of_row("v3", "seed=0"), of_row("v3", "seed=1")
    assert one.before is not None
    assert other.before is not None
    assert (one.config.seed, other.config.seed, other.before.config.seed) == (0, 1, 1)
    assert one.directory != other.directory
    assert one.before.directory != other.before.directory
    assert of_row("v3").directory == one.directory, "seed 0 is the default"


def test_runs_are_in_an_order_in_which_each_finds_what_it_starts_from(small: Path) -> None:
    runs = in_order(cells(seeds=2))
    directories = [run.directory for run in runs]
    assert len(directories) == len(set(directories)) == 2 * 6
    for number, run in enumerate(runs):
        assert run.before is None or run.before.directory in directories[:number]


def test_a_directory_is_named_by_the_configuration_and_not_by_its_place(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = of_row("v3")
    assert here.name.startswith("sisr-diffi2i_s2-")
    assert here.directory == Path("outputs/runs/smoke") / here.name
    assert of_row("v3", "trainer.threads=1", "logger=none").name == here.name
    monkeypatch.setattr(planning, "RUNS", Path("elsewhere"))
    assert of_row("v3").directory == Path("elsewhere/smoke") / here.directory.name


def test_a_role_that_is_no_word_is_refused_before_it_is_looked_up() -> None:
    assert refusal(planned, ["task=sisr", "method.role={}"]).startswith(
        "method.role={}: choose one of fresh, continued"
    )


def test_a_single_training_is_the_run_of_its_table(small: Path) -> None:
    given = ["task=sisr", "method=diffi2i_s1", "budget=smoke"]
    assert planned(given).directory == of_row("s1").directory
    # Whether what it starts from is named by its row or by where it lies.
    before = of_row("s1").directory
    for init in ("small/s1", str(before), str(before.absolute())):
        run = planned(["task=sisr", "method=diffi2i_s2", f"method.init={init}", "budget=smoke"])
        assert run.directory == of_row("v3").directory


def test_what_lies_elsewhere_is_known_by_its_weights(tmp_path: Path) -> None:
    def key(text: str, place: str) -> str:
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "weights.safetensors").write_text(text)
        return planned(["task=sisr", "method=diffi2i_s2", f"method.init={tmp_path / place}"]).name

    assert key("a", "here") == key("a", "there") != key("b", "here")


def test_what_shapes_the_result_changes_the_name_of_all_that_starts_from_it(small: Path) -> None:
    assert of_row("v3", "train.lr=0.1").name != of_row("v3").name
    rows = {name: text.replace("small/", "longer/") for name, text in ROWS.items()}
    write_table(small.parent, "longer", rows | {"s1": row("diffi2i_s1", "train: {steps: 9}")})
    longer = planned(["experiment=longer/gan", "budget=smoke"])
    pairs = list(zip(lineage(longer), lineage(of_row("gan")), strict=True))
    assert [one.config.train.steps == other.config.train.steps for one, other in pairs] == [False, True, True]
    assert not any(one.name == other.name for one, other in pairs)


def test_a_chain_is_trained_from_its_first_link_each_from_the_one_before(small: Path) -> None:
    runs = lineage(of_row("gan", "logger=wandb"))
    assert [(run.config.method["name"], run.config.method["role"]) for run in runs] == [
        ("diffi2i_s1", "fresh"),
        ("diffi2i_s2", "continued"),
        ("diffi2i_s2", "adversarial"),
    ]
    assert [run.config.method["init"] for run in runs] == [None, *(str(run.directory) for run in runs[:2])]
    assert [run.before for run in runs] == [None, *runs[:2]]
    # The links are those of other rows: nothing is trained twice.
    assert [run.directory for run in runs[:2]] == [of_row("s1").directory, of_row("v3").directory]
    assert [(run.config.logger or {})["job_type"] for run in runs] == ["s1", "v3", "gan"]
    assert {(run.config.logger or {})["group"] for run in runs} == {"small"}


def test_a_row_has_options_of_its_own_at_a_budget_unless_others_are_given(small: Path) -> None:
    options = "method: {init: small/s1, prior_loss: l2, budgets: {smoke: {prior_loss: kl, sampler.steps: 2}}}"
    write_table(small.parent, "small", {"at": row("diffi2i_s2", options)})
    at_smoke, at_demo = (of_row("at", budget=budget).config.method for budget in ("smoke", "demo"))
    assert (at_smoke["prior_loss"], at_smoke["sampler"]["steps"]) == ("kl", 2)
    assert (at_demo["prior_loss"], at_demo["sampler"]["steps"]) == ("l2", None)
    assert "budgets" not in at_smoke
    assert of_row("at", "method.prior_loss=l1").config.method["prior_loss"] == "l1"


def test_a_row_whose_role_the_budget_lacks_is_what_it_would_go_on_from(small: Path) -> None:
    run = of_row("gan", budget="demo")
    assert run == of_row("v3", budget="demo")
    assert [each.config.method["role"] for each in lineage(run)] == ["fresh", "continued"]


def test_a_row_may_be_the_run_of_another_table(small: Path) -> None:
    write_table(small.parent, "other", {"same": "defaults: [small/v3]", "more": "defaults: [small/v3]\nseed: 5"})
    assert planned(["experiment=other/same", "budget=smoke"]) == of_row("v3")
    assert planned(["experiment=other/more", "budget=smoke"]) != of_row("v3")


def test_a_directory_is_named_by_what_the_data_are_and_not_by_where_they_lie(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(root: object, name: str = "v3", *more: str) -> str:
        return of_row(name, "dataset=folder", f"root={root}", *more).name

    here, there, other = (tmp_path / name for name in ("a/photos", "b/photos", "a/drawings"))
    for folder in (here, there, other):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert {key(root) for root in (here, there, f"{here}/", ".", "../photos")} == {key(here)}
    variants = [key(other), key(here, "v3", "seed=1"), key(here, "v1"), key(here, "v3", "train.lr=0.1")]
    assert len({key(here), *variants}) == 5
    # The folder of the images held out, too.
    held = "dataset.source.val_root"
    assert key(here, "v3", f"{held}={here}") == key(here, "v3", f"{held}={there}")
    assert len({key(here), *(key(here, "v3", f"{held}={root}") for root in (here, other))}) == 3


def test_the_overrides_compose_to_the_configuration_that_was_planned(small: Path) -> None:
    (cell,) = [cell for cell in cells("smoke", 3, "train.lr=0.1") if (cell.row, cell.seed) == ("v3", 2)]
    again = planned(cell.run.overrides)
    assert again == cell.run
    assert again.config == cell.run.config
    plain = compose.load(Config, "train", cell.run.overrides)
    assert config_hash(plain) == config_hash(cell.run.config)
    assert (plain.seed, plain.train.lr) == (2, 0.1)


def test_what_is_planned_can_be_changed_without_harm(small: Path) -> None:
    run = of_row("v3")
    kept = deepcopy(run.config)
    run.config.method["prior"] = "none"
    run.config.train.lr = 5
    assert of_row("v3").config == kept


RESCORED = f"{SETTINGS}rescored: {{two: {{run: v3, set: ['method.sampler.steps=[2,4]']}}}}\n"


def test_a_row_scored_otherwise_shares_the_training(small: Path) -> None:
    write_table(small.parent, "small", {}, f"{PAPER}two,in two steps,,\n", RESCORED)
    found = cells()
    (cell,) = [cell for cell in found if cell.row == "two"]
    assert cell.run == next(other.run for other in found if other.row == "v3")
    assert (cell.record.command, cell.record.before) == ("eval", cell.run)
    assert "set=['method.sampler.steps=[2,4]']" in cell.record.overrides
    assert in_order(found)[-1] == cell.record


def test_test_sets_are_scored_at_the_papers_budget_where_their_folder_is_given(small: Path, images: Path) -> None:
    data = ("dataset=folder", f"root={images}", "trainer=cpu")
    assert not any(cell.columns for cell in cells("paper", 1, *data))
    write_table(small.parent, "small", {}, f"{PAPER}two,in two steps,,\n", RESCORED)
    found = {cell.row: cell for cell in cells("paper", 1, *data, roots={"set14": str(images)})}
    run = found["v3"].columns["set14"]
    assert (run.command, run.before) == ("eval", found["v3"].run)
    assert run.directory.parent == found["v3"].run.directory / "eval"
    assert {"dataset=set14", f"root='{images}'", "trainer=cpu"} <= set(run.overrides)
    assert "set=['method.sampler.steps=[2,4]']" in found["two"].columns["set14"].overrides
    assert len({cell.columns["set14"].directory for cell in found.values()}) == len(found)


def test_a_test_set_may_have_settings_of_its_own(small: Path, images: Path) -> None:
    other = f"{SETTINGS}testsets: {{set14: {{overrides: [dataset=set5], set: [task.protocol.seed=1]}}}}\n"
    write_table(small.parent, "small", {}, PAPER, other)
    given = ("dataset=folder", f"root={images}")
    run = cells("paper", 1, *given, roots={"set14": str(images)})[0].columns["set14"]
    assert {"dataset=set5", "set=['task.protocol.seed=1']"} <= set(run.overrides)


def test_where_rows_have_tasks_of_their_own_each_is_scored_on_its_own_sets(tables: Path, images: Path) -> None:
    settings = """
title: two tasks
task: all
columns:
  - {heading: set14, metric: psnr, dataset: set14}
  - {heading: gopro, metric: psnr, dataset: gopro}
"""
    paper = "row,label,set14,gopro,note\nsr,sr,1.0,,\ndeblur,deblur,,2.0,\n"
    task = "defaults: [override /task: {}, override /method: diffi2i_s1]"
    write_table(tables, "small", {"sr": task.format("sisr"), "deblur": task.format("deblur")}, paper, settings)
    roots = {"set14": str(images), "gopro": str(images)}
    found = cells("paper", 1, "dataset=folder", f"root={images}", roots=roots)
    assert [list(cell.columns) for cell in found] == [["set14"], ["gopro"]]


IMPORTS = f"{SETTINGS}imports: {{peer: {{source: diffir, overrides: [model=diffir_tiny]}}}}\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "authors.pth"
    file.write_bytes(b"weights")
    return file


def test_a_row_of_imported_weights_is_made_of_the_file_and_scored_as_the_others_are(small: Path, weights: Path) -> None:
    write_table(small.parent, "small", {}, PAPER, IMPORTS)
    (cell,) = (cell for cell in cells(seeds=2, imports={"small/peer": weights}) if cell.row == "peer")
    run = cell.run
    assert (run.command, run.before, cell.record, cell.seed) == ("import", None, run, 0)
    given = ("task=sisr", "model=diffir_tiny", "budget=smoke", "seed=0")
    assert run.overrides == ("diffir", str(weights), *given, f"run_dir={run.directory}")
    assert run.name.startswith("sisr-diffir-")
    assert in_order([cell]) == [run]

    def other(*extra: str) -> str:
        found = cells("smoke", 1, *extra, imports={"small/peer": weights})
        return next(cell.run.name for cell in found if cell.row == "peer")

    assert len({run.name, other("task.protocol.seed=1")}) == 2
    moved = weights.rename(weights.with_name("moved.pth"))
    weights.write_bytes(b"other weights")
    assert other() != run.name
    moved.replace(weights)
    assert other() == run.name


def test_weights_fill_the_rows_of_other_tables_too(small: Path, weights: Path) -> None:
    write_table(small.parent, "small", {}, PAPER, IMPORTS.replace("peer", "v3"))
    paper = 'row,label,"Set14, PSNR",note\nsame,the same,1.0,\n'
    write_table(small.parent, "other", {"same": "defaults: [/experiment/small/v3]"}, paper)
    (mine,) = (cell.run for cell in cells(imports={"small/v3": weights}) if cell.row == "v3")
    (same,) = plan(load("other"), "smoke", [0], imports={"small/v3": weights})
    assert same.run == mine
    assert mine.command == "import"


@pytest.mark.parametrize(
    "path", ["/plain", "/with space", "/RealSR(V3)", "/it's", "/a=b,c{d}[e]", r"/back\slash", "/it\\'s\\"]
)
def test_folders_of_any_name_reach_the_evaluation(path: str) -> None:
    composed = compose.composition(EvalConfig, "eval", ["run=r", "dataset=set14", f"root={compose.quoted(path)}"])
    assert composed.root == path


@pytest.mark.parametrize(
    ("budget", "extra", "roots", "words"),
    [
        ("smoke", ["seed=3"], {}, "seeds="),
        ("smoke", ["method=no_prior"], {}, "rows name their method"),
        ("smoke", ["experiment=small/v1"], {}, "name the table alone"),
        ("smoke", ["run_dir=x"], {}, "below outputs/runs"),
        ("smoke", ["train.bach=3"], {}, "did you mean 'train.batch'"),
        ("smoke", [], {"set14": "."}, "belongs to budget=paper"),
        ("huge", [], {}, "budget=huge"),
        ("paper", [], {}, "write dataset=<name> root=<folder>"),
        ("paper", ["dataset=folder", "root=."], {"set14": "/nowhere"}, "is not a folder"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    small: Path, budget: str, extra: list[str], roots: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        cells(budget, 1, *extra, roots=roots)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=small/v33"], "no row of small 'v33': did you mean v3?"),
        (["experiment=small"], "no row of small '': write one of gan, s1, v1, v3, wide, wide-s1"),
        (["experiment=smal/v3"], "no table 'smal': did you mean small?"),
        (["experiment=small/peer"], "no row of small 'peer'"),
        (["method=diffi2i_s2", "method.init=small/s9"], "no row of small 's9': did you mean s1?"),
        (["experiment=small/v3", "train.lr=-1"], "train.lr=-1.0 must be above 0"),
    ],
)
def test_a_row_that_cannot_be_trained_is_refused(small: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        planned(overrides)
