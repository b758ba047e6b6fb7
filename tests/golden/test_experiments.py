"""Every experiment loads, its rows compose, and its numbers are those of the paper, all of them and no others."""

import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffi2i.config import compose
from diffi2i.config.commands import EvalConfig
from diffi2i.config.compose import typed_options
from diffi2i.config.schema import Config
from diffi2i.diffusion.repainting import walk
from diffi2i.diffusion.samplers import visited
from diffi2i.errors import UserError
from diffi2i.methods.build import build_method, method_class
from diffi2i.methods.codi import CoDi, CoDiOptions
from diffi2i.methods.diffi2i_s2 import DiffI2IS2, Stage2Options
from diffi2i.metrics.spec import COSTS, METRICS, of_kind
from diffi2i.run import plan
from diffi2i.run import rows as rows_of_disk
from diffi2i.run.plan import Run, lineage, planned
from diffi2i.tables import experiment
from diffi2i.tables.experiment import Experiment, Row
from tests.own_tables import own_conf, tables, write_table
from tests.own_tables import row as row_text
from tests.refusals import refusal

__all__ = ["own_conf", "tables"]

PRINTED = Path(__file__).parents[1] / "data" / "printed_tables.txt"
TABLES = [f"table{number}" for number in range(1, 12)]
NAMES = [*TABLES, "figure1", "figure6"]
SMALL = [f"small-{name}" for name in ("sisr", "depth", "deblur", "realsr", "segmentation")]
STUDIES = ["study-sisr", "study-inpainting"]  # the compared methods at equal processor seconds
NEIGHBOURS = ["neighbours1", "neighbours2", "neighbours3"]  # the neighbouring papers: compression, CoDi, InvSR
MADE_OF_ONE = NEIGHBOURS[1:]  # whose rows start from one unconditional diffusion
# Rows that are run and that the paper does not have: their labels say what they are like, their notes whose they are.
OWN = {
    "table1": ["lama-like"],
    "table2": ["real-esrgan-like", "resshift"],
    "table3": ["esrgan-like", "srdiff-like", "resshift"],
    "table5": ["none-on-s", "none-on-l"],
    "table6": ["none-on"],
    "table7": ["s1-on", "none", "none-on"],
    "table11": ["srdiff-like"],
}
# Rows and columns of the paper's tables; of Table 8 the losses are the rows.
SHAPES = {
    "table1": (7, 9),
    "table2": (6, 9),
    "table3": (10, 10),
    "table4": (20, 4),
    "table5": (13, 2),
    "table6": (12, 6),
    "table7": (5, 2),
    "table8": (3, 1),
    "table9": (3, 4),
    "table10": (2, 3),
    "table11": (3, 3),
    "figure1": (16, 7),
    "figure6": (12, 1),
}
RUN = {
    "table1": ["ldm", "repaint", "diffir", "diffi2i"],
    "table2": ["ldm", "diffir", "diffi2i"],
    "table3": ["ldm", "diffir", "diffi2i"],
    "table4": ["restormer", "nafnet", "diffir", "diffi2i", "diffi2i-tlc"],
    "table5": ["diffi2i-s", "diffi2i-l"],
    "table7": ["s1", "v1", "v2", "v3", "v4"],
    "table8": ["l1", "l2", "kl"],
    "table9": ["ldm", "ldm-dpm-solver", "diffi2i"],
    "table10": ["both", "only-gt"],
    "figure1": [
        *("inpainting", "inpainting-repaint", "inpainting-diffir"),
        *("realsr", "realsr-ldm", "realsr-ldm-dpm-solver", "realsr-diffir"),
        *("sisr", "sisr-ldm", "sisr-diffir"),
        *("deblur", "deblur-restormer", "deblur-nafnet", "deblur-diffir"),
        *("segmentation", "depth"),
    ],
    "figure6": ["none-on", "t1", "t2", "t3", "t4", "t6", "t8", *(f"t8-respaced-{n}" for n in (1, 2, 3, 4, 6))],
}


def of_the_paper(name: str) -> Experiment:
    """Without rows that somebody has added to a table, which the paper has no numbers for."""
    found = experiment.load(name)
    if name == "figure6":  # prints none at all
        return found
    return replace(found, rows=[row for row in found.rows if any(row.paper)])


