"""`diffi2i <command> [hydra overrides]`. Heavy imports wait until a command needs them."""

import errno
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from diffi2i import __version__
from diffi2i.errors import UserError

USAGE = f"""DiffI2I {__version__}: efficient diffusion for image-to-image translation

usage: diffi2i <command> [key=value ...]

  train     train a method:       diffi2i train task=sisr method=diffi2i_s1 run_dir=runs/s1
                                  diffi2i train task=sisr method=diffi2i_s2 method.init=runs/s1 run_dir=runs/s2
            sweep:                diffi2i train -m seed=0,1,2 method=diffi2i_s1 hydra/launcher=joblib
            a table's rows:       diffi2i train -m experiment=table7 variant=v1,v3 seed=0,1
  eval      score a run:          diffi2i eval run=runs/s2 dataset=folder root=<folder>
  predict   restore images:       diffi2i predict run=runs/s2 input=<image or folder> output=<folder>
  bench     size and speed:       diffi2i bench task=inpainting model=base
  data      check a dataset:      diffi2i data check dataset=gopro root=<folder>
  table     runs side by side:    diffi2i table runs/s1 runs/s2
            the paper's tables:   diffi2i table table7 figure6 budget=demo seeds=3 [--dry-run]
  score     score two folders:    diffi2i score task=sisr pred=<folder> target=<folder> output=<file>.json
  compare   image by image:       diffi2i compare runs/s1 runs/s2
  report    all tables as HTML:   diffi2i report budget=demo output=outputs/report.html
  dashboard W&B views, a report:  diffi2i dashboard project=diffi2i entity=<team>

Keys are Hydra overrides: `diffi2i train --cfg job` prints all of them, conf/ documents them.
Interrupted training goes on when the same command is given again.
"""

COMMANDS = ("train", "eval", "predict", "bench", "data", "table", "score", "compare", "report", "dashboard")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 failed, 2 refused (one line on stderr says why), 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    try:
        run_command(arguments[0], arguments[1:])
    except UserError as error:
        print(f"diffi2i: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("diffi2i: the disk is full: make room and give the same command again to go on", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("diffi2i: interrupted; give the same command again to go on", file=sys.stderr)
        sys.exit(130)


def run_command(command: str, arguments: list[str]) -> None:
    """Checks the configuration, then starts the command."""
    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}': choose one of {', '.join(COMMANDS)}")
    if command == "table":
        from diffi2i.tables.command import names_table, table

        if "--dry-run" in arguments or any(names_table(word) for word in arguments):
            table(arguments)
            return
        from diffi2i.tables.runs import print_table

        print_table(arguments)
        return
    if command == "compare":
        from diffi2i.tables.compare import compare

        compare(arguments)
        return
    if command == "report":
        from diffi2i.tables.report import report

        report(arguments)
        return
    if command == "dashboard":
        from diffi2i.dashboard import dashboard

        dashboard(arguments)
        return

    from diffi2i import config, schema

    if command == "data":
        if arguments[:1] != ["check"]:
            raise UserError("data needs its action: write diffi2i data check dataset=<name> root=<folder>")
        checked = config.load(schema.DataConfig, command, arguments[1:])
        from diffi2i.data.check import data_check

        sys.exit(data_check(checked))
    if any(argument.startswith("-") for argument in arguments):
        hydra_main(command, arguments)
    elif command == "train":
        from diffi2i.run.ensure import ensure_before
        from diffi2i.run.plan import planned
        from diffi2i.run.state import working_on

        run = planned(arguments)
        ensure_before(run)
        from diffi2i.train import train

        with working_on(run.directory):
            train(run.config)
    elif command == "eval":
        evaluation = config.load(schema.EvalConfig, command, arguments)
        from diffi2i.evaluate import evaluate
        from diffi2i.run.state import working_on

        with working_on(Path(evaluation.output)) if evaluation.output else nullcontext():
            evaluate(evaluation)
    elif command == "predict":
        prediction = config.load(schema.PredictConfig, command, arguments)
        from diffi2i.predict import predict

        predict(prediction)
    elif command == "score":
        scoring = config.load(schema.ScoreConfig, command, arguments)
        from diffi2i.score import score_folders

        score_folders(scoring)
    else:
        measurement = config.load(schema.BenchConfig, command, arguments)
        from diffi2i.bench import bench

        bench(measurement)


def hydra_main(command: str, arguments: list[str]) -> None:
    """Hydra's own flags (`-m`, `--cfg`, `--info`, ...)."""
    # `job` in `--cfg job` is no override.
    flags = [argument for argument in arguments if argument.startswith("-") or not ("=" in argument or "~" in argument)]
    overrides = [argument for argument in arguments if argument not in flags]
    if "-m" in arguments or "--multirun" in arguments:
        if command != "train":
            raise UserError(f"diffi2i {command} does not sweep: leave out -m")
        from diffi2i.sweep import sweep

        sweep(arguments, overrides)
        return

    import hydra
    from hydra.core.hydra_config import HydraConfig

    from diffi2i import config

    model = config.budget_model(command, overrides, config.composition(command, overrides))
    arguments = [*overrides, *model, *flags]

    def job(_: object) -> None:
        task_overrides = HydraConfig.get().overrides.task
        subprocess.run([sys.executable, "-m", "diffi2i", command, *task_overrides], check=True)

    config.register_schemas()
    sys.argv = [f"diffi2i {command}", *arguments]
    hydra.main(config_path=str(config.conf_dir()), config_name=command, version_base="1.3")(job)()
