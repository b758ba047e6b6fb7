"""Processes of a test, none of which imports everything anew: that takes several seconds."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import torch
import torch.distributed as dist
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from torch.multiprocessing.spawn import start_processes

from diffi2i import cli

# Of a server that has imported these and run nothing, and so can be forked whatever this process has done.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["diffi2i.metrics.distribution", "diffi2i.metrics.image"])


class Forking:
    """In place of `process.CONTEXT`: forks this process, which has imported what runs need."""

    def Process(self, target: Callable[..., None], args: tuple[Any, ...]) -> BaseProcess:  # noqa: N802
        return multiprocessing.get_context("fork").Process(target=self.alone, args=(target, args))

    @staticmethod
    def alone(target: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Calls it in a process that knows nothing of a sweep that this one may be in the midst of."""
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        target(*args)


def together(function: Callable[[int, int, str], None], world: int, folder: Path) -> None:
    """Runs `function(rank, world, folder)` in `world` processes, which may be `joined`."""
    start_processes(function, (world, str(folder)), world, start_method="forkserver")  # type: ignore[no-untyped-call]


@contextmanager
def joined(rank: int, world: int, folder: str, timeout: timedelta | None = None) -> Iterator[None]:
    """In one of `world` processes that meet in `folder`."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def diffi2i(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`diffi2i` in a process forked off this one, for commands that leave training to processes of their own."""
    return prepared(lambda: None, *arguments, cwd=cwd, **variables)


def prepared(
    prepare: Callable[[], None], *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Likewise, after that process has called `prepare`."""
    return begun(arguments, cwd, variables, prepare).ended()


def script(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python <file> <arguments>` likewise, whose further ranks Lightning starts by that name."""

    def run() -> None:
        sys.argv = [str(file), *arguments]
        runpy.run_path(str(file), run_name="__main__")

    return started(run, arguments, file.parent, {}).ended()


class Begun(NamedTuple):
    """A forked `diffi2i` at work, and the files that it prints to."""

    arguments: Sequence[str]
    pid: int
    out: IO[str]
    err: IO[str]

    def ends_within(self, seconds: float) -> bool:
        """Waits so long for its end; what it has answered says `ended`."""
        until = time.monotonic() + seconds
        while not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def ended(self) -> subprocess.CompletedProcess[str]:
        """Waits for its end."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with self.out as out, self.err as err:
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(self.arguments, status, out.read(), err.read())


def begun(
    arguments: Sequence[str], cwd: Path, variables: Mapping[str, str], prepare: Callable[[], None] = lambda: None
) -> Begun:
    """Starts `diffi2i` in a forked process, which calls `prepare` before. Its files are closed when it is `ended`."""

    def run() -> None:
        prepare()
        # By these Lightning starts the further ranks of a run.
        sys.argv, sys.modules["__main__"].__spec__ = ["diffi2i", *arguments], find_spec("diffi2i.__main__")
        cli.main(arguments)

    return started(run, arguments, cwd, variables)


def started(run: Callable[[], None], arguments: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> Begun:
    out, err = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115
    pid = os.fork()
    if pid == 0:
        os._exit(status_of(run, cwd, variables, out, err))
    return Begun(arguments, pid, out, err)


def status_of(run: Callable[[], None], cwd: Path, variables: Mapping[str, str], out: IO[str], err: IO[str]) -> int:
    """Runs it in this process, which becomes another by it, and gives its exit status."""
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of tests in the background a shell has it ignored
    os.environ.update({"DIFFI2I_OFFLINE": "1", **variables})
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = out, err
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        run()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        out.flush()
        err.flush()
    return 0
