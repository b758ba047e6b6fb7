"""`diffi2i import`: another author's checkpoint as a finished run of a method that computes the same."""

import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from diffi2i.commands.eval import method_facts, score
from diffi2i.config.commands import ImportConfig
from diffi2i.config.run import read_run_config
from diffi2i.data.build import build_data
from diffi2i.data.manifest import file_hash
from diffi2i.errors import UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.methods import imports
from diffi2i.run.directory import WEIGHTS, is_of_others, save_weights, write_config
from diffi2i.run.hardware import prepare
from diffi2i.run.record import Record, Training
from diffi2i.run.state import working_on
from diffi2i.tables.runs import print_table


def import_run(config: ImportConfig) -> Path:
    """Converts the file, scores the dataset's validation images, prints the table. Returns the run directory.

    Raises:
        UserError: an unknown source, a file that is not one of its or would run code, or a directory that is another
            run's; nothing has been written.
    """
    source, file, run_dir = config.words[0], Path(config.words[1]), Path(config.run_dir)
    known = [module.name for module in pkgutil.iter_modules(imports.__path__) if module.name != "reading"]
    if source not in known:
        raise UserError(f"import {source}: choose a source of {', '.join(known)}")
    if not file.is_file():
        raise UserError(f"{file} is no file: name a checkpoint")
    digest = file_hash(file)
    if (run_dir / "result.json").is_file():
        found = Record.read(run_dir)
        if found.method is None or found.method.imported != digest:
            raise UserError(f"{run_dir} holds another run: name another run_dir")
        print_table([str(run_dir)])
        return run_dir
    if (run_dir / "origin.json").is_file():  # of a training, which is not finished
        raise UserError(f"{run_dir} holds another run: name another run_dir")
    if (run_dir / "config.yaml").is_file():
        read_run_config(run_dir)  # refuses another program's
    if run_dir.is_file() or (run_dir.is_dir() and is_of_others(run_dir, "config.yaml")):
        raise UserError(f"{run_dir} is not empty and holds no run: name another run_dir")
    method = import_module(f"diffi2i.methods.imports.{source}").convert(file, config.overrides)
    settings = replace(method.config, run_dir=str(run_dir))
    prepare(settings.trainer)
    data = build_data(settings)
    data.check(splits=("val",))
    kind_of(settings.task).check_targets(data.val_items, settings)
    run_dir.mkdir(parents=True, exist_ok=True)
    with working_on(run_dir):
        write_config(run_dir, settings)
        save_weights(method, run_dir / WEIGHTS)
        facts = replace(method_facts(method, None), imported=digest)
        training = Training(steps=0, network_steps=0, seconds=0.0, cpu_seconds=0.0, loss=None, changed=[])
        score(method, data, run_dir, facts, None, training).write(run_dir / "result.json")
    print_table([str(run_dir)])
    return run_dir
