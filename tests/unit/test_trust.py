"""What a stranger's run directory or experiment may say: nothing that runs, nothing that is looked up."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffi2i import cli
from diffi2i.config import compose, trust
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.methods.imports.spandrel import NETWORKS
from tests.conftest import small
from tests.own_tables import own_conf, row, tables, write_table  # noqa: F401
from tests.refusals import command_refusal, refusal

M = "MARKER"  # the path of a file that appears if a gadget runs
RUN = f"open({M!r}, 'w')"
GADGETS: dict[str, Any] = {
    "os.system": [f"touch {M}"],
    "posix.system": [f"touch {M}"],
    "os.symlink": ["/", M],
    "os.mkdir": [M],
    "os.makedirs": [M],
    "os.popen": [f"touch {M}"],
    "subprocess.Popen": [["touch", M]],
    "subprocess.run": [["touch", M]],
    "shutil.copy": ["/etc/hostname", M],
    "shutil.copytree": ["/etc/apt", M],
    "shutil.rmtree": [M],
    "builtins.open": [M, "w"],
    "io.open": [M, "w"],
    "codecs.open": [M, "w"],
    "builtins.exec": [RUN],
    "builtins.eval": [RUN],
    "builtins.__import__": ["antigravity"],
    "importlib.import_module": ["antigravity"],
    "runpy.run_path": [M],
    "code.InteractiveInterpreter": [],
    "functools.partial": [],
    "operator.methodcaller": ["touch"],
    "pathlib.Path.touch": [M],
    "pathlib.Path.write_text": [M, "x"],
    "tempfile.NamedTemporaryFile": [],
    "logging.FileHandler": [M],
    "sqlite3.connect": [M],
    "urllib.request.urlretrieve": ["file:///etc/hostname", M],
    "pickle.loads": ["x"],
    "yaml.unsafe_load": [f"!!python/object/apply:os.system ['touch {M}']"],
    "numpy.load": [M],
    "numpy.save": [M, 1],
    "joblib.load": [M],
    "joblib.dump": [1, M],
    "pandas.read_pickle": [M],
    "torch.load": [M],
    "torch.save": [1, M],
    "torch.hub.load": ["/tmp", "x"],
    "torch.jit.load": [M],
    "torch.nn.modules.module.torch.load": [M],
    "torch.optim.Optimizer.load_state_dict": [],
    "torch.optim.optimizer.torch.save": [1, M],
    "torch.utils.cpp_extension.load": [M, []],
    "torch.utils.tensorboard.SummaryWriter": [M],
    "lightning.pytorch.loggers.CSVLogger": [M],
    "wandb.init": [],
    "timm.create_model": ["resnet18"],
    "hydra.utils.get_method": ["os.system"],
    "hydra.utils.instantiate": [{"_target_": "os.mkdir", "path": M}],
    "omegaconf.OmegaConf.load": [M],
    "omegaconf.OmegaConf.save": [{}, M],
    "omegaconf.OmegaConf.register_new_resolver": ["x", None],
    "diffi2i.cli.main": [["train"]],
    "diffi2i.cli.sys.exit": [],
    "diffi2i.weights.fetch_all": [],
    "diffi2i.config.build.build": [{"_target_": "os.mkdir", "path": M}, "x"],
    "diffi2i.config.compose.load": [],
    "diffi2i.files.write_json": [M, {}],
    "diffi2i.run.wandb_run.WandbRun": [M],
    "diffi2i.data.generated.made_once": ["../x", {}, None],
    "diffi2i.data.generated.Path.touch": [M],
    "diffi2i.data.manifest.write_manifests": [M, {}],
    "diffi2i.data.frames.write_pairs": [],
    "diffi2i.data.sources.Path.touch": [M],
    "diffi2i.data.masks.np.save": [M, 1],
    "diffi2i.losses.perceptual.torch.load": [M],
    "diffi2i.models.encoders.weights.fetch_all": [],
    "diffi2i.methods.build.torch.save": [1, M],
    "diffi2i.methods.build.build_method": [],
    "diffi2i.methods.imports.reading.read_tensors": [M],
    "diffi2i.methods.imports.spandrel.convert": [M, []],
    "diffi2i.methods.method.Method.load_from_checkpoint": [M],
    "diffi2i.methods.regressor.Regressor.load_from_checkpoint": [M],
    "evil_module_in_the_current_folder.Network": [],
    "os": [],
    "": [],
    ".os.system": [],
    "os..system": [],
}


def node_of(target: str, marker: Path) -> dict[str, Any]:
    """The node that calls the gadget."""
    text = yaml.safe_dump({"_target_": target, "_args_": GADGETS[target]})
    found: dict[str, Any] = yaml.safe_load(text.replace(M, str(marker)))
    return found


def put(plain: dict[str, Any], key: str, node: Any) -> dict[str, Any]:
    """The configuration with the node at a dotted key."""
    first, _, rest = key.partition(".")
    return plain | {first: put(plain.get(first) or {}, rest, node) if rest else node}


PLACES: dict[str, Callable[[Any], Any]] = {
    "model.network": lambda node: node,
    "model.network.encoder": lambda node: node | {"_partial_": True},
    "method": lambda node: node | {"name": "diffi2i_s1", "init": None, "role": "fresh"},
    "method.sampler": lambda node: {"list": [[{"deep": node}]]},
    "task.losses.l1.terms.l1": lambda node: node,
    "task.degrade": lambda node: {"_target_": "diffi2i.data.degrade.Inpaint", "mask": [node]},
    "task.optimizer": lambda node: node | {"_partial_": True},
    "task.budgets.smoke.train_degrade": lambda node: node,
    "train.degrade": lambda node: node,
    "dataset.source": lambda node: node | {"_partial_": True, "_recursive_": False},
    "dataset.target": lambda node: node,
    "nowhere.that.exists": lambda node: node,
}


@pytest.fixture(scope="module")
def saved(images: Path) -> dict[str, Any]:
    """The plain configuration of a small run, as a run directory has it."""
    config = compose.load(Config, "train", [*small("sisr", images), "run_dir=run"])
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config))
    return dict(plain, logger=None)


def read(folder: Path, plain: Any, *arguments: Any) -> Config:
    (folder / "config.yaml").write_text(plain if isinstance(plain, str) else yaml.safe_dump(plain))
    return read_run_config(folder, (), *arguments)


def test_the_gadgets_are_sharp(tmp_path: Path) -> None:
    for number, target in enumerate(("os.symlink", "io.open", "numpy.save", "sqlite3.connect")):
        node = node_of(target, tmp_path / str(number))
        instantiate(node)
        assert [file for file in tmp_path.iterdir() if file.name.startswith(str(number))]


@pytest.mark.parametrize("target", GADGETS)
def test_a_run_names_only_what_runs_are_made_of(target: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for key, wrapped in PLACES.items():
        found = OmegaConf.create(put({}, key, wrapped(node_of(target, tmp_path / "marker"))))
        line = refusal(trust.check_file, file, found, (), compose.conf_dir())
        assert line.startswith(f"{file}: {key.partition('.')[0]}")
        assert "names" in line
    assert not (tmp_path / "marker").is_symlink()
    assert not (tmp_path / "marker").exists()


def test_own_runs_and_those_of_other_authors_are_read(saved: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, saved).task.name == "sisr"
    for target in NETWORKS.values():
        assert read(tmp_path, put(saved, "model.network", {"_target_": target})).model.network["_target_"] == target


def test_all_that_the_suite_comes_with_is_trusted() -> None:
    conf = compose.conf_dir()
    nodes = [file for group in trust.GROUPS for file in (conf / group).glob("*.yaml")]
    for file in nodes:
        plain = OmegaConf.to_container(OmegaConf.load(file))
        # Nothing is taken from conf/ here, where all of it would be found.
        trust.Check(file, (), Path("nowhere"), references=True).check(plain)
    assert len(nodes) > 60


def test_modules_of_the_users_own_are_trusted_by_name(
    saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "import os, pathlib\nfrom torch.nn import Linear\nclass Net: pass\n"
    (tmp_path / "mynet.py").write_text(f"{text}pathlib.Path({str(tmp_path / 'imported')!r}).touch()\n")
    own = put(saved, "model.network", {"_target_": "mynet.Net"})
    assert refusal(read, tmp_path, own).endswith("write trust=mynet")
    assert "names mynet.Net" in refusal(read, tmp_path, own | {"trust": ["mynet"]})  # the file's own word
    assert not (tmp_path / "imported").exists()
    assert read(tmp_path, own, ["mynet"]).trust == ["mynet"]
    assert (tmp_path / "imported").exists()
    assert compose.load(Config, "train", ["trust=mynet"]).trust == ["mynet"]
    assert compose.load(Config, "train", ["trust=[mynet,other.net]"]).trust == ["mynet", "other.net"]
    for target, words in {
        "mynet.os.system": "neither a class nor a function",
        "mynet.pathlib.Path": "that is pathlib.Path, which is no part of a run",
        "mynet.Linear": "write trust=torch.nn.modules.linear",
        "mynetwork.Net": "write trust=mynetwork",
    }.items():
        gadget = put(saved, "model.network", {"_target_": target})
        assert words in refusal(read, tmp_path, gadget, ["mynet"])


def test_what_conf_names_is_the_users_own(saved: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: my.own.Method\n")
    found = OmegaConf.create(put(saved, "method._target_", "my.own.Method"))
    trust.check_file(tmp_path, found, (), tmp_path)
    longer = OmegaConf.create(put(saved, "method._target_", "my.own.Meth"))
    assert "my.own.Meth" in refusal(trust.check_file, tmp_path, longer, (), tmp_path)


@pytest.mark.parametrize(
    "value",
    ["${oc.env:SECRET}", "${oc.decode:1}", "a${seed}", "${x:${y}}", "\\${oc.env:SECRET}", "\\\\\\${oc.env:SECRET}"],
)
def test_nothing_is_looked_up(
    value: str, saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    for key in ("root", "dataset.name", "method.sampler.eta"):
        line = refusal(read, tmp_path, put(saved, key, None) | yaml.safe_load(yaml.safe_dump({"budget": value})))
        assert "which would be looked up" in line
        assert "s3cret" not in line


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(), "more than 50000 values"),
        ("a: &a [*a]", "holds itself"),
        (f"a: {'[' * 1000}{']' * 1000}", "50 levels"),
        ("[" * 100_000, "50 levels"),
        (f"a: {'x' * 1_000_001}", "more than 1000000 bytes"),
        ("a: [1", "not a readable YAML file"),
        ("a: \x00", "not a readable YAML file"),
        ("a: ${", "not a readable YAML file"),
        ("a: !!python/object/apply:os.system [echo]", "not a readable YAML file"),
        ("", "does not fit this version"),
        ("- 1", "holds no keys"),
        ("text", "unknown key 'text'"),
    ],
)
def test_a_file_is_read_within_bounds(text: str, words: str, tmp_path: Path) -> None:
    line = refusal(read, tmp_path, text)
    assert str(tmp_path / "config.yaml") in line
    assert words.lower() in line.lower()
    assert len(line) < 1000


def commands(run_dir: Path, images: Path) -> dict[str, list[str]]:
    """Those that read a run directory."""
    stage2 = [*small("sisr", images, "diffi2i_s2"), f"method.init={run_dir}", f"run_dir={run_dir}2"]
    return {
        "eval": ["eval", f"run={run_dir}"],
        "predict": ["predict", f"run={run_dir}", f"input={images}", f"output={run_dir}-out"],
        "method.init": ["train", *stage2],
        "bench": ["bench", f"cases=[run={run_dir}]", f"output={run_dir}-bench"],
    }


@pytest.mark.parametrize("command", ["eval", "predict", "method.init", "bench"])
def test_commands_refuse_a_strangers_run_in_one_line(
    command: str, stage1: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = yaml.safe_load((stage1 / "config.yaml").read_text())
    for key, target in (("task.optimizer", "builtins.open"), ("model.network", "os.symlink")):
        marker = stage1.with_name("marker")
        (stage1 / "config.yaml").write_text(yaml.safe_dump(put(plain, key, node_of(target, marker))))
        line = command_refusal(commands(stage1, images)[command], capsys)
        assert f"config.yaml: {key} names {target}, which is no part of a run" in line
        assert not os.path.lexists(marker)
    (stage1 / "config.yaml").write_text(yaml.safe_dump(plain | {"budget": "${oc.env:HOME}"}))
    assert "would be looked up" in command_refusal(commands(stage1, images)[command], capsys)


def test_a_run_of_the_users_own_goes_on_without_a_word_of_trust(
    stage1: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tests.unit.test_trust.CopyOfNetwork"
    plain = yaml.safe_load((stage1 / "config.yaml").read_text())
    (stage1 / "config.yaml").write_text(yaml.safe_dump(put(plain, "model.network._target_", name)))
    cli.main(["train", *small("sisr", images), f"model.network._target_={name}", f"run_dir={stage1}"])
    assert "finished: nothing to do" in capsys.readouterr().out


def CopyOfNetwork(**sizes: Any) -> Any:  # noqa: N802
    from diffi2i.models.di2iformer import DI2Iformer

    return DI2Iformer(**sizes)


ROWS = {
    "model: {network: {_target_: os.system}}": "model.network names os.system",
    "task: {losses: {l1: {terms: [{_target_: torch.load}]}}}": "task.losses.l1.terms[0] names torch.load",
    "logger: {_target_: builtins.open}": "logger names builtins.open",
    "logger: {_target_: diffi2i.models.unet.UNet}": "logger names diffi2i.models.unet.UNet",
    'model: {network: {_target_: "${budget}"}}': "model.network names ${budget}",
    'root: "${oc.env:HOME}"': "root is ${oc.env:HOME}, which would be looked up",
    'root: "${a.${oc.env:HOME}}"': "which would be looked up",
    "hydra: {callbacks: {a: {_target_: os.system}}}": "a row does not set hydra",
    "run_dir: /tmp/there": "a row does not set run_dir",
    "trust: [os]": "a row does not set trust",
    "# @package hydra": "# @package hydra: write # @package _global_",
    f"a: &a [{'x, ' * 300}x]\nb: &b [{'*a, ' * 300}*a]": "more than 50000 values",
}


@pytest.mark.parametrize("text", ROWS)
def test_a_row_names_only_what_runs_are_made_of(
    text: str,
    tables: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_table(
        tables, "small", {"other": row("regressor", text), "evil": "defaults: [/experiment/small/other]\nseed: 1"}
    )
    for words in (["train", "experiment=small/evil"], ["train", "-m", "experiment=small/evil", "seed=0,1"]):
        line = command_refusal(words, capsys)
        assert "other.yaml" in line
        assert ROWS[text] in line
    assert ROWS[text] in refusal(compose.load, Config, "train", ["experiment=small/evil.yaml"])


DEFAULTS = [
    "override /hydra/launcher: joblib",
    "/experiment/small/other@hydra",
    "override /task: ../../../tmp/evil",
    "/task: /tmp/evil",
    "task: evil",
    "/experiment/../../tmp/evil",
]


@pytest.mark.parametrize("entry", DEFAULTS)
def test_a_row_takes_only_rows_and_parts_of_runs(
    entry: str,
    tables: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_table(tables, "small", {"evil": f"defaults: [{entry}]\nseed: 1"})
    assert "evil.yaml: defaults: " in refusal(compose.load, Config, "train", ["experiment=small/evil"])


OVERRIDES = {
    "dataset.source._target_=os.system": "dataset.source names os.system",
    "dataset.source={_target_: torch.load}": "dataset.source names torch.load",
    "task.losses.l1={terms: [{_target_: torch.load}]}": "task.losses.l1.terms[0] names torch.load",
    "dataset=../../tmp/evil": "sets no part of a run",
    "dataset@hydra.launcher=celebahq": "sets no part of a run",
    "hydra.launcher._target_=os.system": "sets no part of a run",
    "+experiment=small/evil": "sets no part of a run",
    "trust=[os]": "sets no part of a run",
    "run=elsewhere": "sets no part of a run",
    "output=/tmp/there": "sets no part of a run",
    "set=[method.sampler._target_=os.system]": "cannot read the override",
    "task.name=${oc.env:HOME}": "would be looked up",
}
TABLE = """
title: a table
task: sisr
columns: [{heading: "Set14, PSNR", metric: psnr_y, dataset: set14}]
"""


@pytest.mark.parametrize("text", OVERRIDES)
def test_a_tables_overrides_set_only_parts_of_runs(
    text: str,
    tables: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for more in (
        {"testsets": {"set14": {"overrides": [text]}}},
        {"testsets": {"set14": {"overrides": [], "set": [text]}}},
        {"rescored": {"again": {"run": "row", "set": [text]}}},
        {"imports": {"row": {"source": "diffir", "overrides": [text]}}},
    ):
        write_table(tables, "small", {"row": row("regressor")}, settings=TABLE + yaml.safe_dump(more))
        line = command_refusal(["table", "small", "budget=smoke", "--dry-run"], capsys)
        assert "table.yaml: " in line
        assert OVERRIDES[text] in line or "would be looked up" in line
    shutil.rmtree(tables / "small")