def run_rows(name: str) -> list[str]:
    return [row.name for row in of_the_paper(name).rows if row.run]


def row_of(name: str, row: str) -> Row:
    return next(other for other in experiment.load(name).rows if other.name == row)


def run_of(name: str, row: str, *more: str) -> Run:
    """The training of a row, which a row that is scored otherwise shares with another."""
    rescored = experiment.load(name).rescored.get(row)
    return planned([f"experiment={name}/{rescored.run if rescored else row}", *more])


def config_of(name: str, row: str, *more: str) -> Config:
    return run_of(name, row, *more).config


def options_of(made: Config) -> Stage2Options:
    options: Stage2Options = typed_options(DiffI2IS2.Options, made)
    return options


def test_all_results_of_the_paper_have_their_folder() -> None:
    assert experiment.names_of_paper() == NAMES
    assert rows_of_disk.table_names()[: len(NAMES)] == NAMES
    assert sorted(rows_of_disk.table_names()) == sorted([*NAMES, *SMALL, *STUDIES, *NEIGHBOURS, "demo"])


@pytest.mark.parametrize("name", NAMES)
def test_counts(name: str) -> None:
    found = of_the_paper(name)
    assert (len(found.rows), len(found.columns)) == SHAPES[name]
    assert run_rows(name) == RUN.get(name, ["diffi2i"])
    assert (found.x is not None) == name.startswith("figure")


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_the_paper_lacks_say_so_and_have_none_of_its_values(name: str) -> None:
    added = [row for row in experiment.load(name).rows if not any(row.paper)]
    assert [row.name for row in added] == OWN.get(name, [])
    assert all(row.run and row.note.startswith("not the paper's") for row in added)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_says_how_to_run_it(name: str) -> None:
    text = (rows_of_disk.experiments_dir() / name / "table.yaml").read_text(encoding="utf-8")
    target = re.sub(r"(\D+)(\d+)", r"make reproduce-\1-\2", name)
    assert text.startswith("# ")
    assert f"diffi2i table {name} budget=demo seeds=3" in text
    assert re.search(rf"{target}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", [*NAMES, *SMALL, *STUDIES, *NEIGHBOURS])
