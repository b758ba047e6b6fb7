"""`diffi2i <command> [hydra overrides]`. Heavy imports wait until a command needs them."""

import difflib
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple, get_origin, get_type_hints

from diffi2i import __version__
from diffi2i.config import commands, schema
from diffi2i.errors import LostProcessError, Note, UserError
from diffi2i.run import signals


class Command(NamedTuple):
    """The dataclass of `conf/<name>.yaml`, the `module:function` that takes it, and what it does in a line.

    Words that are no `key=value` fill the key `words`; settings that the dataclass lacks go into the list `rest`.
    """

    config: type
    function: str
    summary: str
    words: str = ""
    rest: str = ""


COMMANDS = {
    "train": Command(schema.Config, "commands.train:train", "train a method; -m: a sweep of runs"),
    "eval": Command(commands.EvalConfig, "commands.eval:evaluate", "score a finished run again"),
    "import": Command(
        commands.ImportConfig, "commands.imports:import_run", "other authors' weights as a run", "words", "overrides"
    ),
    "predict": Command(commands.PredictConfig, "commands.predict:predict", "restore images with a finished run"),
    "app": Command(commands.AppConfig, "commands.app:app", "a page in the browser to try finished runs"),
    "export": Command(commands.ExportConfig, "commands.export:export", "a finished run as files to share"),
    "push": Command(commands.PushConfig, "commands.hub:push", "send an export to the Hugging Face hub"),
    "pull": Command(commands.PullConfig, "commands.hub:pull", "fetch a run from the hub", "repo"),
    "score": Command(commands.ScoreConfig, "commands.score:score_folders", "score a folder of any method's outputs"),
    "bench": Command(commands.BenchConfig, "commands.bench:bench", "size and speed of methods", rest="overrides"),
    "compress": Command(
        commands.CompressConfig, "commands.compress:compress", "search a run's depth and time steps: depth-skip pruning"
    ),
    "data": Command(commands.DataConfig, "commands.data:data", "check a dataset, or prepare its files", "action"),
    "table": Command(commands.TableConfig, "commands.table:table", "runs, or the paper's tables", "names", "overrides"),
    "compare": Command(commands.CompareConfig, "commands.compare:compare", "two runs image by image", "runs"),
    "report": Command(commands.ReportConfig, "commands.report:report", "all tables as one HTML file"),
    "dashboard": Command(commands.DashboardConfig, "commands.dashboard:dashboard", "views and a report on W&B"),
}

# What the disk may answer while a command is at work, and what to do about it.
DISK = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your share of the disk is used up: make room",
    errno.EROFS: "the disk is read-only: make it writable, or write run_dir=<folder> or output=<folder> elsewhere",
    errno.EACCES: "this may not be read or written: change its permissions",
    errno.EPERM: "this may not be read or written: change its permissions",
    errno.EFBIG: "the file is larger than this disk, or the limit of this shell (ulimit -f), allows: raise it",
    errno.ENAMETOOLONG: "the name is too long for this disk: shorten it",
    errno.ENOENT: "this has gone while it was needed: put it back, or name another folder",
    errno.EIO: "the disk does not answer: see that it is sound",
    errno.ESTALE: "the network disk does not answer: see that it is mounted",
    errno.EMFILE: "too many files are open: raise ulimit -n",
}

FORMAT = warnings.formatwarning
HELP = ("-h", "--help")
SWEEP = ("-m", "--multirun")
# Hydra's own flags that only show something; a word may follow the first ones.
WITH_WORD = ("--cfg", "-c", "--info", "-i", "--package", "-p")
SHOWING = (*WITH_WORD, "--resolve", "--hydra-help", "--shell-completion", "-sc")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point.

    Exit status: 0 done, 1 failed, 2 refused, 128 and the signal's number where it was stopped (130: Ctrl-C, 143:
    SIGTERM). Of all but 0 one line on stderr says why.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = as_printed
    if not arguments or arguments[0] in (*HELP, "help"):
        print(usage(), end="")
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every letter of a name
            stream.reconfigure(errors="backslashreplace")
    signals.listen()
    signals.bound()
    signals.watch_parent()
    try:
        run(arguments[0], arguments[1:])
        sys.stdout.flush()
    except BaseException as error:
        status, line = ending(error)
        if line and not (signals.rank() and signals.received):
            print(f"diffi2i: {signals.rank()}{line}", file=sys.stderr, flush=True)
        if status is None:
            raise
        sys.exit(status)


