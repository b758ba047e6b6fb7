"""A run as a process of its own: `diffi2i train`, `import` or `eval`.

It is forked off a server that has imported what runs need, which takes seconds, and has done nothing else: so of many
runs only the first pays for it. macOS does not bear such forks, there each process begins anew.
"""

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from diffi2i.run.signals import LIMIT_SECONDS

PROGRAM = "diffi2i"
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
CONTEXT.set_forkserver_preload(["diffi2i.commands.train"])


def begin(arguments: Sequence[str], variables: Mapping[str, str], cwd: Path, log: Path | None = None) -> BaseProcess:
    """Starts `diffi2i <arguments>` under these environment variables. `log` gets what it prints, else this terminal."""
    process: BaseProcess = CONTEXT.Process(target=become, args=(tuple(arguments), dict(variables), cwd, log))
    process.start()
    return process


def become(arguments: Sequence[str], variables: Mapping[str, str], cwd: Path, log: Path | None) -> None:
    """Turns this process into that of the command."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    if log:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    # By the line, so that a log's last line is what was printed last.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    sys.argv = [PROGRAM, *arguments]
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)  # by that name Lightning starts further ranks


def stop(processes: Iterable[BaseProcess]) -> None:
    """Ends what is still at work, as after Ctrl-C."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    until = time.monotonic() + LIMIT_SECONDS
    for process in alive:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()
