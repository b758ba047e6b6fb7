"""Runs what a plan still lacks, each run as a process of its own.

The state is on disk alone: a record is a finished run, a checkpoint one to go on with, a lock one that a living process
works on. So it may be killed at any moment and called again. A run inherits its lock: where the caller is killed and
the run lives on, the lock stays, and the next call waits for that run.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from diffi2i.errors import UserError
from diffi2i.run.files import write_json
from diffi2i.run.record import read_result
from diffi2i.tables.plan import RUNS, Run, lineage, row_run
from diffi2i.tables.records import Failure, done, failure_file, read

PROGRAM = (sys.executable, "-m", "diffi2i")
POLL_SECONDS = 0.1
# How long a run that is told to stop may take.
STOP_SECONDS = 20.0
# A refusal by the command line, or the line of a traceback that names the error.
ERROR_LINE = re.compile(r"(diffi2i: |[\w.]+(Error|Exception)\b)")
LOG_TAIL_BYTES = 1 << 16


def say(line: str) -> None:
    print(line, flush=True)


def log_file(run: Run) -> Path:
    """What the run's processes print. It lies beside the directory, which must be empty when a training begins."""
    return run.directory.parent / f"{run.directory.name}.log"


def has_checkpoint(run: Run) -> bool:
    return (run.directory / "checkpoints" / "last.ckpt").is_file()


def lock_file(run: Run) -> Path:
    """The file that is locked; it holds the process id of the last that worked on the run."""
    return run.directory.parent / ".locks" / run.directory.name


def open_lock(run: Run) -> int:
    file = lock_file(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_RDWR | os.O_CREAT)


def try_lock(run: Run) -> int | None:
    """The file descriptor that holds the run's lock until it is closed, by the heirs too; None: another has it."""
    descriptor = open_lock(run)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def sign(lock: int, process: int) -> None:
    """Leaves the worker's process id in the lock's file, for those who wait."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(process).encode(), 0)


@dataclass(frozen=True)
class Started:
    """A run at work: its process, its lock, where in its log this start begins, and since when (monotonic seconds)."""

    run: Run
    process: subprocess.Popen[bytes]
    lock: int
    log_start: int
    since: float
    resumed: bool


def execute(runs: Sequence[Run], jobs: int = 1) -> None:
    """Leaves a record or a `failed.json` of every run; `runs` is in an order in which each finds what it needs.

    Finished runs are kept, interrupted ones resumed, failed ones tried again. What starts from a failed run is left
    out. Runs that another process works on are waited for. With several `jobs` at a time they share the cores.
    """
    queue = Queue(runs, jobs)
    try:
        queue.work()
    finally:
        queue.stop()


class Queue:
    """The runs that wait and those at work."""

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.waiting = [run for run in runs if not done(run)]
        self.active: list[Started] = []
        self.jobs = jobs
        self.total = len(self.waiting)
        self.counted = 0
        self.durations = Durations({run.scale for run in runs})
        self.begun = time.time()
        self.told: set[Run] = set()

    def work(self) -> None:
        while self.waiting or self.active:
            for started in [each for each in self.active if each.process.poll() is not None]:
                self.finish(started)
            for run in list(self.waiting):
                if len(self.active) < self.jobs and self.may_start(run):
                    self.start(run)
            time.sleep(POLL_SECONDS)

    def may_start(self, run: Run) -> bool:
        """Whether what it needs is there; strikes it off where that will not come."""
        if run.needs is None:
            return True
        if not done(run.needs) and run.needs.directory in self.expected():
            return False
        if isinstance(before := read(run.needs), dict):
            return True
        why = before.reason if isinstance(before, Failure) else "not run"
        self.strike_off(run, f"left out {run.key}: {run.needs.key}, which it starts from: {why}")
        return False

    def expected(self) -> set[Path]:
        return {run.directory for run in (*self.waiting, *(started.run for started in self.active))}

    def strike_off(self, run: Run, line: str) -> None:
        self.waiting.remove(run)
        self.counted += 1
        say(f"[{self.counted}/{self.total}] {line}; {self.time_left()}")

    def start(self, run: Run) -> None:
        """Starts the run, unless another process works on it or has just done so."""
        if done(run):
            self.strike_off(run, f"finished {run.key}, by another process")
            return
        lock = try_lock(run)
        if lock is None:
            if run not in self.told:
                self.told.add(run)
                say(f"waiting for {run.key}: process {lock_file(run).read_text() or 'unknown'} works on it")
            return
        if done(run):
            os.close(lock)  # done since the look above: the next round strikes it off
        elif failure_file(run).is_file() and failure_file(run).stat().st_mtime >= self.begun:
            os.close(lock)
            self.strike_off(run, f"failed {run.key}, in another process")
        else:
            self.waiting.remove(run)
            self.active.append(started := self.process_of(run, lock))
            verb = "resumed" if started.resumed else "started"
            say(f"{verb} {run.key}, log {log_file(run)}")

    def process_of(self, run: Run, lock: int) -> Started:
        forget_failure(run)
        resumed = has_checkpoint(run)
        threads = [f"trainer.threads={max(1, (os.cpu_count() or 1) // self.jobs)}"] if self.jobs > 1 else []
        if any(override.startswith("trainer.threads=") for override in run.overrides):
            threads = []
        with log_file(run).open("ab") as log:
            process = subprocess.Popen(
                [*PROGRAM, run.command, *run.overrides, *threads],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                env=environment(),
            )
            start = log.tell()
        sign(lock, process.pid)
        return Started(run, process, lock, start, time.monotonic(), resumed)

    def finish(self, started: Started) -> None:
        """Notes what came of a run whose process has ended."""
        run, seconds = started.run, time.monotonic() - started.since
        self.active.remove(started)
        self.counted += 1
        if started.process.returncode == 0 and done(run):
            if not started.resumed:
                self.durations.measured(run, seconds)
            outcome = f"finished {run.key} in {duration(seconds)}"
        else:
            reason = reason_of(started)
            write_failure(run, reason)
            outcome = f"failed {run.key} after {duration(seconds)}: {reason}"
        os.close(started.lock)
        say(f"[{self.counted}/{self.total}] {outcome}; {self.time_left()}")

    def time_left(self) -> str:
        """Time since the beginning and, where all durations are known, what is left."""
        now = time.monotonic()
        left = [self.durations.of(run) for run in self.waiting]
        for started in self.active:
            whole = self.durations.of(started.run)
            left.append(None if whole is None else max(0.0, whole - (now - started.since)))
        return f"{duration(time.time() - self.begun)} so far, {total_duration(left, self.jobs)} left"

    def stop(self) -> None:
        """Ends what is still at work, as after Ctrl-C; the next call resumes it."""
        for started in self.active:
            started.process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for started in self.active:
            try:
                started.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                started.process.kill()
                started.process.wait()
            os.close(started.lock)


def environment() -> dict[str, str]:
    """A run's environment variables.

    Unbuffered, so that the log's last lines are what was printed last; and without Slurm's, since inside an allocation
    Lightning would wait for ranks that nobody starts.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return kept | {"PYTHONUNBUFFERED": "1"}


