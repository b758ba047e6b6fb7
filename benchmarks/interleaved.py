"""Timings that a shared machine cannot bend: the cases take turns, and what is told is their ratio. And their words."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


def given(defaults: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    """The defaults under `key=value` words. Raises `SystemExit` with one line: another key, or no value."""
    found = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if key not in defaults or not equals:
            raise SystemExit(f"{word}: write <key>=<value>, the key one of {', '.join(defaults)}")
        found[key] = value
    return found


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, by the clock and of this process on all its threads."""

    wall: list[float]
    cpu: list[float]

    @property
    def ms(self) -> float:
        return 1e3 * statistics.median(self.wall)

    @property
    def cpu_ms(self) -> float:
        return 1e3 * statistics.median(self.cpu)

    def times_faster_than(self, other: "Timing") -> str:
        """The median over the rounds of the other's seconds over these, and the quartiles."""
        ratios = sorted(theirs / ours for ours, theirs in zip(self.wall, other.wall, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def interleaved(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Runs each case twice to warm up, then each once a round, in an order of chance."""
    order, chance = list(cases), random.Random(0)
    found = {name: Timing([], []) for name in order}
    for name in order:
        cases[name]()
        cases[name]()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what the last of these left to do is not the first round's
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            gc.collect()
            start, busy = time.perf_counter(), time.process_time()
            cases[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[name].cpu.append(time.process_time() - busy)
            found[name].wall.append(time.perf_counter() - start)
    return found