def ending(error: BaseException) -> tuple[int | None, str]:
    """The exit status that an error gives a command, and its line; no status where it is a fault of this program."""
    if signals.received or isinstance(error, KeyboardInterrupt):
        # Whatever it has turned into on its way.
        number = signals.received[0] if signals.received else signal.SIGINT
        name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        return 128 + number, f"{name}; give the same command again to go on"
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, LostProcessError):
        return 1, str(error)
    if isinstance(error, BrokenPipeError):  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes to at its end
        return 128 + signal.SIGPIPE, ""
    if isinstance(error, OSError) and error.errno in DISK:
        place = error.filename or error.strerror
        return 1, f"{place}: {DISK[error.errno]}, and give the same command again to go on"
    return None, ""


def as_printed(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as Python prints it; a note is for the user, to whom the line of code says nothing."""
    own = issubclass(category, Note)
    return f"diffi2i: {message}\n" if own else FORMAT(message, category, filename, lineno, line)


def usage() -> str:
    commands = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return f"""DiffI2I {__version__}: efficient diffusion for image-to-image translation

usage: diffi2i <command> [key=value ...]

{commands}

diffi2i <command> --help shows examples and all keys; diffi2i <command> --cfg job prints the configuration in full.
Keys are Hydra overrides, which conf/ documents. Interrupted training goes on when the same command is given again.
"""


def run(name: str, arguments: Sequence[str]) -> None:
    """Checks the configuration, then starts the command."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        choice = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}': {choice}")
    command = COMMANDS[name]
    flags, overrides = parsed(command, arguments)
    if any(flag in HELP for flag in flags):
        from diffi2i.commands.help import text

        print(text(command.config, name, overrides), end="")
    elif any(flag in SWEEP for flag in flags):
        if name != "train":
            raise UserError(f"diffi2i {name} does not sweep: leave out -m")
        from diffi2i.commands.sweep import sweep

        sweep(overrides, flags)
    elif flags:
        show(command, name, overrides, flags)
    elif name == "train":
        from diffi2i.commands.train import train_planned

        train_planned(overrides)
    else:
        from diffi2i.config.compose import load

        resolve_name(f"diffi2i.{command.function}")(load(command.config, name, overrides))


def parsed(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags with the words that belong to them, and Hydra overrides.

    A flag `--dry-run` for a key `dry_run` sets it.
    """
    from diffi2i.config.compose import quoted

    types = get_type_hints(command.config)
    flags: list[str] = []
    overrides: list[str] = []
    words: list[str] = []
    rest: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key = argument.partition("=")[0]
        switch = argument.removeprefix("--").replace("-", "_")
        if argument.startswith("--") and types.get(switch) is bool:
            overrides.append(f"{switch}=true")
        elif argument.startswith("-") or (before in WITH_WORD and key == argument):
            flags.append(argument)
        elif command.words and (Path(argument).exists() or (key == argument and not argument.startswith("~"))):
            words.append(argument)
        elif command.rest and key.partition(".")[0] not in types:
            rest.append(argument)
        else:
            # Below a dictionary that has no keys yet: `roots.<dataset>=<folder>`.
            overrides.append(f"++{argument}" if command.rest and "." in key else argument)
    for key, values in ((command.words, words), (command.rest, rest)):
        if values and get_origin(types[key]) is list:
            overrides.append(f"{key}=[{','.join(map(quoted, values))}]")
        elif values:
            overrides.append(f"{key}={quoted(' '.join(values))}")
    return flags, overrides


def show(command: Command, name: str, overrides: Sequence[str], flags: Sequence[str]) -> None:
    """`--cfg job`: the checked configuration, as the command would have it. Hydra's other flags are Hydra's."""
    if unknown := [flag for flag in flags if flag.startswith("-") and flag not in SHOWING]:
        raise UserError(f"diffi2i {name} does not know {unknown[0]}: diffi2i {name} --help shows what it knows")
    import hydra
    from omegaconf import OmegaConf

    from diffi2i.config import compose

    if tuple(flags) in (("--cfg", "job"), ("-c", "job")):
        print(OmegaConf.to_yaml(OmegaConf.structured(compose.load(command.config, name, overrides))), end="")
        return
    overrides, _ = compose.completed(command.config, name, overrides)  # of whose errors Hydra would print a traceback
    resolve = ["--resolve"] if "--cfg" in flags or "-c" in flags else []
    sys.argv = [f"diffi2i {name}", *overrides, *flags, *resolve]
    hydra.main(config_path=str(compose.conf_dir()), config_name=name, version_base="1.3")(lambda _: None)()
