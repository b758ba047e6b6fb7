"""Memory: what is free, what a process keeps of what it frees, and when it has run out."""

import ctypes
import re
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
KEPT, LEAST_KEPT = 128 << 20, 32 << 20
"""Bytes of the largest block that is kept: larger ones leave holes as large. Old glibc takes but the second."""


def glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of the GNU C library; None where the C library is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_freed() -> None:
    """Lets this process keep the memory that it frees, for what it takes next; does nothing without glibc.

    By itself glibc gives blocks above 32 MiB, and the end of the heap, back to the system as soon as they are freed.
    What is taken next comes page by page, each cleared, which was up to half of a prediction's time
    (docs/performance.md). All threads share one heap, since no other can hold so much.
    """
    mallopt = glibc("mallopt")
    if mallopt and (mallopt(M_MMAP_THRESHOLD, KEPT) or mallopt(M_MMAP_THRESHOLD, LEAST_KEPT)):
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Gives what `keep_freed` has kept back to the system."""
    if malloc_trim := glibc("malloc_trim"):
        malloc_trim(0)


def free_memory(device: torch.device, wanted: float) -> int:
    """Bytes that may still be taken on the device; 4 GiB where nothing tells.

    Where they are fewer than are `wanted`, the host gets first what this process keeps.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = free_on_host()
    if free < wanted:
        give_back()
        free = free_on_host()
    return free


def free_on_host() -> int:
    found = []
    if (told := Path("/proc/meminfo")).is_file():
        line = next(line for line in told.read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(1024 * int(line.split()[1]))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdecimal():
        found.append(int(most) - int(used.read_text()))
    return min(found, default=4 << 30)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory was wanting, on whatever device."""
    said = r"(allocate|enough|out of) memory|bad_alloc|ALLOC_FAILED"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(said, str(error))))
