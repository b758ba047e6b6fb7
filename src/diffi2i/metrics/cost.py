"""Size and speed of a network: parameters, multiply-accumulates, latency, peak memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def multiply_accumulates(call: Callable[[], object]) -> int:
    """Half the floating-point operations of the convolutions and matrix products in one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def latency(call: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Median seconds of one call after a warm-up, the device's queue emptied around each: wall, and this process's."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            synchronize()
            start, busy = time.perf_counter(), time.process_time()
            call()
            synchronize()
            times.append((time.perf_counter() - start, time.process_time() - busy))
    wall, processor = zip(*times[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb() -> float:
    """Peak memory in MiB: allocated on the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