def test_a_row_is_a_small_file_that_says_what_it_is(name: str) -> None:
    for file in (rows_of_disk.experiments_dir() / name).glob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        if file.stem != "table":
            assert lines[0] == "# @package _global_"
            assert lines[1].startswith("# ")
            assert len(lines) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("budget", [pytest.param("smoke", marks=pytest.mark.long), "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_compose_and_score_their_columns(name: str, budget: str) -> None:
    found, seen = experiment.load(name), []
    scored: dict[str, set[str]] = {}
    for row in run_rows(name):
        run = run_of(name, row, f"budget={budget}")
        made = run.config
        assert made.budget == budget
        assert found.task in (made.task.name, "all")
        scored[row] = set(made.task.protocol.metrics or of_kind(made.task.kind))
        links = [
            asdict(replace(link.config, method=link.config.method | {"init": None}, run_dir=None))
            for link in lineage(run)
        ]
        seen.append((links, found.rescored.get(row)))
    # Of two equal rows one would be superfluous.
    assert all(one not in seen[:i] for i, one in enumerate(seen))
    each = any if found.task == "all" else all
    for column in found.columns:
        assert column.metric in COSTS or each(column.metric in metrics for metrics in scored.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_small_rows_compose(name: str, images: Path) -> None:
    found = experiment.load(name)
    assert [row.name for row in found.rows] == ["s1", "s1-on", "none", "none-on", "v1", "v3"]
    for row in found.rows:
        made = config_of(name, row.name, "budget=demo", f"root={images}")
        assert made.task.name == found.task == name.removeprefix("small-")


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE_OF_ONE)
def test_rows_of_the_neighbouring_papers_start_from_one_diffusion(name: str, images: Path) -> None:
    found, root = experiment.load(name), f"root={images}"
    scored = {column.metric for column in found.columns if column.dataset}
    first = run_of("neighbours2", "unconditional", "budget=demo", root)
    assert not first.config.method["conditional"]
    for row in found.rows:
        if not row.run:
            assert any(row.paper)
            continue
        run = run_of(name, row.name, "budget=demo", root)
        assert lineage(run)[0].directory == first.directory
        assert scored <= set(run.config.task.protocol.metrics)
        settings = found.rescored[row.name].set if row.name in found.rescored else []
        changed = planned([f"experiment={name}/{found.rescored[row.name].run}", root, *settings]) if settings else run
        kind = method_class(changed.config)
        typed_options(kind.Options, changed.config)
        assert all(setting.split("=")[0].split(".")[1] in kind.scored_under for setting in settings)


def test_the_rows_of_codi_differ_in_what_they_learn_and_train(images: Path) -> None:
    options: dict[str, CoDiOptions] = {
        row: typed_options(CoDi.Options, config_of("neighbours2", row, f"root={images}"))
        for row in ("codi", "pe-codi", "adapted", "controlnet", "cm")
    }
    assert {row: (each.learns, each.trained) for row, each in options.items()} == {
        "codi": ("distillation", "all"),
        "pe-codi": ("distillation", "adapter"),
        "adapted": ("denoising", "all"),
        "controlnet": ("denoising", "adapter"),
        "cm": ("consistency", "all"),
    }
    assert {str(each.sampler["_target_"]).rpartition(".")[2] for each in options.values()} == {"ddim", "renoised"}
    assert {each.sampler["steps"] for each in options.values()} == {4}


@pytest.mark.parametrize("name", MADE_OF_ONE)
def test_the_claim_of_a_neighbouring_paper_is_its_order(name: str) -> None:
    found = experiment.load(name)
    values = [float(row_of(name, row).paper[found.claim_column]) for row in found.claim]
    assert len(values) >= 4
    assert values == sorted(values)  # LPIPS


TESTSETS = {(name, column.dataset) for name in NAMES for column in experiment.load(name).columns if column.dataset}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset"), sorted(TESTSETS))
def test_test_sets_compose(name: str, dataset: str, images: Path) -> None:
    testset = experiment.load(name).testset(dataset)
    loaded = compose.load(EvalConfig, "eval", ["run=somewhere", f"root={images}", *testset.overrides])
    assert loaded.dataset is not None
    assert f"dataset={loaded.dataset.name}" == testset.overrides[0]
    assert dataset.startswith(loaded.dataset.name)


def test_table7_has_the_papers_variants() -> None:
    made = [config_of("table7", row, "budget=smoke") for row in run_rows("table7")]
    assert [each.method["name"] for each in made] == ["diffi2i_s1", *["diffi2i_s2"] * 4]
    assert made[0].method["prior"] == "truth"
    options = [options_of(each) for each in made[1:]]
    assert [(each.prior, each.sampler["variance_noise"]) for each in options] == [
        ("none", False),
        ("traditional", False),
        ("joint", False),
        ("joint", True),
    ]


def test_table8_has_the_papers_losses() -> None:
    made = [options_of(config_of("table8", row, "budget=smoke")) for row in run_rows("table8")]
    assert [each.prior_loss for each in made] == ["l1", "l2", "kl"]


WITH_CONTROLS = [(name, "smoke") for name in [*NAMES, *SMALL] if experiment.load(name).controls]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "budget"), [*WITH_CONTROLS, ("table7", "paper"), ("figure6", "paper")])
def test_a_control_differs_from_its_row_in_the_prior_alone(name: str, budget: str, images: Path) -> None:
    def steps(run: Run) -> int:
        """Those of the network that makes the prediction, over all links."""
        total = 0
        for link in (each.config for each in lineage(run)):
            kind = method_class(link)
            of_link = SimpleNamespace(options=typed_options(kind.Options, link), config=link)
            total += kind.network_steps(of_link, link.train.steps)  # type: ignore[arg-type]
        return total

    found, root = experiment.load(name), [f"root={images}"] if name in SMALL else []
    for control, rows in found.controls.items():
        for row in rows:
            ours, other = (run_of(name, each, f"budget={budget}", *root) for each in (row, control))
            assert all(link.config.method["name"] == "no_prior" for link in lineage(other))
            assert ours.config.method["name"] != "no_prior"
            assert steps(ours) == steps(other), row
            for part in ("task", "dataset", "model", "seed"):
                assert getattr(ours.config, part) == getattr(other.config, part)


