"""Size and speed of a prediction: parameters, multiply-accumulates, network calls, latency, peak memory.

A diffusion runs one network hundreds of times on tensors of one shape. So its work is counted on one run of each, and
where it takes long it is timed on some of them, see `Watch`.
"""

import resource
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Predict = Callable[[], object]


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@dataclass
class Watch:
    """What was seen of a prediction's parts: how often each ran, and how long each run that was real took.

    After `real` runs on tensors of the same shapes a part gives its last output again; None: all runs are real. `macs`
    are those of the repeated runs, `of_run` those of a part's last real one.
    """

    real: int | None
    calls: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    repeated: Counter[str] = field(default_factory=Counter)
    of_run: Counter[str] = field(default_factory=Counter)
    macs: int = 0

    @property
    def most(self) -> str:
        """The part that ran most; empty where none did."""
        return max(self.calls, key=lambda name: self.calls[name], default="")

    def of(self, name: str, part: nn.Module, flops: Callable[[], int]) -> Callable[..., Any]:
        """In place of the part's forward."""
        forward, last, runs = part.forward, dict[Any, Any](), Counter[Any]()

        def watched(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            shapes = tuple(each.shape if isinstance(each, Tensor) else None for each in (*arguments, *named.values()))
            if self.real is not None and runs[shapes] >= self.real:
                output, of_run = last[shapes]
                self.repeated[name] += 1
                self.macs += of_run
                return output
            synchronize()
            before, start = flops(), time.perf_counter()
            output = forward(*arguments, **named)
            synchronize()
            self.seconds[name].append(time.perf_counter() - start)
            runs[shapes] += 1
            self.of_run[name] = (flops() - before) // 2
            last[shapes] = output, self.of_run[name]
            return output

        return watched


@contextmanager
def watching(parts: Mapping[str, nn.Module], real: int | None, flops: Callable[[], int] = lambda: 0) -> Iterator[Watch]:
    """Watches the parts while a prediction runs, without gradients."""
    watch = Watch(real)
    for name, part in parts.items():
        part.forward = watch.of(name, part, flops)
    try:
        with torch.no_grad():
            yield watch
    finally:
        for part in parts.values():
            del part.forward


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a prediction; how often it runs the part that it runs most, and those of one such run."""

    macs: int
    calls: int
    macs_of_call: int


def work(predict: Predict, parts: Mapping[str, nn.Module]) -> Work:
    """Half the floating-point operations of convolutions and matrix products; each part runs once for each shape."""
    with FlopCounterMode(display=False) as counter, watching(parts, 1, counter.get_total_flops) as watch:
        predict()
    most = watch.most
    return Work(int(counter.get_total_flops()) // 2 + watch.macs, watch.calls[most], watch.of_run[most])


@dataclass(frozen=True)
class Time:
    """Seconds of a prediction by the clock and of this process; `calls` were timed of the part that runs most.

    Where these are not all its calls the rest is reckoned at the same seconds.
    """

    seconds: float
    cpu_seconds: float
    calls: int


def timed(predict: Predict, parts: Mapping[str, nn.Module], real: int | None = None) -> Time:
    """Runs a prediction once, the device's queue emptied around it, with `real` runs of each part, None for all."""
    with watching(parts, real) as watch:
        synchronize()
        start, busy = time.perf_counter(), time.process_time()
        predict()
        synchronize()
        wall, processor = time.perf_counter() - start, time.process_time() - busy
    rest = sum(count * statistics.median(watch.seconds[name]) for name, count in watch.repeated.items())
    real_ones = watch.calls[watch.most] - watch.repeated[watch.most]
    return Time(wall + rest, processor * (wall + rest) / wall, real_ones)


def real_calls(predict: Predict, parts: Mapping[str, nn.Module], calls: int, limit: float) -> int | None:
    """How many of a part's `calls` runs fit into `limit` seconds, at least two; None for all. Warms up."""
    timed(predict, parts, 1)
    seconds = timed(predict, parts, 2).seconds
    return None if seconds <= limit else max(2, int(limit / seconds * calls))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb() -> float:
    """Peak memory in MiB: allocated on the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Of this program alone: `ru_maxrss` is handed down to a process by the one that starts it.
    if (status := Path("/proc/self/status")).is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
