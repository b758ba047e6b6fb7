"""Every experiment loads, its rows compose, and its numbers are those that the paper prints, all of them and no others.

The paper's text comes from a PDF: a table's rows are lines that end in its numbers, in the order of its columns.
"""

import re
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from diffi2i.config import compose
from diffi2i.config.schema import Config, EvalConfig
from diffi2i.errors import UserError
from diffi2i.metrics.spec import COSTS, of_kind
from diffi2i.tables import experiment
from diffi2i.tables.experiment import Row
from diffi2i.tables.plan import GAN

PAPER = Path(__file__).parents[2] / "shared" / "papers" / "diffi2i.txt"
TABLES = [f"table{number}" for number in range(1, 12)]
NAMES = [*TABLES, "figure1", "figure6"]
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
    "figure1": (8, 7),
    "figure6": (12, 1),
}
RUN = {
    "table4": ["diffi2i", "diffi2i-tlc"],
    "table5": ["diffi2i-s", "diffi2i-l"],
    "table7": ["s1", "v1", "v2", "v3", "v4"],
    "table8": ["l1", "l2", "kl"],
    "table10": ["both", "only-gt"],
    "figure1": ["inpainting", "realsr", "sisr", "deblur", "segmentation", "depth"],
    "figure6": ["none-on", "t1", "t2", "t3", "t4", "t6", "t8", *(f"t8-respaced-{n}" for n in (1, 2, 3, 4, 6))],
}


def of_the_paper(name: str) -> experiment.Experiment:
    """Without rows that somebody has added to a table, which the paper has no numbers for."""
    found = experiment.load(name)
    if name == "figure6":  # prints none at all
        return found
    return replace(found, rows=[row for row in found.rows if any(value is not None for value in row.paper)])


def run_rows(name: str) -> list[Row]:
    return [row for row in of_the_paper(name).rows if row.overrides is not None]


def row_of(name: str, row: str) -> Row:
    return next(other for other in experiment.load(name).rows if other.name == row)


Compose = Callable[..., Config]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """`compose(experiment, row, *more)` gives the configuration that trains a row; the runs before it are made up.

    Links that the scale has no budget for are left out, as in a plan.
    """
    folder = tmp_path_factory.mktemp("before")

    @cache
    def loaded(*overrides: str) -> Config:
        return compose.load(Config, "train", overrides)

    @cache
    def finished(*overrides: str) -> Path:
        run = Path(tempfile.mkdtemp(dir=folder))
        OmegaConf.save(OmegaConf.structured(loaded(*overrides)), run / "config.yaml")
        (run / "result.json").touch()
        return run

    def build(name: str, row: Row, *more: str) -> Config:
        assert row.overrides is not None
        links = [(*experiment.load(name).overrides, *link, *more) for link in (*row.before, row.overrides)]
        first, init = loaded(*links[0]), list[str]()
        if first.task.scales[first.scale].gan is None:
            links = [link for link in links if GAN not in link]
        for link in links[:-1]:
            init = [f"stage.init={finished(*link, *init)}"]
        return deepcopy(loaded(*links[-1], *init))

    return build


def chain_of(config_: Config) -> list[Config]:
    """The configuration, and before it those that it starts from."""
    before = [] if config_.stage.init is None else chain_of(config.read_run_config(Path(config_.stage.init)))
    return [*before, config_]


def test_all_results_of_the_paper_have_their_file() -> None:
    assert experiment.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_counts(name: str) -> None:
    found = of_the_paper(name)
    assert (len(found.rows), len(found.columns)) == SHAPES[name]
    assert [row.name for row in run_rows(name)] == RUN.get(name, ["diffi2i"])
    assert {row.name for row in found.rows if row.overrides is None and not row.note} == set()
    assert (found.x is not None) == name.startswith("figure")


