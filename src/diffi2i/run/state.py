"""How far a run has come, as its files tell: a record, a failure, a checkpoint, or a process at work.

They lie beside the directory, which must be empty when a training begins: `<name>.log`, `<name>.failed.json`, and the
lock in `.locks/`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname

from filelock import FileLock, Timeout

from diffi2i.errors import UserError
from diffi2i.files import inside, read_json, whole, write_json
from diffi2i.run.identity import config_hash
from diffi2i.run.plan import RUNS, Run
from diffi2i.run.record import Record


@dataclass(frozen=True)
class Failure:
    """Why there is no record, in one line. `word` stands in a table: `failed`, or `n/a` where nothing went wrong."""

    reason: str
    word: str = "failed"


Entry = Record | Failure | None
"""What there is of a run; None: not tried yet, or interrupted."""


def done(run: Run) -> bool:
    """Whether the run has left a record, a damaged one included: what is there is never trained over."""
    return (run.directory / "result.json").is_file()


def checkpoints_of(directory: Path) -> list[Path]:
    """Where the checkpoints of a training under way lie: the newest, then the one before."""
    return [directory / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]


def has_checkpoint(directory: Path) -> bool:
    """Whether a training has left one, sound or not."""
    return any(file.is_file() for file in checkpoints_of(directory))


def log_file(run: Run) -> Path:
    """What the run's processes print, where a table starts them."""
    return run.directory.with_name(f"{run.directory.name}.log")


def failure_file(directory: Path) -> Path:
    """Where the reason of a failure stands: {"reason": one line, "date": ...}."""
    return directory.with_name(f"{directory.name}.failed.json")


def lock_of(directory: Path) -> FileLock:
    """Ends with its process, also where that is killed. On a disk without locks it is a file that names its owner."""
    return FileLock(inside(directory.parent, f".locks/{directory.name}"))


def owner_file(directory: Path) -> Path:
    """Says in words who holds the lock."""
    return directory.parent / ".locks" / f"{directory.name}.owner"


def read(run: Run) -> Entry:
    """The run's record, checked to be its own, or why it has none."""
    if done(run):
        try:
            record = Record.read(run.directory)
        except UserError as error:
            return Failure(str(error))
        return own(run, record)
    if (file := failure_file(run.directory)).is_file():
        try:
            return Failure(str(read_json(file)["reason"]))
        except (UserError, KeyError, TypeError):
            return Failure(f"failed; {file}, which says why, is damaged")
    if run.before is not None and isinstance(before := read(run.before), Failure):
        return Failure(f"{run.before.name}, which it starts from: {before.reason}")
    return None


def own(run: Run, record: Record) -> Record | Failure:
    """The record, if it is one of this run."""
    of_run: dict[str, object] = {"budget": run.config.budget, "seed": run.config.seed}
    found: dict[str, object] = {"budget": record.budget, "seed": record.seed}
    if run.command == "train":
        of_run["config_hash"], found["config_hash"] = config_hash(run.config), record.provenance.config_hash
    if run.command == "import":
        of_run["weights"], found["weights"] = run.config.method["weights"], record.method and record.method.imported
    for key, expected in of_run.items():
        if found[key] != expected:
            return Failure(
                f"record of another run: {key} is {found[key]}, not {expected}, in {run.directory / 'result.json'}"
            )
    return record


def is_locked(run: Run) -> bool:
    """Whether a process works on the run."""
    lock = lock_of(run.directory)
    try:
        if Path(lock.lock_file).exists():
            lock.acquire(timeout=0)
            lock.release()
    except Timeout:
        return True
    return False


def write_failure(directory: Path, reason: str) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    write_json(failure_file(directory), {"reason": reason, "date": datetime.now(UTC).isoformat(timespec="seconds")})


@contextmanager
def working_on(directory: Path) -> Iterator[None]:
    """Holds the run's lock, so that no two processes work on it, and notes why it fails where that is a planned run.

    Further processes of the same run (ranks) neither wait nor note. A network disk may keep the locks of each machine
    apart: so an owner elsewhere that has not said goodbye is named.
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    if any(os.environ.get(rank, "0") != "0" for rank in ranks):
        yield
        return
    lock, owner = lock_of(directory), owner_file(directory)
    owner.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for {directory}: {owner_of(directory) or 'another process'} works on it", flush=True)
        lock.acquire()
    here = gethostname()
    if (before := owner_of(directory)) and not before.endswith(f" on {here}"):
        print(f"{directory} was left by {before}, which has not said goodbye: if it still runs, stop it", flush=True)
    try:
        with whole(owner) as place:
            place.write_text(f"process {os.getpid()} on {here}", encoding="utf-8")
        failure_file(directory).unlink(missing_ok=True)
        yield
    except Exception as error:
        if directory.is_relative_to(RUNS):
            write_failure(directory, reason_of(error))
        raise
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def owner_of(directory: Path) -> str | None:
    """Who works on the run, or has left it without a word: `process 12 on host`."""
    try:
        return owner_file(directory).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def reason_of(error: Exception) -> str:
    """An error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}".removesuffix(": ")