def test_the_adversarial_phase_comes_last_where_the_paper_trains_with_one() -> None:
    rows = [("table2", "diffi2i"), ("table3", "diffi2i"), ("figure1", "sisr"), ("table10", "both")]
    for name, row in [*rows, ("table2", "real-esrgan-like"), ("table3", "esrgan-like"), ("table3", "diffir")]:
        links = [run.config for run in lineage(run_of(name, row, "budget=smoke"))]
        assert [link.method["role"] for link in links] == ["fresh", "continued", "adversarial"]
        assert "adversary" in links[-1].task.losses[links[-1].train.loss]


@pytest.mark.slow
def test_tables_share_their_runs() -> None:
    same = [
        [("table1", "diffi2i"), ("table7", "v3"), ("table8", "l1"), ("figure6", "t4"), ("figure1", "inpainting")],
        [("table2", "diffi2i"), ("table9", "diffi2i"), ("table10", "both"), ("figure1", "realsr")],
        [("table3", "diffi2i"), ("table11", "diffi2i"), ("figure1", "sisr")],
        [("table2", "ldm"), ("table9", "ldm"), ("table9", "ldm-dpm-solver"), ("figure1", "realsr-ldm-dpm-solver")],
        [("table3", "srdiff-like"), ("table11", "srdiff-like")],
        [("table7", "none-on"), ("figure6", "none-on")],
    ]
    for rows in same:
        assert len({run_of(name, row, "budget=smoke").directory for name, row in rows}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["smoke", "paper"])
@pytest.mark.parametrize("name", [f"table{number}" for number in range(1, 5)])
def test_compared_rows_have_been_trained_as_long_as_ours(name: str, budget: str) -> None:
    """But for RePaint, of which nothing but its diffusion is trained, and what no discriminator judges."""
    ours = [link.config.train.steps for link in lineage(run_of(name, "diffi2i", f"budget={budget}"))]
    for row in experiment.load(name).rows:
        if row.run and row.name not in experiment.load(name).rescored:
            links = [link.config for link in lineage(run_of(name, row.name, f"budget={budget}"))]
            judged = [link.train.steps for link in links if method_class(link).trains]
            assert judged in (ours, ours[:2]), row.name


@pytest.mark.slow
def test_a_row_comes_to_what_hydra_alone_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["table7/v3", "table3/esrgan-like", "table10/only-gt", "table5/none-on-s", "table1/repaint", "figure1/depth"]
    quick = [planned([f"experiment={row}", "budget=smoke", "train.clip=2"]) for row in rows]
    monkeypatch.setattr(plan, "composed", plan.composed.__wrapped__)  # and leave what others have composed
    monkeypatch.setattr(compose, "in_place_of", lambda *_: None)
    for row, run in zip(rows, quick, strict=True):
        again = planned([f"experiment={row}", "budget=smoke", "train.clip=2"])
        assert [link.config for link in lineage(again)] == [link.config for link in lineage(run)]
        assert run.config.train.clip == 2


def test_repaint_has_its_authors_schedule_at_the_papers_budget_alone() -> None:
    def calls(budget: str) -> int:
        made = config_of("table1", "repaint", f"budget={budget}").method
        times = walk(made["steps"], made["jump"], made["resamplings"])
        return sum(other < one for one, other in pairwise(times))

    assert [calls(budget) for budget in ("smoke", "demo", "paper")] == [6, 230, 2410]


def test_one_training_of_latent_diffusion_has_two_samplers() -> None:
    settings = experiment.load("table9").rescored["ldm-dpm-solver"]
    assert (settings.run, experiment.load("figure1").rescored["realsr-ldm-dpm-solver"].set) == ("ldm", settings.set)


