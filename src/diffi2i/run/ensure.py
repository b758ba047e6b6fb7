"""Runs what is missing, each run as a process of its own: `diffi2i train`, `import` or `eval`.

The state is on disk alone: a record is a finished run, a checkpoint one to go on with, a lock one that a living process
works on, and holds itself. So this may be killed at any moment and called again, and several may share runs.
"""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median

from diffi2i.errors import UserError
from diffi2i.run import process
from diffi2i.run.plan import RUNS, Run, lineage
from diffi2i.run.record import Record
from diffi2i.run.state import Failure, done, failure_file, has_checkpoint, is_locked, log_file, read, write_failure

POLL_SECONDS = 0.5
LOG_TAIL_BYTES = 1 << 16


def say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Started:
    """A run at work: its process, and since when (monotonic seconds)."""

    run: Run
    process: BaseProcess
    since: float
    resumed: bool


def ensure_before(run: Run) -> None:
    """Leaves a record of all that the run starts from.

    Raises:
        UserError: one of them failed, or there is more than one process to do it.
    """
    before = run.before
    if before is None or done(before):
        return
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            f"{run.name} starts from {before.name}, which several Slurm tasks cannot train together: train it first, "
            "or write hydra.launcher.tasks_per_node=1"
        )
    ensure(lineage(before))
    if isinstance(entry := read(before), Failure):
        raise UserError(f"{before.name}, which {run.name} starts from: {entry.reason}")


def ensure(runs: Iterable[Run], jobs: int = 1) -> None:
    """Leaves a record or a failure of every run; `runs` is in an order in which each finds what comes before it.

    Finished runs are kept, interrupted ones resumed, failed ones tried again. What starts from a failed run is left
    out. Runs that another process works on are waited for. With several `jobs` at a time they share the cores.
    """
    waiting = [run for run in runs if not done(run)]
    active: list[Started] = []
    told: set[Run] = set()
    progress = Progress(waiting, jobs)
    try:
        while waiting or active:
            for started in [each for each in active if not each.process.is_alive()]:
                active.remove(started)
                progress.tell(outcome(started, progress), waiting, active)
            for run in list(waiting):
                if len(active) >= jobs:  # hundreds may wait, and to look at each takes a tenth of a core
                    break
                if (line := without_us(run, [*waiting, *(each.run for each in active)], progress.begun)) is not None:
                    waiting.remove(run)
                    progress.tell(line, waiting, active)
                elif run.before is not None and not done(run.before):
                    continue
                elif is_locked(run):
                    if run not in told:
                        told.add(run)
                        say(f"waiting for {run.name}: another process works on it")
                else:
                    waiting.remove(run)
                    active.append(start(run, jobs))
            time.sleep(POLL_SECONDS)
    finally:
        process.stop(started.process for started in active)


def without_us(run: Run, expected: Sequence[Run], begun: float) -> str | None:
    """What has come of a waiting run without our doing, None where it is still to be run."""
    if done(run):
        return f"finished {run.name}, by another process"
    before = run.before
    # By directory: two rows may be one run by other words.
    awaited = before is not None and any(before.directory == each.directory for each in expected)
    if before is not None and not awaited and not isinstance(entry := read(before), Record):
        return f"left out {run.name}: {before.name}, which it starts from: {entry.reason if entry else 'not run'}"
    file = failure_file(run.directory)
    if file.is_file() and file.stat().st_mtime >= begun and not is_locked(run):
        return f"failed {run.name}, in another process"
    return None


def start(run: Run, jobs: int) -> Started:
    """Starts the run's process, whose output goes to its log."""
    failure_file(run.directory).unlink(missing_ok=True)
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    threads = [f"trainer.threads={max(1, (os.cpu_count() or 1) // jobs)}"] if jobs > 1 else []
    if any(text.startswith("trainer.threads=") for text in run.overrides):
        threads = []
    resumed = has_checkpoint(run.directory)
    words, log = [run.command, *run.overrides, *threads], log_file(run)
    begun = process.begin(words, environment(), Path.cwd(), log)
    say(f"{'resumed' if resumed else 'started'} {run.name}, log {log}")
    return Started(run, begun, time.monotonic(), resumed)


