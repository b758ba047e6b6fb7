"""`diffi2i train -m ...`: Hydra's sweeper chooses the runs, its launcher their place. Each run is a process of its own.

Runs inside the launcher's process could not start DDP, and would share its random state and memory.
"""

import multiprocessing
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffi2i.config.compose import check_rows, conf_dir, in_one_line, quoted_path, quoted_settings, register
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.metrics.spec import METRICS
from diffi2i.run import process
from diffi2i.run.ensure import without_slurm
from diffi2i.run.plan import planned, value_of
from diffi2i.run.record import Record
from diffi2i.run.state import done

# conf/hydra/launcher/ has files of the plugins' own names, which win over these and are checked against them.
warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema with the same name")
# For conf/hydra/launcher/: the GPUs of one run on each node.
OmegaConf.register_new_resolver(
    "gpus_of_run", lambda accelerator, devices: devices if accelerator in ("auto", "gpu") else None, replace=True
)

FAILED = "failed.txt"
EXTRA = "pip install 'diffi2i[launchers]'"


class RunFailedError(Exception):
    """A run of the sweep in `directory` ended with `status`. Plain values, since it travels between processes."""

    def __init__(self, status: int, directory: str) -> None:
        super().__init__(status, directory)
        self.status, self.directory = status, directory


def sweep(overrides: Sequence[str], flags: Sequence[str]) -> None:
    """Runs all combinations. `flags` are those of the command line, `-m` among them.

    Raises:
        UserError: something that cannot be, before any run starts.
        SystemExit: the status of the first run that failed, after all runs that the launcher still started.
    """
    overrides = [quoted_settings(quoted_path(text, swept=True)) for text in overrides]
    check(overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors over, in place of printing a traceback
    sys.argv = ["diffi2i train", *overrides, *flags]
    register(Config, "train")
    try:
        with in_one_line(Config):
            hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")(run_one)()
    except RunFailedError as error:
        report(Path(error.directory))
        sys.exit(error.status)


def run_one(_: DictConfig) -> float | None:
    """One run, called by the launcher where the run shall be. A search gets the value to optimise.

    Raises:
        RunFailedError: the run ended with another status than 0.
    """
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    failed = Path(settings.runtime.output_dir) / FAILED
    failed.unlink(missing_ok=True)
    # Joblib's workers have one of their own, which no process that they start knows.
    multiprocessing.set_start_method(None, force=True)
    variables = environment(os.environ, on_slurm(settings.launcher))
    run = process.begin(["train", *overrides], variables, Path(settings.runtime.cwd))
    try:
        run.join()
    finally:
        process.stop([run])
    code = run.exitcode
    if code:
        status = code if code > 0 else 128 - code
        failed.write_text(f"run {settings.job.num} ended with status {status}: diffi2i train {shlex.join(overrides)}\n")
        raise RunFailedError(status, settings.sweep.dir)
    return objective(overrides) if searches(settings.sweeper) else None


def environment(variables: Mapping[str, str], slurm: bool) -> dict[str, str]:
    """A run's environment variables.

    Several tasks that Slurm started for this run are its ranks. Elsewhere Lightning starts the run's processes itself.
    """
    ranks = slurm and int(variables.get("SLURM_NTASKS", "1")) > 1
    return dict(variables) if ranks else without_slurm(variables)


def objective(overrides: Sequence[str]) -> float:
    """The main metric of a finished run."""
    GlobalHydra.instance().clear()  # that of the sweep, which would not let this run be composed
    record = Record.read(planned(overrides).directory)
    score = record.scores[record.main_metric]
    if score.value is None:
        raise UserError(f"{record.main_metric} n/a: {score.why_not}")
    return score.value


def report(directory: Path) -> None:
    """One line for each failed run of a sweep."""
    for file in sorted(directory.glob(f"*/{FAILED}"), key=lambda file: (len(file.parent.name), file)):
        print(f"diffi2i: {file.read_text().strip()}", file=sys.stderr)
    if (directory / ".submitit").is_dir():
        print(f"diffi2i: what the runs printed is in {directory / '.submitit'}", file=sys.stderr)


def on_slurm(launcher: Any) -> bool:
    return str(launcher["_target_"]).endswith(".SlurmLauncher")


def on_ray(launcher: Any) -> bool:
    return str(launcher["_target_"]).endswith(".RayLauncher")


def searches(sweeper: Any) -> bool:
    return "optuna" in str(sweeper["_target_"])


def check(overrides: Sequence[str]) -> None:
    """Refuses a sweep of which any run, or which as a whole, cannot be.

    Raises:
        UserError: one line that says what to write.
    """
    from diffi2i.methods.build import check as check_method  # which loads torch, as a launcher's own process need not

    parsed = parse(overrides)
    node = hydra_node([text for text, override in parsed.items() if not override.is_sweep_override()])
    check_installed(node)
    texts = [text for text, override in parsed.items() if not override.is_hydra_override()]
    if searches(node.sweeper):
        # The command line comes last, as it overrules `params`.
        drawn = [f"{key}={value}" for key, value in (node.sweeper.params or {}).items()]
        found = one_at_a_time([*drawn, *texts])
    else:
        found = combinations(texts)
    planned_runs = [planned(combination) for combination in found]
    runs = [run.config for run in planned_runs]
    for run in planned_runs:
        if run.before is None:
            check_method(run.config)
    check_places(node.launcher, runs)
    if searches(node.sweeper):
        check_direction(node.sweeper, runs)
        return
    several = on_slurm(node.launcher) and node.launcher.tasks_per_node * node.launcher.nodes > 1
    for run in planned_runs if several else []:
        if run.before is not None and not done(run.before):
            raise UserError(
                f"{run.name} starts from {run.before.name}, which several Slurm tasks cannot train together: sweep "
                "over that first, or write hydra.launcher.tasks_per_node=1"
            )
    directories = [run.directory for run in planned_runs if value_of("run_dir", run.overrides)]
    if len(directories) > len(set(directories)):
        raise UserError(
            f"run_dir={directories[0]} is the same for several runs: leave it out, or name what is swept in it, as in "
            "'run_dir=runs/${seed}'"
        )


def parse(overrides: Sequence[str]) -> dict[str, Override]:
    with in_one_line(Config):
        return dict(zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True))


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The combinations that Hydra's basic sweeper will run for these overrides.

    An interval, from which only a search can draw, counts as its two ends.
    """
    found: list[list[str]] = [[]]
    for text, override in parse(overrides).items():
        if override.is_interval_sweep():
            interval: Any = override.value()
            values = [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
        elif override.is_sweep_override():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            values = [text]
        found = [[*head, value] for head in found for value in values]
    return found


def one_at_a_time(overrides: Sequence[str]) -> list[list[str]]:
    """Every value of every swept override, beside the first values of the others: a search's product is too large."""
    swept = [text for text, override in parse(overrides).items() if override.is_sweep_override()]
    first = [combinations([text])[0][0] if text in swept else text for text in overrides]
    return [first] + [[*first, *values] for text in swept for values in combinations([text])]


