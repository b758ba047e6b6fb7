"""`diffi2i bench`: size and speed of methods side by side, before any of them is trained."""

import math
import multiprocessing
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.progress import track
from scipy import stats
from torch import Tensor

from diffi2i.config.commands import BenchConfig
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.data.degrade import has_holes
from diffi2i.errors import UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.methods.batch import Batch
from diffi2i.methods.build import new_method
from diffi2i.methods.method import Method
from diffi2i.metrics.cost import parameters, peak_memory_mb, real_calls, timed, work
from diffi2i.run.directory import load_method
from diffi2i.run.hardware import autocast_of, device_of, placed, prepare
from diffi2i.run.provenance import provenance
from diffi2i.tables.bench import Row, write

KEY = re.compile(r"[+~]*[\w./@]+=|~\w")
"""How an override begins."""


@dataclass
class Case:
    """A method with a batch of one random image."""

    name: str
    method: Method
    batch: Batch

    def predict(self) -> Tensor:
        return self.method.predict(self.batch, self.method.noise(self.batch))


def bench(config: BenchConfig) -> Path:
    """Prints and writes the table, the JSON and the plot. Returns their folder.

    Raises:
        UserError: a case that cannot be; nothing has been timed.
    """
    prepare(config.trainer)
    cases = [case_of(words, config) for words in words_of(config)]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise UserError(f"cases: {max(names, key=names.count)} stands there twice")
    memory = [peak_of(words, config) for words in words_of(config)]
    works = [work(case.predict, case.method.parts()) for case in cases]
    with autocast_of(config.trainer):
        real = [
            real_calls(case.predict, case.method.parts(), each.calls, config.limit)
            for case, each in zip(cases, works, strict=True)
        ]
        rounds = [
            [timed(case.predict, case.method.parts(), some) for case, some in zip(cases, real, strict=True)]
            for _ in track(range(config.repeats), description="timing")
        ]
    rows = []
    for i, (case, each, peak) in enumerate(zip(cases, works, memory, strict=True)):
        seconds = [one[i].seconds for one in rounds]
        ratio, low, high = ratio_of(seconds, [one[0].seconds for one in rounds])
        parts = {name: parameters(part) for name, part in case.method.parts().items()}
        task = case.method.config.task
        rows.append(
            Row(
                name=case.name,
                task=task.name,
                model=case.method.config.model.name,
                size=list(config.sides),
                parts=parts,
                parameters=sum(parts.values()),
                macs=each.macs,
                macs_of_call=each.macs_of_call,
                calls=each.calls,
                timed_calls=rounds[0][i].calls,
                seconds=seconds,
                cpu_seconds=median(one[i].cpu_seconds for one in rounds),
                ratio=ratio,
                ratio_low=low,
                ratio_high=high,
                peak_memory_mb=peak,
            )
        )
    folder = Path(config.output)
    write(rows, provenance(), str(device_of(config.trainer)), folder)
    return folder


def words_of(config: BenchConfig) -> list[list[str]]:
    """The overrides of each case that are its own."""
    return [split(case) for case in config.cases] or [[]]


def split(case: str) -> list[str]:
    """The words of a case: a space inside brackets separates nothing, nor one that no key follows, as in a path."""
    words, depth = [""], 0
    for at, letter in enumerate(case):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == " " and not depth and KEY.match(case, at + 1):
            words.append("")
        else:
            words[-1] += letter
    return [word.strip() for word in words if word.strip()]


def case_of(words: Sequence[str], config: BenchConfig) -> Case:
    """The method and its image. Raises `UserError`: they cannot be."""
    device, (height, width) = device_of(config.trainer), config.sides
    if words and words[0].startswith("run="):
        method = load_method(Path(words[0].removeprefix("run=")), words[1:], config.trust)
    else:
        method = new_method(load(Config, "train", [*config.base, *config.overrides, *words]))
    task = method.config.task
    if height % task.scale or width % task.scale:
        raise UserError(f"size={config.size} must be a multiple of task={task.name}'s scale, {task.scale}")
    image = torch.rand(1, 3, height // task.scale, width // task.scale, device=device)
    target = kind_of(task).random_target(task, max(height, width))[..., :height, :width].to(device)
    batch: Batch = {"name": ["random"], "input": image, "target": target}
    if has_holes(task):
        batch["mask"] = torch.ones_like(image[:, :1])
    method = placed(method, config.trainer).eval()
    name = " ".join(words) or " ".join(config.overrides) or method.config.method["name"]
    return Case(name, method, batch)


def peak_of(words: Sequence[str], config: BenchConfig) -> float:
    """Peak memory of one prediction in MiB, above what the process had before the method was made.

    In a process of its own, since a peak never falls.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_here, (words, config))


def peak_here(words: Sequence[str], config: BenchConfig) -> float:
    load(Config, "train", [*config.base, *config.overrides])  # so that what it imports counts before
    before = peak_memory_mb()
    case = case_of(words, config)
    with autocast_of(config.trainer):
        timed(case.predict, case.method.parts(), 1)
    return peak_memory_mb() - before


def ratio_of(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The geometric mean of the rounds' ratios, and the ends of its 95 % interval (Student's, of their logarithms).

    None of a single round.
    """
    logs = [math.log(one / other) for one, other in zip(seconds, reference, strict=True)]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), None, None
    error = stats.sem(logs) * stats.t.ppf(0.975, len(logs) - 1)
    return math.exp(mean), math.exp(mean - error), math.exp(mean + error)
