"""Configurations from elsewhere: read within bounds, and refused where they name what could do harm.

The command line and `conf/` are the user's own. What a run directory or a file of `experiments/` says may be a
stranger's, so `check` comes before anything of it is built: its `_target_`s are the classes and functions of which runs
are made, those that `conf/` names, and what lies in a module that the user trusts (`trust=<module>`); nothing in it is
looked up anywhere, such as in the environment.
"""

import inspect
import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.errors import UserError

# A run's configuration has some 15 kB and 600 values.
MAX_BYTES, MAX_VALUES, MAX_DEPTH = 1_000_000, 50_000, 50

CLASSES = (
    "diffi2i.data.blur",
    "diffi2i.data.degrade",
    "diffi2i.data.masks",
    "diffi2i.data.realesrgan",
    "diffi2i.data.targets",
    "diffi2i.losses",
    "diffi2i.methods",
    "diffi2i.models",
    "torch.optim",
    # Of spandrel the architectures that `diffi2i import spandrel` writes: others read files.
    "spandrel.architectures.ESRGAN",
    "spandrel.architectures.LaMa",
    "spandrel.architectures.NAFNet",
    "spandrel_extra_arches.architectures.MPRNet",
    "spandrel_extra_arches.architectures.Restormer",
)
FUNCTIONS = (
    "diffi2i.data.generated.shapes",
    "diffi2i.data.masks",
    "diffi2i.data.motorcycle.motorcycle",
    "diffi2i.data.shards.shards",
    "diffi2i.data.sources",
    "diffi2i.diffusion",
)
"""Where what is called lies: a module, a package or the very name. Functions of other rooms read and write files."""
LOGGERS = (
    "diffi2i.run.wandb_run.WandbRun",
    *(f"lightning.pytorch.loggers.{name}" for name in ("CSVLogger", "TensorBoardLogger", "csv_logs", "tensorboard")),
)
"""Classes for the key `logger` alone, since they write where they are told."""
GROUPS = ("task", "dataset", "model", "method")
"""The folders of `conf/` whose targets are parts of a run."""

ROW_KEYS = (*GROUPS, "train", "trainer", "validation", "logger", "budget", "seed", "root")
"""What a file of `experiments/` may set: neither where files are written nor Hydra itself."""
CHOICE = r"[\w-]+"
ROW_DEFAULT = rf"_self_|(/experiment/)?{CHOICE}/{CHOICE}"
GROUP_DEFAULT = rf"(override )?/({'|'.join((*GROUPS, 'trainer', 'logger'))})"


