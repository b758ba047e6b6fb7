"""From overrides to a run: what it trains, where it lies, and what must be finished before.

A run's directory is named by all that shapes its result, the run that it starts from included. So whoever asks for the
same run, a table, a sweep or a single training, finds what there is of it. Nothing heavy is imported, nothing is run.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path

from diffi2i.config import compose
from diffi2i.config.checks import ROLES
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.run.identity import config_hash
from diffi2i.run.rows import check_row, is_row, same_as

# Relative, as `method.init` in the runs' configurations is: so a record does not depend on where the user works.
RUNS = Path("outputs") / "runs"


@dataclass(frozen=True)
class Run:
    """One command, whose record will be `directory/result.json`.

    `command` is `train`, `import`, or `eval` of such a run `before`; `overrides` are its own. `before` must be finished
    first. `config` is that of the training; of an import it says on what the weights are scored.
    """

    command: str
    overrides: tuple[str, ...]
    directory: Path
    before: "Run | None"
    config: Config = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """`inpainting-<method>-1f2e3d4c`, and of an evaluation where it lies below that."""
        home = RUNS / self.config.budget
        return (self.directory.relative_to(home) if self.directory.is_relative_to(home) else self.directory).as_posix()


def planned(overrides: Sequence[str]) -> Run:
    """The run of `diffi2i train <overrides>`.

    `experiment=<table>/<row>` gives it the row's settings. Where `method.init` names a row, that row's run comes first,
    under the same seed, budget and further overrides. A row that goes on in a role for which the task's budget has
    nothing (`method.role=adversarial` at budget=demo) is the run that it would have gone on from.

    Raises:
        UserError: no such row, or a configuration that cannot be.
    """
    row = value_of("experiment", overrides)
    if row is not None:
        check_row(row)
        if other := same_as(row):
            return planned([text if text != f"experiment={row}" else f"experiment={other}" for text in overrides])
    seed = value_of("seed", overrides)
    own = f"seed={seed}" if seed is not None and seed.isdecimal() else None  # what else it may be, Hydra says
    named = any("seed" in text for text in overrides if text != own)  # as in run_dir=runs/${seed}
    settings = composed(tuple(text for text in overrides if named or text != own))
    if isinstance(settings, str):
        return planned(further(overrides, settings))
    made = deepcopy(settings)
    if seed is not None and own in overrides:
        made.seed = int(seed)
    init, before = made.method["init"], None
    if init is not None and is_row(init) and not Path(init).exists():
        before = planned(further(overrides, init))
        made.method["init"] = str(before.directory)
    if made.method.get("like_init") and (theirs := before.config if before else kept(made)) is not None:
        from diffi2i.methods.build import settled  # imports what else no plan needs

        made = settled(made, theirs)
    if row is not None and made.logger is not None and "group" in made.logger:
        made.logger["group"], _, made.logger["job_type"] = row.partition("/")
    directory = Path(made.run_dir) if made.run_dir else place(made)
    return Run("train", tuple(overrides), directory, before, replace(made, run_dir=str(directory)))


def kept(made: Config) -> Config | None:
    """The configuration of the run directory to start from; None where there is none, as the training will say."""
    if made.init is None or not (made.init / "config.yaml").is_file():
        return None
    return read_run_config(made.init, trust=made.trust)


def evaluation(run: Run, name: str, overrides: Sequence[str], hardware: Sequence[str] = ()) -> Run:
    """`diffi2i eval` of a run, with the overrides that shape the score, and further ones that do not."""
    directory = run.directory / "eval" / f"{name}-{sha256(repr([*overrides]).encode()).hexdigest()[:8]}"
    given = (f"run={run.directory}", *overrides, *hardware, f"output={directory}")
    return Run("eval", given, directory, run, run.config)


def imported(source: str, file: Path, overrides: Sequence[str]) -> Run:
    """`diffi2i import` of a checkpoint. `overrides` say on what it is scored, the seed included.

    It is named by them and by what is in the file.
    """
    made = deepcopy(composed(tuple(text for text in overrides if not text.startswith("seed="))))
    assert isinstance(made, Config)
    made.seed = int(value_of("seed", overrides) or 0)
    made.method = {"name": source, "init": None, "weights": digest_of(file)}
    directory = place(made)
    return Run("import", (source, str(file), *overrides, f"run_dir={directory}"), directory, None, made)


def lineage(run: Run) -> list[Run]:
    """The run and all that comes before it, first things first."""
    return [*(lineage(run.before) if run.before else []), run]


@cache
def composed(overrides: tuple[str, ...]) -> Config | str:
    """The checked configuration; the row to take instead, where the budget has nothing for its role.

    Without the seed among the overrides, which changes nothing else, since composing takes long.
    """
    given, found = compose.completed(Config, "train", overrides)
    method, budget = found.method, found.task.budgets.get(found.budget)
    role = method.get("role")
    if budget and role in ROLES and not budget.get(role) and method.get("init") and is_row(method.init):
        return str(method.init)
    return compose.typed(Config, given, found)


def further(overrides: Sequence[str], row: str) -> list[str]:
    """The overrides of the run that another starts from: those of the other, but for what belongs to that one alone."""
    own = ("experiment=", "method=", "method.", "run_dir=")
    return [f"experiment={row}", *(text for text in overrides if not text.lstrip("+~").startswith(own))]


def value_of(key: str, overrides: Sequence[str]) -> str | None:
    """What the last `key=...` says."""
    values = [text.removeprefix(f"{key}=") for text in overrides if text.startswith(f"{key}=")]
    return values[-1] if values else None


def place(made: Config) -> Path:
    """Where a run lies by default, named by all that shapes its result.

    That are its settings, its folders by their last names, and what it starts from. What lies in the folders is
    compared when a run goes on, and between the records of a table.
    """
    source = made.dataset.source
    roots = [Path(root).absolute().name for key in ("root", "val_root") if (root := source.get(key))]
    identity = "-".join([config_hash(made), start_of(made), *roots])
    name = f"{made.task.name}-{made.method['name']}-{sha256(identity.encode()).hexdigest()[:8]}"
    return RUNS / made.budget / name


def start_of(made: Config) -> str:
    """The name of the run that it starts from, or the hash of its weights where that lies elsewhere."""
    if made.init is None:
        return ""
    if made.init.absolute().parent.parent == RUNS.absolute():
        return made.init.name
    weights = made.init / "weights.safetensors"
    if not weights.is_file():  # as the training will say
        return ""
    return digest_of(weights)


def digest_of(file: Path) -> str:
    """The sha256 of a file's content."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()