@pytest.mark.parametrize("name", NAMES)
def test_the_head_says_how_to_run_it(name: str) -> None:
    text = (experiment.experiments_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    target = re.sub(r"(\D+)(\d+)", r"make reproduce-\1-\2", name)
    assert text.startswith("# ")
    assert f"diffi2i table {name} scale=demo seeds=3" in text
    assert re.search(rf"{target}$", text, re.MULTILINE)


@pytest.mark.parametrize("scale", ["smoke", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_compose_and_score_their_columns(name: str, scale: str, compose: Compose) -> None:
    found, seen = experiment.load(name), []
    stages = {"stage=pretrain": "pretrain", "stage=no_prior": "pretrain", "stage=joint": "joint"}
    scored: dict[str, set[str]] = {}
    for row in run_rows(name):
        loaded = compose(found.name, row, f"scale={scale}")
        (stage,) = stages.keys() & {*found.overrides, *(row.overrides or [])}
        assert (loaded.scale, loaded.stage.name) == (scale, stages[stage])
        assert found.task in (loaded.task.name, "all")
        scored[row.name] = {
            *loaded.task.protocol.metrics,
            *(of_kind(loaded.task.kind) if loaded.task.kind != "image" else ()),
        }
        seen.append(
            ([asdict(replace(link, stage=replace(link.stage, init=None))) for link in chain_of(loaded)], row.evaluation)
        )
    # Of two equal rows one would be superfluous.
    assert all(one not in seen[:i] for i, one in enumerate(seen))
    each = any if found.task == "all" else all
    for column in found.columns:
        assert column.metric in COSTS or each(column.metric in metrics for metrics in scored.values())


EVALUATIONS = sorted({tuple(column.evaluation) for name in NAMES for column in experiment.load(name).columns} - {()})


@pytest.mark.parametrize(
    "evaluation", [list(each) for each in EVALUATIONS], ids=lambda overrides: ",".join(overrides)[-60:]
)
def test_evaluations_compose(evaluation: list[str], images: Path) -> None:
    loaded = compose.load(EvalConfig, "eval", ["run=somewhere", f"root={images}", *evaluation])
    assert loaded.dataset is not None
    assert f"dataset={loaded.dataset.name}" == evaluation[0]


@pytest.mark.parametrize("name", NAMES)
def test_scores_belong_to_a_set_and_say_so(name: str) -> None:
    for column in experiment.load(name).columns:
        assert bool(column.evaluation) == (column.metric not in COSTS)
        if column.evaluation:
            assert column.dataset.startswith(column.evaluation[0].removeprefix("dataset="))


def test_table7_has_the_papers_variants(compose: Compose) -> None:
    found = of_the_paper("table7")
    stages = [compose(found.name, row, "scale=smoke").stage for row in found.rows]
    assert [(stage.name, stage.prior, stage.diffusion.variance_noise) for stage in stages] == [
        ("pretrain", "truth", False),
        ("joint", "none", False),
        ("joint", "traditional", False),
        ("joint", "joint", False),
        ("joint", "joint", True),
    ]


def test_table8_has_the_papers_losses(compose: Compose) -> None:
    found = of_the_paper("table8")
    stages = [compose(found.name, row, "scale=smoke").stage for row in found.rows]
    assert [stage.prior_loss for stage in stages] == ["l1", "l2", "kl"]


@pytest.mark.parametrize("scale", ["demo", "paper"])
@pytest.mark.parametrize("name", [name for name in NAMES if any(row.control for row in experiment.load(name).rows)])
def test_a_control_differs_from_its_row_in_the_prior_alone(name: str, scale: str, compose: Compose) -> None:
    def steps(loaded: Config) -> int:
        total = 0
        for link in chain_of(loaded):
            total = network_steps(link, link.train.steps, {"init": {"network_steps": total}})
        return total

    for row in (row for row in experiment.load(name).rows if row.control):
        ours, control = (compose(name, each, f"scale={scale}") for each in (row, row_of(name, str(row.control))))
        assert all(link.stage.prior == "zero" for link in chain_of(control))
        assert ours.stage.prior != "zero"
        assert steps(ours) == steps(control), row.name
        for part in ("task", "dataset", "model", "seed"):
            assert getattr(ours, part) == getattr(control, part)


def test_the_gan_phase_comes_last_where_the_paper_trains_with_one(compose: Compose) -> None:
    for name, row in [("table2", "diffi2i"), ("table3", "diffi2i"), ("figure1", "sisr"), ("table10", "both")]:
        links = chain_of(compose(name, row_of(name, row), "scale=smoke"))
        assert [link.stage.budget for link in links] == ["pretrain", "joint", "gan"]
        assert "adversary" in links[-1].task.losses[links[-1].train.loss]


def test_inpainting_tables_share_their_runs(compose: Compose) -> None:
    rows = [("table1", "diffi2i"), ("table7", "v3"), ("table8", "l1"), ("figure6", "t4"), ("figure1", "inpainting")]
    loaded = [compose(name, row_of(name, row), "scale=smoke") for name, row in rows]
    assert all(other == loaded[0] for other in loaded)


def test_real_sr_is_scored_by_the_authors_scripts(compose: Compose) -> None:
    for name, row in [("table2", "diffi2i"), ("table9", "diffi2i"), ("table10", "both"), ("figure1", "realsr")]:
        protocol = compose(name, row_of(name, row), "scale=smoke").task.protocol
        assert protocol.border == 4
        columns = [column for column in experiment.load(name).columns if column.dataset == "ntire2020_track1"]
        assert {column.metric for column in columns} - {"dists"} == {"lpips_vgg", *(["psnr_y"] * (len(columns) > 1))}
    assert {column.metric for column in experiment.load("table2").columns} == {"lpips_vgg", "dists", "psnr_y"}
    held = compose.load(EvalConfig, "eval", ["run=somewhere", "dataset=realsrset", "root=."]).dataset
    assert held is not None
    assert (held.source["val"], held.expected) == (["Canon"], {"val": 50})


def test_deblurring_has_matlabs_ssim() -> None:
    assert [column.metric for column in experiment.load("table4").columns] == ["psnr", "ssim_3d"] * 2


def test_depth_is_averaged_over_mirrored_inputs(compose: Compose) -> None:
    table, figure = (
        compose(*of, "scale=smoke")
        for of in (("table6", row_of("table6", "diffi2i")), ("figure1", row_of("figure1", "depth")))
    )
    assert table.task.protocol.flip
    assert table.task == figure.task
    assert all(link.task.protocol.flip for link in chain_of(table))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_names_where_the_protocol_comes_from(name: str) -> None:
    head = (experiment.experiments_dir() / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    assert re.search(r"\w+\.(py|m)\b|Metric/|configs/|Sec\. 5\.\d|their files name", head)


def test_figure6_ends_in_as_much_noise_at_every_number_of_iterations(compose: Compose) -> None:
    found = experiment.load("figure6")
    default = build_diffusion(compose.load(Config, "train", []).stage.diffusion).alpha_bar[-1]
    assert default == pytest.approx(0.9 * (1 - 0.1 - 0.89 / 3) * (1 - 0.1 - 2 * 0.89 / 3) * 0.01)
    for row in (row for row in found.rows if row.name != "none-on"):
        diffusion = compose(found.name, row, "scale=smoke").stage.diffusion
        for override in row.evaluation:
            diffusion.timesteps = compose.load(EvalConfig, "eval", ["run=somewhere", override]).timesteps
        built = build_diffusion(diffusion)
        assert built.alpha_bar[-1] == pytest.approx(default, rel=2e-3)
        assert len(built.visited) - 1 == experiment.timesteps(found, row) == int(re.findall(r"\d+", row.label)[-1])


@pytest.mark.parametrize(
    ("name", "row", "overrides"),
    [
        ("table1", "diffi2i", []),
        ("table5", "diffi2i-s", ["dataset=ade20k", "root={images}"]),
        ("table5", "diffi2i-l", ["dataset=ade20k", "root={images}"]),
    ],
)
def test_networks_are_of_the_papers_size(
    name: str, row: str, overrides: list[str], images: Path, compose: Compose
) -> None:
    more = [text.format(images=images) for text in overrides]
    loaded = compose(name, row_of(name, row), "scale=paper", *more)
    with torch.device("meta"):
        network = build_diffi2i(loaded.task, loaded.model, loaded.stage.diffusion)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count * COSTS["parameters"].unit == pytest.approx(row_of(name, row).paper[0], rel=0.03)


def test_segmentation_sizes_differ_at_paper_scale_alone(compose: Compose) -> None:
    found = experiment.load("table5")

    def models(scale: str) -> list[str]:
        rows = run_rows("table5")
        return [compose(found.name, row, f"scale={scale}").model.name for row in rows]

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
    value = row_of(name, row).paper[place]
    assert value is not None
    return value


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
        (("figure1", "segmentation", "ade20k", "miou"), ("table5", "diffi2i-l", "ade20k", "miou")),
        (("figure1", "depth", "nyu", "rmse"), ("table6", "diffi2i", "nyu", "rmse")),
    ],
)
def test_repeated_values_agree(one: tuple[str, str, str, str], other: tuple[str, str, str, str]) -> None:
    assert paper_value(*one) == paper_value(*other)


@pytest.mark.parametrize("name", TABLES)
def test_the_claim_is_the_papers_order(name: str) -> None:
    found = of_the_paper(name)
    assert sorted(found.claim) == sorted(row.name for row in run_rows(name))
    metric = found.columns[found.claim_column].metric
    values = [row_of(name, row).paper[found.claim_column] for row in found.claim]
    assert None not in values
    assert values == sorted(values, reverse=metric in ("psnr", "psnr_y", "miou"))  # type: ignore[type-var]


def test_figures_print_no_numbers_of_their_own() -> None:
    assert all(value is None for row in experiment.load("figure6").rows for value in row.paper)
    assert "prints no numbers" in experiment.load("figure6").note
    assert "prints no numbers" in experiment.load("figure1").note


def passage(text: str, number: int) -> str:
    """From a table's caption to the next table's."""
    start = text.index(f"TABLE {number}\n")
    end = text.find("\n TABLE ", start + 1), text.find("\nTABLE ", start + 1)
    return text[start : min((place for place in end if place > 0), default=len(text))]


def printed_rows(text: str, columns: int) -> list[tuple[str, list[float | None]]]:
    """Label and values of the lines that end in exactly `columns` numbers or dashes, Table 7's ticks left out."""
    rows = []
    for line in text.splitlines():
        words = [word for word in line.split() if word not in "!%"]
        found = re.search(r"(?:(?:^| )(?:-|\d+(?:\.\d+)?))+$", " ".join(words))
        values = found.group().split() if found else []
        if len(values) == columns:
            label = words[: len(words) - columns]
            rows.append((" ".join(label), [None if value == "-" else float(value) for value in values]))
    return rows


def bare(label: str) -> str:
    """Letters and digits alone, without citations and the authors' "Ours"."""
    label = re.sub(r"\[\d+\]|\(Ours\)|, Ours", "", label)
    return re.sub(r"[^a-z0-9]", "", label.lower())


needs_paper = pytest.mark.skipif(not PAPER.is_file(), reason="the paper's text is not here")


@needs_paper
@pytest.mark.parametrize("name", TABLES)
def test_all_rows_that_the_paper_prints_are_here_and_no_others(name: str) -> None:
    found = of_the_paper(name)
    text = passage(PAPER.read_text(encoding="utf-8"), int(name.removeprefix("table")))
    if name == "table8":  # its rows are printed as columns
        assert [values for _, values in printed_rows(text, len(found.rows))] == [[row.paper[0] for row in found.rows]]
        return
    assert [(bare(label), values) for label, values in printed_rows(text, len(found.columns))] == [
        (bare(row.label), row.paper) for row in found.rows
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


@needs_paper
@pytest.mark.parametrize("name", TABLES)
def test_columns_are_in_the_papers_order(name: str) -> None:
    text = passage(PAPER.read_text(encoding="utf-8"), int(name.removeprefix("table")))
    heads = re.findall(rf"({'|'.join(map(re.escape, HEADS))}) ?[↓↑]", text)
    metrics = [column.metric for column in experiment.load(name).columns if column.metric not in COSTS]
    # Table 11 names its score once for all columns.
    heads *= len(metrics) if len(heads) == 1 else 1
    assert len(heads) == len(metrics)
    assert all(metric in HEADS[head] for head, metric in zip(heads, metrics, strict=True))


GOOD = """
name: good
title: A table
task: sisr
overrides: [task=sisr]
columns:
  - {dataset: set5, metric: psnr_y, heading: Set5, evaluation: [dataset=set5]}
  - {dataset: "", metric: parameters, heading: Size}
rows:
  - {name: peer, label: Peer, overrides: null, paper: [30, null]}
  - {name: ours, label: Ours, overrides: [stage=joint], before: [[stage=pretrain]], control: first, paper: [31.5, 27]}
  - {name: first, label: First, overrides: [stage=pretrain], paper: [32.5, 27]}
claim: [first, ours]
pairs: [[ours, first]]
"""


def good(folder: Path, text: str = GOOD) -> Path:
    file = folder / "good.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_good_file_is_read(tmp_path: Path) -> None:
    found = experiment.read(good(tmp_path))
    assert [row.paper for row in found.rows] == [[30.0, None], [31.5, 27.0], [32.5, 27.0]]
    assert isinstance(found.rows[0], Row)
    assert (found.x, found.claim_column, found.note, found.rows[1].evaluation) == (None, 0, "", [])
    assert [(row.before, row.control) for row in found.rows] == [
        ([], None),
        ([["stage=pretrain"]], "first"),
        ([], None),
    ]
    assert found.pairs == [["ours", "first"]]


def test_a_control_may_have_its_stage_among_the_overrides_of_all_rows(tmp_path: Path) -> None:
    text = GOOD.replace("overrides: [task=sisr]", "overrides: [task=sisr, stage=pretrain]")
    rows = experiment.read(good(tmp_path, text.replace("overrides: [stage=pretrain], ", "overrides: [], "))).rows
    assert (rows[1].control, rows[2].overrides) == ("first", [])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("label: Peer", "label: Peer, colour: red", ["row peer, colour: unknown key: write one of name, label"]),
        ("title: A table", "title: A table\ncolour: red", ["colour"]),
        ("heading: Set5", "heading: Set5, colour: red", ["column Set5", "colour"]),
        ("[30, null]", "[thirty, null]", ["row peer", "thirty"]),
        ("[30, null]", "30", ["row peer", "paper: must be a list"]),
        ("  - {name: peer", "  - 5\n  - {name: peer", ["row 1", "must hold the keys name, label"]),
        ("overrides: [task=sisr]", "overrides: task=sisr", ["overrides: must be a list"]),
        ("[30, null]", "[.nan, null]", ["row peer", "finite"]),
        ("overrides: [stage=joint]", "overrides: stage=joint", ["row ours", "overrides"]),
        ("label: Ours, ", "", ["row ours, label: is missing"]),
        ("name: ours, ", "", ["row 2, name: is missing"]),
        ("title: A table\n", "", ["title: is missing"]),
        ("[31.5, 27]", "[31.5]", ["row ours", "1 numbers for 2 columns"]),
        ("[31.5, 27]", "[31.5, 27, 3]", ["row ours", "3 numbers for 2 columns"]),
        ("name: ours", "name: peer", ["row peer", "twice"]),
        ("name: ours", "name: Our S", ["row Our S", "a-z"]),
        ("metric: psnr_y", "metric: psnr_z", ["column Set5", "unknown metric psnr_z"]),
        ("dataset: set5", 'dataset: ""', ["column Set5", "needs its dataset"]),
        ('dataset: ""', "dataset: set5", ["column Size", "cost"]),
        ("overrides: null", "overrides: null, before: [[stage=pretrain]]", ["row peer", "not run"]),
        ("overrides: null", "overrides: null, control: first", ["row peer", "control must be left out"]),
        ("before: [[stage=pretrain]], ", "", ["row ours", "write before: [[stage=pretrain]]"]),
        ("before: [[stage=pretrain]]", "before: [[stage=joint]]", ["row ours", "starts from a run"]),
        ("before: [[stage=pretrain]]", "before: [[train.lr=1]]", ["row ours", "['train.lr=1'] lacks its stage"]),
        ("before: [[stage=pretrain]]", "before: [stage=pretrain]", ["row ours", "must be a list"]),
        ("[stage=joint]", "[]", ["row ours", "lacks its stage"]),
        ("control: first", "control: peer", ["row ours", "control=peer is no other row that is run"]),
        ("control: first", "control: ours", ["row ours", "control=ours is no other row that is run"]),
        ("pairs: [[ours, first]]", "pairs: [[ours, peer]]", ["pairs", "peer", "ours, first"]),
        ("pairs: [[ours, first]]", "pairs: [[ours]]", ["pairs ['ours']", "name two rows"]),
        ("claim: [first, ours]", "claim: [first, peer]", ["claim peer", "first"]),
        ("claim: [first, ours]", "claim: [first, first]", ["claim first"]),
        ("claim: [first, ours]", "claim_column: 2", ["claim_column=2"]),
        ("claim: [first, ours]", "x: steps", ["unknown x steps", "timesteps"]),
        ("name: good", "name: other", ["name is other"]),
        ("task: sisr", "task: tennis", ["unknown task tennis", "inpainting"]),
        (GOOD[GOOD.index("rows:") :], "rows: []", ["must not be empty"]),
        (GOOD[GOOD.index("rows:") :], "rows: 5", ["rows: must be a list"]),
        (GOOD, "- 1\n- 2", ["must hold the keys"]),
        (GOOD, "name: [", ["not a readable YAML"]),
        ("title: A table", "title: A table\ntitle: B", ["not a readable YAML", "duplicate"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    assert GOOD.count(old) == 1
    file = good(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        experiment.read(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    assert all(word in message for word in words)


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(UserError, match=r"no experiment 'table12': write one of table1, .*figure6"):
        experiment.load("table12")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable YAML file"):
        experiment.read(tmp_path / "none.yaml")
