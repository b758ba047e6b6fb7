"""How a process is stopped: Ctrl-C and SIGTERM alike, and by itself once whoever started it is gone.

Every file is written whole or not at all and every lock ends with its process, so it may stop anywhere.
"""

import multiprocessing
import os
import signal
import threading
import time
from functools import cache

STOPPING = (signal.SIGINT, signal.SIGTERM)
LIMIT_SECONDS = 20.0
"""How long a process that is told to stop may take to clear up."""
WATCH_SECONDS = 1.0

received: list[int] = []
"""The signals that have come, since one may end up as another error than KeyboardInterrupt."""


def listen() -> None:
    """From now on each of `STOPPING` raises KeyboardInterrupt, and ends the process where that does not."""
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a command under nohup
            signal.signal(number, stop)


def stop(number: int, *_: object) -> None:
    """The handler: the first signal counts, and those that follow within its limit change nothing."""
    first = not received
    received.append(number)
    if first:
        raise KeyboardInterrupt


@cache
def bound() -> None:
    """Ends the process `LIMIT_SECONDS` after a signal, also where the main thread is in the midst of what never ends.

    Python calls a handler only between two of its own instructions; the descriptor is written to at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait() -> None:
        while (number := os.read(reader, 1)[0]) not in STOPPING:
            pass
        time.sleep(LIMIT_SECONDS)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()


def forget() -> None:
    """A forked process, such as a data worker, is told for itself: what it gets must not end the one that forked it."""
    signal.set_wakeup_fd(-1)
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is stop:
            signal.signal(number, usual)
    received.clear()
    bound.cache_clear()


os.register_at_fork(after_in_child=forget)


def watch_parent() -> None:
    """Stops this process once the one that started it is gone, if it is a run of a table or a further rank of a run."""
    parent, ppid = multiprocessing.parent_process(), os.getppid()
    if parent is None and os.environ.get("LOCAL_RANK", "0") == "0":
        return

    def watch() -> None:
        while parent.is_alive() if parent else os.getppid() == ppid:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def rank() -> str:
    """`rank 1: ` of the further processes of a run, for what they print."""
    number = os.environ.get("SLURM_PROCID") or os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return "" if number == "0" else f"rank {number}: "