def test_real_sr_is_scored_by_the_authors_scripts() -> None:
    for name, row in [("table2", "diffi2i"), ("table9", "diffi2i"), ("table10", "both"), ("figure1", "realsr")]:
        protocol = config_of(name, row, "budget=smoke").task.protocol
        assert protocol.border == 4
        columns = [column for column in experiment.load(name).columns if column.dataset == "ntire2020_track1"]
        assert {column.metric for column in columns} - {"dists"} == {"lpips_vgg", *(["psnr_y"] * (len(columns) > 1))}
    assert {column.metric for column in experiment.load("table2").columns} == {"lpips_vgg", "dists", "psnr_y"}
    held = compose.load(EvalConfig, "eval", ["run=somewhere", "dataset=realsrset", "root=."]).dataset
    assert held is not None
    assert (held.source["val"], held.expected) == (["Canon"], {"val": 50})


def test_deblurring_has_matlabs_ssim() -> None:
    assert [column.metric for column in experiment.load("table4").columns] == ["psnr", "ssim_3d"] * 2


def test_depth_is_averaged_over_mirrored_inputs() -> None:
    runs = [run_of(*of, "budget=smoke") for of in (("table6", "diffi2i"), ("figure1", "depth"))]
    assert all(link.config.task.protocol.flip for run in runs for link in lineage(run))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_names_where_the_protocol_comes_from(name: str) -> None:
    text = (rows_of_disk.experiments_dir() / name / "table.yaml").read_text(encoding="utf-8")
    head = text.partition("\ntitle:")[0]
    assert re.search(r"\w+\.(py|m)\b|Metric/|configs/|Sec\. 5\.\d|their files name", head)


