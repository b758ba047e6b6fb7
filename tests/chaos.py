"""Faults at random places of real trainings, and what is left of them. `make chaos`.

    python -m tests.chaos [<how many>] [<seed>]

Each trial takes a small training, harms it, gives the same command again, and compares with the training that nothing
has happened to: equal weights and scores are `survived`, a refusal in one line is `refused`. What else may come is a
fault of this program: `lost` is another result without a word, beside tracebacks and hangs.
"""

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from diffi2i.callbacks.guard import FiniteSteps
from diffi2i.methods.method import Method
from diffi2i.tables.markdown import markdown
from tests.adversaries import gan
from tests.conftest import small
from tests.processes import Begun, begun
from tests.runs import repeatable, weight_bytes

STEPS = ("train.steps=6", "train.epoch_steps=2", "validation.every_epochs=1", "train.ema_decay=0.9")
HANGS_AFTER = 120.0
OUTCOMES = ("survived", "refused", "lost", "traceback", "hung")
METHODS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "diffi2i_s1": ("diffi2i_s1", None, ()),
    "diffi2i_s2": ("diffi2i_s2", "diffi2i_s1", ()),
    "regressor and discriminator": ("regressor", None, gan("sisr")),
    "ldm": ("ldm", "autoencoder", ()),
    "resshift": ("resshift", None, ()),
}
"""By name: the method, the one that it starts from, further settings."""


@dataclass
class Case:
    """One kind of training: its command, what it gives, and how long it takes."""

    command: tuple[str, ...]
    home: Path
    seconds: float = 0.0
    undisturbed: Path = field(default_factory=Path)

    def begin(self, run: str, prepare: Callable[[], None] = lambda: None) -> Begun:
        return begun((*self.command, f"run_dir={run}"), self.home, {"OMP_NUM_THREADS": "1"}, prepare)


def cases(home: Path, names: Sequence[str]) -> dict[str, Case]:
    """The trainings, each run once without a fault."""
    images = pictures(home / "images")
    made: dict[str, Case] = {}
    for name in names:
        method, before, more = METHODS[name]
        case = Case(("train", *small("sisr", images, method), *STEPS, *more), home)
        if before:
            first = Case(("train", *small("sisr", images, before), *STEPS), home)
            assert first.begin(f"{before}-first").ended().returncode == 0
            case.command = (*case.command, f"method.init={before}-first")
        start = time.monotonic()
        answer = case.begin(f"{method}-whole").ended()
        assert answer.returncode == 0, answer.stderr
        case.seconds, case.undisturbed = time.monotonic() - start, home / f"{method}-whole"
        made[name] = case
    return made


def pictures(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(10):
        small_ = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(small_).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


# --- faults: each harms the run `run` of a case, which may have been begun or not --------------------


def stopped(number: int, case: Case, run: str, rng: random.Random) -> None:
    """A signal at any time, up to three times."""
    for _ in range(rng.randint(1, 3)):
        process = case.begin(run)
        time.sleep(rng.uniform(0, 1.1 * case.seconds))
        os.kill(process.pid, number)
        process.ended()


def damaged(case: Case, run: str, rng: random.Random) -> None:
    """After a kill, a file of the run is torn or has a wrong byte."""
    stopped(signal.SIGKILL, case, run, rng)
    files = [file for file in sorted((case.home / run).rglob("*")) if file.is_file() and file.stat().st_size]
    harmed = [file for file in files if file.suffix in (".ckpt", ".json", ".yaml", ".safetensors", ".gz")]
    for file in rng.sample(harmed, min(len(harmed), rng.randint(1, 2))):
        if rng.random() < 0.5:
            os.truncate(file, rng.randrange(file.stat().st_size))
        else:
            content = bytearray(file.read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)


def full(case: Case, run: str, rng: random.Random) -> None:
    """No file may become larger than so many bytes, as on a disk that others have filled."""
    most = rng.choice((100, 3_000, 30_000, 100_000))
    case.begin(run, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))).ended()


def deleted(case: Case, run: str, rng: random.Random) -> None:
    """The run's folder goes while it is trained."""
    process = case.begin(run)
    time.sleep(rng.uniform(0, case.seconds))
    shutil.rmtree(case.home / run, ignore_errors=True)
    process.ended()


def not_finite(case: Case, run: str, rng: random.Random) -> None:
    """A gradient is NaN at some step of an attempt that is killed before the step counts."""
    bad = rng.randrange(6)

    def poison() -> None:
        go_on = Method.training_step

        def step(self: Method, batch: object, batch_idx: int) -> torch.Tensor:
            loss = go_on(self, batch, batch_idx)  # type: ignore[arg-type]
            return loss * float("nan") if self.global_step == bad else loss

        Method.training_step = step  # type: ignore[method-assign]
        FiniteSteps.on_train_batch_end = ends(FiniteSteps.on_train_batch_end)  # type: ignore[method-assign]

    case.begin(run, poison).ended()


def ends(go_on: Callable[..., None]) -> Callable[..., None]:
    def then(self: FiniteSteps, *arguments: object) -> None:
        go_on(self, *arguments)
        if self.skipped:
            os.kill(os.getpid(), signal.SIGKILL)

    return then


FAULTS: Mapping[str, Callable[[Case, str, random.Random], None]] = {
    "killed (SIGKILL)": partial(stopped, signal.SIGKILL),
    "stopped (SIGTERM)": partial(stopped, signal.SIGTERM),
    "stopped (Ctrl-C)": partial(stopped, signal.SIGINT),
    "killed, then files damaged": damaged,
    "no room for files": full,
    "folder deleted": deleted,
    "NaN gradient": not_finite,
}


def after(case: Case, run: str) -> str:
    """What the same command makes of a harmed run."""
    process = case.begin(run)
    if not process.ends_within(HANGS_AFTER):
        os.kill(process.pid, signal.SIGKILL)
        process.ended()
        return "hung"
    answer = process.ended()
    if "Traceback" in answer.stderr:
        print(answer.stderr, file=sys.stderr)
        return "traceback"
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        return "refused" if lines and lines[-1].startswith("diffi2i: ") else "lost"
    whole, found = case.undisturbed, case.home / run
    return "survived" if weight_bytes(whole) == weight_bytes(found) and same(whole, found) else "lost"


def same(one: Path, other: Path) -> bool:
    return bool(repeatable(one) == repeatable(other))


def trials(
    count: int, seed: int, names: Sequence[str] = tuple(METHODS), faults: Sequence[str] = tuple(FAULTS)
) -> dict[str, Counter[str]]:
    """What came of `count` faults, by kind."""
    rng, found = random.Random(seed), {name: Counter[str]() for name in faults}
    with tempfile.TemporaryDirectory() as folder:
        known = cases(Path(folder), names)
        for i in track(range(count), description="faults", disable=not sys.stdout.isatty()):
            fault, case = faults[i % len(faults)], rng.choice(list(known.values()))
            FAULTS[fault](case, f"run{i}", rng)
            found[fault][after(case, f"run{i}")] += 1
            shutil.rmtree(case.home / f"run{i}", ignore_errors=True)
    return found


def main() -> int:
    count, seed = map(int, [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]])
    found = trials(count, seed)
    rows = [[fault, str(seen.total()), *(str(seen[each]) for each in OUTCOMES)] for fault, seen in found.items()]
    print(markdown([["Fault", "Injected", "Survived", "Refused in one line", "Lost", "Tracebacks", "Hangs"], *rows]))
    return int(any(seen[each] for seen in found.values() for each in OUTCOMES[2:]))


if __name__ == "__main__":
    sys.exit(main())
