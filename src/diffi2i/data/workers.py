"""Work on many files, in this process or in several."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from typing import Any

import torch

from diffi2i.errors import LostProcessError
from diffi2i.run.signals import watch_parent

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""As `map`."""


@contextmanager
def working(workers: int) -> Iterator[Run]:
    """`map`, or one that works in that many processes and keeps the order. (Threads would wait for each other.)

    0 means this process alone: others take seconds to start.

    Raises:
        LostProcessError: one of them has been ended from outside.
    """
    if workers == 0:
        yield map
        return
    # Not forked: threads of this process may hold locks that would never open in a copy.
    others = {*active_children()}
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin)
    try:
        yield partial(in_order, pool, 2 * workers)
    except BrokenProcessPool as error:
        raise LostProcessError(
            "one of the processes has been ended, perhaps for want of memory: give the same command again to go on, "
            "with fewer of them"
        ) from error
    except BaseException:
        for process in {*active_children()} - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def begin() -> None:
    """Of a process that works: Ctrl-C is for the one that started it, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_parent()
    torch.set_num_threads(1)


def done(function: Callable[[Any], Any], piece: Any) -> Any:
    """`function(piece)`, which clears up when the process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        return function(piece)
    except SystemExit:
        os._exit(1)  # else it would go on with the next piece
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def in_order(
    pool: ProcessPoolExecutor, ahead: int, function: Callable[[Any], Any], pieces: Iterable[Any]
) -> Iterator[Any]:
    """The results in the order of the pieces, of which so many are handed out before theirs are wanted."""
    waiting: deque[Future[Any]] = deque()
    for piece in pieces:
        waiting.append(pool.submit(done, function, piece))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