@pytest.mark.slow
def test_figure6_ends_in_as_much_noise_at_every_number_of_iterations() -> None:
    found = experiment.load("figure6")
    default = 0.9 * (1 - 0.1 - 0.89 / 3) * (1 - 0.1 - 2 * 0.89 / 3) * 0.01
    placed = {row: x for places in found.curves.values() for row, x in places.items()}
    assert placed.keys() == {row.name for row in found.rows} - {"none-on"}
    for row, x in placed.items():
        made = config_of("figure6", row, "budget=smoke")
        diffusion = options_of(made).diffusion
        first = diffusion.beta_T if diffusion.steps == 1 else diffusion.beta_1
        beta = torch.linspace(first, diffusion.beta_T, diffusion.steps, dtype=torch.float64)
        assert float((1 - beta).prod()) == pytest.approx(default, rel=2e-3)
        steps = None
        if row in found.rescored:
            (setting,) = found.rescored[row].set
            steps = [int(step) for step in re.findall(r"\d+", setting)]
            assert setting.startswith("method.sampler.steps=[")
        # The schedule's length is all that `visited` looks at.
        assert len(visited(SimpleNamespace(steps=diffusion.steps), steps)) == x  # type: ignore[arg-type]
        assert x == int(re.findall(r"\d+", row_of("figure6", row).label)[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row", "overrides"),
    [
        ("table1", "diffi2i", []),
        ("table1", "diffir", []),
        ("table5", "diffi2i-s", ["dataset=ade20k", "root={images}"]),
        ("table5", "diffi2i-l", ["dataset=ade20k", "root={images}"]),
    ],
)
def test_networks_are_of_the_papers_size(name: str, row: str, overrides: list[str], images: Path) -> None:
    made = config_of(name, row, "budget=paper", *(text.format(images=images) for text in overrides))
    made.train.loss = next(key for key in made.task.losses if key in ("l1", "cross_entropy"))
    with torch.device("meta"):
        parts = build_method(made).parts()
    count = sum(parameter.numel() for part in parts.values() for parameter in part.parameters())
    assert count * COSTS["parameters"].unit == pytest.approx(float(row_of(name, row).paper[0]), rel=0.03)


def test_segmentation_sizes_differ_at_the_papers_budget_alone() -> None:
    def models(budget: str) -> list[str]:
        return [config_of("table5", row, f"budget={budget}").model.name for row in run_rows("table5")]

    assert models("paper") == ["segment_s", "segment_l"]
    assert models("smoke") == ["segment_tiny"] * 2


# What the paper's text says about its tables: row, column (dataset and metric), other row, the difference it names.
GAINS = [
    ("table1", "diffi2i", "celebahq-wide", "fid", "lama", -1.001),
    ("table2", "diffi2i", "ntire2020_track1", "psnr_y", "ldm", 1.84),
    ("table2", "diffi2i", "ntire2020_track1", "lpips_vgg", "ldm", -0.182),
    ("table3", "diffi2i", "general100", "lpips_alex", "bebygan", -0.0112),
    ("table3", "diffi2i", "div2k100", "lpips_alex", "bebygan", -0.0093),
    ("table4", "diffi2i", "gopro", "psnr", "ipt", 0.73),
    ("table4", "diffi2i", "gopro", "psnr", "mimo-unet", 0.8),
    ("table4", "diffi2i", "gopro", "psnr", "restormer", 0.33),
    ("table4", "diffi2i", "hide", "psnr", "restormer", 0.34),
]


def paper_value(name: str, row: str, dataset: str, metric: str) -> float:
    columns = experiment.load(name).columns
    place = next(i for i, column in enumerate(columns) if (column.dataset, column.metric) == (dataset, metric))
    return float(row_of(name, row).paper[place])


@pytest.mark.parametrize(("name", "row", "dataset", "metric", "other", "gain"), GAINS)
def test_gains_are_those_of_the_papers_text(
    name: str, row: str, dataset: str, metric: str, other: str, gain: float
) -> None:
    difference = paper_value(name, row, dataset, metric) - paper_value(name, other, dataset, metric)
    assert difference == pytest.approx(gain, abs=1e-6)


def test_costs_are_those_of_the_papers_text() -> None:
    size, peer = (paper_value("table1", row, "", "parameters") for row in ("diffi2i", "repaint"))
    assert size / peer == pytest.approx(0.045, abs=0.001)
    ours = paper_value("table9", "diffi2i", "", "seconds_per_image")
    assert ours / paper_value("table9", "ldm", "", "seconds_per_image") == pytest.approx(0.036, abs=0.0005)
    assert paper_value("table9", "ldm-dpm-solver", "", "seconds_per_image") / ours == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("table7", "v3", "celebahq-wide", "fid"), ("table1", "diffi2i", "celebahq-wide", "fid")),
        (("table8", "l1", "celebahq-wide", "fid"), ("table7", "v3", "celebahq-wide", "fid")),
        *(
            ((name, row, "ntire2020_track1", metric), ("table2", ours, "ntire2020_track1", metric))
            for name, row, ours in (
                ("table9", "diffi2i", "diffi2i"),
                ("table9", "ldm", "ldm"),
                ("table10", "both", "diffi2i"),
            )
            for metric in ("lpips_vgg", "dists", "psnr_y")
        ),
        (("figure1", "inpainting", "celebahq-wide", "fid"), ("table1", "diffi2i", "celebahq-wide", "fid")),
        (("figure1", "inpainting", "", "seconds_per_image"), ("table7", "v3", "", "seconds_per_image")),
        *(
            (("figure1", row, dataset, metric), ("table9", table_row, dataset, metric))
            for row, table_row in (
                ("realsr", "diffi2i"),
                ("realsr-ldm", "ldm"),
                ("realsr-ldm-dpm-solver", "ldm-dpm-solver"),
            )
            for dataset, metric in (("ntire2020_track1", "lpips_vgg"), ("", "seconds_per_image"))
        ),
        (("figure1", "sisr", "div2k100", "lpips_alex"), ("table3", "diffi2i", "div2k100", "lpips_alex")),
        (("figure1", "deblur", "gopro", "psnr"), ("table4", "diffi2i", "gopro", "psnr")),
        *(
            (("figure1", f"{task}-{row}", dataset, metric), (name, row, dataset, metric))
            for name, task, dataset, metric, rows in (
                ("table1", "inpainting", "celebahq-wide", "fid", ("repaint", "diffir")),
                ("table2", "realsr", "ntire2020_track1", "lpips_vgg", ("ldm", "diffir")),
                ("table3", "sisr", "div2k100", "lpips_alex", ("ldm", "diffir")),
                ("table4", "deblur", "gopro", "psnr", ("restormer", "nafnet", "diffir")),
            )
            for row in rows
        ),
        (("figure1", "segmentation", "ade20k", "miou"), ("table5", "diffi2i-l", "ade20k", "miou")),
        (("figure1", "depth", "nyu", "rmse"), ("table6", "diffi2i", "nyu", "rmse")),
    ],
)
def test_repeated_values_agree(one: tuple[str, str, str, str], other: tuple[str, str, str, str]) -> None:
    assert paper_value(*one) == paper_value(*other)


