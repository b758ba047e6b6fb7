"""What a prediction is stands in `kinds/`, a file each with the same members; a fourth kind needs no other change."""

import ast
import inspect
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import diffi2i
from diffi2i import cli
from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.data.degrade import has_holes
from diffi2i.kinds import depth, image, labels
from diffi2i.kinds.kind import Kind, kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.metrics.spec import METRICS, of_kind
from diffi2i.run.record import Record
from tests import normals
from tests.conftest import random_batch
from tests.settings import TASKS, task_config

PACKAGE = Path(diffi2i.__file__).parent
CONF = compose.conf_dir()
# Their signatures are held by the type checker.
FILES: dict[str, Kind] = {"image": image, "labels": labels, "depth": depth, "normals": normals}
MEMBERS = sorted(name for name in vars(Kind) if not name.startswith("_"))
# What only one kind has, so that asking for it is a branch.
OF_ONE_KIND = {
    *("ImageScores", "SegmentationScores", "DepthScores", "LabelsSeen", "DepthSeen", "Labels", "Depth"),
    *("EvalImages", "EvalScenes", "Inpaint"),
}


def test_each_kind_is_a_file_of_its_name() -> None:
    assert {file.stem for file in (PACKAGE / "kinds").glob("*.py")} == {*KINDS, "__init__", "kind", "spec"}
    for name in KINDS:
        assert kind_of(task_config(kind=name, main_metric=of_kind(name)[0])) is FILES[name]


@pytest.mark.parametrize("kind", FILES.values(), ids=list(FILES))
def test_kinds_have_the_same_members(kind: Kind) -> None:
    assert len(MEMBERS) > 8, "the search has gone blind"
    for name in MEMBERS:
        if name == "suffixes":
            assert ".png" in kind.suffixes
        else:
            wanted = list(inspect.signature(getattr(Kind, name)).parameters)[1:]
            assert list(inspect.signature(getattr(kind, name)).parameters) == wanted, name


