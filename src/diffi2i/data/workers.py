"""Work on many files, in this process or in several."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from diffi2i.errors import LostProcessError
from diffi2i.run.signals import watch_parent

Run = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]
"""As `map`."""


@contextmanager
def working(workers: int, chunk: int = 1) -> Iterator[Run]:
    """`map`, or one that works in that many processes and keeps the order. (Threads would wait for each other.)

    Args:
        workers: 0 for this process alone. Others take seconds to start.
        chunk: how many pieces a process is given at once. What it has been given it ends, whatever becomes of the rest.

    Raises:
        LostProcessError: a process has been ended from outside.
    """
    if workers == 0:
        yield map
        return
    # Not forked: threads of this process may hold locks that would never open in a copy.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin)
    try:
        yield lambda function, pieces: pool.map(function, pieces, chunksize=chunk)
    except BrokenProcessPool as error:
        raise LostProcessError(
            "one of the processes has been ended, perhaps for want of memory: give the same command again to go on, "
            "with fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def begin() -> None:
    """Of a process that works: Ctrl-C is for the one that started it, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_parent()
    torch.set_num_threads(1)