@pytest.mark.parametrize("name", TABLES)
def test_the_claim_is_the_papers_order(name: str) -> None:
    found = of_the_paper(name)
    assert sorted(found.claim) == sorted(row for row in run_rows(name) if row_of(name, row).paper[found.claim_column])
    metric = found.columns[found.claim_column].metric
    values = [float(row_of(name, row).paper[found.claim_column]) for row in found.claim]
    assert values == sorted(values, reverse=not METRICS[metric].lower)


def test_figures_print_no_numbers_of_their_own() -> None:
    assert not any(text for row in experiment.load("figure6").rows for text in row.paper)
    assert "prints no numbers" in experiment.load("figure6").note
    assert "prints no numbers" in experiment.load("figure1").note


def printed() -> dict[str, tuple[list[str], list[tuple[str, list[str]]]]]:
    """Of each table what heads the columns, and label and values of each row."""
    found: dict[str, tuple[list[str], list[tuple[str, list[str]]]]] = {}
    for line in PRINTED.read_text(encoding="utf-8").splitlines():
        if head := re.fullmatch(r"# Table (\d+): (.*)", line):
            _, lines = found[f"table{head[1]}"] = (head[2].split(), [])
        elif not line.startswith("#"):
            label, _, values = line.partition("|")
            lines.append((label, ["" if value == "-" else value for value in values.split()]))
    return found


def bare(label: str) -> str:
    """Letters and digits alone, without the authors' "Ours"."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(Ours\)|, Ours", "", label).lower())


@pytest.mark.parametrize("name", TABLES)
def test_all_rows_that_the_paper_prints_are_here_and_no_others(name: str) -> None:
    rows = of_the_paper(name).rows
    labels = [bare(row.label) if name != "table8" else "" for row in rows]  # whose rows are printed as columns
    assert [(bare(label), values) for label, values in printed()[name][1]] == [
        (label, row.paper) for label, row in zip(labels, rows, strict=True)
    ]


HEADS = {
    "FID": ["fid"],
    "LPIPS": ["lpips_alex", "lpips_vgg"],
    "DISTS": ["dists"],
    "PSNR": ["psnr", "psnr_y"],
    "SSIM": ["ssim_3d"],
    "mIOU": ["miou"],
    "Rel.": ["abs_rel"],
    "RMSE": ["rmse"],
    "log10": ["log10"],
    "δ1": ["delta1"],
    "δ2": ["delta2"],
    "δ3": ["delta3"],
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_in_the_papers_order(name: str) -> None:
    heads = printed()[name][0]
    metrics = [column.metric for column in experiment.load(name).columns if column.metric not in COSTS]
    # Table 11 names its score once for all columns.
    heads *= len(metrics) if len(heads) == 1 else 1
    assert len(heads) == len(metrics)
    assert all(metric in HEADS[head] for head, metric in zip(heads, metrics, strict=True))


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(UserError, match=r"no table 'tabel7': did you mean table7\?"):
        experiment.load("tabel7")
    with pytest.raises(UserError, match=r"no table 'xyz': write one of table1, .*small-segmentation"):
        experiment.load("xyz")


GOOD = """
title: A table
task: sisr
columns:
  - {heading: Set5, metric: psnr_y, dataset: set5}
  - {heading: Size, metric: parameters}