def environment() -> dict[str, str]:
    """A run's environment variables; unbuffered, so that its ranks' last lines in the log are what was printed last."""
    return without_slurm(os.environ) | {"PYTHONUNBUFFERED": "1"}


def without_slurm(variables: Mapping[str, str]) -> dict[str, str]:
    """For a run that is not Slurm's own: inside an allocation Lightning would wait for ranks that nobody starts."""
    return {key: value for key, value in variables.items() if not key.startswith("SLURM_")}


def outcome(started: Started, progress: "Progress") -> str:
    """What came of a run whose process has ended; a failure that it has not noted itself is noted here."""
    run, seconds = started.run, time.monotonic() - started.since
    if started.process.exitcode == 0 and done(run):
        if not started.resumed:
            progress.durations.known[kind_of(run)].append(seconds)
        return f"finished {run.name} in {duration(seconds)}"
    if not failure_file(run.directory).is_file():
        write_failure(run.directory, why(started))
    entry = read(run)
    return f"failed {run.name} after {duration(seconds)}: {entry.reason if isinstance(entry, Failure) else ''}"


def why(started: Started) -> str:
    """Why a process ended without a record and without a word: the signal, or the last that it has printed."""
    code = started.process.exitcode or 0
    if code < 0:
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    if code == 0:
        return "exit status 0 without a record"
    lines = log_file(started.run).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").split("\n")
    printed = [line.strip() for line in lines if line.strip()]
    return printed[-1].removeprefix("diffi2i: ") if printed else f"exit status {code}"


Kind = tuple[str, str, str, str]


def kind_of(run: Run) -> Kind:
    """What runs have in common that take about as long."""
    return run.command, run.config.budget, run.config.task.name, str(run.config.method["name"])


class Durations:
    """How long a run takes, in seconds: the median of its kind's records."""

    def __init__(self, budgets: set[str]) -> None:
        self.known: dict[Kind, list[float]] = defaultdict(list)
        for file in [file for budget in budgets for file in (RUNS / budget).glob("*/result.json")]:
            try:
                record = Record.read(file)
            except UserError:
                continue  # as the table's cell says
            if record.method and record.training and record.budget and not record.method.imported:
                self.known["train", record.budget, record.task, record.method.name].append(record.training.seconds)

    def of(self, run: Run) -> float | None:
        """None where none of its kind has been seen."""
        return median(known) if (known := self.known.get(kind_of(run))) else None


class Progress:
    """Says what has come of how many runs, and how long the others will take."""

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.jobs, self.total, self.counted, self.begun = jobs, len(runs), 0, time.time()
        self.durations = Durations({run.config.budget for run in runs})

    def tell(self, line: str, waiting: Sequence[Run], active: Sequence[Started]) -> None:
        self.counted += 1
        left = [self.durations.of(run) for run in waiting]
        for started in active:
            whole = self.durations.of(started.run)
            left.append(None if whole is None else max(0.0, whole - (time.monotonic() - started.since)))
        so_far = duration(time.time() - self.begun)
        say(f"[{self.counted}/{self.total}] {line}; {so_far} so far, {total_duration(left, self.jobs)} left")


def duration(seconds: float) -> str:
    """Two units of it: `5 s`, `3 min 05 s`, `2 h 10 min`, `4 d 06 h`."""
    whole = round(seconds)
    for unit, name, smaller, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02} {lesser}"
    return f"{whole} s"


def total_duration(parts: Sequence[float | None], jobs: int) -> str:
    """Their sum spread over the jobs, or what is known of it."""
    known = [part for part in parts if part is not None]
    unknown = len(parts) - len(known)
    if unknown == len(parts) and parts:
        return "unknown"
    text = f"about {duration(sum(known) / jobs)}"
    return f"{text} and {unknown} of unknown length" if unknown else text