def read_yaml(file: Path) -> DictConfig:
    """A YAML file of keys. Its references stay as they are.

    Raises:
        UserError: unreadable, no keys, or too large, also by anchors, a few of which can stand for billions of values.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has more than {MAX_BYTES} bytes: it is no configuration of DiffI2I")
        text = file.read_text(encoding="utf-8")
        check_size(file, text)
        found = OmegaConf.load(io.StringIO(text))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{file}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(found, DictConfig):
        raise UserError(f"{file}: holds no keys with values: it is no configuration of DiffI2I")
    return found


def check_size(file: Path, text: str) -> None:
    """Counts a file's values without building them. Raises `UserError` as `read_yaml` does."""
    values, opened = 0, list[tuple[str | None, int]]()
    behind: dict[str | None, int] = {}  # how many values an anchor stands for
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in behind:
                raise UserError(f"{file}: the YAML anchor {shown(event.anchor)} holds itself: leave that out")
            values += behind[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            behind[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            behind[event.anchor] = 1
        if values > MAX_VALUES or len(opened) > MAX_DEPTH:
            raise UserError(
                f"{file} has more than {MAX_VALUES} values or {MAX_DEPTH} levels: it is no configuration of DiffI2I"
            )


def check_file(file: Path, found: DictConfig, trust: Sequence[str], conf: Path) -> None:
    """What a run directory's `config.yaml` or an experiment's `table.yaml` says names nothing that could do harm.

    Args:
        trust: modules of the user's own, whose classes and functions it may name.
        conf: the folder of configurations that are the user's own.

    Raises:
        UserError: one line that names the file and the key.
    """
    Check(file, trust, conf, references=False).check(OmegaConf.to_container(found, resolve=False))


def check_row(name: str, trust: Sequence[str], conf: Path) -> None:
    """The same of `experiments/<name>.yaml`, and of the rows that are its defaults. References to keys are allowed.

    `name` is `<table>/<row>`; of one that is not there Hydra will say so.
    """
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        file = conf / "experiment" / f"{waiting.pop()}.yaml"
        if str(file) in seen or not file.is_file():
            continue
        seen.add(str(file))
        plain: Any = OmegaConf.to_container(read_yaml(file), resolve=False)
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s*#\s*@", line) and not re.fullmatch(r"\s*#\s*@package\s+_global_\s*", line):
                raise UserError(f"{file}: {shown(line.strip())}: write # @package _global_")
        if unknown := [key for key in plain if key not in (*ROW_KEYS, "defaults")]:
            raise UserError(f"{file}: a row does not set {shown(unknown[0])}: write some of {', '.join(ROW_KEYS)}")
        for entry in plain.pop("defaults", None) or []:
            check_default(file, entry)
            if isinstance(entry, str):
                waiting.append(entry.removeprefix("/experiment/"))
                waiting.append(f"{file.parent.name}/{entry}")  # where Hydra looks for one without the slash
        Check(file, trust, conf, references=True).check(plain)


def check_default(file: Path, entry: Any) -> None:
    """An entry of a row's `defaults` is another row, or a file of one of the groups."""
    pairs = entry.items() if isinstance(entry, dict) else [(entry, None)]
    for key, choice in pairs:
        row = choice is None and re.fullmatch(ROW_DEFAULT, str(key))
        if not row and not (re.fullmatch(GROUP_DEFAULT, str(key)) and re.fullmatch(CHOICE, str(choice))):
            raise UserError(
                f"{file}: defaults: {shown(entry)} is neither another row nor a part of a run: "
                "write /experiment/<table>/<row> or override /task: sisr"
            )


def check_overrides(file: Path, overrides: Sequence[str], conf: Path) -> None:
    """The overrides that a file of `experiments/` gives to commands set parts of a run, and name nothing harmful."""
    for text in overrides:
        try:
            (parsed,) = OverridesParser.create().parse_overrides([text])
            key, value = str(parsed.key_or_group), parsed.value()
        except HydraException as error:
            raise UserError(f"{file}: cannot read the override {shown(text)}: write key=value") from error
        group, _, below = key.partition(".")
        chosen = below or group not in (*GROUPS, "trainer", "logger") or re.fullmatch(CHOICE, str(value))
        if group not in ROW_KEYS or parsed.package is not None or not chosen:
            raise UserError(f"{file}: the override {shown(text)} sets no part of a run: leave it out")
        nested: Any = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        Check(file, (), conf, references=False).check(nested)


def modules_named(plain: Any) -> list[str]:
    """The modules of all targets in a configuration."""
    return [str(value).rpartition(".")[0] for _, name, value in leaves(plain) if name == "_target_" and value]


def leaves(node: Any, key: str = "", name: str = "") -> Iterator[tuple[str, str, Any]]:
    """What stands in a configuration: the key it belongs to, its own name there, and the value."""
    if isinstance(node, dict) and name != "_target_":
        for each, value in node.items():
            yield from leaves(value, f"{key}.{name}".strip("."), str(each))
    elif isinstance(node, list) and name != "_target_":
        for number, value in enumerate(node):
            yield from leaves(value, key, f"{name}[{number}]")
    else:
        yield key, name, node


@dataclass(frozen=True)
class Check:
    """Looks through what a file says. Errors name the file and the key."""

    file: Path
    trust: Sequence[str]
    conf: Path
    references: bool

    def check(self, plain: Any) -> None:
        """Raises `UserError`: a target that must not be called, or a text that would be looked up elsewhere."""
        for key, name, value in leaves(plain):
            if name == "_target_" and value is not None:
                self.target(value, key)
            elif isinstance(value, str) and "${" in value and not (self.references and ":" not in value):
                raise UserError(
                    f"{self.file}: {shown(f'{key}.{name}'.strip('.'))} is {shown(value)}, which would be looked up: "
                    "write the value itself"
                )

    def target(self, target: Any, key: str) -> None:
        """Raises `UserError`: it is no class or function of which runs are made, defined where its name says."""
        where = f"{self.file}: {shown(key)} names {shown(target)}"
        if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
            raise UserError(f"{where}, which is no <module>.<class>: write one")
        logger = key == "logger"
        classes = (*(LOGGERS if logger else CLASSES), *self.trust)
        functions = (*(() if logger else FUNCTIONS), *self.trust)
        # Nothing else is imported, since that runs code.
        if not lies_in(target, (*classes, *functions)):
            if logger or not self.in_conf(target):
                raise UserError(f"{where}, {self.foreign(target)}")
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which some of spandrel's modules use
                found = resolve_name(target)
        except Exception:  # as will be said where it is built
            return
        if not inspect.isclass(found) and not inspect.isfunction(found):
            raise UserError(f"{where}, which is neither a class nor a function: write one")
        defined = f"{found.__module__}.{found.__qualname__}"
        if not lies_in(defined, classes if inspect.isclass(found) else functions):
            raise UserError(f"{where}, that is {defined}, {self.foreign(defined)}")

    def foreign(self, name: str) -> str:
        """Why a name is refused, and what to write where it is the user's own."""
        module = name.rpartition(".")[0]
        if module.partition(".")[0] in (*sys.stdlib_module_names, "diffi2i"):
            return "which is no part of a run: it is not called"
        return f"which is no part of DiffI2I: only where you know and trust it, write trust={module}"

    def in_conf(self, target: str) -> bool:
        """Whether a file of `conf/` names it: then it is the user's own."""
        pattern = re.compile(rf"_target_:\s*{re.escape(target)}(?![\w.])")
        files = (file for group in GROUPS for file in (self.conf / group).glob("*.yaml"))
        return any(pattern.search(file.read_text(encoding="utf-8")) for file in files)


def lies_in(name: str, places: Sequence[str]) -> bool:
    """Whether a dotted name is one of the places or lies in one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def shown(value: Any) -> str:
    """A stranger's words in one line of an error: at most 80 letters, all of which can be printed."""
    text = str(value)
    return (text if text.isprintable() else ascii(text))[:80]