def hydra_node(overrides: Sequence[str]) -> Any:
    """Hydra's own configuration under the overrides, with the interpolations of its launcher resolved.

    Raises:
        UserError: no such launcher or sweeper, or its package is missing.
    """
    check_rows(overrides)  # which may hold keys of Hydra's own
    register(Config, "train")
    with in_one_line(Config), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
        except HydraException as error:
            if "hydra/sweeper/optuna'" in str(error):
                raise UserError(f"hydra/sweeper=optuna is not installed: {EXTRA}") from error
            raise
        if on_ray(composed.hydra.launcher) and composed.trainer.accelerator == "auto":
            raise UserError("Ray hands out GPUs by number: write trainer=cpu or trainer.accelerator=gpu")
        OmegaConf.resolve(composed.hydra.launcher)
        return composed.hydra


def check_installed(node: Any) -> None:
    """The launcher's and the sweeper's packages are there."""
    for group in ("launcher", "sweeper"):
        package, module = str(node[group]["_target_"]).split(".")[:2]
        if package == "hydra_plugins" and (find_spec(package) is None or find_spec(f"{package}.{module}") is None):
            name = node.runtime.choices[f"hydra/{group}"]
            raise UserError(f"hydra/{group}={name} is not installed: {EXTRA}")


def check_places(launcher: Any, runs: Sequence[Config]) -> None:
    """The launcher can give each run the processes, GPUs and nodes that it asks for."""
    nodes = max(run.trainer.num_nodes for run in runs)
    if nodes > 1 and not on_slurm(launcher):
        raise UserError(f"trainer.num_nodes={nodes} of a sweep needs hydra/launcher=submitit_slurm")
    fixed = on_slurm(launcher) or on_ray(launcher)
    if fixed and len({(run.trainer.accelerator, run.trainer.devices, run.trainer.num_nodes) for run in runs}) > 1:
        raise UserError("this launcher gives all runs the same hardware: sweep over trainer in separate commands")


def check_direction(sweeper: Any, runs: Sequence[Config]) -> None:
    """The search goes towards the better side of the task's main metric."""
    written = getattr(sweeper.direction, "name", sweeper.direction)
    for metric in sorted({run.task.main_metric for run in runs}):
        better = "minimize" if METRICS[metric].lower else "maximize"
        if written != better:
            raise UserError(f"hydra.sweeper.direction={written} makes {metric} worse: write {better}")