rescored: {two: {run: ours, set: [method.tlc=true]}}
claim: [first, ours]
pairs: [[ours, first]]
controls: {first: [ours]}
"""
PAPER = """row,label,Set5,Size,note
peer,Peer,30.00,,
ours,Ours,31.5,27,"with, a comma"
first,First,32.5,27,
two,In two steps,,,
"""
ROWS = {"first": row_text("diffi2i_s1"), "ours": row_text("diffi2i_s2", "method: {init: good/first}")}


def test_a_good_folder_is_read(tables: Path) -> None:
    write_table(tables, "good", ROWS, PAPER, GOOD)
    found = experiment.load("good")
    assert [(row.name, row.label, row.paper, row.note, row.run) for row in found.rows] == [
        ("peer", "Peer", ["30.00", ""], "", False),
        ("ours", "Ours", ["31.5", "27"], "with, a comma", True),
        ("first", "First", ["32.5", "27"], "", True),
        ("two", "In two steps", ["", ""], "", True),
    ]
    assert (found.x, found.claim_column, found.note, found.name) == (None, 0, "", "good")
    assert found.testset("set5").overrides == ["dataset=set5"]
    assert [found.control_of(row.name) for row in found.rows] == [None, "first", None, None]
    assert found.orders() == [("first", "ours"), ("ours", "first")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "metric: psnr_y",
            "metric: psnr_y, colour: red",
            ["unknown key colour: write one of heading, metric, dataset"],
        ),
        ("title: A table", "title: A table\ncolour: red", ["unknown key colour: write one of title, task, columns"]),
        ("run: ours", "runs: ours", ["unknown key runs: write one of run, set"]),
        ("claim: [first, ours]", "claim: first", ["claim"]),
        ("claim_column: 0", "claim_column: one", ["claim_column"]),
        ("title: A table\n", "", ["title is missing"]),
        ("heading: Set5, ", "", ["columns[0].heading is missing"]),
        ("metric: psnr_y", "metric: psnr_z", ["column Set5", "no metric 'psnr_z': did you mean psnr"]),
        (", dataset: set5", "", ["column Set5", "needs its dataset"]),
        ("metric: parameters", "metric: parameters, dataset: set5", ["column Size", "a cost has none"]),
        ("controls: {first: [ours]}", "controls: {first: [peer]}", ["controls", "no row that is run 'peer'"]),
        ("pairs: [[ours, first]]", "pairs: [[ours, peer]]", ["pairs", "no row that is run 'peer'"]),
        ("pairs: [[ours, first]]", "pairs: [[ours]]", ["each of pairs two rows"]),
        ("claim: [first, ours]", "claim: [first, fist]", ["claim", "no row that is run 'fist': did you mean first?"]),
        ("claim: [first, ours]", "claim: [first, first]", ["each row once"]),
        ("claim_column: 0", "claim_column: 2", ["claim_column=2: columns count from 0 to 1"]),
        ("run: ours", "run: theirs", ["rescored", "no run 'theirs'"]),
        ("task: sisr", "task: tennis", ["unknown task tennis", "inpainting"]),
        (GOOD, "- 1\n- 2", ["holds no keys"]),
        (GOOD, "title: [", ["not a readable YAML"]),
        ("title: A table", "title: A table\ntitle: B", ["not a readable YAML", "duplicate"]),
        ("peer,Peer,30.00,,", "peer,Peer,thirty,,", ["row peer", "'thirty' must be a number"]),
        ("peer,Peer,30.00,,", "peer,Peer,nan,,", ["row peer", "'nan' must be a number"]),
        ("peer,Peer,30.00,,", "peer,Peer,30.00,", ["row peer has 4 fields, not the 5 of the first"]),
        ("first,First,32.5,27,", "ours,First,32.5,27,", ["row ours stands twice"]),
        ("row,label,Set5,Size,note", "row,label,Set5,note", ["its first line must be row,label,Set5,Size,note"]),
        (PAPER, "", ["its first line must be"]),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(old: str, new: str, words: list[str], tables: Path) -> None:
    settings, paper = f"{GOOD}claim_column: 0\n" if "claim_column" in old else GOOD, PAPER
    assert settings.count(old) + paper.count(old) == 1
    write_table(tables, "good", ROWS, paper.replace(old, new) or "\n", settings.replace(old, new))
    message = refusal(experiment.load, "good")
    assert message.startswith(str(tables / "good"))
    assert all(word in message for word in words), message
