"""Memory that a process keeps for itself: in a process of its own, since it cannot be undone."""

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffi2i.memory import free_memory, glibc, keep_freed

CPU = torch.device("cpu")
BYTES = 40 << 20
PAGES = BYTES // 4096

if __name__ != "__main__" and glibc("mallopt") is None:
    pytest.skip("another C library than glibc", allow_module_level=True)


def faults() -> int:
    """Pages that this process has been given so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def taken() -> int:
    """Pages that forty blocks cost, one after the other.

    More come first: glibc uses the rims of aligned blocks for small ones, so that it has several before all fit again.
    """
    for i in range(80):
        if i == 40:
            before = faults()
        torch.ones(BYTES // 4)
    return faults() - before


def in_thread(work: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def measured(keep: bool) -> dict[str, Any]:
    if keep:
        keep_freed()
    found: dict[str, Any] = {"taken": taken(), "in a thread": in_thread(taken)}
    for name, wanted in (("enough", 0), ("too little", math.inf)):
        found[name] = free_memory(CPU, wanted) > 0 and resident()
    return found


def of_a_process(keep: bool) -> dict[str, Any]:
    made = subprocess.run([sys.executable, __file__, str(int(keep))], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def test_freed_memory_serves_what_is_taken_next() -> None:
    before, kept = of_a_process(keep=False), of_a_process(keep=True)
    for where in ("taken", "in a thread"):
        assert before[where] >= 40 * PAGES
        assert kept[where] < 4 * PAGES


def test_what_is_kept_is_given_back_where_it_is_wanted() -> None:
    kept = of_a_process(keep=True)
    assert kept["enough"] - kept["too little"] > 0.9 * BYTES


if __name__ == "__main__":
    print(json.dumps(measured(keep=sys.argv[1] == "1")))