def forget_failure(run: Run) -> None:
    """Also leaves a directory that holds nothing else empty, as a training wants it."""
    failure_file(run).unlink(missing_ok=True)


def write_failure(run: Run, reason: str) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(failure_file(run), {"reason": reason, "date": date, "log": str(log_file(run))})


def reason_of(started: Started) -> str:
    """Why a process ended without a record: the signal, or what its log says, in one line."""
    code = started.process.returncode
    if code < 0:
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    if code == 0:
        return "exit status 0 without a record"
    with log_file(started.run).open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(started.log_start, end - LOG_TAIL_BYTES))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.match(line)]
    last = (errors or lines or [f"exit status {code}"])[-1]
    return last.removeprefix("diffi2i: ")


class Durations:
    """How long a run takes, in seconds: as measured in this call, else by the records of its kind and scale."""

    def __init__(self, scales: set[str]) -> None:
        self.recorded: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self.own: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for file in [file for scale in scales for file in (RUNS / scale).glob("*/result.json")]:
            try:
                record = read_result(file.parent)
                kind = ("train", record["scale"], record["task"], record["stage"])
                self.recorded[kind].append(float(record["wall_time_s"]))
            except (UserError, OSError, KeyError, TypeError, ValueError):
                continue  # the table's cell says what is wrong with it

    @staticmethod
    def kind(run: Run) -> tuple[str, ...]:
        return run.command, run.scale, run.task, run.stage

    def measured(self, run: Run, seconds: float) -> None:
        self.own[self.kind(run)].append(seconds)

    def of(self, run: Run) -> float | None:
        """The median; None where none of its kind has been seen."""
        known = self.own.get(self.kind(run)) or self.recorded.get(self.kind(run))
        return median(known) if known else None


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


def train_row(overrides: Sequence[str]) -> None:
    """`diffi2i train experiment=<name> variant=<row> ...`: the row's stage 1 where it is missing, then the row itself.

    Both are the runs of the experiment's table, under the same locks.

    Raises:
        UserError: no such row, or its stage 1 failed.
        SystemExit: the training's own exit status, where it failed.
    """
    run = row_run(overrides)
    if done(run):
        say(f"{run.directory} is finished: nothing to do (see {run.directory / 'result.json'})")
        return
    if run.needs is not None:
        execute(lineage(run.needs))
    if run.needs is not None and isinstance(before := read(run.needs), Failure):
        raise UserError(f"{run.needs.key}, which {run.key} starts from: {before.reason}")
    lock = open_lock(run)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        forget_failure(run)
        process = subprocess.Popen([*PROGRAM, run.command, *run.overrides], pass_fds=[lock])
        sign(lock, process.pid)
        code = process.wait()
    finally:
        os.close(lock)
    if code:
        sys.exit(code if code > 0 else 128 - code)
