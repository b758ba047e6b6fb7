"""Timings that a shared machine cannot bend: the cases take turns, and what is told is their ratio. And their words."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from diffi2i.memory import give_back

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")
A = TypeVar("A")
SHORT_SECONDS, NOT_LONG = 2, 30


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


def timed(case: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process."""
    gc.collect()
    start, busy = time.perf_counter(), time.process_time()
    case()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - busy


def timed_warm(case: Callable[[], object]) -> tuple[float, float]:
    """`timed`, where another process has had caches and memory before, and is to have them again.

    A case that is not long is timed when it runs once more: the first time it takes the memory that it has given back.
    """
    found = timed(case)
    if found[0] < NOT_LONG:
        found = timed(case)
    gc.collect()
    give_back()
    return found


class Apart(Generic[T]):
    """What `make` makes, in a process of its own; answers what functions of a module find out about it."""

    def __init__(self, make: Callable[[], T]) -> None:
        context = get_context("forkserver")
        self.here, there = context.Pipe()
        self.process = context.Process(target=self.serve, args=(make, there), daemon=True)
        self.process.start()
        there.close()

    @staticmethod
    def serve(make: Callable[[], T], there: "Connection") -> None:
        made = make()
        with suppress(EOFError, BrokenPipeError):  # the other end has gone
            while True:
                there.send(there.recv()(made))

    def ask(self, question: Callable[[T], A]) -> A:
        """Raises `EOFError` where the process has ended, which says why."""
        self.here.send(question)
        answer: A = self.here.recv()
        return answer

    def end(self) -> None:
        self.process.kill()


def interleaved(
    cases: Mapping[str, T],
    rounds: int,
    seconds: Callable[[T], tuple[float, float]] = timed,  # type: ignore[assignment]
) -> dict[str, Timing]:
    """Runs each case to warm up, twice if it is short, then each once a round, in an order of chance."""
    order, chance = list(cases), random.Random(0)
    found = {name: Timing([], []) for name in order}
    for name in order:
        if seconds(cases[name])[0] < SHORT_SECONDS:
            seconds(cases[name])
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            wall, cpu = seconds(cases[name])
            found[name].wall.append(wall)
            found[name].cpu.append(cpu)
    return found