def branches(tree: ast.AST) -> Iterator[str]:
    """The places that ask which kind or which task something is."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
            if any(isinstance(each, ast.Attribute) and each.attr == "in_channels" for each in asked):
                yield ast.unparse(node)
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            classes = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            if classes & OF_ONE_KIND:
                yield ast.unparse(node)
        for each in asked:
            words = {inner.value for inner in ast.walk(each) if isinstance(inner, ast.Constant)}
            if words & {*KINDS, *TASKS}:
                yield ast.unparse(node)


def test_branches_are_found() -> None:
    found = [
        'task.kind == "depth"',
        'kind in ("image", "labels")',
        '{"labels": 1}[kind]',
        "isinstance(sheet, a | SegmentationScores)",
        'task.name != "inpainting"',
        "task.in_channels == 4",
    ]
    assert all(list(branches(ast.parse(text))) for text in found)
    assert not list(branches(ast.parse('of_kind("image"); kind: str = "image"; print("labels")')))


def test_nothing_else_asks_for_a_kind_or_a_task() -> None:
    own = {PACKAGE / "kinds" / "spec.py"}  # the table of kinds itself
    files = set(PACKAGE.rglob("*.py")) - own
    found = {file.name: list(branches(ast.parse(file.read_text(encoding="utf-8")))) for file in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_with_a_mask_are_those_whose_degradation_makes_holes(task: str) -> None:
    config = compose.load(Config, "train", [f"task={task}"])
    assert has_holes(config.task) == (config.task.in_channels == 4) == ("mask" in random_batch(config))


def test_views_are_averaged_as_what_they_are() -> None:
    views = [torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    mean = np.mean([view.numpy() for view in views], axis=0)
    for kind in (image, depth):
        np.testing.assert_allclose(kind.average(iter(views), 3), mean, rtol=1e-6)
    powers = [np.exp(view.numpy().astype(np.float64)) for view in views]
    expected = np.log(np.mean([power / power.sum(1, keepdims=True) for power in powers], axis=0))
    np.testing.assert_allclose(labels.average(iter(views), 3), expected, rtol=1e-5)


YAML = {
    "dataset/bumps": """
        name: bumps
        source: {_target_: diffi2i.data.sources.pairs, _partial_: true, root: "${root}", val_fraction: 0.25}
        target: {_target_: tests.normals.Normals}
        """,
    "model/normals": """
        name: normals
        network: {_target_: tests.normals.Net, width: 8}
        cpen: {blocks: 1}
        """,
    "task/normals": """
        defaults: [override /dataset@_global_.dataset: bumps, override /model@_global_.model: normals, _self_]
        name: normals
        kind: normals
        losses:
          cosine: {_target_: diffi2i.losses.task.TaskLoss, terms: {cosine: {_target_: tests.normals.Cosine}}}
        optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: "${train.lr}"}
        main_metric: angle
        budgets:
          smoke: {batch: 4, patch: 24, ema_decay: 0.5, epoch_steps: 20, fresh: &all {steps: 40, lr: 0.01, loss: cosine},
            continued: *all}
        """,
}


@pytest.fixture
def fourth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adds the kind of `tests.normals` as its files would; returns a folder of its data."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    for name, text in YAML.items():
        (conf / f"{name}.yaml").write_text(inspect.cleandoc(text))
    monkeypatch.setattr(compose, "conf_dir", lambda: conf)
    monkeypatch.setitem(KINDS, "normals", normals.SPEC)
    monkeypatch.setitem(METRICS, "angle", normals.METRIC)
    monkeypatch.setitem(sys.modules, "diffi2i.kinds.normals", normals)
    normals.bumps(tmp_path / "bumps", 12)
    return tmp_path / "bumps"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("quick_bench")  # whose processes would know nothing of this test's kind
def test_a_fourth_kind_needs_no_change_elsewhere(
    fourth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, small = tmp_path / "run", ("trainer=cpu", "trainer.precision=fp32")
    task = ("task=normals", f"root={fourth}", "budget=smoke", "logger=none")
    cli.main(["train", *task, *small, "method=regressor", f"run_dir={run}"])
    record = Record.read(run)
    score = record.scores["angle"]
    assert score.value is not None
    assert score.baseline is not None
    assert 0 < score.value < score.baseline
    assert record.data.baseline == "constant"
    assert (record.main_metric, score.n, record.classes) == ("angle", 3, None)
    assert "targets of bumps, normals: " in capsys.readouterr().out
    assert Image.open(run / "panel.png").width > 0

    cli.main(["eval", f"run={run}", *small, "set=[task.protocol.sizes=[0.5,1.0]]", f"output={tmp_path / 'views'}"])
    views = Record.read(tmp_path / "views").scores["angle"]
    assert views.value != score.value
    assert views.baseline == score.baseline

    cli.main(["predict", f"run={run}", f"input={fourth / 'input'}", f"output={tmp_path / 'out'}", *small])
    folders = (f"pred={tmp_path / 'out'}", f"target={fourth / 'target'}")
    cli.main(["score", "task=normals", "dataset=bumps", *folders, f"output={tmp_path / 's.json'}", *small[:1]])
    scored = {row["name"]: row["angle"] for row in Record.read(tmp_path / "s.json").images}
    for row in record.images:
        assert scored[row["name"]] == pytest.approx(row["angle"], abs=0.5)  # files of 8 bits

    bench = ("size=32", "repeats=1", f"output={tmp_path / 'bench'}")
    cli.main(["bench", *task[:3], "method=regressor", *small, *bench])
    cli.main(["data", "check", "dataset=bumps", f"root={fourth}", f"output={tmp_path / 'manifest.json'}"])
    assert "normals: " in capsys.readouterr().out
    for wrong, words in (("dataset=folder", "holds no normals"), ("model=tiny", "whose network is a Net")):
        with pytest.raises(SystemExit):
            cli.main(["train", *task, *small, wrong, f"run_dir={tmp_path / 'never'}"])
        assert words in capsys.readouterr().err
    assert OmegaConf.load(run / "config.yaml").task.kind == "normals"
